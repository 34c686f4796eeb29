import dataclasses

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_rel

from bayesprior.diagnostics.calibration import ece
from bayesprior.diagnostics.compare import (
    RunResult,
    compare_by_loo,
    comparison_table,
    paired_differences,
    paired_t_interval,
    prior_verdict,
    verdict,
)
from bayesprior.diagnostics.intervals import Interval
from bayesprior.diagnostics.predictions import Outcome
from bayesprior.errors import ConfigError, DataError

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


def run(rng, targets, name, skill, seeds=4, **options):
    return RunResult(name, [outcome(rng, targets, skill) for _ in range(seeds)], **options)


@pytest.mark.parametrize(
    ("interval", "larger", "word"),
    [
        ((0.1, 0.05, 0.2), True, "better"),
        ((0.1, 0.05, 0.2), False, "worse"),
        ((-0.1, -0.2, -0.05), False, "better"),
        ((-0.1, -0.2, -0.05), True, "worse"),
        ((0.1, -0.05, 0.2), True, "tie"),
        ((0.0, 0.0, 0.0), False, "tie"),
    ],
)
def test_verdict(interval, larger, word):
    assert verdict(Interval(*interval), larger_is_better=larger) == word


def test_t_interval_equals_scipy(rng):
    a, b = rng.normal(size=(2, 7))
    theirs = ttest_rel(a, b).confidence_interval(0.9)
    ours = paired_t_interval(a, b, level=0.9)
    assert ours[1:] == pytest.approx((theirs.low, theirs.high))
    with pytest.raises(DataError, match="at least 2 pairs"):
        paired_t_interval(a[:1], b[:1])


def test_table_holds_means_and_standard_errors(rng, targets):
    sgld = run(rng, targets, "sgld", 1.0, seconds=3.0, extra={"ood_auroc": [0.5, 0.7, 0.6, 0.6]})
    [row, alone] = comparison_table([sgld, run(rng, targets, "map", 1.0, seeds=1)])
    errors = [ece(o.probs, o.targets) for o in sgld.outcomes]
    assert row["ece"] == pytest.approx(np.mean(errors))
    assert row["ece_se"] == pytest.approx(np.std(errors, ddof=1) / 2)
    assert row["ood_auroc"] == pytest.approx(0.6)
    assert (row["method"], row["seeds"], row["seconds"]) == ("sgld", 4, 3.0)
    assert alone["accuracy_se"] is None
    assert alone["megabytes"] is None


def test_a_better_method_is_called_better_over_seeds_and_points(rng, targets):
    runs = [run(rng, targets, "weak", 0.5), run(rng, targets, "strong", 2.0)]
    found = {(d.metric, d.over): d for d in paired_differences(runs, "weak", num_resamples=100)}
    for over in ("seeds", "points"):
        assert found["accuracy", over].verdict == "better"
        assert found["nll", over].verdict == "better"
    gap = np.mean([o.is_right.mean() for o in runs[1].outcomes]) - np.mean(
        [o.is_right.mean() for o in runs[0].outcomes]
    )
    for over in ("seeds", "points"):
        assert found["accuracy", over].interval.estimate == pytest.approx(gap)


def test_the_same_method_twice_ties(rng, targets):
    twin = run(rng, targets, "a", 1.0)
    runs = [twin, dataclasses.replace(twin, name="b")]
    assert {d.verdict for d in paired_differences(runs, "a", num_resamples=20)} == {"tie"}


@pytest.mark.statistical
def test_equal_methods_are_rarely_told_apart(rng, targets):
    """At 95 % an accuracy difference over seeds is called one time in twenty."""
    calls = []
    for _ in range(100):
        a, b = (run(rng, targets[:50], name, 1.0) for name in "ab")
        interval = paired_t_interval(a.metric("accuracy"), b.metric("accuracy"))
        calls.append(verdict(interval, larger_is_better=True) != "tie")
    assert binomtest(sum(calls), 100, 0.05).pvalue > 1e-5


def test_one_seed_is_compared_over_points_only(rng, targets):
    runs = [run(rng, targets, name, 1.0, seeds=1) for name in "ab"]
    assert {d.over for d in paired_differences(runs, "a", num_resamples=20)} == {"points"}


def test_what_cannot_be_compared_is_named(rng, targets):
    a = run(rng, targets, "a", 1.0)
    with pytest.raises(ConfigError, match="no run named 'x'; there are a"):
        paired_differences([a], "x")
    with pytest.raises(DataError, match="not scored on the same test points"):
        paired_differences([a, run(rng, targets[:-1], "b", 1.0)], "a")
    with pytest.raises(DataError, match="not scored on the same test points"):
        paired_differences([a, run(rng, np.roll(targets, 1), "b", 1.0)], "a")


@pytest.mark.parametrize(
    ("skill", "level", "headline"),
    [(2.0, "ok", "Yes"), (0.1, "fail", "No, it did harm"), (1.0, "warn", "No measurable")],
)
def test_prior_verdict(rng, targets, skill, level, headline):
    baseline = run(rng, targets, "scratch", 1.0, seeds=3)
    method = run(rng, targets, "map", skill, seeds=3)
    if skill == 1.0:
        method = dataclasses.replace(baseline, name="map")
    differences = paired_differences([baseline, method], "scratch", num_resamples=20)
    answer = prior_verdict(differences, "map", "scratch")
    assert answer.level == level
    assert answer.headline.startswith(headline)
    assert prior_verdict(differences, "swag", "scratch").level == "unknown"


@pytest.mark.filterwarnings("ignore:The inplace keyword")
def test_loo_ranks_by_arviz_and_names_what_it_leaves_out(run_factory):
    good, bad = run_factory(), run_factory()
    good.draw(2, 30, width=0.05)
    bad.draw(2, 30, width=0.4)
    point = run_factory()
    trees = {
        "wide": bad.tree(draws=30),
        "narrow": good.tree(draws=30),
        "map": point.tree(chains=1, draws=1),
        "lost": point.tree(chains=1, draws=1, train=None),
    }
    found = compare_by_loo(trees)
    assert {row["name"] for row in found.rows} == {"wide", "narrow"}
    assert found.rows[0]["elpd"] >= found.rows[1]["elpd"]
    assert found.rows[0]["elpd_diff"] == 0
    assert sum(row["weight"] for row in found.rows) == pytest.approx(1)
    gap = found.rows[0]["elpd"] - found.rows[1]["elpd"]
    assert found.rows[1]["elpd_diff"] == pytest.approx(gap)
    assert found.omitted == {
        "map": "1 draw(s), LOO needs at least 10",
        "lost": "no log likelihood of the training points",
    }
    assert compare_by_loo({"map": trees["map"]}).rows == []
