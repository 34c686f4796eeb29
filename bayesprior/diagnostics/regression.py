"""Continuous targets: whether the predictive intervals hold what they say.

The averaged law is a mixture over draws of which mean and variance are kept; its intervals are
those of the normal law with the same moments.
"""

import numpy as np
import xarray as xr
from jaxtyping import Float
from scipy.stats import kstest, kstwo, norm

from bayesprior.diagnostics.verdicts import Verdict
from bayesprior.errors import DataError

__all__ = ["coverage", "coverage_verdict", "pit_values"]


def pit_values(predictions: xr.Dataset) -> Float[np.ndarray, " N"]:
    """Return where each target falls in its predictive law: uniform if the model is honest.

    Parameters
    ----------
    predictions
        A tree's ``predictions`` group with ``mean``, ``variance`` and ``target``; the outputs of
        a point count one by one.

    Raises
    ------
    DataError
        If one of them is missing, or a value is NaN.

    References
    ----------
    T. Gneiting et al., Probabilistic forecasts, calibration and sharpness, J. R. Stat. Soc. B 69
    (2007), doi:10.1111/j.1467-9868.2007.00587.x
    """
    missing = [name for name in ("mean", "variance", "target") if name not in predictions]
    if missing:
        raise DataError(f"the predictions hold no {', '.join(missing)}; predict labeled points")
    mean, variance, target = (predictions[n].values for n in ("mean", "variance", "target"))
    values = norm.cdf((target.reshape(mean.shape) - mean) / np.sqrt(variance)).ravel()
    if np.isnan(values).any():
        raise DataError(f"{int(np.isnan(values).sum())} predictions or targets are NaN")
    return values


def coverage(pit: Float[np.ndarray, " N"], level: float) -> float:
    """Return the share of targets inside the central predictive intervals of a level.

    Examples
    --------
    >>> coverage(np.array([0.02, 0.3, 0.5, 0.9]), 0.9)
    0.75
    """
    return float((np.abs(pit - 0.5) <= level / 2).mean())


def coverage_verdict(pit: Float[np.ndarray, " N"], *, tolerance: float = 0.05) -> Verdict:
    """Say whether the predictive intervals can be trusted.

    Parameters
    ----------
    pit
        From `pit_values`.
    tolerance
        A Kolmogorov-Smirnov distance from uniform up to this is no practical matter.
    """
    question = "Can the probabilities be trusted?"
    distance = float(kstest(pit, "uniform").statistic)
    chance = float(kstwo.ppf(0.95, len(pit)))
    inside = coverage(pit, 0.9)
    reason = (
        f"Of {len(pit)} targets {inside:.1%} lie in their 90 % predictive interval; their ranks "
        f"are {distance:.2f} from uniform, by chance up to {chance:.2f} (Kolmogorov-Smirnov)."
    )
    if distance <= max(tolerance, chance):
        return Verdict(question, "ok", "Yes", reason)
    off = abs(float(np.median(pit)) - 0.5) > 0.15
    width = "narrow" if inside < 0.9 else "wide"
    way = "predictions are biased" if off else f"intervals are too {width}"
    level, start = ("fail", "No") if distance > 0.2 else ("warn", "Roughly")
    return Verdict(question, level, f"{start}, the {way}", reason)  # type: ignore[arg-type]
