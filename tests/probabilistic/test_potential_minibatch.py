"""Minibatch SGLD on a conjugate model: its law is exactly known, bias included."""

import pytest
import torch
from probabilistic.problems import Conjugate
from pyro.infer.autoguide.initialization import init_to_value

from bayesprior.inference.engine import train
from bayesprior.inference.optimizers import SGLD
from bayesprior.inference.schedules import constant
from bayesprior.probabilistic import PyroPotential, potential_loss

SIZE = 4


class Minibatches:
    """Batches in a fixed order make each step of the chain affine, hence its law Gaussian."""

    def __init__(self):
        self.problem = Conjugate(num_data=20, num_features=2)
        p = self.problem
        self.batches = list(zip(p.x.split(SIZE), p.y.split(SIZE), strict=True))
        precision = p.prior.covariance_matrix.inverse()
        self.maps = []
        for x, y in self.batches:
            design = torch.cat([x, torch.ones_like(y)], 1)
            weight = 20 / SIZE / p.noise**2
            matrix = precision + weight * design.T @ design
            self.maps.append((matrix, precision @ p.prior.loc + weight * design.T @ y[:, 0]))

    def law(self, lr, num_steps):
        """Mean and covariance after some steps from the posterior mean."""
        mean, cov, eye = self.problem.mean, 0.0, torch.eye(3, dtype=torch.float64)
        for step in range(num_steps):
            matrix, pull = self.maps[step % len(self.maps)]
            shrink = eye - lr / 20 * matrix
            mean = shrink @ mean + lr / 20 * pull
            cov = shrink @ (cov * eye if step == 0 else cov) @ shrink.T + 2 * lr / 20 * eye
        return mean, cov

    def inflation(self, lr, num_cycles):
        """Mean squared distance from the posterior's mean, in its own units: 1 if unbiased."""
        total = 0.0
        for step in range(1, len(self.maps) + 1):
            mean, cov = self.law(lr, num_cycles * len(self.maps) + step)
            shift = mean - self.problem.mean
            total += (self.problem.cov.inverse() @ (cov + torch.outer(shift, shift))).trace() / 3
        return total / len(self.maps)


@pytest.mark.statistical
def test_the_chain_has_the_predicted_law(seed):
    found = Minibatches()
    num_chains, lr, num_steps = 4000, 0.15, 33
    start = init_to_value(values={"weights": found.problem.mean})
    potential = PyroPotential(
        found.problem.model, found.batches[0], num_chains=num_chains, init_strategy=start
    )
    train(
        potential,
        potential_loss,
        found.batches,
        SGLD(potential.parameters(), lr=lr, num_data=potential.num_data, seed=seed),
        constant(),
        num_steps,
        prior=potential.prior,
        num_data=potential.num_data,
        progress=False,
    )
    mean, cov = found.law(lr, num_steps)
    residual = (potential.weights.detach() - mean).T
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(cov), residual, upper=False)
    mean_z = whitened.mean(1) * num_chains**0.5
    spread = whitened @ whitened.T / num_chains - torch.eye(3, dtype=torch.float64)
    spread_z = spread * num_chains**0.5 / (1 + torch.eye(3, dtype=torch.float64)).sqrt()
    assert torch.cat([mean_z, spread_z.flatten()]).abs().max() < 5.5


def test_the_bias_falls_with_the_step():
    found = Minibatches()
    inflations = [found.inflation(lr, int(40 / lr)) for lr in (0.2, 0.05, 0.0125)]
    excess = [float(value) - 1 for value in inflations]
    assert excess[0] > 0.05
    for larger, smaller in zip(excess, excess[1:], strict=False):
        assert larger / smaller == pytest.approx(4, rel=0.4)  # first order in lr
