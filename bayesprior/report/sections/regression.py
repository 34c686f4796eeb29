"""Headings of continuous targets: scores and the predictive intervals."""

from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float
from matplotlib.figure import Figure
from scipy.special import logsumexp
from scipy.stats import binom

from bayesprior.diagnostics.intervals import bootstrap_interval
from bayesprior.diagnostics.regression import coverage, pit_values
from bayesprior.report.document import Column, Picture, Section, Table
from bayesprior.report.style import BLUE, GRAY, styled

__all__ = ["coverage_plot", "regression_sections"]

LEVELS = (0.5, 0.8, 0.9, 0.95)


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
