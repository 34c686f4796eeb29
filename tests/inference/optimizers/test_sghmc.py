import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from inference.optimizers.cases import hmc_case
from torch import nn

from bayesprior.errors import ConfigError
from bayesprior.inference.optimizers.sghmc import SGHMC, baoab_update_, euler_update_

FRICTIONS = st.floats(0.01, 1.0)
SHARES = st.floats(0.01, 0.98)


@given(FRICTIONS, SHARES)
def test_baoab_is_exact_on_gaussian_targets(friction, share):
    """Position and velocity variances at the recorded point, for every stable step."""
    x = 4 * share
    covariance = hmc_case("baoab", friction).covariance(x)
    assert x * covariance[0, 0] == pytest.approx(1, rel=1e-6)
    assert covariance[1, 1] == pytest.approx(1, rel=1e-6)


@given(FRICTIONS, SHARES)
def test_eulers_stationary_variance_in_the_docstring(friction, share):
    x = 2 * (2 - friction) * share
    expected = 1 / (1 - x / (2 * (2 - friction)))
    assert hmc_case("euler", friction).variance_ratio(x) == pytest.approx(expected, rel=1e-6)


def test_the_merged_kick_gives_baoabs_positions():
    """Against BAOAB as published: two half kicks a step, forces at the same positions."""
    lr, friction, temperature, num_data = 0.2, 0.3, 0.8, 9
    noise = torch.randn(20, 6, dtype=torch.float64)

    def grad(w):
        return w + 0.5 * w**3

    w, u = [torch.ones(6, dtype=torch.float64)], [torch.zeros(6, dtype=torch.float64)]
    q, p = w[0].clone(), -0.5 * math.sqrt(lr) * grad(w[0])  # ours starts with a whole kick
    for xi in noise:
        baoab_update_(
            w,
            u,
            [grad(w[0])],
            [xi],
            lr=lr,
            friction=friction,
            temperature=temperature,
            num_data=num_data,
        )
        p = p - 0.5 * math.sqrt(lr) * grad(q)
        q = q + 0.5 * math.sqrt(lr) * p
        keep = 1 - friction
        p = keep * p + math.sqrt((1 - keep**2) * temperature / num_data) * xi
        q = q + 0.5 * math.sqrt(lr) * p
        p = p - 0.5 * math.sqrt(lr) * grad(q)
        torch.testing.assert_close(w[0], q)


def test_euler_is_the_textbooks_update():
    lr, friction, temperature, num_data = 0.2, 0.3, 0.8, 9
    w, u = [torch.ones(6, dtype=torch.float64)], [torch.full((6,), 0.4, dtype=torch.float64)]
    theta, v = w[0].clone(), math.sqrt(lr) * u[0]
    for xi in torch.randn(20, 6, dtype=torch.float64):
        g = torch.sin(w[0])
        euler_update_(
            w, u, [g], [xi], lr=lr, friction=friction, temperature=temperature, num_data=num_data
        )
        std = math.sqrt(2 * friction * lr * temperature / num_data)
        v = (1 - friction) * v - lr * torch.sin(theta) + std * xi
        theta = theta + v
        torch.testing.assert_close(w[0], theta)
        torch.testing.assert_close(math.sqrt(lr) * u[0], v)


@pytest.mark.parametrize("friction", [0.1, 0.7, 1.0])
def test_euler_at_temperature_zero_is_momentum_sgd_on_a_network(friction):
    def train(make):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()
        optimizer = make(net.parameters())
        for _ in range(30):
            optimizer.zero_grad()
            net(torch.randn(8, 5, dtype=torch.float64)).square().mean().backward()
            optimizer.step()
        return torch.cat([p.detach().flatten() for p in net.parameters()])

    ours = train(
        lambda p: SGHMC(
            p, lr=0.07, num_data=8, friction=friction, temperature=0.0, integrator="euler"
        )
    )
    torch.testing.assert_close(
        ours, train(lambda p: torch.optim.SGD(p, lr=0.07, momentum=1 - friction))
    )


@pytest.mark.parametrize(
    ("integrator", "expected"), [("euler", 0.1 / 0.2), ("baoab", 0.1 * (1 / 0.2 - 0.5))]
)
def test_the_drift_under_a_constant_gradient_in_the_docstring(integrator, expected):
    w = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    sampler = SGHMC([w], lr=0.1, num_data=5, friction=0.2, temperature=0.0, integrator=integrator)
    for _ in range(300):
        before = w.item()
        w.grad = torch.ones_like(w)
        sampler.step()
    assert before - w.item() == pytest.approx(expected)


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


def test_the_stability_limit_is_that_of_the_group():
    params = [torch.zeros(1, requires_grad=True) for _ in range(2)]
    groups = [{"params": params[:1]}, {"params": params[1:], "friction": 0.5}]
    sampler = SGHMC(groups, lr=0.1, num_data=5, friction=1.0, integrator="euler")
    assert sampler.stability_limit(4.0) == 0.5
    assert sampler.stability_limit(4.0, sampler.param_groups[1]) == 0.75


@pytest.mark.parametrize("friction", [0.0, -0.1, 1.01, float("nan")])
def test_friction_outside_its_range_is_refused(friction):
    with pytest.raises(ConfigError, match=r"friction must be in \(0, 1\]"):
        SGHMC([torch.zeros(1, requires_grad=True)], lr=0.1, num_data=5, friction=friction)


def test_an_unknown_integrator_is_refused_with_the_nearest_name():
    group = {"params": [torch.zeros(1, requires_grad=True)], "integrator": "boaab"}
    with pytest.raises(ConfigError, match="did you mean 'baoab'"):
        SGHMC([group], lr=0.1, num_data=5, friction=0.1)
