"""The last layer of a network, sampled by the engine: its posterior is known in closed form."""

import numpy as np
import pytest
import torch
from inference.optimizers.cases import SAMPLERS
from inference_linear import half_square
from scipy import stats
from torch import nn

from bayesprior.inference.collectors.memory import DrawsInMemory
from bayesprior.inference.engine import train
from bayesprior.inference.schedules import constant
from bayesprior.testing import assert_plausible
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout

pytestmark = pytest.mark.statistical

NUM_DATA, BURN_IN, THIN, NUM_DRAWS = 40, 150, 3, 450
UNDAMPED = [case for case in SAMPLERS if not case.name.endswith("1.0")]


class LastLayer:
    """Tanh features that stay, a linear head with a low-rank prior, noise of unit variance."""

    def __init__(self, seed):
        generator = torch.Generator().manual_seed(seed)

        def randn(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.inputs = randn(NUM_DATA, 3)
        body = nn.Sequential(nn.Linear(3, 6), nn.Tanh()).requires_grad_(False)
        self.module = nn.Sequential(body, nn.Linear(6, 1)).double()
        for parameter in body.parameters():
            parameter.copy_(randn(*parameter.shape))
        layout = ParameterLayout.from_module(self.module)
        dim = layout.dim
        self.prior = GaussianWeights(
            layout, randn(dim), 0.1 + 0.1 * randn(dim).abs(), 0.3 * randn(dim, 2)
        )
        features = torch.cat([body(self.inputs), torch.ones(NUM_DATA, 1).double()], 1)
        self.targets = features @ randn(dim, 1) + randn(NUM_DATA, 1)
        self.precision = self.prior.precision_matrix + features.T @ features
        right = self.prior.precision_matrix @ self.prior.loc + (features.T @ self.targets)[:, 0]
        self.mean = torch.linalg.solve(self.precision, right)
        layout.load_(self.module, self.mean)


def autocovariance(case, x, num_draws):
    """Of every THIN-th weight, at lags 0 .. num_draws - 1, in units of lr T / N."""
    step = np.linalg.matrix_power(case.recursion(x)[0], THIN)
    state = case.covariance(x)
    out = np.empty(num_draws)
    for lag in range(num_draws):
        out[lag] = state[0, 0]
        state = step @ state
    return out


@pytest.mark.parametrize("case", UNDAMPED, ids=lambda c: c.name)
def test_moments_of_one_chain_are_those_of_the_posterior(case, seed):
    """In the eigenbasis of the Hessian each coordinate is an autoregression with known law."""
    problem = LastLayer(seed)
    curvatures, basis = np.linalg.eigh(problem.precision.numpy() / NUM_DATA)
    probe = case.make([torch.zeros(1, requires_grad=True)], lr=1.0, num_data=1, seed=0)
    lr = 0.5 * probe.stability_limit(curvatures[-1])
    trainable = [p for p in problem.module.parameters() if p.requires_grad]
    keep = DrawsInMemory()
    train(
        problem.module,
        half_square,
        [(problem.inputs, problem.targets)],
        case.make(trainable, lr=lr, num_data=NUM_DATA, seed=seed),
        constant(burn_in=BURN_IN, thin=THIN),
        BURN_IN + THIN * NUM_DRAWS,
        prior=problem.prior,
        num_data=NUM_DATA,
        collectors=[keep],
        progress=False,
    )
    draws = (torch.stack([draw.weights for draw in keep.draws()]) - problem.mean).numpy() @ basis
    count = len(draws)
    assert count == NUM_DRAWS
    pairs = np.r_[count, 2 * np.arange(count - 1, 0, -1)]  # how often each lag occurs
    p_values = {}
    for index, curvature in enumerate(curvatures):
        covariance = autocovariance(case, lr * curvature, count) * lr / NUM_DATA
        error = np.sqrt(pairs @ covariance) / count
        p_values[f"mean {index}"] = 2 * stats.norm.sf(abs(draws[:, index].mean()) / error)
        # Variance of the mean square relative to its square: as that of a chi-square.
        freedom = count**2 / (pairs @ (covariance / covariance[0]) ** 2)
        ratio = np.square(draws[:, index]).mean() / covariance[0]
        law = stats.chi2(freedom)
        p_values[f"variance {index}"] = 2 * min(law.cdf(ratio * freedom), law.sf(ratio * freedom))
    assert_plausible(p_values)
