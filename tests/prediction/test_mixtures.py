"""Mixtures of normal laws, against SciPy's root-finding and quadrature."""

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.stats import norm

from bayesprior.prediction.mixtures import LEVELS, NormalMixture


def random_law(num_draws=7, points=5, outputs=2, spread=3.0):
    mean = spread * torch.randn(num_draws, points, outputs, dtype=torch.float64)
    std = torch.rand(num_draws, points, outputs, dtype=torch.float64) + 0.05
    return NormalMixture(mean, std, torch.rand(num_draws) + 0.1)


def scipy_cdf(law, point, output):
    shares = law.weight.double().numpy() / float(law.weight.double().sum())
    parts = norm(law.mean[:, point, output].numpy(), law.std[:, point, output].numpy())
    return lambda y: float(shares @ parts.cdf(y))


@pytest.mark.parametrize("spread", [0.01, 1.0, 100.0])
def test_quantiles_are_roots_of_the_cdf(spread):
    law = random_law(spread=spread)
    for level in (*LEVELS, 1e-6, 0.5, 1 - 1e-6):
        found = law.quantile(level)
        np.testing.assert_allclose(law.cdf(found), level, atol=1e-13)
        for point in range(5):
            cdf = scipy_cdf(law, point, 1)
            root = brentq(lambda y, f=cdf, p=level: f(y) - p, -2000, 2000, xtol=1e-13)
            assert cdf(float(found[point, 1])) == pytest.approx(level, abs=1e-12)
            assert float(found[point, 1]) == pytest.approx(root, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("distance", [0.0, 4.0, 40.0, 4e6])
def test_two_laws_far_apart_have_the_outer_quantiles_of_each(distance):
    mean = torch.tensor([0.0, distance], dtype=torch.float64).view(2, 1, 1)
    law = NormalMixture(mean, torch.ones_like(mean), torch.ones(2))
    found = [law.quantile(level).item() for level in LEVELS]
    if distance == 0:
        expected = norm.ppf(LEVELS)
    elif distance >= 40:  # the other one has no mass there
        expected = [norm.ppf(0.1), norm.ppf(0.5), distance, distance + norm.ppf(0.9)]
    else:
        shares = [
            brentq(lambda y, p=p: norm.cdf(y) + norm.cdf(y - 4) - 2 * p, -9, 9) for p in LEVELS
        ]
        expected = shares
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_one_draw_has_the_quantiles_of_its_own_law():
    law = random_law(num_draws=1)
    for level in LEVELS:
        expected = norm.ppf(level, law.mean[0].numpy(), law.std[0].numpy())
        np.testing.assert_allclose(law.quantile(level), expected, rtol=1e-12)


def test_weights_are_shares():
    law = random_law(num_draws=2)
    three = NormalMixture(law.mean[[0, 1, 1]], law.std[[0, 1, 1]], torch.tensor([0.5, 1.0, 1.0]))
    two = NormalMixture(law.mean, law.std, torch.tensor([1.0, 4.0]))
    values = torch.randn(5, 2, dtype=torch.float64)
    for of in (lambda m: m.quantile(0.25), lambda m: m.cdf(values), lambda m: m.crps(values)):
        torch.testing.assert_close(of(three), of(two))


def test_crps_is_the_integral_of_the_squared_difference():
    law = random_law(num_draws=4, points=3, outputs=1, spread=1.0)
    values = torch.randn(3, 1, dtype=torch.float64)
    for point in range(3):
        cdf, y = scipy_cdf(law, point, 0), float(values[point, 0])
        below = quad(lambda x, f=cdf: f(x) ** 2, -15, y, epsabs=1e-11, limit=200)[0]
        above = quad(lambda x, f=cdf: (1 - f(x)) ** 2, y, 15, epsabs=1e-11, limit=200)[0]
        assert float(law.crps(values)[point]) == pytest.approx(below + above, rel=1e-7)


def test_crps_of_several_outputs_is_their_mean():
    law, values = random_law(), torch.randn(5, 2, dtype=torch.float64)
    each = [
        NormalMixture(law.mean[..., [i]], law.std[..., [i]], law.weight).crps(values[:, [i]])
        for i in range(2)
    ]
    torch.testing.assert_close(law.crps(values), sum(each) / 2)
