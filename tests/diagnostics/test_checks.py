import numpy as np
import pytest
import torch
from bayesprior.diagnostics.checks import check_probs, top_label

from bayesprior.errors import DataError

GOOD = np.array([[0.2, 0.8], [0.5, 0.5]])


def test_tensors_and_float32_are_taken():
    probs, targets = check_probs(torch.tensor(GOOD, dtype=torch.float32), torch.tensor([1, 0]))
    assert probs.dtype == np.float64
    np.testing.assert_array_equal(targets, [1, 0])


@pytest.mark.parametrize(
    ("probs", "targets", "message"),
    [
        (GOOD[0], [0], r"shape \(N, C\)"),
        (GOOD[:0], [], r"shape \(N, C\)"),
        (GOOD, [0, 1, 1], "2 rows of probabilities but targets of shape"),
        (GOOD, [0.0, 1.0], "integer class indices"),
        (GOOD * [np.nan, 1], [0, 1], "2 of 2 rows of probabilities hold NaN"),
        (GOOD * 2, [0, 1], "sum to 1"),
        (GOOD + [[-0.3, 0.3]], [0, 1], ">= 0"),
        (GOOD, [0, 2], "targets range over 0..2 but the probabilities have 2 classes"),
        (GOOD, [0, -1], "targets range over -1..0"),
    ],
)
def test_each_fault_has_one_clear_line(probs, targets, message):
    with pytest.raises(DataError, match=message) as caught:
        check_probs(probs, targets)
    assert "\n" not in str(caught.value)


def test_top_label():
    confidence, correct = top_label(GOOD, np.array([0, 0]))
    np.testing.assert_array_equal(confidence, [0.8, 0.5])
    np.testing.assert_array_equal(correct, [False, True])
