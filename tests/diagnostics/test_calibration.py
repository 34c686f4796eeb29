import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss
from torchmetrics.classification import MulticlassCalibrationError

from bayesprior.diagnostics.calibration import brier, ece, mce, nll
from bayesprior.errors import ConfigError


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


def test_ece_and_mce_equal_the_formula(case):
    probs, targets = case
    gaps = list(reference_gaps(probs.max(1), probs.argmax(1) == targets, np.linspace(0, 1, 16)))
    assert ece(probs, targets) == pytest.approx(sum(w * g for w, g in gaps), abs=1e-12)
    assert mce(probs, targets) == pytest.approx(max(g for _, g in gaps), abs=1e-12)


def test_class_wise_ece_equals_the_formula(case):
    probs, targets = case
    expected = np.mean(
        [
            sum(w * g for w, g in reference_gaps(p, targets == c, np.linspace(0, 1, 16)))
            for c, p in enumerate(probs.T)
        ]
    )
    assert ece(probs, targets, kind="class_wise") == pytest.approx(expected, abs=1e-12)


def test_adaptive_ece_cuts_into_equal_parts(rng):
    probs = rng.dirichlet(np.ones(4), 600)
    targets = rng.integers(0, 4, 600)
    order = probs.max(1).argsort()
    confidence, correct = probs.max(1)[order], (probs.argmax(1) == targets)[order]
    parts = zip(np.split(confidence, 15), np.split(correct, 15), strict=True)
    expected = np.mean([abs(c.mean() - a.mean()) for c, a in parts])
    assert ece(probs, targets, kind="adaptive") == pytest.approx(expected, abs=1e-12)


def test_no_metric_depends_on_the_order_of_the_points(case, rng):
    probs, targets = case
    order = rng.permutation(len(targets))
    for metric in (
        nll,
        mce,
        lambda p, t: brier(p, t).score,
        lambda p, t: ece(p, t, kind="adaptive"),
        lambda p, t: ece(p, t, kind="class_wise"),
    ):
        assert metric(probs, targets) == pytest.approx(metric(probs[order], targets[order]))


@pytest.mark.parametrize("norm", ["l1", "max"])
def test_torchmetrics_agrees(rng, norm):
    probs = rng.dirichlet(np.full(6, 0.3), 1000)
    targets = rng.integers(0, 6, 1000)
    theirs = MulticlassCalibrationError(6, n_bins=15, norm=norm)(
        torch.tensor(probs), torch.tensor(targets)
    )
    ours = {"l1": ece, "max": mce}[norm](probs, targets)
    assert ours == pytest.approx(float(theirs), abs=1e-6)


def test_nll_equals_scikit_learn_and_is_infinite_where_it_must(rng):
    probs = rng.dirichlet(np.ones(5), 300)
    targets = rng.integers(0, 5, 300)
    assert nll(probs, targets) == pytest.approx(log_loss(targets, probs, labels=range(5)))
    assert nll(np.array([[0.0, 1.0]]), np.array([0])) == np.inf


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

    def mean_ece(num_points, repeats=200):
        p = np.tile((np.arange(8, 15) + 0.5) / 15, num_points // 7)
        probs = np.stack([p, 1 - p], 1)
        return [ece(probs, (rng.random(len(p)) > p).astype(int)) for _ in range(repeats)]

    for num_points in (700, 7000):
        draws = np.array(mean_ece(num_points))
        p = (np.arange(8, 15) + 0.5) / 15
        expected = np.mean(np.sqrt(2 * p * (1 - p) / (np.pi * num_points / 7)))
        z = (draws.mean() - expected) / (draws.std() / np.sqrt(len(draws)))
        # the normal approximation of a bin's mean errs by O(1 / points in the bin)
        assert abs(z) < 5, (num_points, z)


def test_unknown_kind_is_refused():
    with pytest.raises(ConfigError, match="top_label, class_wise or adaptive"):
        ece(np.array([[1.0, 0.0]]), np.array([0]), kind="other")
