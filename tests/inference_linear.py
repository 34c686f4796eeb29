"""A linear-Gaussian model whose posterior is known: the yardstick of the engine's tests."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout

NUM_DATA = 40


class Problem:
    """y = X w + noise of unit variance; prior N(loc, Sigma) of low rank; everything float64."""

    def __init__(self, rms_std: float = 0.5, rank: int = 2, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)

        def randn(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.inputs = randn(NUM_DATA, 5)
        self.module = nn.Linear(5, 1, dtype=torch.float64)
        self.layout = ParameterLayout.from_module(self.module)
        self.prior = GaussianWeights(
            self.layout, 0.3 * randn(6), 0.5 + randn(6).abs(), randn(6, rank)
        ).rescale(rms_std=rms_std)
        self.layout.load_(self.module, self.prior.loc + 0.1 * randn(6))
        design = torch.cat([self.inputs, torch.ones(NUM_DATA, 1, dtype=torch.float64)], 1)
        self.design = design
        truth = self.prior.loc + 0.5 * randn(6)
        self.targets = design @ truth[:, None] + randn(NUM_DATA, 1)
        precision = self.prior.precision_matrix
        self.posterior_precision = precision + design.T @ design
        right = precision @ self.prior.loc + (design.T @ self.targets)[:, 0]
        self.posterior_mean = torch.linalg.solve(self.posterior_precision, right)

    def loader(self, batch_size: int = NUM_DATA, shuffle: bool = False) -> DataLoader:
        dataset = TensorDataset(self.inputs, self.targets)
        return DataLoader(dataset, batch_size=batch_size, shuffle=shuffle)

    def weights(self) -> torch.Tensor:
        return self.layout.flatten(self.module)


def half_square(module: nn.Module, batch) -> tuple[torch.Tensor, dict]:
    inputs, targets = batch
    residual = module(inputs) - targets
    return 0.5 * residual.square().mean(), {"rmse": residual.detach().square().mean().sqrt()}
