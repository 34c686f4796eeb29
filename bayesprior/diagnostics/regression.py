"""Continuous targets: whether the predictive intervals hold what they say.

The averaged law is a mixture over draws: where the targets fall in it was found when they were
predicted. Files that lack that give the ranks in the normal laws of the same moments.
"""

import functools

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from scipy.stats import kstest, kstwo, norm

from bayesprior.diagnostics.intervals import HALF_WIDTH, LEVEL
from bayesprior.errors import DataError
from bayesprior.prediction.points import Points

__all__ = ["coverage", "pit_values", "rank_distance", "regression_points"]


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
    if "rank" in predictions:
        return _finite(predictions["rank"].values)
    missing = [name for name in ("mean", "variance", "target") if name not in predictions]
    if missing:
        raise DataError(f"the predictions hold no {', '.join(missing)}; predict labeled points")
    mean, variance, target = (predictions[n].values for n in ("mean", "variance", "target"))
    return _finite(norm.cdf((target.reshape(mean.shape) - mean) / np.sqrt(variance)))


def _finite(values: Float[np.ndarray, "N P"]) -> Float[np.ndarray, " M"]:
    values = values.ravel()
    if np.isnan(values).any():
        raise DataError(f"{int(np.isnan(values).sum())} predictions or targets are NaN")
    return values


def regression_points(predictions: xr.Dataset) -> Points:
    """Return a tree's predictions of numbers as metrics take them.

    Raises
    ------
    DataError
        If the predictions have no targets.
    """
    if "target" not in predictions:
        raise DataError("the predictions hold no target; predict labeled points")
    parts = {n: predictions[n].values for n in ("log_score", "mean", "variance")}
    kept = {"ranks": "rank", "crps": "crps"}
    parts |= {n: predictions[name].values for n, name in kept.items() if name in predictions}
    parts["targets"] = predictions.target.values.reshape(parts["mean"].shape)
    return Points(**{n: torch.from_numpy(np.array(v, float)) for n, v in parts.items()})


def coverage(pit: Float[np.ndarray, " N"], level: float) -> float:
    """Return the share of targets inside the central predictive intervals of a level.

    Examples
    --------
    >>> coverage(np.array([0.02, 0.3, 0.5, 0.9]), 0.9)
    0.75
    """
    return float((np.abs(pit - 0.5) <= level / 2).mean())


def rank_distance(pit: Float[np.ndarray, " N"]) -> tuple[float, float, float]:
    """Return the Kolmogorov-Smirnov distance from uniform, that of chance, and a bound.

    Ranks that are uniform stay below the second in 95 % of all cases. The third is the upper end of
    the 95 % interval of the distance that ever more points would show: the share of ranks below
    the place where that is largest is binomial.
    """
    distance = float(kstest(pit, "uniform").statistic)
    bound = min(1.0, distance + HALF_WIDTH * 0.5 / float(np.sqrt(len(pit))))
    return distance, _chance_distance(len(pit)), bound


@functools.cache
def _chance_distance(num_ranks: int) -> float:
    return float(kstwo.ppf(LEVEL, num_ranks))
