"""Minibatch SGLD on a conjugate model: its law is exactly known, bias included."""

from itertools import pairwise

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

    def laws(self, lr, num_steps):
        """Mean and covariance after each step, started at the posterior mean."""
        eye = torch.eye(3, dtype=torch.float64)
        mean, cov = self.problem.mean, 0 * eye
        for step in range(num_steps):
            matrix, pull = self.maps[step % len(self.maps)]
            shrink = eye - lr / 20 * matrix
            mean = shrink @ mean + lr / 20 * pull
            cov = shrink @ cov @ shrink.T + 2 * lr / 20 * eye
            yield mean, cov

    def excess(self, lr):
        """Mean squared distance from the posterior's mean, in its own units, less 1."""
        precision = self.problem.cov.inverse()
        curvature = torch.linalg.eigvalsh(precision)[0] / 20
        last = list(self.laws(lr, 5 * int(2 / (lr * curvature))))[-5:]  # one cycle
        shifts = [mean - self.problem.mean for mean, _ in last]
        moments = sum(cov + torch.outer(s, s) for s, (_, cov) in zip(shifts, last, strict=True))
        return float((precision @ moments).trace()) / 15 - 1


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
    *_, (mean, cov) = found.laws(lr, num_steps)
    residual = (potential.values()["weights"] - mean).T
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(cov), residual, upper=False)
    mean_z = whitened.mean(1) * num_chains**0.5
    spread = whitened @ whitened.T / num_chains - torch.eye(3, dtype=torch.float64)
    spread_z = spread * num_chains**0.5 / (1 + torch.eye(3, dtype=torch.float64)).sqrt()
    assert torch.cat([mean_z, spread_z.flatten()]).abs().max() < 5.5


def test_the_bias_falls_with_the_step():
    found = Minibatches()
    excess = [found.excess(lr) for lr in (0.01, 0.005, 0.0025)]
    assert excess[0] > 0.004
    for larger, smaller in pairwise(excess):
        assert larger / smaller == pytest.approx(2, rel=0.3)  # first order in lr
