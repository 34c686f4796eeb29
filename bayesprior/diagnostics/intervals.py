"""Estimates with intervals."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

__all__ = ["Interval", "bootstrap_interval"]


class Interval(NamedTuple):
    """An estimate with the ends of its interval."""

    estimate: float
    low: float
    high: float


def bootstrap_interval(
    statistic: Callable[..., float],
    *arrays: np.ndarray,
    num_resamples: int = 1000,
    level: float = 0.95,
    method: Literal["percentile", "basic"] = "percentile",
    seed: int = 0,
) -> Interval:
    """Return a statistic with its bootstrap interval over points.

    Parameters
    ----------
    statistic
        Called with the arrays, resampled together along their first axis.
    arrays
        All of length N.
    num_resamples, level, seed
        Number of resamples, coverage and seed.
    method
        ``percentile``, or ``basic`` (mirrored at the estimate) for statistics that resampling
        pushes upwards, as every calibration error is.

    Examples
    --------
    >>> interval = bootstrap_interval(np.mean, np.arange(100.0))
    >>> bool(interval.low < 49.5 < interval.high)
    True
    """
    rng = np.random.default_rng(seed)
    size = len(arrays[0])
    estimate = float(statistic(*arrays))
    draws = np.empty(num_resamples)
    for i in range(num_resamples):
        picks = rng.integers(0, size, size)
        draws[i] = statistic(*(a[picks] for a in arrays))
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    if method == "basic":
        low, high = 2 * estimate - high, 2 * estimate - low
    return Interval(estimate, float(low), float(high))
