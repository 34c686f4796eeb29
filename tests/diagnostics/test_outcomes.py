import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from bayesprior.diagnostics.compare import MethodResult, comparison_table, paired_differences
from bayesprior.diagnostics.outcomes import LabelOutcome, NumberOutcome, ranking_scores
from bayesprior.diagnostics.predictions import outcome_of
from bayesprior.errors import DataError
from bayesprior.prediction.mixtures import NormalMixture


def several(rng, num=200, labels=3):
    probs = rng.random((num, labels))
    targets = (rng.random((num, labels)) < probs).astype(int)
    score = np.log(np.where(targets == 1, probs, 1 - probs)).sum(1)
    return LabelOutcome.of("test", probs, targets, score)


def test_predicts_own_metrics_of_several_labels(labels):
    found = outcome_of("test", labels)
    assert isinstance(found, LabelOutcome)
    for name in found.rows:
        assert found.metric(name) == pytest.approx(labels.metrics[name], rel=1e-6), name
    assert found.metric("label_nll") * 3 == pytest.approx(labels.metrics["nll"])


def test_predicts_own_metrics_of_numbers(numbers):
    found = outcome_of("test", numbers)
    assert isinstance(found, NumberOutcome)
    for name in found.rows:
        assert found.metric(name) == pytest.approx(numbers.metrics[name], rel=1e-6), name


def test_ranks_and_crps_of_a_mixture_take_the_place_of_the_normal_laws(rng):
    mean, y = rng.normal(size=(2, 50, 1)), rng.normal(size=(50, 1))
    law = NormalMixture(*map(torch.from_numpy, (5 * mean, np.ones((2, 50, 1)))), torch.ones(2))
    ranks, crps = (found(torch.from_numpy(y)).numpy() for found in (law.cdf, law.crps))
    moments = 5 * mean.mean(0), 1 + 25 * mean.var(0), y, np.zeros(50)
    known = NumberOutcome("test", *moments, ranks=ranks, crps=crps)
    assert known.metric("crps") == pytest.approx(crps.mean())
    assert known.metric("coverage_50") == pytest.approx((np.abs(ranks - 0.5) <= 0.25).mean())
    assert NumberOutcome("test", *moments).metric("crps") != known.metric("crps")


def test_methods_are_compared_by_their_labels(rng):
    ours, theirs = several(rng), several(rng)
    theirs = LabelOutcome.of("test", 1 - ours.probs, ours.targets, theirs.log_score)
    methods = [MethodResult("a", [ours, ours]), MethodResult("b", [theirs, theirs])]
    row = comparison_table(methods)[0]
    assert {"label_accuracy", "label_nll", "mean_precision", "label_brier", "label_ece"} < set(row)
    assert "accuracy" not in row
    [found] = [d for d in paired_differences(methods, "b") if d.metric == "label_accuracy"]
    assert found.interval.estimate > 0.2
    other = LabelOutcome.of("test", ours.probs, 1 - ours.targets, ours.log_score)
    with pytest.raises(DataError, match="not scored on the same test points"):
        paired_differences([methods[0], MethodResult("b", [other, other])], "b")


def test_what_is_not_labeled_or_no_number_is_refused(rng):
    found = several(rng)
    with pytest.raises(DataError, match="'x' hold no labels"):
        LabelOutcome.of("x", found.probs, None, None)
    with pytest.raises(DataError, match="'x' hold NaN"):
        LabelOutcome.of("x", found.probs * np.nan, found.targets, found.log_score)


def test_labels_of_a_point_count_as_one_of_chances():
    """As if they always came together: what holds of one label holds of three copies of it."""
    rng = np.random.default_rng(2)
    probs = rng.random((300, 1))
    targets = (rng.random((300, 1)) < probs).astype(int)
    one = LabelOutcome.of("test", probs, targets, np.zeros(300)).bins()
    three = LabelOutcome.of("test", probs.repeat(3, 1), targets.repeat(3, 1), np.zeros(300)).bins()
    assert (one.together, three.together) == (1, 3)
    assert three.ece == pytest.approx(one.ece)
    assert three.chance == pytest.approx(one.chance)
    assert three.bound == pytest.approx(one.bound)
    for end in ("low", "high"):
        np.testing.assert_allclose(getattr(three.curve(), end), getattr(one.curve(), end))


def test_probabilities_are_too_extreme_or_too_near_to_a_half(rng):
    found = several(rng, 5000)
    logits = np.log(found.probs / (1 - found.probs))
    for factor in (3.0, 1 / 3):
        probs = 1 / (1 + np.exp(-factor * logits))
        bins = LabelOutcome.of("test", probs, found.targets, found.log_score).bins()
        assert (bins.extremeness > 0.02) == (factor > 1)
        assert (bins.extremeness < -0.02) == (factor < 1)


def test_ranking_scores_equal_scikit_learn(rng):
    found = several(rng)
    probs, truth = found.probs[:, 0], found.targets[:, 0]
    expected = average_precision_score(truth, probs), roc_auc_score(truth, probs)
    assert ranking_scores(probs, truth) == pytest.approx(expected)
    assert ranking_scores(probs, 0 * truth) == (None, None)
    assert ranking_scores(probs, 0 * truth + 1) == (1.0, None)
