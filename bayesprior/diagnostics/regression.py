"""Reports of continuous targets: scores, and whether the predictive intervals hold what they say.

The averaged law is a mixture over draws of which mean and variance are kept; its intervals are
those of the normal law with the same moments.
"""

from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float
from matplotlib.figure import Figure
from scipy.special import logsumexp
from scipy.stats import binom, kstest, kstwo, norm

from bayesprior.diagnostics.figure_style import BLUE, GRAY, styled
from bayesprior.diagnostics.intervals import bootstrap_interval
from bayesprior.diagnostics.report import Column, Picture, Section, Table
from bayesprior.diagnostics.verdicts import Verdict
from bayesprior.errors import DataError

__all__ = ["coverage", "coverage_plot", "coverage_verdict", "pit_values", "regression_sections"]

LEVELS = (0.5, 0.8, 0.9, 0.95)


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


@styled
def coverage_plot(pit: Float[np.ndarray, " N"]) -> Figure:
    """Draw the share of targets inside the predictive intervals against the intervals' level."""
    figure = Figure(figsize=(4.8, 4.0))
    axes = figure.subplots()
    levels = np.linspace(0, 1, 51)
    low, high = (binom.ppf(q, len(pit), levels) / len(pit) for q in (0.025, 0.975))
    axes.fill_between(levels, low, high, color=GRAY, alpha=0.35, label="95% band if perfect")
    axes.plot([0, 1], [0, 1], color=GRAY, linestyle="--", label="perfect")
    axes.plot(levels, [coverage(pit, level) for level in levels], color=BLUE, label="model")
    axes.set(xlabel="level of the interval", ylabel="share of targets inside")
    axes.legend(loc="upper left")
    return figure


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


def regression_sections(predictions: xr.Dataset) -> list[Section]:
    """Make the sections on scores and on the predictive intervals; see `pit_values`."""
    pit = pit_values(predictions)
    flat = predictions.log_likelihood.stack(s=("chain", "draw")).transpose("s", ...).values
    score = logsumexp(flat, axis=0) - np.log(len(flat))
    target = predictions.target.values.reshape(predictions["mean"].shape)
    squared = ((target - predictions["mean"].values) ** 2).mean(axis=1)
    std = float(np.sqrt(predictions.variance.values).mean())
    rows: list[dict[str, Any]] = [
        {
            "score": "NLL",
            "value": bootstrap_interval(lambda s: -s.mean(), score),
            "meaning": "loss per point in nats; smaller is better",
        },
        {
            "score": "RMSE",
            "value": bootstrap_interval(lambda s: np.sqrt(s.mean()), squared),
            "meaning": "typical error, in the targets' unit",
        },
        {"score": "predicted std", "value": std, "meaning": "the error that the model expects"},
    ]
    columns = [Column("score", "score"), Column("value", "value", ".3f")]
    columns.append(Column("meaning", "what it says"))
    title = f"Scores on the test set ({len(score)} points)"
    note = "In brackets: 95 % intervals over the test points."
    caption = (
        "On the dashed line, of the 80 % intervals 80 % hold their target. Below it the intervals "
        "are too narrow. Inside the gray band the gap can be chance."
    )
    held = [{"level": level, "inside": coverage(pit, level)} for level in LEVELS]
    said = [Column("level", "interval", ".0%"), Column("inside", "targets inside", ".1%")]
    return [
        Section("Results", [Table(title, columns, rows, note)]),
        Section(
            "Calibration",
            [
                Picture("Coverage of the predictive intervals", caption, coverage_plot(pit)),
                Table("Predictive intervals", said, held),
            ],
        ),
    ]
