import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from torchmetrics.classification import MulticlassCalibrationError

from bayesprior.diagnostics.calibration import CalibrationBins, brier, class_wise_ece
from bayesprior.prediction.points import CalibrationError


def top(probs, targets):
    return probs.max(1), probs.argmax(1) == targets


def reference_gaps(confidence, correct, edges):
    """Yield (share of the points, |confidence - accuracy|) of each non-empty (lo, hi] bin."""
    for lo, hi in zip(edges, edges[1:], strict=False):
        inside = [
            i
            for i, c in enumerate(confidence)
            if lo < c <= hi or (c == 0 and lo == 0)  # 0 belongs to the first bin
        ]
        if inside:
            gap = abs(np.mean(confidence[inside]) - np.mean(correct[inside]))
            yield len(inside) / len(confidence), gap


def calibrated(rng, num_points, temperature=1.0):
    """Top-label confidences and hits of a model that is right as often as it says at T = 1."""
    honest = rng.uniform(0.5, 1, num_points)
    correct = rng.random(num_points) < honest
    logit = np.log(honest / (1 - honest)) / temperature
    return 1 / (1 + np.exp(-logit)), correct


EDGES = np.arange(16) / 15


def test_ece_and_mce_equal_the_formula(case):
    confidence, correct = top(*case)
    gaps = list(reference_gaps(confidence, correct, EDGES))
    bins = CalibrationBins.of(confidence, correct)
    assert bins.ece == pytest.approx(sum(w * g for w, g in gaps), abs=1e-12)
    assert bins.mce == pytest.approx(max(g for _, g in gaps), abs=1e-12)


def test_the_streamed_sums_are_the_same(case):
    probs, targets = case
    metric = CalibrationError()
    for part in np.array_split(np.arange(len(targets)), 3):
        if len(part):
            metric.update(torch.from_numpy(probs[part]), torch.from_numpy(targets[part]))
    bins = CalibrationBins.of(*top(probs, targets))
    streamed = CalibrationBins(metric.sums().numpy())
    np.testing.assert_allclose(streamed.sums, bins.sums)
    np.testing.assert_array_equal(streamed.edges, bins.edges)


def test_class_wise_ece_equals_the_formula(case):
    probs, targets = case
    expected = np.mean(
        [
            sum(w * g for w, g in reference_gaps(p, targets == c, EDGES))
            for c, p in enumerate(probs.T)
        ]
    )
    assert class_wise_ece(probs, targets) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("norm", ["l1", "max"])
def test_torchmetrics_agrees(rng, norm):
    probs = rng.dirichlet(np.full(6, 0.3), 1000)
    targets = rng.integers(0, 6, 1000)
    theirs = MulticlassCalibrationError(6, n_bins=15, norm=norm)(
        torch.tensor(probs), torch.tensor(targets)
    )
    bins = CalibrationBins.of(*top(probs, targets))
    assert {"l1": bins.ece, "max": bins.mce}[norm] == pytest.approx(float(theirs), abs=1e-6)


def test_brier_equals_the_formula_and_its_parts_add_up(case):
    probs, targets = case
    score, reliability, resolution, uncertainty, within_bin = brier(probs, targets)
    assert score == pytest.approx(((probs - np.eye(probs.shape[1])[targets]) ** 2).sum(1).mean())
    assert reliability - resolution + uncertainty + within_bin == pytest.approx(score)
    assert min(reliability, resolution, uncertainty) >= 0


def test_murphy_decomposition_is_exact_when_bins_hold_one_value(rng):
    values = (np.arange(15) + 0.5) / 15
    p = rng.choice(values, 3000)
    targets = (rng.random(3000) > p).astype(int)
    parts = brier(np.stack([p, 1 - p], 1), targets)
    assert parts.within_bin == pytest.approx(0, abs=1e-12)
    by_value = [(p == v, v) for v in values]
    reliability = 2 * sum(m.mean() * (v - (targets[m] == 0).mean()) ** 2 for m, v in by_value)
    assert parts.reliability == pytest.approx(reliability)


def test_ece_of_a_calibrated_model_falls_with_the_square_root_of_the_points(rng):
    """With M equally filled bins E|gap| -> sqrt(2 p (1 - p) M / (pi N)) in each."""

    def eces(num_points, repeats=200):
        p = np.tile((np.arange(8, 15) + 0.5) / 15, num_points // 7)
        return [CalibrationBins.of(p, rng.random(len(p)) < p).ece for _ in range(repeats)]

    for num_points in (700, 7000):
        draws = np.array(eces(num_points))
        p = (np.arange(8, 15) + 0.5) / 15
        expected = np.mean(np.sqrt(2 * p * (1 - p) / (np.pi * num_points / 7)))
        z = (draws.mean() - expected) / (draws.std() / np.sqrt(len(draws)))
        # the normal approximation of a bin's mean errs by O(1 / points in the bin)
        assert abs(z) < 5, (num_points, z)


def test_curve_is_the_mean_of_each_bin(rng):
    confidence, correct = calibrated(rng, 1000)
    curve = CalibrationBins.of(confidence, correct, 10).curve()
    inside = (confidence > 0.7) & (confidence <= 0.8)
    k = int(np.flatnonzero((curve.confidence > 0.7) & (curve.confidence < 0.8))[0])
    assert curve.confidence[k] == pytest.approx(confidence[inside].mean())
    assert curve.accuracy[k] == pytest.approx(correct[inside].mean())
    assert curve.count.sum() == 1000


def test_consistency_band_covers_a_calibrated_model_at_its_level(rng):
    """The band is a little conservative, so at least 95 % of the bins lie inside it."""
    inside = []
    for _ in range(200):
        curve = CalibrationBins.of(*calibrated(rng, 500)).curve()
        inside += list((curve.accuracy >= curve.low) & (curve.accuracy <= curve.high))
    assert binomtest(sum(inside), len(inside), 0.95, alternative="less").pvalue > 1e-6
    assert np.mean(inside) < 0.995


def test_one_calibrated_model_in_twenty_exceeds_chance(rng):
    found = [CalibrationBins.of(*calibrated(rng, 400)) for _ in range(300)]
    beyond = sum(bins.ece > bins.chance for bins in found)
    # the within-bin spread of confidences makes the law a little wider than the truth
    assert binomtest(beyond, 300, 0.05, "greater").pvalue > 1e-6
    assert binomtest(beyond, 300, 0.02, "less").pvalue > 1e-6


@pytest.mark.parametrize("num_points", [50, 400])
@pytest.mark.parametrize("mixed", [False, True])
def test_the_end_of_the_errors_interval_holds_in_39_of_40_cases(rng, num_points, mixed):
    """Whether the gaps of the bins have one sign or two."""
    below = 0
    for _ in range(400):
        confidence = rng.uniform(0.5, 0.9, num_points)
        sign = np.where(np.ceil(15 * confidence) % 2 == 0, 1, -1) if mixed else -1
        right = rng.random(num_points) < confidence + 0.1 * sign
        below += CalibrationBins.of(confidence, right).bound < 0.1
    assert binomtest(below, 400, 0.025, "greater").pvalue > 1e-5
