"""Estimates with 95 % intervals over points, all of SciPy's making."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.stats import binomtest, bootstrap, norm, sem
from scipy.stats import t as student

from bayesprior.prediction.metrics import MetricRow

__all__ = ["LEVEL", "HALF_WIDTH", "Interval", "error_over_points", "mean_interval"]
__all__ += ["metric_interval"]

LEVEL = 0.95
HALF_WIDTH = float(norm.ppf((1 + LEVEL) / 2))
"""Standard errors from an estimate to an end of its interval."""
RESAMPLES = 500
MOST_JACKKNIFED = 2000
"""Points up to which an interval is corrected for skewness, which costs N^2; the correction falls
as 1 / N."""


class Interval(NamedTuple):
    """An estimate with the ends of its interval."""

    estimate: float
    low: float
    high: float


def metric_interval(row: MetricRow, values: Float[np.ndarray, "N *k"]) -> Interval:
    """Return a metric with its interval over points.

    Wilson's for shares, which is right at 0 and 1, too; else the bootstrap's: bias-corrected and
    accelerated for other means, and "basic" (mirrored at the estimate) for what is no mean and
    what resampling pushes upwards, as it does every calibration error.

    Parameters
    ----------
    row
        Of `bayesprior.prediction.metrics.METRICS`.
    values
        The row's values at N points, which must be independent.

    References
    ----------
    E. B. Wilson, Probable inference, JASA 22 (1927); B. Efron, Better bootstrap confidence
    intervals, JASA 82 (1987)

    Examples
    --------
    >>> from bayesprior.prediction.metrics import METRICS
    >>> estimate, low, high = metric_interval(METRICS["accuracy"], np.ones(20))
    >>> estimate, round(low, 3), high
    (1.0, 0.839, 1.0)
    """
    estimate = row.summarize(torch.from_numpy(values))
    if row.summary is None and np.isin(values, (0, 1)).all():
        test = binomtest(int(values.sum()), len(values))
        found = test.proportion_ci(LEVEL, method="wilson")
        return Interval(estimate, float(found.low), float(found.high))
    if len(values) < 2 or not np.isfinite(values).all() or not np.ptp(values, axis=0).any():
        return Interval(estimate, estimate, estimate)
    method = "basic"
    if row.summary is None:
        method = "BCa" if len(values) <= MOST_JACKKNIFED else "percentile"

    def statistic(picks: np.ndarray) -> float:
        return row.summarize(torch.from_numpy(values[picks]))

    found = _bootstrap(statistic, len(values), method, RESAMPLES).confidence_interval
    low, high = float(found.low), float(found.high)
    return Interval(estimate, max(low, 0.0) if (values >= 0).all() else low, high)


def mean_interval(values: Float[np.ndarray, " N"]) -> Interval:
    """Return the mean of N independent values with Student's interval, for N of at least 2.

    Examples
    --------
    >>> estimate, low, high = mean_interval(np.array([1.0, 2.0, 3.0]))
    >>> estimate, round(low, 3), round(high, 3)  # t = 4.303 for two degrees of freedom
    (2.0, -0.484, 4.484)
    """
    mean = float(values.mean())
    half = float(student.ppf((1 + LEVEL) / 2, len(values) - 1) * sem(values))
    return Interval(mean, mean - half, mean + half)


def error_over_points(
    statistic: Callable[[Int[np.ndarray, " N"]], float], num_points: int
) -> float:
    """Return the bootstrap's standard error of a function of the points picked."""
    return float(_bootstrap(statistic, num_points, "percentile", RESAMPLES // 2).standard_error)


def _bootstrap(
    statistic: Callable[[np.ndarray], float], num_points: int, method: str, num_resamples: int
) -> Any:
    """Resample points; all arrays that a statistic reads are picked alike."""
    return bootstrap(
        (np.arange(num_points),),
        statistic,
        vectorized=False,
        confidence_level=LEVEL,
        n_resamples=num_resamples,
        method=method,
        batch=max(1, 2**22 // num_points),
        rng=0,
    )
