import dataclasses

import numpy as np
import pytest
from scipy.stats import binomtest
from scipy.stats import t as student

from bayesprior.diagnostics.compare import (
    MethodResult,
    comparison_table,
    difference_interval,
    judge,
    paired_differences,
    pick_baseline,
)
from bayesprior.diagnostics.intervals import Interval
from bayesprior.diagnostics.outcomes import NumberOutcome
from bayesprior.diagnostics.predictions import Outcome
from bayesprior.errors import ConfigError, DataError
from bayesprior.prediction.metrics import METRICS, MetricRow

NUM_POINTS = 400


def outcome(rng, targets, skill):
    """Predictions that see the label through noise; larger skill is better."""
    logits = rng.normal(size=(len(targets), 3)) + skill * np.eye(3)[targets]
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    zeros = np.zeros(len(targets))
    score = np.log(probs[np.arange(len(targets)), targets])
    return Outcome("test", probs, targets, score, zeros, zeros)


@pytest.fixture
def targets(rng):
    return rng.integers(0, 3, NUM_POINTS)


def result(rng, targets, name, skill, seeds=4, **options):
    return MethodResult(name, [outcome(rng, targets, skill) for _ in range(seeds)], **options)


@pytest.mark.parametrize(
    ("metric", "interval", "pairs", "word"),
    [
        ("accuracy", (0.1, 0.05, 0.2), 5, "better"),
        ("nll", (0.1, 0.05, 0.2), 5, "worse"),
        ("nll", (-0.1, -0.2, -0.05), 5, "better"),
        ("accuracy", (-0.1, -0.2, -0.05), 5, "worse"),
        ("accuracy", (0.1, -0.05, 0.2), 5, "tie"),
        ("accuracy", (0.1, 0.004, 0.2), 5, "tie"),  # it may lie within the margin
        ("nll", (-0.1, -0.2, -0.004), 5, "tie"),
        ("accuracy", (0.1, 0.0, 0.2), 5, "tie"),
        ("nll", (0.0, 0.0, 0.0), 5, "tie"),
        ("nll", (-0.0001, -0.0002, -0.00005), 5, "tie"),  # within the margin
        ("accuracy", (0.1, 0.1, 0.1), 2, "unknown"),  # no width
        ("accuracy", (0.1, 0.05, 0.2), 1, "unknown"),  # one seed
        ("nll", (np.nan, np.nan, np.nan), 5, "unknown"),
    ],
)
def test_the_rule(metric, interval, pairs, word):
    assert judge(Interval(*interval), METRICS[metric], pairs) == word


def test_table_holds_means_and_standard_errors(rng, targets):
    sgld = result(rng, targets, "sgld", 1.0, seconds=3.0)
    [row, alone] = comparison_table([sgld, result(rng, targets, "map", 1.0, seeds=1)])
    errors = [o.bins().ece for o in sgld.outcomes]
    assert row["ece"] == pytest.approx(np.mean(errors))
    assert row["ece_se"] == pytest.approx(np.std(errors, ddof=1) / 2)
    assert (row["method"], row["seeds"], row["seconds"]) == ("sgld", 4, 3.0)
    assert alone["accuracy_se"] is None
    assert alone["seconds"] is None


def test_the_interval_adds_the_squared_half_widths_over_seeds_and_points(rng, targets):
    weak, strong = result(rng, targets, "weak", 0.5), result(rng, targets, "strong", 2.0)
    found = {d.metric: d for d in paired_differences([strong, weak], "weak")}
    difference = found["nll"]
    pairs = zip(strong.outcomes, weak.outcomes, strict=True)
    gaps = np.stack([b.log_score - a.log_score for a, b in pairs])  # seeds x points
    seeds, points = gaps.mean(1).var(ddof=1) / 4, gaps.mean(0).var(ddof=1) / NUM_POINTS
    seeds, points = seeds * student.ppf(0.975, 3) ** 2, points * student.ppf(0.975, 399) ** 2
    half = np.sqrt(seeds + points)
    assert difference.interval == pytest.approx(
        (gaps.mean(), gaps.mean() - half, gaps.mean() + half)
    )
    assert {d.verdict for m, d in found.items() if m != "ece"} == {"better"}
    assert {(d.over, d.num_pairs) for d in found.values()} == {("seeds and points", 4)}


def test_the_same_method_twice_ties(rng, targets):
    twin = result(rng, targets, "a", 1.0)
    both = [twin, dataclasses.replace(twin, name="b")]
    assert {d.verdict for d in paired_differences(both, "a")} == {"tie"}


@pytest.mark.statistical
@pytest.mark.parametrize("seeds", [2, 5])
def test_equal_methods_are_rarely_told_apart(rng, seeds):
    """With a shared effect of each seed and each point, at most one time in twenty."""
    margin_free = MetricRow("loss", "", lambda p: -p.log_score, False, 0.0)
    calls = 0
    for _ in range(400):
        by_point, by_seed = 0.3 * rng.normal(size=60), 0.1 * rng.normal(size=(seeds, 1))
        gap = by_point + by_seed + 0.2 * rng.normal(size=(seeds, 60))
        zeros, targets = np.zeros(60), np.zeros(60, int)
        probs = np.tile([0.5, 0.5], (60, 1))
        a = [Outcome("a", probs, targets, row, zeros, zeros) for row in gap]
        b = [Outcome("b", probs, targets, zeros, zeros, zeros)] * seeds
        interval, *_ = difference_interval(margin_free, list(zip(a, b, strict=True)))
        calls += judge(interval, margin_free, seeds) != "tie"
    assert binomtest(calls, 400, 0.05, "greater").pvalue > 1e-3


def test_pairs_are_of_equal_seeds(rng, targets):
    outcomes = [outcome(rng, targets, skill) for skill in (0.5, 1.0, 1.5, 2.0)]
    a = MethodResult("a", [outcomes[0], outcomes[1], outcomes[2]], seeds=(0, 1, 2))
    b = MethodResult("b", [outcomes[0], outcomes[2], outcomes[3]], seeds=(0, 2, 3))
    found = paired_differences([a, b], "b")
    assert {d.num_pairs for d in found} == {2}
    assert {tuple(d.interval) for d in found} == {(0, 0, 0)}
    c = MethodResult("c", [outcomes[0]], seeds=(9,))
    with pytest.raises(DataError, match=r"'a' \(seeds 0, 1, 2\) and 'c' \(seeds 9\) have no seed"):
        paired_differences([a, c], "c")


def test_fits_that_do_not_vary_are_no_repetitions(rng, targets):
    """A loop over seeds that wrote the same weights each time has no better and no worse."""
    one, other = outcome(rng, targets, 2.0), outcome(rng, targets, 0.5)
    both = [MethodResult("a", [one] * 5), MethodResult("b", [other] * 5)]
    assert {d.verdict for d in paired_differences(both, "b")} == {"unknown"}


def test_one_seed_is_unknown_and_says_what_its_interval_is_over(rng, targets):
    both = [result(rng, targets, name, skill, seeds=1) for name, skill in (("a", 2.0), ("b", 0.5))]
    found = paired_differences(both, "b")
    assert {(d.over, d.verdict) for d in found} == {("points", "unknown")}
    assert all(d.interval.low < d.interval.estimate < d.interval.high for d in found)


def test_what_cannot_be_compared_is_named(rng, targets):
    a = result(rng, targets, "a", 1.0)
    with pytest.raises(ConfigError, match="no method named 'x'; there are a"):
        paired_differences([a], "x")
    with pytest.raises(DataError, match="not scored on the same test points"):
        paired_differences([a, result(rng, targets[:-1], "b", 1.0)], "a")
    with pytest.raises(DataError, match="not scored on the same test points"):
        paired_differences([a, result(rng, np.roll(targets, 1), "b", 1.0)], "a")


def test_a_baseline_that_is_none_is_refused():
    assert pick_baseline(["a"]) == ("a", None)
    with pytest.raises(ConfigError, match="'a' is compared, and can be held against b, c"):
        pick_baseline(["a", "b", "c"], "a")
    with pytest.raises(ConfigError, match="nothing, for it is alone"):
        pick_baseline(["a"], "b")


def test_a_row_added_to_the_table_is_compared(rng, targets, monkeypatch):
    row = MetricRow(
        "second", "probability of another class", lambda p: 1 - p.confidence, False, 0.1
    )
    monkeypatch.setitem(METRICS, "doubt", row)
    both = [result(rng, targets, name, skill) for name, skill in (("a", 3.0), ("b", 0.5))]
    assert comparison_table(both)[0]["doubt"] == pytest.approx(
        np.mean([1 - o.confidence.mean() for o in both[0].outcomes])
    )
    [found] = [d for d in paired_differences(both, "b") if d.metric == "doubt"]
    assert found.verdict == "better"


def numbers(rng, targets, noise):
    mean = targets + noise * rng.normal(size=targets.shape)
    variance = np.full(targets.shape, noise**2)
    score = -((targets - mean) ** 2 / variance + np.log(2 * np.pi * variance)).sum(1) / 2
    return NumberOutcome("test", mean, variance, targets, score)


def test_numbers_are_compared_in_their_own_metrics(rng):
    targets = rng.normal(size=(NUM_POINTS, 1))
    good, bad = (
        MethodResult(name, [numbers(rng, targets, noise) for _ in range(4)])
        for name, noise in (("good", 0.1), ("bad", 1.0))
    )
    row = comparison_table([good, bad])[0]
    assert row["rmse"] == pytest.approx(0.1, rel=0.1)
    found = {d.metric: d.verdict for d in paired_differences([good, bad], "bad")}
    assert list(found) == ["nll", "rmse", "crps", "pit"]
    assert [found[name] for name in ("nll", "rmse", "crps")] == ["better"] * 3
    other = MethodResult("other", [numbers(rng, targets + 1, 0.1)])
    with pytest.raises(DataError, match="not scored on the same test points"):
        paired_differences([good, other], "other")
