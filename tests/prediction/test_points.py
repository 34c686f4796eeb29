import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score

from bayesprior.errors import ConfigError
from bayesprior.prediction.points import Points, bin_sums, mean_overlap, risk_curve


def test_labeled_pixels_are_points():
    probs = torch.rand(2, 3, 4, 5).softmax(1)
    targets = torch.randint(0, 3, (2, 4, 5))
    targets[1, 2] = 255
    points = Points.labeled(probs, targets, ignore_index=255)
    kept = targets != 255
    expected = probs.movedim(1, -1)[kept]
    torch.testing.assert_close(points.probs, expected)
    torch.testing.assert_close(points.targets, targets[kept])
    picked = expected.gather(1, targets[kept][:, None])[:, 0]
    torch.testing.assert_close(points.log_score, picked.log())
    torch.testing.assert_close(points.is_right, (expected.argmax(1) == targets[kept]).float())


def test_columns_are_binned_one_by_one_and_parts_add_up():
    values, hits = torch.rand(60, 3), torch.rand(60, 3) < 0.5
    whole = bin_sums(values, hits, 7)
    for column in range(3):
        alone = bin_sums(values[:, column], hits[:, column], 7)
        torch.testing.assert_close(whole[:, column], alone)
    torch.testing.assert_close(
        bin_sums(values[:20], hits[:20], 7) + bin_sums(values[20:], hits[20:], 7), whole
    )
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        bin_sums(values, hits, 0)


def test_tied_points_share_their_mean_loss():
    found = risk_curve(torch.tensor([1.0, 1.0, 0.0]), torch.tensor([1.0, 0.0, 1.0]))
    torch.testing.assert_close(found, torch.tensor([1.0, 0.75, 2 / 3], dtype=torch.float64))


def test_overlap_equals_scikit_learn():
    rng = np.random.default_rng(0)
    labels, targets = rng.integers(0, 5, (2, 300))
    expected = jaccard_score(targets, labels, average="macro")
    found = mean_overlap(torch.from_numpy(labels).float(), torch.from_numpy(targets).float())
    assert float(found) == pytest.approx(expected)


def test_numbers_have_no_classes():
    points = Points(torch.zeros(3, 1), torch.zeros(3), mean=torch.zeros(3, 1))
    with pytest.raises(ConfigError, match="no class probabilities"):
        points.is_right  # noqa: B018
    with pytest.raises(ConfigError, match="no class probabilities"):
        points.entropy  # noqa: B018


def test_edges_of_ones_own():
    values, hits = torch.tensor([0.1, 0.3, 0.9]), torch.tensor([1, 0, 1])
    found = bin_sums(values, hits, torch.tensor([0.2, 0.5], dtype=torch.float64))
    assert found[0].tolist() == [1, 1, 1]
    torch.testing.assert_close(
        found, torch.stack([torch.ones(3).double(), values.double(), hits.double()])
    )


def test_entropy_of_classes_and_not_of_numbers():
    points = Points(torch.tensor([0]), torch.zeros(1), torch.full((1, 4), 0.25))
    torch.testing.assert_close(points.entropy, torch.tensor([4.0]).log())
    numbers = Points(torch.zeros(1, 1), torch.zeros(1), mean=torch.zeros(1, 1))
    with pytest.raises(ConfigError, match="numbers have no class probabilities"):
        numbers.entropy  # noqa: B018
