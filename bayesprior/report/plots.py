"""The report's figures; each function returns a matplotlib Figure and touches no global state."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float, Shaped
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from scipy.stats import binom

from bayesprior.diagnostics.calibration import CalibrationBins
from bayesprior.diagnostics.compare import Difference, MethodResult, comparison_table
from bayesprior.diagnostics.predictions import Outcome
from bayesprior.diagnostics.prior import ChiSquareCheck, Direction
from bayesprior.diagnostics.regression import coverage
from bayesprior.diagnostics.shift import ShiftRow
from bayesprior.diagnostics.uncertainty import RiskCoverage, entropy
from bayesprior.errors import DataError
from bayesprior.prediction.metrics import METRICS
from bayesprior.report.style import BLUE, COLORS, GRAY, GREEN, INK, ORANGE, Shown, styled
from bayesprior.report.surface import draw_surface, surface_values

__all__ = [
    "comparison_forest",
    "coverage_plot",
    "image_grid",
    "learning_curves",
    "loss_surface",
    "mahalanobis_plot",
    "prior_coordinate_plot",
    "reliability_diagram",
    "risk_coverage_plot",
    "shift_curves",
    "trace_plot",
    "uncertainty_histograms",
]

_PERFECT: dict[str, Any] = {"color": GRAY, "linestyle": "--", "label": "perfect"}
_BAND: dict[str, Any] = {"color": GRAY, "alpha": 0.35, "label": "95% band if perfect"}


@styled
def reliability_diagram(bins: CalibrationBins) -> Figure:
    """Draw accuracy against confidence with consistency bands, and where the points are.

    Parameters
    ----------
    bins
        Of the top label, or of several an example.
    """
    figure, several = Shown(figsize=(4.8, 4.4)), bins.together > 1
    top, bottom = figure.subplots(2, 1, height_ratios=(4, 1), sharex=True)
    curve = bins.curve()
    width = np.diff(bins.edges)[bins.count > 0]
    top.plot([0, 1], [0, 1], **_PERFECT)
    top.bar(curve.confidence, curve.high - curve.low, 0.9 * width, curve.low, **_BAND)
    top.plot(curve.confidence, curve.accuracy, "o-", color=BLUE, markersize=4, label="model")
    top.set(
        ylabel="frequency of the label" if several else "accuracy", ylim=(-0.02, 1.02), xlim=(0, 1)
    )
    top.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, columnspacing=1.0)
    bottom.bar(bins.edges[:-1], bins.count, np.diff(bins.edges), align="edge", color=BLUE)
    bottom.set(xlabel="probability of the label" if several else "confidence", ylabel="points")
    for axis in (top.xaxis, bottom.xaxis, top.yaxis):
        _percent(axis)
    return figure


@styled
def prior_coordinate_plot(directions: Sequence[Direction]) -> Figure:
    """Draw where the draws ended along the prior's directions, the prior's law behind.

    Parameters
    ----------
    directions
        From `bayesprior.diagnostics.prior.directions`; the twenty widest are shown.
    """
    shown = directions[:20]
    (figure, axes), place = _axes(), np.array([d.index for d in shown])
    mean, half = np.array([(d.mean, 2 * d.std) for d in shown]).T
    for width, alpha in ((2, 0.15), (1, 0.25)):
        axes.axhspan(-width, width, color=GRAY, alpha=alpha, linewidth=0)
    axes.axhline(0, color=GRAY)
    half = np.nan_to_num(half)  # a point has no width
    axes.errorbar(place, mean, half, fmt="o", color=BLUE, elinewidth=3, markersize=5)
    axes.set(xlabel="direction of the prior (widest first)", ylabel="prior standard deviations")
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    reach = max(2.5, 1.1 * float((np.abs(mean) + half).max()))
    axes.set_ylim(-reach, reach)
    return figure


@styled
def mahalanobis_plot(checks: Sequence[ChiSquareCheck]) -> Figure:
    """Draw each layer's distance from the prior mean over that of a draw from the prior.

    Parameters
    ----------
    checks
        From `bayesprior.diagnostics.prior.mahalanobis_checks`; shown are all weights and the 25
        layers farthest from 1.
    """
    far = sorted(checks[1:], key=lambda c: -abs(np.log(max(c.ratio, 1e-12))))[:25]
    shown = [checks[0], *(c for c in checks[1:] if c in far)]
    figure, axes = _axes(1.2 + 0.22 * len(shown))
    place = -np.arange(len(shown))
    low, high = (np.sqrt([getattr(c, end) / c.dim for c in shown]) for end in ("low", "high"))
    axes.hlines(place, low, high, color=GRAY, linewidth=7, alpha=0.45, label="draws of the prior")
    axes.plot(np.sqrt([c.ratio for c in shown]), place, "o", color=BLUE, label="this run")
    axes.axvline(1, color=GRAY, linestyle="--")
    axes.set_yticks(place, [_short(c.name) for c in shown])
    axes.set(xlabel="distance (1 = a draw of the prior)")
    axes.set_xlim(0, None)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return figure


@styled
def trace_plot(tree: xr.DataTree) -> Figure:
    """Draw the recorded loss and log prior by step, and each draw's held-out log likelihood.

    Raises
    ------
    DataError
        If the tree has neither a trace nor several draws' predictions.
    """
    panels: list[tuple[str, str, xr.DataArray]] = []
    if "trace" in tree.children:
        wanted = {"loss": "loss", "log_prior": "log prior"}
        trace = tree["trace"].dataset
        panels += [("step", label, trace[n]) for n, label in wanted.items() if n in trace]
    if "predictions" in tree.children and "log_likelihood" in tree["predictions"]:
        held_out = tree["predictions"].log_likelihood.mean("point")
        if held_out.sizes["draw"] > 1:
            panels.append(("draw", "held-out log lik.", held_out))
    if not panels:
        raise DataError("there is no trace and there are not several draws to follow")
    figure = Shown(figsize=(4.8, 1.0 + 1.25 * len(panels)))
    for axes, (over, label, values) in zip(
        figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True
    ):
        for line in values.transpose("chain", over):
            axes.plot(line[over], line, linewidth=1, label=f"chain {int(line.chain)}")
        axes.set(xlabel=over, ylabel=label)
        if 1 < len(values.chain) <= 5 and label == panels[0][1]:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4)
    return figure


@styled
def risk_coverage_plot(curves: Mapping[str, RiskCoverage]) -> Figure:
    """Draw the error among the points kept when the least certain are rejected.

    Parameters
    ----------
    curves
        By name of the method or of the score of uncertainty.
    """
    figure, axes = _axes()
    for name, curve in curves.items():
        thin = np.unique(np.linspace(0, len(curve.risk) - 1, 400).astype(int))
        label = f"{name} (area {curve.aurc:.3f})"
        axes.plot(curve.coverage[thin], curve.risk[thin], label=label)
    axes.set(xlabel="share of points kept", ylabel="error among them", xlim=(0, 1))
    axes.set_ylim(0, None)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    for axis in (axes.xaxis, axes.yaxis):
        _percent(axis)
    return figure


@styled
def uncertainty_histograms(test: Outcome, foreign: Sequence[Outcome] = ()) -> Figure:
    """Draw the entropy of right and wrong answers, and of foreign data.

    Parameters
    ----------
    test
        The test set, with labels.
    foreign
        Sets from elsewhere.
    """
    total = entropy(test.probs)
    right = test.is_right.astype(bool)
    groups = {"right": total[right], "wrong": total[~right]}
    groups |= {f"foreign: {outcome.name}": entropy(outcome.probs) for outcome in foreign}
    figure, axes = _axes()
    edges = np.linspace(0, np.log(test.probs.shape[1]) + 1e-9, 31)
    for (name, values), color in zip(
        groups.items(), (GREEN, ORANGE, *COLORS[3:], BLUE) * len(groups), strict=False
    ):
        if values.size:
            share = np.histogram(values, edges)[0] / values.size
            axes.stairs(share, edges, color=color, fill=True, alpha=0.3)
            label = f"{name} ({values.size})"
            axes.stairs(share, edges, color=color, linewidth=1.6, label=label)
    axes.set(xlabel="entropy of the prediction (nats)", ylabel="share of the points")
    _percent(axes.yaxis)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, columnspacing=1.0)
    return figure


@styled
def shift_curves(rows: Sequence[ShiftRow]) -> Figure:
    """Draw accuracy and ECE against severity, one line for each kind of shift.

    Parameters
    ----------
    rows
        From `bayesprior.diagnostics.shift.shift_table`, the test set first.

    Raises
    ------
    DataError
        If no set has a severity.
    """
    kinds = sorted({row.shift for row in rows[1:] if row.severity is not None})
    if not kinds:
        raise DataError("no shifted set has a severity in its name (as jpeg-3 has)")
    figure = Shown(figsize=(4.8, 4.6))
    panels = figure.subplots(2, 1, sharex=True)
    for kind, marker in zip(kinds, itertools.cycle("osD^v"), strict=False):
        found = sorted((r for r in rows[1:] if r.shift == kind), key=lambda r: r.severity or 0)
        line = [rows[0], *found]
        for axes, metric in zip(panels, ("accuracy", "ece"), strict=True):
            at, values = [r.severity for r in line], [r.scores[metric] for r in line]
            axes.plot(at, values, marker=marker, markersize=4, label=kind.replace("_", " "))
    panels[0].set(ylabel="accuracy", ylim=(0, 1.02))
    panels[1].set(ylabel="calibration error", xlabel="severity (0 = test set)", ylim=(0, None))
    panels[0].legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    panels[1].xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in panels:
        _percent(axes.yaxis)
    return figure


@styled
def comparison_forest(differences: Sequence[Difference], metric: str) -> Figure:
    """Draw each method's paired difference to the baseline with its interval.

    Parameters
    ----------
    differences
        From `bayesprior.diagnostics.compare.paired_differences`.
    metric
        One of `bayesprior.prediction.metrics.METRICS`.

    Raises
    ------
    DataError
        If there is no difference of the metric.
    """
    shown = [d for d in differences if d.metric == metric]
    if not shown:
        raise DataError(f"no differences of {metric!r} were given")
    methods = list(dict.fromkeys(d.method for d in shown))
    figure, axes = _axes(1.5 + 0.45 * len(methods))
    place = [-methods.index(d.method) for d in shown]
    low, high = ([getattr(d.interval, end) for d in shown] for end in ("low", "high"))
    if margin := METRICS[metric].margin:
        axes.axvspan(-margin, margin, color=GRAY, alpha=0.25, linewidth=0, label="no difference")
    axes.hlines(place, low, high, color=BLUE, linewidth=2.5)
    over = f"95% over {shown[0].over}"
    axes.plot([d.interval.estimate for d in shown], place, "o", color=BLUE, label=over)
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_yticks([-i for i in range(len(methods))], methods)
    axes.set_ylim(-len(methods) + 0.5, 0.5)
    better = "right" if METRICS[metric].larger_is_better else "left"
    label = METRICS[metric].label
    axes.set(xlabel=f"difference in {label}\n({better} of the line is better)")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return figure


@styled
def learning_curves(
    results: Mapping[int, Sequence[MethodResult]], metric: str, label: str = "training examples"
) -> Figure:
    """Draw a metric of every method against the number of training examples.

    Parameters
    ----------
    results
        For each number of examples, the methods. Bars are standard errors over seeds.
    metric
        One of `bayesprior.prediction.metrics.METRICS`.
    label
        Of the horizontal axis.
    """
    curves: dict[str, list[tuple[float, float, float]]] = {}
    for num_data, methods in results.items():
        for row in comparison_table(methods):
            point = (num_data, row[metric], row[f"{metric}_se"] or 0.0)
            curves.setdefault(row["method"], []).append(point)
    figure = Shown(figsize=(4.8, 3.4 + 0.14 * len(curves)))
    axes = figure.subplots()
    for (name, points), marker in zip(curves.items(), itertools.cycle("os^Dv<>"), strict=False):
        at, values, errors = zip(*sorted(points), strict=True)
        axes.errorbar(at, values, errors, marker=marker, markersize=5, capsize=2, label=name)
    axes.set_xscale("log")
    axes.set_xticks(sorted(results), [f"{n:,}" for n in sorted(results)])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlabel=label, ylabel=METRICS[metric].label)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return figure


@styled
def coverage_plot(pit: Float[np.ndarray, " N"]) -> Figure:
    """Draw the share of targets inside the predictive intervals against the intervals' level."""
    figure, axes = _axes(4.0)
    levels = np.linspace(0, 1, 51)
    low, high = (binom.ppf(q, len(pit), levels) / len(pit) for q in (0.025, 0.975))
    axes.fill_between(levels, low, high, **_BAND)
    axes.plot([0, 1], [0, 1], **_PERFECT)
    axes.plot(levels, [coverage(pit, level) for level in levels], color=BLUE, label="model")
    axes.set(xlabel="level of the interval", ylabel="share of targets inside")
    axes.legend(loc="upper left")
    return figure


def loss_surface(a: Any, b: Any, c: Any = None, **options: Any) -> Figure:
    """Draw what the data and the prior say of the weights between two or three points.

    Parameters
    ----------
    a, b, c
        Weights: a `GaussianWeights` (its mean), a `PointPosterior`, another posterior (the mean of
        its draws), or a network. Two span a line, three a plane, such as a source's mean, a MAP
        estimate and a fine-tuning.
    **options
        Of `bayesprior.report.surface.surface_values`: ``module``, ``data``, ``prior``, ``names``,
        ``num_points`` and so on.

    Returns
    -------
    Figure
        A panel each for data loss, negative log prior and their sum, in nats per example.

    Examples
    --------
    >>> import torch
    >>> import bayesprior as bp
    >>> x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    >>> y = x.sum(1, keepdim=True)
    >>> data = bp.from_arrays("line", (x, y), (x + 1, y))
    >>> net, other = torch.nn.Linear(3, 1), torch.nn.Linear(3, 1)
    >>> names = ("before", "after")
    >>> law = bp.Normal(std=1.0)
    >>> figure = loss_surface(net, other, module=net, data=data, likelihood=law, names=names)
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['data loss']
    """
    return draw_surface(surface_values([a, b] if c is None else [a, b, c], **options))


@styled
def image_grid(images: Shaped[np.ndarray, "n H W *channels"], captions: Sequence[str]) -> Figure:
    """Draw images with a few words under each.

    Parameters
    ----------
    images
        uint8, or floats in [0, 1]; gray (n, H, W) or color (n, H, W, 3).
    captions
        One for each image.
    """
    columns = 4
    rows = -(-len(images) // columns)
    figure = Shown(figsize=(4.8, 1.75 * rows))
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        axes.grid(visible=False)
    for axes, image, caption in zip(grid, images, captions, strict=False):
        limits = {"vmin": 0, "vmax": 255 if image.dtype == np.uint8 else 1}
        axes.imshow(image.squeeze(), cmap="gray", interpolation="nearest", **limits)
        axes.set_xlabel(caption, fontsize=8)
    return figure


def _axes(height: float = 3.2) -> tuple[Figure, Axes]:
    figure = Shown(figsize=(4.8, height))
    return figure, figure.subplots()


def _percent(axis: Axis) -> None:
    """Label shares in percent, at round numbers and with every digit they have."""
    axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.3g}%"))


def _short(name: str, length: int = 24) -> str:
    return name if len(name) <= length else "…" + name[-length + 1 :]
