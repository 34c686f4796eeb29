"""Samplers against exact laws: conjugate Bayesian linear regression, velocities, power."""

import numpy as np
import pytest
import torch
from inference.optimizers.cases import SAMPLERS, hmc_case
from torch import nn

from bayesprior.inference.optimizers import SGHMC
from bayesprior.testing import assert_plausible, gaussian_p_values
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout

pytestmark = pytest.mark.statistical

NUM_DATA, DIM, NUM_CHAINS, TEMPERATURE = 30, 8, 10_000, 0.8


class Regression:
    """y = X w + noise of unit variance, prior of rank 3 plus diagonal; everything float64."""

    def __init__(self, seed):
        generator = torch.Generator().manual_seed(seed)

        def randn(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        layout = ParameterLayout.from_module(nn.Linear(DIM, 1, bias=False))
        self.prior = GaussianWeights(layout, randn(DIM), 0.1 + randn(DIM).abs(), randn(DIM, 3))
        self.design = randn(NUM_DATA, DIM)
        self.targets = self.design @ randn(DIM) + randn(NUM_DATA)
        self.precision = self.prior.precision_matrix + self.design.T @ self.design
        self.mean = torch.linalg.solve(
            self.precision,
            self.prior.precision_matrix @ self.prior.loc + self.design.T @ self.targets,
        )

    def backward(self, weights):
        """As the engine: backward of the mean loss, then the prior's gradient, every chain."""
        residual = weights @ self.design.T - self.targets
        weights.grad = None
        (0.5 * residual.square().mean(1)).sum().backward()
        weights.grad.add_(self.prior.score(weights.detach()), alpha=-1 / NUM_DATA)

    def stationary_covariance(self, case, lr):
        """T Q diag(ratio(lr c) / (N c)) Q' over the eigenvectors of the Hessian of U / N."""
        curvatures, basis = torch.linalg.eigh(self.precision / NUM_DATA)
        ratios = torch.tensor([case.variance_ratio(lr * float(c)) for c in curvatures])
        return TEMPERATURE / NUM_DATA * (basis * (ratios / curvatures)) @ basis.T

    def largest_curvature(self):
        return float(torch.linalg.eigvalsh(self.precision / NUM_DATA)[-1])


@pytest.mark.parametrize("case", SAMPLERS, ids=lambda c: c.name)
def test_linear_regression(case, seed):
    """At half the largest stable step: the bias of the discretization is large, and known."""
    problem = Regression(seed)
    probe = case.make(
        [torch.zeros(1, requires_grad=True)], lr=1.0, num_data=1, temperature=0.0, seed=0
    )
    lr = 0.5 * probe.stability_limit(problem.largest_curvature())
    covariance = problem.stationary_covariance(case, lr)
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(NUM_CHAINS, DIM, generator=generator, dtype=torch.float64)
    weights = problem.mean + start @ torch.linalg.cholesky(covariance).T
    weights.requires_grad_()
    sampler = case.make([weights], lr=lr, num_data=NUM_DATA, temperature=TEMPERATURE, seed=seed)
    for _ in range(60):
        problem.backward(weights)
        sampler.step()
    assert_plausible(gaussian_p_values(weights.detach(), problem.mean, covariance))


def hmc_chains(friction, lr, seed):
    """100,000 one-dimensional chains at w = 0, N = 20."""
    w = torch.zeros(100_000, dtype=torch.float64, requires_grad=True)
    sampler = SGHMC(
        [w],
        lr=lr,
        num_data=20,
        friction=friction,
        temperature=TEMPERATURE,
        seed=seed,
    )
    return w, sampler


def run(w, sampler, curvature, num_steps):
    for _ in range(num_steps):
        w.grad = curvature * w.detach()
        sampler.step()


def check_joint_law(w, sampler, covariance):
    """Of (w, sqrt(lr) u), the covariance in units of lr T / N."""
    lr = sampler.param_groups[0]["lr"]
    draws = torch.stack([w.detach(), lr**0.5 * sampler.state[w]["velocity"]], 1)
    law = torch.as_tensor(covariance) * lr * TEMPERATURE / 20
    assert_plausible(gaussian_p_values(draws, draws.new_zeros(2), law))


def test_joint_law_of_weights_and_velocities(seed):
    curvature, lr = 3.0, 0.4
    covariance = hmc_case(0.3).covariance(lr * curvature)
    w, sampler = hmc_chains(0.3, lr, seed)
    run(w, sampler, curvature, 100)
    check_joint_law(w, sampler, covariance)
    # The reported temperature, in units of its expectation, is the mean of chi2_1.
    expected = TEMPERATURE * covariance[1, 1]
    z = (sampler.kinetic_temperature() / expected - 1) / (2 / 100_000) ** 0.5
    assert abs(z) < 4.9


def test_initial_velocities_are_drawn_at_the_temperature(seed):
    """Without a force, BAOAB's friction keeps their law: w = sqrt(lr) (u_0 + u_1) / 2."""
    w, sampler = hmc_chains(0.3, 0.4, seed)
    run(w, sampler, 0.0, 1)
    # In units of lr T / N: Var u = 1, Cov(u_0, u_1) = 1 - f.
    check_joint_law(w, sampler, [[(1 + 0.7) / 2, (1 + 0.7) / 2], [(1 + 0.7) / 2, 1.0]])


def test_a_falling_step_neither_heats_nor_cools(seed):
    """Through a fall of lr by 100; the textbook's velocities would come out 100 times too hot."""
    curvature, large, small, num_steps = 3.0, 0.1, 0.001, 20
    case = hmc_case(0.1)
    w, sampler = hmc_chains(0.1, large, seed)
    run(w, sampler, curvature, 200)
    check_joint_law(w, sampler, case.covariance(large * curvature))

    sampler.param_groups[0]["lr"] = small
    run(w, sampler, curvature, num_steps)
    # (w, sqrt(lr) u) in units of lr T / N: w alone changes its units.
    units = np.diag([(large / small) ** 0.5, 1.0])
    covariance = units @ case.covariance(large * curvature) @ units
    step, noise = case.recursion(small * curvature)
    for _ in range(num_steps):
        covariance = step @ covariance @ step.T + noise @ noise.T
    check_joint_law(w, sampler, covariance)
    assert covariance[1, 1] == pytest.approx(1, abs=0.1)
