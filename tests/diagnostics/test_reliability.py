import numpy as np
import pytest
from bayesprior.diagnostics.checks import top_label
from bayesprior.diagnostics.reliability import CalibrationBins, calibration_verdict
from scipy.stats import binomtest

from bayesprior.diagnostics.calibration import ece
from bayesprior.errors import ConfigError


def calibrated(rng, num_points, temperature=1.0):
    """Top-label confidences and hits of a model that is right as often as it says at T = 1."""
    honest = rng.uniform(0.5, 1, num_points)
    correct = rng.random(num_points) < honest
    logit = np.log(honest / (1 - honest)) / temperature
    return 1 / (1 + np.exp(-logit)), correct


def filled(confidence, correct, bins=15):
    out = CalibrationBins(bins)
    out.update(confidence, correct)
    return out


def test_streaming_equals_in_memory(case):
    probs, targets = case
    confidence, correct = top_label(probs, targets)
    streamed, other = CalibrationBins(), CalibrationBins()
    for part in np.array_split(np.arange(len(correct)), 3):
        streamed.update(confidence[part], correct[part])
        half = CalibrationBins()
        half.update(confidence[part], correct[part])
        other.merge(half)
    assert streamed.ece == pytest.approx(ece(probs, targets), rel=1e-12)
    assert other.ece == pytest.approx(streamed.ece, rel=1e-12)


def test_pixels_stream_through_the_same_bins(rng):
    confidence, correct = calibrated(rng, 4 * 5 * 6)
    maps = CalibrationBins()
    maps.update(confidence.reshape(4, 5, 6), correct.reshape(4, 5, 6))
    assert maps.ece == pytest.approx(filled(confidence, correct).ece)


def test_curve_is_the_mean_of_each_bin(rng):
    confidence, correct = calibrated(rng, 1000)
    curve = filled(confidence, correct, 10).curve()
    inside = (confidence > 0.7) & (confidence <= 0.8)
    k = int(np.flatnonzero((curve.confidence > 0.7) & (curve.confidence < 0.8))[0])
    assert curve.confidence[k] == pytest.approx(confidence[inside].mean())
    assert curve.accuracy[k] == pytest.approx(correct[inside].mean())
    assert curve.count.sum() == 1000


def test_consistency_band_covers_a_calibrated_model_at_its_level(rng):
    """The band is a little conservative, so at least 90 % of the bins lie inside it."""
    inside = []
    for _ in range(200):
        curve = filled(*calibrated(rng, 500)).curve(level=0.9)
        inside += list((curve.accuracy >= curve.low) & (curve.accuracy <= curve.high))
    assert binomtest(sum(inside), len(inside), 0.9, alternative="less").pvalue > 1e-6
    assert np.mean(inside) < 0.99


def test_chance_ece_is_the_law_of_a_calibrated_models_ece(rng):
    """The observed ECE's rank among the chance draws is uniform."""
    ranks = []
    for seed in range(200):
        bins = filled(*calibrated(rng, 400))
        ranks.append((bins.chance_ece(200, seed) < bins.ece).mean())
    # the within-bin spread of confidences makes the law a little wider than the truth
    assert binomtest(int((np.array(ranks) > 0.95).sum()), 200, 0.05, "greater").pvalue > 1e-6
    assert 0.35 < np.mean(ranks) < 0.65


@pytest.mark.parametrize(
    ("temperature", "level", "word"),
    [(1.0, "ok", "Yes"), (0.3, "fail", "overconfident"), (2.0, "warn", "underconfident")],
)
def test_verdict(rng, temperature, level, word):
    verdict = calibration_verdict(filled(*calibrated(rng, 3000, temperature)))
    assert verdict.level == level
    assert word in verdict.headline


def test_verdict_without_points():
    assert calibration_verdict(CalibrationBins()).level == "unknown"


@pytest.mark.parametrize("edges", [0, -3, np.array([0.0, 0.5, 0.5, 1.0])])
def test_a_binning_without_bins_is_refused(edges):
    with pytest.raises(ConfigError, match="at least one bin"):
        CalibrationBins(edges)


def test_merging_different_edges_is_refused():
    with pytest.raises(ConfigError, match="different edges"):
        CalibrationBins(3).merge(CalibrationBins(4))


def test_bins_come_back_from_their_sums(rng):
    confidence, right = rng.random(300), rng.random(300) < 0.7
    bins = CalibrationBins(7)
    bins.update(confidence, right)
    again = CalibrationBins.from_sums(np.stack([bins.count, bins.confidence, bins.correct]))
    assert (again.ece, again.mce) == (bins.ece, bins.mce)
    np.testing.assert_array_equal(again.edges, bins.edges)
