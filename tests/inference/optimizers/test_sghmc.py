import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from inference.optimizers.cases import hmc_case
from torch import nn

from bayesprior.errors import ConfigError
from bayesprior.inference.optimizers.sghmc import SGHMC
from bayesprior.inference.prior_term import PriorTerm
from bayesprior.weights.blocks import Block
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout
from bayesprior.weights.lowrank import LowRankCovariance
from bayesprior.weights.rows import RowCovariance

FRICTIONS = st.floats(0.01, 1.0)
SHARES = st.floats(0.01, 0.98)


@given(FRICTIONS, SHARES)
def test_baoab_is_exact_on_gaussian_targets(friction, share):
    """Position and velocity variances at the recorded point, for every stable step."""
    x = 4 * share
    covariance = hmc_case(friction).covariance(x)
    assert x * covariance[0, 0] == pytest.approx(1, rel=1e-6)
    assert covariance[1, 1] == pytest.approx(1, rel=1e-6)


class GivenNoise(SGHMC):
    """With numbers that are known in place of its own."""

    def draw_noise(self, group, params):
        return [self.given]


def test_the_merged_kick_gives_baoabs_positions():
    """Against BAOAB as published: two half kicks a step, forces at the same positions."""
    lr, friction, temperature, num_data = 0.2, 0.3, 0.8, 9
    noise = torch.randn(20, 6, dtype=torch.float64)

    def grad(w):
        return w + 0.5 * w**3

    w = torch.ones(6, dtype=torch.float64, requires_grad=True)
    sampler = GivenNoise([w], lr=lr, friction=friction, temperature=temperature, num_data=num_data)
    sampler.state[w]["velocity"] = torch.zeros_like(w)
    q = w.detach().clone()
    p = -0.5 * math.sqrt(lr) * grad(q)  # ours starts with a whole kick
    for xi in noise:
        w.grad, sampler.given = grad(w.detach()), xi
        sampler.step()
        p = p - 0.5 * math.sqrt(lr) * grad(q)
        q = q + 0.5 * math.sqrt(lr) * p
        keep = 1 - friction
        p = keep * p + math.sqrt((1 - keep**2) * temperature / num_data) * xi
        q = q + 0.5 * math.sqrt(lr) * p
        p = p - 0.5 * math.sqrt(lr) * grad(q)
        torch.testing.assert_close(w.detach(), q)


class PartlyGivenNoise(SGHMC):
    """With known numbers for some parameters, zeros for the others."""

    given: dict = {}

    def draw_noise(self, group, params):
        return [self.given.get(p, torch.zeros_like(p)) for p in params]


def correlated_law():
    """A factor that two parameters share, and a head whose rows have a covariance."""
    layout = ParameterLayout(("a", "b", "head"), ((3,), (2,), (2, 2)))
    random = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=random, dtype=torch.float64)

    body = LowRankCovariance(normal(5).square() + 0.1, normal(2, 5))
    rows = RowCovariance(torch.tensor([[1.0, 0.0], [-0.8, 0.3]], dtype=torch.float64), count=2)
    blocks = [Block(("b", "a"), body), Block(("head",), rows, new=True)]
    data = normal(9, 4)
    return GaussianWeights.from_blocks(layout, normal(9), blocks), data @ data.T


def test_a_whitened_chain_has_the_target_for_its_law_whatever_the_groups():
    """Exactly, from its linear recursion: steps, frictions and groups cut across the factor."""
    num_data, temperature = 7, 0.6
    law, data = correlated_law()
    precision = law.precision_matrix + num_data * data
    module = nn.Module()
    for name, part in law.layout.unflatten(torch.zeros(9).double()).items():
        module.register_parameter(name, nn.Parameter(part.clone()))
    params = list(module.parameters())
    groups = [
        {"params": [params[0]], "lr": 0.02, "friction": 0.5},
        {"params": params[1:]},
    ]
    options = {"lr": 0.05, "friction": 0.2, "num_data": num_data, "temperature": temperature}
    sampler = PartlyGivenNoise(groups, **options, whiten=True)
    PriorTerm(module, law, num_data).prepare(sampler)

    def stepped(position, velocity, **noise):
        sampler.given = {module.get_parameter(name): xi for name, xi in noise.items()}
        with torch.no_grad():
            law.layout.load_(module, position)
            pieces = law.layout.unflatten(velocity).values()
            gradients = law.layout.unflatten(precision @ position / num_data).values()
            for p, piece, gradient in zip(params, pieces, gradients, strict=True):
                sampler.state[p]["velocity"], p.grad = piece.clone(), gradient.clone()
        sampler.step()
        velocity = law.layout.flatten_tensors([sampler.state[p]["velocity"] for p in params])
        return torch.cat([law.layout.flatten(module), velocity])

    zero, units = torch.zeros(9).double(), torch.eye(9).double()
    still = [stepped(unit, zero) for unit in units] + [stepped(zero, unit) for unit in units]
    noise = [stepped(zero, zero, **law.layout.unflatten(unit)) for unit in units]
    step, spread = torch.stack(still, 1).numpy(), torch.stack(noise, 1).numpy()
    covariance = scipy.linalg.solve_discrete_lyapunov(step, spread @ spread.T)
    expected = temperature * torch.linalg.inv(precision).numpy()
    np.testing.assert_allclose(covariance[:9, :9], expected, rtol=1e-9)
    np.testing.assert_allclose(covariance[9:, 9:], temperature / num_data * np.eye(9), atol=1e-12)


def test_whitening_needs_a_prior():
    w = torch.zeros(2, requires_grad=True)
    sampler = SGHMC([w], lr=0.1, num_data=5, friction=0.2, whiten=True)
    w.grad = torch.zeros_like(w)
    with pytest.raises(ConfigError, match=r"whiten=True takes its units from a prior"):
        sampler.step()


def test_the_drift_under_a_constant_gradient_in_the_docstring():
    w = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    sampler = SGHMC([w], lr=0.1, num_data=5, friction=0.2, temperature=0.0)
    for _ in range(300):
        before = w.item()
        w.grad = torch.ones_like(w)
        sampler.step()
    assert before - w.item() == pytest.approx(0.1 * (1 / 0.2 - 0.5))


def test_kinetic_temperature():
    groups = [
        {"params": [torch.zeros(2, 3, requires_grad=True)]},
        {"params": [torch.zeros(4, requires_grad=True)], "num_data": 7},
    ]
    sampler = SGHMC(groups, lr=0.1, num_data=5, friction=0.2)
    assert sampler.kinetic_temperature() is None
    sampler.state[groups[0]["params"][0]]["velocity"] = torch.full((2, 3), 2.0)
    sampler.state[groups[1]["params"][0]]["velocity"] = torch.full((4,), 3.0)
    assert sampler.kinetic_temperature() == pytest.approx((6 * 5 * 4 + 4 * 7 * 9) / 10)


def test_velocities_start_at_zero_without_temperature():
    """As in the exploration phase of a cyclical schedule; they warm up when it ends."""
    w = torch.zeros(1000, requires_grad=True)
    sampler = SGHMC([w], lr=0.1, num_data=5, friction=0.2, temperature=0.0)
    w.grad = torch.zeros_like(w)
    sampler.step()
    assert sampler.kinetic_temperature() == 0
    sampler.param_groups[0]["temperature"] = 1.0
    sampler.step()
    assert 0 < sampler.kinetic_temperature() < 1


@pytest.mark.parametrize("friction", [0.0, -0.1, 1.01, float("nan")])
def test_friction_outside_its_range_is_refused(friction):
    with pytest.raises(ConfigError, match=r"friction must be in \(0, 1\]"):
        SGHMC([torch.zeros(1, requires_grad=True)], lr=0.1, num_data=5, friction=friction)
