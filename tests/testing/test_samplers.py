"""The suite must reject samplers that are wrong: a battery without power proves nothing."""

import functools
import math

import pytest
import scipy.stats
import torch

from bayesprior.inference.optimizers import SGHMC, SGLD
from bayesprior.testing import assert_plausible, check_sampler, gaussian_p_values


def sgld_ratio(x):
    return 1 / (1 - x / 2)


class PlainSGLD(torch.optim.Optimizer):
    """As often written: noise from the global generator, nothing checked, nothing saved."""

    def __init__(self, params, *, lr, num_data, temperature, seed=0):
        defaults = {"lr": lr, "num_data": num_data, "temperature": temperature}
        super().__init__(params, defaults)
        self.generator = self.make_generator(seed)

    def make_generator(self, seed):
        return None

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            lr, temperature = group["lr"], group["temperature"]
            for p in group["params"]:
                if p.grad is not None:
                    noise = torch.empty_like(p).normal_(generator=self.generator)
                    p.add_(p.grad, alpha=-lr)
                    p.add_(noise, alpha=math.sqrt(2 * lr * temperature / group["num_data"]))
        return loss


class UnsavedNoise(PlainSGLD):
    def make_generator(self, seed):
        return torch.Generator().manual_seed(seed)


def hotter(factor):
    """SGLD whose noise is too large by a factor; right at temperature 0."""

    def make(params, *, temperature, **kwargs):
        return SGLD(params, temperature=temperature * factor**2, **kwargs)

    return make


class RepeatedNoise(SGLD.__base__):
    """One generator state for ever."""

    def __init__(self, params, **kwargs):
        super().__init__(params, kwargs)

    def stability_limit(self, curvature, group=None):
        return 2 / curvature

    def update_(self, group, params, weights, grads):
        group["noise_state"] = []
        noise = self.draw_noise(group, weights)
        for i, (w, g) in enumerate(zip(weights, grads, strict=True)):
            w.add_(g, alpha=-group["lr"])
            if noise is not None:
                std = math.sqrt(2 * group["lr"] * group["temperature"] / group["num_data"])
                w.add_(noise[i], alpha=std)


@pytest.mark.statistical
@pytest.mark.parametrize("factor", [0.98, 1.02])
def test_two_percent_of_noise_are_seen(factor, seed):
    make = hotter(factor)
    with pytest.raises(AssertionError, match="covariance"):
        check_sampler(make, variance_ratio=sgld_ratio, seed=seed)


@pytest.mark.statistical
def test_the_law_must_be_that_of_the_discretized_algorithm(seed):
    """The target's own variance is not good enough: SGLD's bias at this step is seen."""
    with pytest.raises(AssertionError, match="covariance"):
        check_sampler(SGLD, variance_ratio=lambda x: 1.0, seed=seed)


@pytest.mark.parametrize(
    ("make", "at_zero", "message"),
    [
        (PlainSGLD, None, "differ from 37 steps"),
        (UnsavedNoise, None, "differ from 37 steps"),
        (RepeatedNoise, None, "noise repeats"),
        (SGLD, functools.partial(torch.optim.SGD, momentum=0.5), "not its optimizer"),
        (
            functools.partial(SGHMC, friction=0.25),
            functools.partial(torch.optim.SGD, momentum=0.75),
            "not its optimizer",
        ),
    ],
)
def test_broken_promises_are_named(make, at_zero, message, seed):
    def make_at_zero(params, lr):
        return at_zero(params, lr=lr)

    with pytest.raises(AssertionError, match=message):
        check_sampler(
            make,
            variance_ratio=sgld_ratio,
            make_at_zero=make_at_zero if at_zero else None,
            seed=seed,
        )


class Variant:
    """SGLD with one more defect, each caught by its own check."""

    @staticmethod
    def unchecked(params, *, lr, num_data, temperature, seed):
        good = {"lr": abs(lr) or 1.0, "num_data": num_data or 1, "temperature": abs(temperature)}
        return SGLD(params, **good, seed=seed)

    @staticmethod
    def same_seed(params, *, seed, **kwargs):
        return SGLD(params, seed=0, **kwargs)

    @staticmethod
    def global_noise(params, *, seed, **kwargs):
        torch.randn(1)
        return SGLD(params, seed=seed, **kwargs)

    @staticmethod
    def deaf_groups(params, **kwargs):
        params = list(params)
        if isinstance(params[0], dict):
            params = [p for group in params for p in group["params"]]
        return SGLD(params, **kwargs)


class Restless(SGLD):
    @torch.no_grad()
    def step(self, closure=None):
        loss = super().step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    p.add_(1)
        return loss


class Silent(SGLD):
    def step(self, closure=None):
        super().step(closure)


def refusing(text):
    def make(params, *, lr, **kwargs):
        if not lr > 0:
            raise ValueError(text)
        return SGLD(params, lr=lr, **kwargs)

    return make


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Restless, "a parameter without a gradient moved"),
        (Silent, "must return the closure's loss"),
        (refusing("no"), "lr = 0.0 is refused without naming it: no"),
        (refusing("lr\nis wrong"), "lr = 0.0 is refused in more than one line"),
        (Variant.unchecked, "is accepted"),
        (Variant.same_seed, "two seeds gave the same noise"),
        (Variant.global_noise, "uses the global generator"),
        (Variant.deaf_groups, "own temperature or lr"),
    ],
)
def test_further_defects_are_named(make, message, seed):
    with pytest.raises(AssertionError, match=message):
        check_sampler(make, variance_ratio=sgld_ratio, seed=seed)


@pytest.mark.statistical
def test_p_values_are_uniform_under_the_null(seed):
    """On correct draws in 3 dimensions."""
    generator = torch.Generator().manual_seed(seed)
    factor = torch.tensor([[1.0, 0, 0], [0.5, 2, 0], [-1, 0.3, 0.1]], dtype=torch.float64)
    loc = torch.tensor([1.0, -2, 30], dtype=torch.float64)
    found = {"mean": [], "covariance": [], "shape": []}
    for _ in range(300):
        white = torch.randn(3_000, 3, generator=generator, dtype=torch.float64)
        for name, p in gaussian_p_values(loc + white @ factor.T, loc, factor @ factor.T).items():
            found[name].append(p)
    assert_plausible({name: scipy.stats.kstest(p, "uniform").pvalue for name, p in found.items()})


@pytest.mark.statistical
@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        (lambda x: x + 0.03, "mean"),
        (lambda x: x @ torch.tensor([[1, 0.03], [0, 1]], dtype=torch.float64), "covariance"),
        (lambda x: x.sign() * (x.abs() ** 0.9 / 0.953), "shape"),
    ],
)
def test_each_p_value_sees_its_kind_of_error(wrong, name, seed):
    generator = torch.Generator().manual_seed(seed)
    draws = wrong(torch.randn(100_000, 2, generator=generator, dtype=torch.float64))
    eye = torch.eye(2, dtype=torch.float64)
    assert gaussian_p_values(draws, eye.new_zeros(2), eye)[name] < 1e-7


def test_plausibility_splits_the_rate_and_sees_nan():
    assert_plausible({"a": 1e-6, "b": 0.5})
    with pytest.raises(AssertionError, match="b \\(p = 4.0e-07\\)"):
        assert_plausible({"a": 1e-6, "b": 4e-7})
    with pytest.raises(AssertionError, match="a"):
        assert_plausible({"a": math.nan})
