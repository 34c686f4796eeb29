import math

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.metrics import log_loss
from torchmetrics.functional.classification import multiclass_calibration_error

from bayesprior.errors import ConfigError
from bayesprior.prediction.metrics import (
    METRICS,
    MeanMetric,
    MetricRow,
    default_metrics,
    whole_scores,
)
from bayesprior.prediction.points import CalibrationError, nll
from bayesprior.tasks.likelihoods import Categorical, HeteroscedasticNormal, Normal
from bayesprior.tasks.pixels import PixelCategorical

# --- the formulas, in NumPy ----------------------------------------------------------------


def numpy_accuracy(probs, targets):
    return (probs.argmax(1) == targets).mean()


def numpy_brier(probs, targets):
    return ((probs - np.eye(probs.shape[1])[targets]) ** 2).sum(1).mean()


def numpy_ece(probs, targets, num_bins=15):
    confidence, correct = probs.max(1), probs.argmax(1) == targets
    edges = np.arange(num_bins + 1) / num_bins
    error = 0.0
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            error += abs(correct[inside].mean() - confidence[inside].mean()) * inside.mean()
    return error


def numpy_mean_iou(labels, targets, num_classes):
    ious = []
    for c in range(num_classes):
        union = ((labels == c) | (targets == c)).sum()
        if union:
            ious.append(((labels == c) & (targets == c)).sum() / union)
    return np.mean(ious)


def random_case(num_points, num_classes, sharpness=2.0):
    generator = np.random.default_rng(num_points + num_classes)
    logits = sharpness * generator.normal(size=(num_points, num_classes))
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return probs, generator.integers(num_classes, size=num_points)


CASES = {
    "two classes": random_case(50, 2),
    "ten classes": random_case(333, 10),
    "thousand classes": random_case(40, 1000, 5.0),
    "one point": random_case(1, 3),
    "one class only": (random_case(30, 4)[0], np.zeros(30, dtype=int)),
    "ties": (np.full((6, 3), 1 / 3), np.array([0, 0, 1, 2, 1, 0])),
    "certain and right": (np.eye(3)[[0, 1, 2]], np.array([0, 1, 2])),
    "certain and wrong": (np.eye(3)[[1, 2, 0]], np.array([0, 1, 2])),
    "on the edges of bins": (
        np.array([[k / 15, 1 - k / 15] for k in range(16)]),
        np.arange(16) % 2,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_classification_equals_numpy(name):
    probs, targets = CASES[name]
    metrics = default_metrics(Categorical(), probs.shape[1])
    for rows in np.array_split(np.arange(len(targets)), min(3, len(targets))):  # as it streams
        metrics.update(torch.from_numpy(probs[rows]), torch.from_numpy(targets[rows]))
    found = {name: value.item() for name, value in metrics.compute().items()}
    assert found == {
        "accuracy": pytest.approx(numpy_accuracy(probs, targets), rel=1e-6),
        "brier": pytest.approx(numpy_brier(probs, targets), abs=1e-12),
        "ece": pytest.approx(numpy_ece(probs, targets), abs=1e-12),
    }


def test_scores_equal_other_libraries():
    probs, targets = CASES["ten classes"]
    tensors = torch.from_numpy(probs), torch.from_numpy(targets)
    error, loss = CalibrationError(10), MeanMetric(METRICS["nll"])
    error.update(*tensors)
    loss.update(*tensors)
    expected = multiclass_calibration_error(*tensors, num_classes=10, n_bins=10)  # in float32
    assert error.compute().item() == pytest.approx(expected.item(), rel=1e-6)
    assert loss.compute().item() == pytest.approx(log_loss(targets, probs, labels=range(10)))


def test_perfectly_calibrated_probabilities():
    """With targets drawn from them the error is noise, of the size that its law says."""
    generator = np.random.default_rng(0)
    num, num_bins = 200_000, 15
    first = generator.uniform(size=num)
    targets = (generator.uniform(size=num) > first).astype(int)
    metric = CalibrationError(num_bins)
    metric.update(torch.from_numpy(np.stack([first, 1 - first], 1)), torch.from_numpy(targets))
    # Each bin's |sum of (correct - confidence)| is half-normal with variance sum p (1 - p).
    confidence = np.maximum(first, 1 - first)
    where = np.ceil(confidence * num_bins).astype(int)
    variances = np.bincount(where, confidence * (1 - confidence))
    mean = np.sqrt(variances * 2 / math.pi).sum() / num
    spread = np.sqrt((variances * (1 - 2 / math.pi)).sum()) / num
    assert abs(metric.compute().item() - mean) < 5 * spread


def test_pixels_equal_numpy_on_labeled_pixels():
    probs = torch.rand(3, 5, 4, 6, dtype=torch.float64)
    probs[:, 4] = 0.0  # a class that is never predicted
    probs /= probs.sum(1, keepdim=True)
    targets = torch.randint(0, 4, (3, 4, 6))
    targets[0, :2] = 255
    metrics = default_metrics(PixelCategorical(ignore_index=255), 5)
    for image in range(3):
        metrics.update(probs[image : image + 1], targets[image : image + 1].to(torch.uint8))
    rows, labels = probs.movedim(1, -1).reshape(-1, 5).numpy(), targets.reshape(-1).numpy()
    rows, labels = rows[labels != 255], labels[labels != 255]
    found = {name: value.item() for name, value in metrics.compute().items()}
    assert found == {
        "accuracy": pytest.approx(numpy_accuracy(rows, labels)),
        "mean_iou": pytest.approx(numpy_mean_iou(rows.argmax(1), labels, 5)),
        "nll": pytest.approx(-np.log(rows[np.arange(len(labels)), labels]).mean()),
        "brier": pytest.approx(numpy_brier(rows, labels)),
        "ece": pytest.approx(numpy_ece(rows, labels)),
    }


def test_metrics_that_agree_on_the_first_batch_stay_apart():
    """A certain and right first batch makes every sum of scores 0."""
    metrics, maps = (
        default_metrics(PixelCategorical(), 2),
        {"right": [[1.0, 0.0]], "wrong": [[0.25, 0.75]]},
    )
    for probs in maps.values():
        metrics.update(torch.tensor(probs)[..., None, None], torch.zeros(1, 1, 1).long())
    found = metrics.compute()
    assert found["brier"].item() == pytest.approx((0 + 2 * 0.75**2) / 2)
    assert found["nll"].item() == pytest.approx(math.log(4) / 2)


def test_state_does_not_grow():
    metric = CalibrationError(num_bins=7)
    for _ in range(3):
        metric.update(torch.full((100, 2), 0.5), torch.zeros(100, dtype=torch.int64))
    assert sum(state.numel() for state in metric.metric_state.values()) == 3 * 7


def test_rmse_equals_numpy():
    mean, targets = torch.randn(9, 2).double(), torch.randn(9, 2).double()
    metrics = default_metrics(Normal(std=1.0), 2)
    metrics.update(mean[:4], targets[:4])
    metrics.update(mean[4:], targets[4:])
    expected = np.sqrt(((mean - targets).numpy() ** 2).mean())
    assert metrics.compute()["rmse"].item() == pytest.approx(expected, rel=1e-6)


def test_scores_of_numbers_equal_scipy():
    mean, targets = torch.randn(40, 1).double(), 2 * torch.randn(40, 1).double()
    variance = torch.rand(40, 1).double() + 0.5
    found = whole_scores({"targets": targets, "mean": mean, "variance": variance})
    law = scipy.stats.norm(mean, variance.sqrt())
    ranks = law.cdf(targets)
    assert found["pit"] == pytest.approx(scipy.stats.kstest(ranks.ravel(), "uniform").statistic)
    for level in (0.5, 0.9):
        low, high = law.interval(level)
        inside = ((targets.numpy() >= low) & (targets.numpy() <= high)).mean()
        assert found[f"coverage_{level:.0%}".rstrip("%")] == pytest.approx(inside)
    # E |Y - y| - E |Y - Y'| / 2, by quadrature over Y's quantiles
    draws = law.ppf((np.arange(20_000) + 0.5) / 20_000)
    spread = variance.sqrt() / math.sqrt(math.pi)
    expected = np.abs(draws - targets.numpy()).mean(1) - spread[:, 0].numpy()
    assert found["crps"] == pytest.approx(expected.mean(), rel=1e-3)


def test_scores_of_several_numbers_count_one_by_one():
    law = {"mean": torch.zeros(2, 2), "variance": torch.ones(2, 2)}
    found = whole_scores({"targets": torch.tensor([[0.1, 3.0], [0.1, 0.1]]), **law})
    assert (found["coverage_50"], found["coverage_90"]) == (0.75, 0.75)


def test_nll_is_that_of_the_average():
    probs = torch.rand(4, 7, dtype=torch.float64)
    assert nll(probs.log()) == pytest.approx(-probs.mean(0).log().mean().item())
    assert nll(probs[:1].log()) == pytest.approx(-probs[0].log().mean().item())


def test_nll_does_not_underflow():
    far = torch.full((2, 3), -5000.0)
    assert nll(far) == pytest.approx(5000.0)
    far[0] = 0.0  # one draw is certain and right: the average is 1/2
    assert nll(far) == pytest.approx(math.log(2))


def test_log_loss_of_an_impossible_label_is_infinite():
    metric = MeanMetric(METRICS["nll"])
    metric.update(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))
    assert metric.compute() == math.inf


def test_default_metrics_follow_the_likelihood():
    assert set(default_metrics(Categorical(), 3)) == {"accuracy", "brier", "ece"}
    pixels = default_metrics(PixelCategorical(ignore_index=7), 3)
    assert {"mean_iou", "nll"} < set(pixels)
    assert {metric.ignore_index for metric in pixels.values()} == {7}
    assert "aurc" not in pixels  # needs all points at once
    for likelihood in (Normal(std=1.0), HeteroscedasticNormal()):
        assert set(default_metrics(likelihood, 1)) == {"rmse"}


def test_default_metrics_of_a_likelihood_from_outside():
    class Poisson(Normal):
        pass

    class Unknown:
        pass

    assert set(default_metrics(Poisson(std=1.0), 1)) == {"rmse"}
    assert not len(default_metrics(Unknown(), 1))


def test_no_bins():
    with pytest.raises(ConfigError, match="num_bins must be at least 1, got 0"):
        CalibrationError(0)


def test_a_row_added_to_the_table_streams(monkeypatch):
    row = MetricRow("doubt", "1 - largest", lambda p: 1 - p.confidence, False)
    monkeypatch.setitem(METRICS, "doubt", row)
    probs, targets = CASES["ten classes"]
    metrics = default_metrics(Categorical(), 10)
    metrics.update(torch.from_numpy(probs), torch.from_numpy(targets))
    assert metrics.compute()["doubt"].item() == pytest.approx(1 - probs.max(1).mean())


def test_every_row_says_what_it_is():
    for row in METRICS.values():
        assert row.label
        assert row.meaning
        assert row.margin is None or row.larger_is_better is not None
