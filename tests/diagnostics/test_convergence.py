import numpy as np
import pytest
from scipy.stats import binomtest

from bayesprior.diagnostics.convergence import (
    chain_summaries,
    check_temperature,
    summarize_chains,
    temperature_checks,
)


def ar1(rng, rho, shape, num_steps):
    """Stationary AR(1) chains with unit variance, shape (*shape, num_steps)."""
    x = np.empty((*shape, num_steps))
    x[..., 0] = rng.normal(size=shape)
    for t in range(1, num_steps):
        x[..., t] = rho * x[..., t - 1] + np.sqrt(1 - rho**2) * rng.normal(size=shape)
    return x


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


def test_one_stuck_value_each_is_not_converged():
    [summary] = summarize_chains({"x": np.repeat([[0.0], [1.0]], 10, axis=1)})
    assert summary.rhat == np.inf


@pytest.mark.parametrize("shape", [(4, 50), (2, 30), (4, 10), (1, 40)])
def test_false_alarms_are_rare(rng, shape):
    """However few, independent draws pass their limit about one time in a thousand."""
    found = [summarize_chains({"x": rng.normal(size=shape)})[0] for _ in range(100)]
    # rank-normalized R-hat is the larger of two (location and spread)
    beyond = sum(s.rhat > max(1.1, s.rhat_chance) for s in found)
    assert binomtest(beyond, 100, 0.002, "greater").pvalue > 1e-5


def test_of_a_family_the_worst_twentieth_counts_and_of_a_few_the_very_worst(rng):
    values = rng.normal(size=(4, 200, 20))
    values[1, :, 7] += 5
    [few] = summarize_chains({"x": values})
    assert few.rhat > 1.4
    [many] = summarize_chains({"x": np.concatenate([values, rng.normal(size=(4, 200, 180))], -1)})
    assert many.rhat < 1.1
    values[0] += 5
    [all_bad] = summarize_chains({"x": values})
    assert all_bad.rhat > 1.4


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


def test_unmeasurable_temperature_is_unknown(rng):
    assert check_temperature("kinetic", np.ones((2, 2)), 1.0) is None
    assert check_temperature("kinetic", np.full((2, 9), np.nan), 1.0) is None


def test_zero_temperature_is_met_exactly_only_without_motion():
    assert check_temperature("kinetic", np.zeros((1, 5)), 0.0).agrees(0.1)
    assert check_temperature("kinetic", np.ones((1, 5)), 0.0).agrees(0.1) is False


def test_chains_are_followed_in_function_space_and_in_the_prior(run):
    run.draw(2, 20)
    assert {s.name for s in chain_summaries(run.tree(draws=20))} == {
        "held-out log likelihood",
        "probability of the true class",
        "log posterior",
        "position along the prior's directions",
    }


def test_temperatures_are_read_where_the_claim_holds(run, rng):
    """Exploring steps at T = 0 and the first half of the sampling ones do not count."""
    rows = [{"step": float(i), "temperature": 0.0, "kinetic_temperature": 9.0} for i in range(10)]
    rows += [
        {"step": float(i), "temperature": 0.5, "kinetic_temperature": 7.0 if i < 30 else 0.5}
        for i in range(10, 50)
    ]
    for row in rows[30:]:
        row["kinetic_temperature"] += 0.01 * rng.normal()
    [check] = temperature_checks(run.tree(traces=[rows, rows]))
    assert (check.name, check.claimed) == ("kinetic temperature", 0.5)
    assert check.measured.estimate == pytest.approx(0.5, abs=0.02)
    assert temperature_checks(run.tree(traces=())) == []


def test_each_parameter_group_has_its_own_temperature(run, rng):
    """A cold head must not hide a hot backbone in an average over all weights."""
    rows = [
        {
            "step": float(i),
            "temperature": 1.0,
            "configurational_temperature": 1.1,
            "temperature.backbone": 1.0,
            "configurational_temperature.backbone": 1.3 + 0.01 * rng.normal(),
            "temperature.head": 1e-4,
            "configurational_temperature.head": 1e-4 * (1 + 0.01 * rng.normal()),
        }
        for i in range(40)
    ]
    hot, cold = temperature_checks(run.tree(traces=[rows, rows]))
    assert hot.name == "configurational temperature of group backbone"
    assert hot.ratio == pytest.approx(1.3, rel=0.02)
    assert hot.agrees(0.1) is False
    assert cold.claimed == 1e-4
    assert cold.agrees(0.1)
