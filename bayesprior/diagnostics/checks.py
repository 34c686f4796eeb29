"""Probabilities and targets at the border: checked once, with one clear line for each fault."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from bayesprior.errors import DataError

__all__ = ["Probs", "Targets", "check_probs", "top_label"]

Probs = Float[np.ndarray, "N C"]
"""Class probabilities of N points."""
Targets = Int[np.ndarray, " N"]
"""Class indices of N points."""


def check_probs(probs: Any, targets: Any = None) -> tuple[Probs, Targets]:
    """Return float64 probabilities and integer targets, or say what is wrong with them.

    Parameters
    ----------
    probs
        Shape (N, C); anything that converts to an array.
    targets
        Shape (N,), class indices below C; zeros if left out.

    Raises
    ------
    DataError
        If shapes disagree, N is 0, a value is NaN or outside [0, 1], a row does not sum to 1, or
        a target is no class.
    """
    probs = np.asarray(probs, dtype=np.float64)
    if probs.ndim != 2 or not probs.size:
        raise DataError(f"probabilities must have shape (N, C) with N, C > 0, got {probs.shape}")
    targets = np.zeros(len(probs), int) if targets is None else np.asarray(targets)
    if targets.shape != probs.shape[:1]:
        raise DataError(
            f"{len(probs)} rows of probabilities but targets of shape {targets.shape}; "
            "both must come from the same points"
        )
    if targets.dtype.kind not in "iu":
        raise DataError(f"targets must be integer class indices, got dtype {targets.dtype}")
    bad = np.flatnonzero(~np.isfinite(probs).all(axis=1))
    if bad.size:
        raise DataError(
            f"{bad.size} of {len(probs)} rows of probabilities hold NaN or infinity (first: row "
            f"{bad[0]}); the model's outputs overflowed or its weights diverged"
        )
    off = np.abs(probs.sum(axis=1) - 1)
    if probs.min() < 0 or off.max() > 1e-3:
        raise DataError(
            f"probabilities must be >= 0 and each row must sum to 1 (lowest value "
            f"{probs.min():.3g}, a row sums to {probs[off.argmax()].sum():.3g}); apply softmax"
        )
    if targets.min() < 0 or targets.max() >= probs.shape[1]:
        raise DataError(
            f"targets range over {targets.min()}..{targets.max()} but the probabilities have "
            f"{probs.shape[1]} classes"
        )
    return probs, targets.astype(np.int64)


def top_label(
    probs: Probs, targets: Targets
) -> tuple[Float[np.ndarray, " N"], Bool[np.ndarray, " N"]]:
    """Return each point's confidence (largest probability) and whether that class is right."""
    probs, targets = check_probs(probs, targets)
    return probs.max(axis=1), probs.argmax(axis=1) == targets
