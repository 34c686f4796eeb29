"""Targets in memory: labels, several labels an example, and numbers, checked."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bayesprior.data.masks import IGNORED
from bayesprior.errors import DataError

__all__ = ["KINDS", "check_numbers", "checked_targets", "num_classes"]

CLASSES, LABELS, MASKS = "classification", "multilabel", "segmentation"
KINDS = (CLASSES, LABELS, MASKS, "regression")
"""What targets may be."""


def num_classes(targets: Sequence[Tensor | None], kind: str | None) -> int:
    """Return one more than the highest label; of masks at least two; of several labels how many."""
    known = [t for t in targets if t is not None]
    if kind == LABELS:
        return known[0].shape[1]
    if kind == MASKS:
        known = [t[t != IGNORED] for t in known]
    return max([1 + (kind == MASKS), *(1 + int(t.max()) for t in known if t.numel())])


def check_numbers(key: str, values: np.ndarray) -> None:
    """Raise `DataError` unless an array holds finite numbers."""
    if values.dtype.kind not in "biuf":
        raise DataError(f"{key} has dtype {values.dtype}; encode text and categories as numbers")
    if count := values.size - np.count_nonzero(np.isfinite(values)):
        raise DataError(f"{key} has {count} NaN or infinite numbers; remove or repair them")


def checked_targets(
    key: str, targets: Any, num_inputs: int, kind: str | None = None
) -> tuple[Tensor, str]:
    """Check targets that are no masks; say of which kind they are, where nobody has.

    Parameters
    ----------
    key
        Names them in messages.
    targets
        What the user gave.
    num_inputs
        N.
    kind
        Of `KINDS`; None for what type and shape say.

    Returns
    -------
    tuple
        Labels as int64, (N,) or (N, C), or numbers as float32 (N, P); and the kind.

    Raises
    ------
    DataError
        If they are of another shape or type, or out of range.

    Examples
    --------
    >>> checked_targets("y", [[1, 0, 0], [1, 1, 0]], 2)[1]
    'multilabel'
    """
    targets = np.asarray(targets)
    if kind is None and targets.ndim == 2 and targets.shape[1] > 1 and targets.dtype.kind in "iub":
        kind = LABELS
    if kind == LABELS:
        return _several_labels(key, targets, num_inputs), kind
    number, whole = targets.dtype.kind in "iuf", targets.dtype.kind in "iu"
    labels = kind == CLASSES or (kind is None and number and (targets == np.round(targets)).all())
    if not number or (labels and not whole):
        several = " or 'multilabel'" if targets.ndim == 2 else ""
        hint = f", or say kind='regression'{several}" if number and kind is None else ""
        raise DataError(f"{key} has dtype {targets.dtype}; store class indices as integers{hint}")
    kind = kind or (CLASSES if whole else "regression")
    shapes = (1,) if kind == CLASSES else (1, 2)
    if targets.ndim not in shapes or len(targets) != num_inputs:
        raise DataError(
            f"{key} has shape {targets.shape} but there are {num_inputs} inputs; "
            f"store one {'label' if kind == CLASSES else 'row of numbers'} per input"
        )
    if kind != CLASSES:
        check_numbers(key, targets)
        return torch.from_numpy(targets.astype(np.float32)).reshape(num_inputs, -1), kind
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= max(10_000, 10 * num_inputs):
        raise DataError(
            f"{key} has the label {min(low, 0) or high} among {num_inputs} inputs; number the "
            "classes 0, 1, ..., for example by numpy.unique(y, return_inverse=True)[1], or "
            "say kind='regression'"
        )
    return torch.from_numpy(targets.astype(np.int64)), kind


def _several_labels(key: str, targets: np.ndarray, num_inputs: int) -> Tensor:
    if targets.ndim != 2 or len(targets) != num_inputs:
        raise DataError(
            f"{key} has shape {targets.shape} but there are {num_inputs} inputs; of several "
            "labels an input store one row of 0 and 1 each"
        )
    if targets.dtype.kind not in "iubf" or (odd := targets[(targets != 0) & (targets != 1)]).size:
        found = f"dtype {targets.dtype}" if targets.dtype.kind not in "iubf" else f"{odd[0]:g}"
        raise DataError(
            f"{key} must hold 0 or 1 for each of several labels an input, it has {found}; numbers "
            "to predict: kind='regression'"
        )
    return torch.from_numpy(targets.astype(np.int64))
