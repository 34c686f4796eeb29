import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from bayesprior.diagnostics.convergence import (
    block_distances,
    check_temperature,
    convergence_verdict,
    summarize_chains,
    temperature_verdict,
)
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout


def ar1(rng, rho, shape, num_steps):
    """Stationary AR(1) chains with unit variance, shape (*shape, num_steps)."""
    x = np.empty((*shape, num_steps))
    x[..., 0] = rng.normal(size=shape)
    for t in range(1, num_steps):
        x[..., t] = rho * x[..., t - 1] + np.sqrt(1 - rho**2) * rng.normal(size=shape)
    return x


def verdict_of(values, **options):
    summaries = summarize_chains({"x": values})
    num_chains, num_draws = values.shape[:2]
    return convergence_verdict(summaries, num_chains=num_chains, num_draws=num_draws, **options)


@pytest.mark.statistical
@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_ess_and_mcse_match_the_closed_form_of_ar1(rng, rho):
    num_draws = 4 * 2000
    exact = num_draws * (1 - rho) / (1 + rho)
    found = [summarize_chains({"x": ar1(rng, rho, (4,), 2000)})[0] for _ in range(30)]
    ess = np.log([s.ess_bulk for s in found]) - np.log(exact)
    assert abs(ess.mean()) < 5 * ess.std() / np.sqrt(30) + 0.03  # the estimator's own bias
    mcse = np.mean([s.mcse for s in found])
    assert mcse == pytest.approx(exact**-0.5, rel=0.1)


def test_rhat_flags_chains_started_apart(rng):
    apart = rng.normal(size=(4, 200)) + np.arange(4)[:, None]
    verdict = verdict_of(apart)
    assert verdict.level == "fail"
    assert verdict.headline.startswith("Not converged")
    assert "chains disagree on x" in verdict.reason


def test_rhat_flags_a_single_chain_that_still_travels(rng):
    verdict = verdict_of(rng.normal(size=(1, 200)) + np.linspace(0, 5, 200))
    assert verdict.level == "fail"
    assert "halves of the one chain" in verdict.reason


def test_one_stuck_value_each_is_not_converged():
    [summary] = summarize_chains({"x": np.repeat([[0.0], [1.0]], 10, axis=1)})
    assert summary.rhat == np.inf


def test_good_chains_are_fine_and_one_chain_says_its_limit(rng):
    assert verdict_of(rng.normal(size=(4, 200))).level == "ok"
    alone = verdict_of(rng.normal(size=(1, 400)))
    assert alone.level == "ok"
    assert "never visits" in alone.reason


@pytest.mark.parametrize("shape", [(4, 50), (2, 30), (4, 10), (1, 40)])
def test_false_alarms_are_rare(rng, shape):
    """However few, independent draws pass their limit about one time in a thousand."""
    [summary] = summarize_chains({"x": rng.normal(size=(*shape, 200))})
    # rank-normalized R-hat is the larger of two (location and spread)
    assert binomtest(round(200 * summary.share_high), 200, 0.002, "greater").pvalue > 1e-5
    assert verdict_of(rng.normal(size=(*shape, 50))).level != "fail"


def test_slow_chains_are_too_few_draws(rng):
    verdict = verdict_of(ar1(rng, 0.9, (4,), 400))
    assert (verdict.level, verdict.headline) == ("warn", "Too few draws")
    assert "100 are wanted" in verdict.reason
    assert verdict_of(rng.normal(size=(4, 3))).headline == "Too few draws"


def test_a_point_and_a_fitted_gaussian_have_nothing_to_converge(rng):
    assert verdict_of(rng.normal(size=(1, 1))).level == "unknown"
    fitted = verdict_of(rng.normal(size=(1, 30)), independent=True)
    assert (fitted.level, fitted.headline) == ("ok", "Nothing to converge")


def test_constant_and_infinite_values_are_left_out(rng):
    values = np.stack([rng.normal(size=(4, 50)), np.ones((4, 50))], axis=-1)
    [summary] = summarize_chains({"x": values})
    assert summary.num_values == 1
    assert summarize_chains({"x": np.ones((4, 50)), "y": np.full((4, 50), np.nan)}) == []


def test_many_values_are_thinned(rng):
    [summary] = summarize_chains({"x": rng.normal(size=(2, 20, 300))}, max_values=40)
    assert summary.num_values == 40


@pytest.mark.statistical
@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_configurational_temperature_of_a_gaussian_is_the_claimed_one(rng, temperature):
    """AR(1) draws of N(0, T / p) in 50 dimensions: w . grad U / D has mean T."""
    precision = rng.gamma(2, size=50)
    hits = 0
    for _ in range(60):
        weights = ar1(rng, 0.6, (2, 50), 200).swapaxes(1, 2) * np.sqrt(temperature / precision)
        measured = (weights * precision * weights).mean(-1)
        check = check_temperature("configurational", measured, temperature)
        hits += check.measured.low <= temperature <= check.measured.high
    assert binomtest(hits, 60, 0.95).pvalue > 1e-5
    assert temperature_verdict([check]).level == "ok"


@pytest.mark.parametrize(
    ("ratio", "level", "word"),
    [(1.4, "warn", "hot"), (0.7, "warn", "cold"), (3.0, "fail", "hot"), (0.1, "fail", "cold")],
)
def test_wrong_temperatures_are_named(rng, ratio, level, word):
    values = ratio + 0.01 * rng.normal(size=(2, 50))
    verdict = temperature_verdict([check_temperature("kinetic", values, 1.0)])
    assert verdict.level == level
    assert word in verdict.headline


def test_unmeasurable_temperature_is_unknown(rng):
    assert check_temperature("kinetic", np.ones((2, 2)), 1.0) is None
    assert check_temperature("kinetic", np.full((2, 9), np.nan), 1.0) is None
    assert temperature_verdict([]).level == "unknown"


def test_zero_temperature_is_met_exactly_only_without_motion():
    assert check_temperature("kinetic", np.zeros((1, 5)), 0.0).agrees()
    assert not check_temperature("kinetic", np.ones((1, 5)), 0.0).agrees()


def test_block_distances_are_in_prior_standard_deviations():
    layout = ParameterLayout(("a", "b"), ((2,), (3,)))
    factor = torch.tensor([[1.0], [0.0], [2.0], [0.0], [1.0]])
    prior = GaussianWeights(layout, torch.arange(5.0), torch.full((5,), 4.0), factor)
    weights = prior.loc + torch.tensor([2.0, 0.0, 0.0, 6.0, 0.0])
    distances = block_distances(prior, weights)
    assert distances["a"] == pytest.approx((4 / 5 / 2) ** 0.5)
    assert distances["b"] == pytest.approx((36 / 4 / 3) ** 0.5)


def test_block_distances_of_prior_draws_are_one():
    layout = ParameterLayout(("a",), ((2000,),))
    prior = GaussianWeights(layout, torch.zeros(2000), torch.rand(2000) + 0.1)
    squares = [block_distances(prior, d.weights)["a"] ** 2 for d in prior.draws(20, seed=1)]
    # the mean of 2000 squared standard normals has variance 2 / 2000
    assert abs(np.mean(squares) - 1) / np.sqrt(2 / 2000 / 20) < 5
