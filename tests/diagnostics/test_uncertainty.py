import numpy as np
import pytest
from scipy.stats import binom, binomtest
from scipy.stats import entropy as scipy_entropy
from sklearn.metrics import roc_curve

from bayesprior.diagnostics.uncertainty import (
    detection,
    guaranteed_limit,
    ood_scores,
    risk_coverage,
)
from bayesprior.errors import DataError


def test_risk_coverage_equals_the_definition(rng):
    uncertainty, loss = rng.permutation(40).astype(float), rng.random(40)
    curve = risk_coverage(uncertainty, loss)
    for k in range(1, 41):
        kept = uncertainty.argsort()[:k]
        assert curve.risk[k - 1] == pytest.approx(loss[kept].mean())
    assert curve.aurc == pytest.approx(curve.risk.mean())


def test_tied_points_share_their_mean_risk(rng):
    """The curve is the expectation over random orders of the tied points."""
    uncertainty = rng.integers(0, 4, 60).astype(float)
    loss = (rng.random(60) < 0.4).astype(float)
    curve = risk_coverage(uncertainty, loss)
    orders = []
    for _ in range(3000):
        order = np.lexsort([rng.random(60), uncertainty])
        orders.append(loss[order].cumsum() / np.arange(1, 61))
    error = np.std(orders, axis=0) / np.sqrt(len(orders)) + 1e-12
    assert np.abs((np.mean(orders, axis=0) - curve.risk) / error).max() < 6
    order = rng.permutation(60)
    np.testing.assert_allclose(risk_coverage(uncertainty[order], loss[order]).risk, curve.risk)


def test_coverage_at_risk():
    curve = risk_coverage(np.arange(4.0), np.array([0.0, 0.0, 1.0, 1.0]))
    assert curve.coverage_at(0.0) == 0.5
    assert curve.coverage_at(1 / 3) == 0.75
    assert curve.coverage_at(1.0) == 1.0
    assert risk_coverage(np.zeros(2), np.ones(2)).coverage_at(0.1) == 0.0


@pytest.mark.parametrize(
    ("uncertainty", "loss"),
    [(np.zeros(0), np.zeros(0)), (np.array([np.nan]), np.ones(1))],
)
def test_unusable_uncertainty_is_refused(uncertainty, loss):
    with pytest.raises(DataError, match="one finite uncertainty per loss"):
        risk_coverage(uncertainty, loss)


def bumpy(points, rng):
    """Uniform uncertainty with errors that are rarer in its middle; their rate below x is known."""
    uncertainty = rng.random(points)
    chance = 0.06 + 0.06 * np.cos(2 * np.pi * uncertainty)
    return uncertainty, (rng.random(points) < chance).astype(float)


def test_the_guarantee_holds_in_19_of_20_samples_whatever_the_risk_does(rng):
    broken = useful = 0
    for _ in range(600):
        limit = guaranteed_limit(*bumpy(2000, rng), risk=0.07)
        below = float(np.clip(limit, 0, 1))
        useful += below > 0
        broken += below > 0 and 0.06 + 0.06 * np.sinc(2 * below) > 0.07
    assert useful > 400
    assert binomtest(broken, 600, 0.05, "greater").pvalue > 1e-6


@pytest.mark.parametrize("rate", [0.04, 0.06])
def test_all_points_are_kept_as_often_as_the_binomial_law_says(rate, rng):
    """Errors that do not depend on the uncertainty: only their number decides about the whole."""
    errors = np.arange(401)
    most = errors[binom.cdf(errors, 400, 0.08) <= 0.05 / 20].max()
    whole = 0
    for _ in range(1000):
        wrong = (rng.random(400) < rate).astype(float)
        whole += guaranteed_limit(rng.random(400), wrong, risk=0.08) == np.inf
    assert binomtest(whole, 1000, binom.cdf(most, 400, rate)).pvalue > 1e-6


@pytest.mark.parametrize("decimals", [10, 1])
def test_a_limit_counts_where_clopper_and_pearson_say_so(decimals, rng):
    uncertainty = rng.random(300).round(decimals)
    wrong = (rng.random(300) < 0.15 * uncertainty).astype(float)
    limits = [*np.sort(uncertainty)[300 * np.arange(1, 20) // 20], np.inf]
    for risk in (0.05, 0.1, 0.2):
        good = [-np.inf]
        for limit in limits:
            below = uncertainty < limit
            if below.any():
                errors, number = int(wrong[below].sum()), int(below.sum())
                bound = binomtest(errors, number).proportion_ci(1 - 2 * 0.05 / 20).high
                good += [limit] * (bound <= risk)
        assert guaranteed_limit(uncertainty, wrong, risk) == good[-1]
    assert guaranteed_limit(uncertainty[:50], wrong[:50], 0.01) == -np.inf


def test_ood_scores(case, rng):
    probs, targets = case
    energy, information = rng.normal(size=len(probs)), rng.random(len(probs))
    scores = ood_scores(probs, mutual_information=information, energy=energy)
    np.testing.assert_allclose(scores["max_probability"], 1 - probs.max(1))
    np.testing.assert_allclose(scores["entropy"], scipy_entropy(probs, axis=1), atol=1e-12)
    np.testing.assert_array_equal(scores["mutual_information"], information)
    np.testing.assert_array_equal(scores["energy"], energy)
    assert set(ood_scores(probs)) == {"max_probability", "entropy"}


@pytest.mark.parametrize("decimals", [10, 1, 0])
def test_detection_equals_its_definitions_with_and_without_ties(rng, decimals):
    inside = rng.normal(0, 1, 211).round(decimals)
    outside = rng.normal(1, 1, 97).round(decimals)
    auroc, aupr, fpr95 = detection(inside, outside)
    pairs = outside[:, None] - inside
    assert auroc == pytest.approx((pairs > 0).mean() + 0.5 * (pairs == 0).mean())
    labels = np.repeat([0, 1], [211, 97])
    fpr, tpr, _ = roc_curve(labels, np.concatenate([inside, outside]), drop_intermediate=False)
    assert fpr95 == pytest.approx(fpr[np.argmax(tpr >= 0.95)])
    recall_steps = 0.0
    last = 0.0
    for t in np.unique(np.concatenate([inside, outside]))[::-1]:
        recall = (outside >= t).mean()
        precision = (outside >= t).sum() / ((outside >= t).sum() + (inside >= t).sum())
        recall_steps, last = recall_steps + (recall - last) * precision, recall
    assert aupr == pytest.approx(recall_steps)


def test_detection_of_constant_scores_is_chance():
    assert detection(np.zeros(30), np.zeros(10)) == (0.5, 0.25, 1.0)


@pytest.mark.parametrize(
    ("inside", "outside", "message"),
    [([], [1.0], "empty"), ([1.0], [], "empty"), ([np.nan], [1.0], "1 out-of-distribution")],
)
def test_unusable_scores_are_refused(inside, outside, message):
    with pytest.raises(DataError, match=message):
        detection(np.array(inside, float), np.array(outside, float))
