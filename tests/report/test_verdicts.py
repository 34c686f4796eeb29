import numpy as np
import pytest

from bayesprior.diagnostics.calibration import CalibrationBins
from bayesprior.diagnostics.compare import Difference
from bayesprior.diagnostics.convergence import check_temperature, summarize_chains
from bayesprior.diagnostics.intervals import Interval
from bayesprior.diagnostics.prior import ChiSquareCheck, Direction
from bayesprior.diagnostics.shift import ShiftRow
from bayesprior.recipes.options import SampleOptions
from bayesprior.report.thresholds import THRESHOLDS
from bayesprior.report.verdicts import (
    Verdict,
    calibration_verdict,
    comparison_verdict,
    conflict_verdict,
    convergence_verdict,
    coverage_verdict,
    posterior_verdict,
    shift_verdict,
    temperature_verdict,
    width_verdict,
    worst,
)


def test_the_worst_headline_leads_and_every_reason_stays():
    parts = [
        Verdict("a?", "ok", "fine", "one.", "Go on."),
        Verdict("b?", "fail", "broken", "two.", "Mend it."),
        Verdict("c?", "unknown", "no idea", "three.", "Look."),
        Verdict("d?", "unknown", "no idea", "four.", "Look."),
    ]
    merged = worst("all?", parts)
    assert merged == Verdict("all?", "fail", "broken", "two. one. three. four.", "Mend it. Look.")
    assert merged.to_dict()["level"] == "fail"
    assert str(merged).endswith("four. Next: Mend it. Look.")


def test_every_threshold_says_where_it_comes_from():
    assert all(t.source and t.what and t.value > 0 for t in THRESHOLDS.values())


def differences(accuracy, nll):
    interval = Interval(0.1, 0.0, 0.2)
    words = {"accuracy": accuracy, "nll": nll, "ece": "worse"}
    return [Difference("a", m, interval, 3, "seeds and points", w) for m, w in words.items()]


@pytest.mark.parametrize(
    ("words", "level", "headline"),
    [
        (("better", "tie"), "ok", "Yes"),
        (("tie", "tie"), "warn", "No clear difference"),
        (("worse", "tie"), "fail", "No, it is worse"),
        (("better", "worse"), "warn", "Mixed"),
        (("unknown", "unknown"), "unknown", "Cannot tell yet"),
    ],
)
def test_comparison(words, level, headline):
    found = comparison_verdict(differences(*words), "a", "b")
    assert (found.level, found.headline) == (level, headline)
    assert found.question == "Is a better than b?"
    assert "95 % over seeds and points: accuracy +10.0% [+0.0%, +20.0%]" in found.reason


def test_a_difference_that_is_known_to_be_small_is_told_from_one_that_is_not_known():
    for half, headline in ((0.004, "No difference that matters"), (0.006, "No clear difference")):
        interval = Interval(0.0, -half, half)
        found = [Difference("a", m, interval, 3, "seeds", "tie") for m in ("accuracy", "nll")]
        assert comparison_verdict(found, "a", "b").headline == headline


def test_only_runs_that_differ_in_the_prior_alone_speak_of_it():
    found = comparison_verdict(differences("worse", "worse"), "a", "b", only_prior=True)
    assert (found.question, found.headline) == ("Did the prior help?", "No, it did harm")


def sampled(values, **options):
    chains, draws = values.shape[:2]
    found = summarize_chains({"x": values})
    return convergence_verdict(found, num_chains=chains, num_draws=draws, **options)


def ar1(rng, rho, shape, num_steps):
    x = np.empty((*shape, num_steps))
    x[..., 0] = rng.normal(size=shape)
    for t in range(1, num_steps):
        x[..., t] = rho * x[..., t - 1] + np.sqrt(1 - rho**2) * rng.normal(size=shape)
    return x


def test_chains_started_apart_have_not_converged(rng):
    verdict = sampled(rng.normal(size=(4, 200)) + np.arange(4)[:, None])
    assert verdict.level == "fail"
    assert verdict.headline.startswith("Not converged")
    assert "chains disagree on x" in verdict.reason


def test_neither_has_a_single_chain_that_still_travels(rng):
    verdict = sampled(rng.normal(size=(1, 200)) + np.linspace(0, 5, 200))
    assert verdict.level == "fail"
    assert "parts of the one chain" in verdict.reason


def test_good_chains_are_fine_and_their_limit_is_said(rng):
    of_defaults = SampleOptions.chains, SampleOptions.num_draws
    for shape in ((4, 200), of_defaults, (1, 400)):
        verdict = sampled(rng.normal(size=shape))
        assert verdict.level == "ok", verdict
        assert "A mode that no chain visits stays unseen" in verdict.reason
        assert "of a posterior standard deviation" in verdict.reason


def test_slow_chains_are_too_few_draws(rng):
    verdict = sampled(ar1(rng, 0.9, (4,), 100))
    assert verdict.level in ("warn", "fail")
    assert sampled(rng.normal(size=(4, 3))).headline == "Too few draws"
    few = sampled(rng.normal(size=(4, 6)))  # an effective size is at most S log10 S
    assert "40 are wanted, 10 a chain" in few.reason


def test_a_point_and_a_fitted_gaussian_have_nothing_to_converge(rng):
    assert sampled(rng.normal(size=(1, 1))).level == "unknown"
    fitted = sampled(rng.normal(size=(1, 30)), independent=True)
    assert (fitted.level, fitted.headline) == ("ok", "Nothing to converge")


@pytest.mark.parametrize(
    ("ratio", "level", "word"),
    [
        (1.0, "ok", "Yes"),
        (1.4, "warn", "hot"),
        (0.7, "warn", "cold"),
        (3.0, "fail", "hot"),
        (0.1, "fail", "cold"),
    ],
)
def test_wrong_temperatures_are_named(rng, ratio, level, word):
    values = ratio + 0.01 * rng.normal(size=(2, 50))
    verdict = temperature_verdict([check_temperature("kinetic", values, 1.0)])
    assert verdict.level == level
    assert word in verdict.headline
    assert verdict.reason.endswith("; 1 was asked for.")
    assert temperature_verdict([]).level == "unknown"


def test_few_steps_do_not_say_that_a_temperature_is_right(rng):
    """Wide intervals hold the claim whatever the truth is."""
    values = np.array([[0.4, 1.9, 1.5, 0.7], [0.8, 1.3, 0.3, 1.4]])
    found = temperature_verdict([check_temperature("kinetic", values, 1.0)])
    assert (found.level, found.headline) == ("unknown", "Temperature not known to 10%")
    on_the_edge = 1.1 + 0.05 * rng.normal(size=(2, 50))
    assert temperature_verdict([check_temperature("kinetic", on_the_edge, 1.0)]).level != "ok"


def test_other_temperatures_than_1_are_not_the_posterior():
    assert posterior_verdict({"backbone": 1.0, "head": 1.0}) is None
    found = posterior_verdict({"backbone": 1.0, "head": 1e-4})
    assert (found.level, found.headline) == ("warn", "Not the posterior: head at T = 1e-4")
    found = posterior_verdict({"all weights": 0.25})
    assert found.headline == "Not the posterior: all weights at T = 0.25"


def test_draws_of_few_weights_do_not_say_that_they_are_wide_enough():
    for error, level in ((1.0, "ok"), (5.0, "unknown")):
        check = ChiSquareCheck("all weights", 100, 85.0, 74.2, 129.6, error)
        found = width_verdict(check, 0, temperature=1.0)
        assert found.level == level
        assert "narrow at most as many of 100 directions, and the others alone" in found.reason


def bins(rng, num_points, temperature=1.0):
    honest = rng.uniform(0.5, 1, num_points)
    logit = np.log(honest / (1 - honest)) / temperature
    return CalibrationBins.of(1 / (1 + np.exp(-logit)), rng.random(num_points) < honest)


@pytest.mark.parametrize(
    ("temperature", "level", "word"),
    [(1.0, "ok", "Yes"), (0.3, "fail", "overconfident"), (2.0, "warn", "underconfident")],
)
def test_calibration(rng, temperature, level, word):
    found = bins(rng, 3000, temperature)
    verdict = calibration_verdict(found)
    assert verdict.level == level
    assert word in verdict.headline
    _, sure, right = found.sums.sum(axis=1) / 3000
    said = f"Accuracy is {right:.1%} at a mean confidence of {sure:.1%}; on average they differ by"
    assert said in verdict.reason


def test_calibration_of_few_points_is_unknown_and_of_pixels_says_nothing_of_chance(rng):
    few = calibration_verdict(bins(rng, 30))
    assert (few.level, few.headline) == ("unknown", "Too few points to tell")
    assert "by chance" not in calibration_verdict(bins(rng, 3000), independent=False).reason
    assert calibration_verdict(CalibrationBins(np.zeros((3, 15)))).level == "unknown"


@pytest.mark.parametrize(
    ("pit", "level", "headline"),
    [
        (lambda u: u, "ok", "Yes"),
        (lambda u: 0.5 + np.sign(u - 0.5) * np.abs(2 * u - 1) ** 0.6 / 2, "warn", "Roughly, the"),
        (lambda u: np.round(u), "fail", "No, the intervals are too narrow"),
        (lambda u: 0.45 + u / 10, "fail", "No, the intervals are too wide"),
        (lambda u: u**3, "fail", "No, the predictions are biased"),
    ],
)
def test_coverage(rng, pit, level, headline):
    found = coverage_verdict(pit(rng.random(4000)))
    assert found.level == level
    assert found.headline.startswith(headline)


def test_coverage_of_few_points_is_unknown(rng):
    assert coverage_verdict(rng.random(20)).headline == "Too few points to tell"


@pytest.mark.parametrize(
    ("ece", "chance", "level", "word"),
    [
        (0.05, 0.02, "ok", "Yes"),
        (0.09, 0.02, "unknown", "Too few"),
        (0.15, 0.02, "warn", "too sure"),
        (0.4, 0.02, "fail", "too sure"),
        (0.15, 0.2, "unknown", "Too few"),
    ],
)
def test_shift(ece, chance, level, word):
    test = ShiftRow("test", 0, {"accuracy": 0.8, "confidence": 0.8, "ece": 0.01}, 0.02, 0.03)
    scores = {"accuracy": 0.5, "confidence": 0.5 + ece, "ece": ece}
    verdict = shift_verdict([test, ShiftRow("blur", 3, scores, chance, ece + chance)])
    assert verdict.level == level
    assert word in verdict.headline
    assert "blur of severity 3" in verdict.reason
    assert shift_verdict([test]).level == "unknown"


@pytest.mark.parametrize(
    ("mean", "block", "own", "diagnosis", "reach", "level", "word"),
    [
        (100.0, 100.0, 10.0, "ok", 2.0, "ok", "no sign of conflict"),
        (1000.0, 100.0, 10.0, "ok", 2.0, "fail", "far outside"),
        (100.0, 100.0, 10.0, "conflict", 2.0, "warn", "conflict"),
        (100.0, 500.0, 10.0, "ok", 2.0, "warn", "every layer"),
        (100.0, 100.0, 30.0, "ok", 2.0, "warn", "own directions"),
        (100.0, 100.0, 2500.0, "ok", 2.0, "fail", "far along its own directions"),
        (100.0, 100.0, 10.0, "ok", 3.5, "unknown", "Cannot tell yet"),
    ],
)
def test_conflict(mean, block, own, diagnosis, reach, level, word):
    """Ten directions 50 standard deviations out are seen, whatever the other weights do."""
    checks = [ChiSquareCheck("all weights", 100, mean, 74.2, 129.6)]
    checks += [ChiSquareCheck("b", 100, block, 74.2, 129.6)]
    along = ChiSquareCheck("the prior's own directions", 10, own, 3.2, 20.5)
    sharp = Direction(0, 0.5, 0.3, 0.91, 0.5, reach)
    dull = Direction(1, 0.0, 0.9, 0.19, 0.0, 9.0)
    verdict = conflict_verdict(checks, along, {0: diagnosis}, [sharp, dull])
    assert verdict.level == level
    assert word in verdict.headline
    assert conflict_verdict([], None, {}, []).level == "unknown"
    blind = conflict_verdict(checks[:1], None, {}, [dull])
    assert mean > 200 or (blind.level, blind.headline) == ("unknown", "The data say too little")


@pytest.mark.parametrize(("num", "level"), [(1, "unknown"), (20, "ok")])
def test_of_many_directions_one_may_lie_farther_out(num, level):
    """One of twenty beyond 3 standard deviations is what one in nineteen draws of the prior has."""
    checks = [ChiSquareCheck("all weights", 100, 100.0, 74.2, 129.6)]
    found = [Direction(i, 0.5, 0.3, 0.91, 0.5, 3.5) for i in range(num)]
    verdict = conflict_verdict(checks, None, {}, found)
    assert verdict.level == level
    assert f"{'3.0' if num == 1 else '3.8'} fits" in verdict.reason


def test_without_the_spread_of_draws_a_conflict_is_seen_but_no_fit():
    """A point estimate lies closer to the mean than draws do; SWAG's width is not the data's."""
    near, far = (ChiSquareCheck("all weights", 100, mean, 74.2, 129.6) for mean in (9.0, 900.0))
    found = conflict_verdict([near], None, {}, [])
    assert (found.level, found.headline) == ("unknown", "No conflict seen")
    assert conflict_verdict([far], None, {}, []).level == "fail"
