"""Temperature scaling: one number, fitted on validation data, that rescales the confidence.

Reported beside the uncalibrated numbers, never instead of them.
"""

from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import log_softmax, softmax

from bayesprior.diagnostics.checks import Probs, Targets, check_probs
from bayesprior.errors import DataError

__all__ = ["apply_temperature", "fit_temperature"]


def fit_temperature(
    log_probs: Probs, targets: Targets, *, bounds: tuple[float, float] = (0.01, 100.0)
) -> float:
    """Return the temperature T that minimizes the NLL of softmax(log_probs / T).

    The NLL is convex in 1 / T, so the root of its derivative is the optimum; where there is none
    inside the bounds (all right, or worse than uniform) the bound is returned. Fit it on
    validation data; T > 1 says that the model is overconfident.

    Parameters
    ----------
    log_probs
        Shape (N, C); logits or log probabilities, ``-inf`` allowed.
    targets
        Shape (N,).
    bounds
        Lowest and highest T.

    References
    ----------
    C. Guo et al., On calibration of modern neural networks, arXiv:1706.04599
    """
    logits = finite_logits(log_probs)
    targets = check_probs(softmax(logits, axis=1), targets)[1]
    truth = logits[np.arange(len(targets)), targets]

    def slope(log_inverse: float) -> float:
        return float(
            ((softmax(np.exp(log_inverse) * logits, axis=1) * logits).sum(1) - truth).mean()
        )

    ends = -np.log(bounds[1]), -np.log(bounds[0])
    if slope(ends[0]) >= 0:
        return float(bounds[1])
    if slope(ends[1]) <= 0:
        return float(bounds[0])
    return float(np.exp(-brentq(slope, *ends, xtol=1e-10)))


def apply_temperature(log_probs: Probs, temperature: float) -> Probs:
    """Return softmax(log_probs / temperature), shape (N, C)."""
    return np.exp(log_softmax(finite_logits(log_probs) / temperature, axis=1))


def finite_logits(log_probs: Any) -> Probs:
    """Shift each row's maximum to 0 and replace ``-inf`` by the log of the least float64."""
    logits = np.asarray(log_probs, dtype=np.float64)
    if np.isnan(logits).any():
        raise DataError("log probabilities hold NaN; the model's outputs overflowed or diverged")
    return np.maximum(logits - logits.max(axis=1, keepdims=True), -745.0)
