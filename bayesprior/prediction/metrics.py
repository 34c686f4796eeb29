"""The one table of metrics, and how averaged predictions stream through it.

A row of `METRICS` says what a metric is called, what it means, which direction is better and by
how much two methods must differ to matter. `predict` streams the rows, the diagnostics and the
report score, compare and explain by them: a row added at run time appears in all of them.
"""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Integer
from torch import Tensor
from torchmetrics import MeanSquaredError, Metric, MetricCollection
from torchmetrics.classification import MulticlassJaccardIndex

from bayesprior.prediction.points import (
    CalibrationError,
    Points,
    bin_sums,
    calibration_error,
    mean_overlap,
    mean_precision,
    rank_error,
    risk_curve,
)
from bayesprior.tasks.likelihoods import Categorical, HeteroscedasticNormal, Normal
from bayesprior.tasks.pixels import PixelCategorical

__all__ = [
    "METRICS",
    "MeanMetric",
    "MetricRow",
    "default_metrics",
    "whole_scores",
]


@dataclass(frozen=True)
class MetricRow:
    """One metric, everywhere.

    Attributes
    ----------
    label, meaning
        Its name in tables and figures, and a line for those who do not know it.
    points
        Its values at each of the N `Points` (or images): (N,), or (N, k) for what `summary` needs.
    larger_is_better
        The direction; None for a number that is neither good nor bad.
    margin
        Differences up to this are equivalent in practice; None where methods are not compared.
    format
        Of a number in a table.
    summary
        Of the points' values; None for their mean.
    streamed
        Its metric of torchmetrics, made from the number of classes and the label that does not
        count; None for the mean over all batches (and for no streaming where it is no mean).
    tasks
        Of ``classes``, ``pixels``, ``numbers`` and ``labels``, several an example.
    """

    label: str
    meaning: str
    points: Callable[[Any], Tensor]
    larger_is_better: bool | None = None
    margin: float | None = None
    format: str = ".3f"
    summary: Callable[[Tensor], Tensor] | None = None
    streamed: Callable[[int, int | None], Metric] | None = None
    tasks: tuple[str, ...] = ("classes", "pixels")

    def summarize(self, values: Float[Tensor, "N *k"]) -> float:
        """Return the metric of the points' values."""
        return float(values.mean() if self.summary is None else self.summary(values))

    def metric(self, num_classes: int, ignore_index: int | None = None) -> Metric | None:
        """Return the metric that streams; None if none does or there is no direction."""
        needs_all = self.summary is not None or self.tasks in (("numbers",), ("labels",))
        if self.larger_is_better is None or (needs_all and self.streamed is None):
            return None
        if self.streamed is not None:
            return self.streamed(num_classes, ignore_index)
        return MeanMetric(self, ignore_index)


class MeanMetric(Metric):
    """Mean of a row's values over all labeled points, in float64.

    Parameters
    ----------
    row
        Of `METRICS`, without a summary of its own.
    ignore_index
        Label of points that do not count.

    Examples
    --------
    >>> metric = MeanMetric(METRICS["brier"])
    >>> metric.update(torch.tensor([[0.8, 0.2]]), torch.tensor([1]))
    >>> f"{metric.compute():.2f}"
    '1.28'
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, row: MetricRow, ignore_index: int | None = None) -> None:
        super().__init__()
        self.row, self.ignore_index = row, ignore_index
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(
        self, probs: Float[Tensor, "B C *grid"], targets: Integer[Tensor, "B *grid"]
    ) -> None:
        """Take in one batch."""
        values = self.row.points(Points.labeled(probs, targets, self.ignore_index))
        self.total += values.sum(dtype=self.total.dtype)
        self.count += values.numel()

    def compute(self) -> Float[Tensor, ""]:
        """Return the mean; NaN without points."""
        return self.total / self.count


class _JaccardIndex(MulticlassJaccardIndex):
    """torchmetrics' own, told the most probable classes, which it takes far longer to find."""

    def update(self, probs: Tensor, targets: Tensor) -> None:
        super().update(probs.max(1).indices, targets)


def _confidence_and_right(points: Points) -> Tensor:
    return torch.stack([points.confidence, points.is_right], 1)


def _label_and_truth(points: Points) -> Tensor:
    return torch.stack([points.known_probs, points.targets], 2).flatten(1)


def _halves(values: Tensor) -> tuple[Tensor, Tensor]:
    """Take the probabilities and the truth of several labels apart again."""
    probs, truth = values.unflatten(1, (-1, 2)).unbind(2)
    return probs, truth


def _sharpness(points: Points) -> Tensor:
    num_classes = 0 if points.probs is None else points.probs.shape[1]
    return 1 - points.entropy / math.log(max(num_classes, 2))


METRICS: dict[str, MetricRow] = {
    "accuracy": MetricRow("accuracy", "share of right answers", lambda p: p.is_right, True, 0.005),
    "mean_iou": MetricRow(
        "mean IoU",
        "overlap of predicted and true regions, averaged over the classes that occur",
        lambda p: torch.stack([p.top[1], p.targets], 1).float(),
        True,
        summary=lambda values: mean_overlap(*values.T),
        streamed=lambda num_classes, ignore: _JaccardIndex(
            num_classes, average="macro", ignore_index=ignore, validate_args=False
        ),
        tasks=("pixels",),
    ),
    "nll": MetricRow(
        "NLL",
        "loss per point in nats; smaller is better, being sure and wrong costs most",
        lambda p: -p.log_score,
        False,
        0.005,
        tasks=("classes", "pixels", "numbers"),
    ),
    "brier": MetricRow(
        "Brier score",
        "squared error of the probabilities, between 0 and 2; 0 is perfect",
        lambda p: p.probs.square().sum(1) - 2 * p.log_score.exp() + 1,
        False,
        0.005,
    ),
    "ece": MetricRow(
        "ECE",
        "average gap between confidence and accuracy; 0 is honest",
        _confidence_and_right,
        False,
        0.005,
        summary=lambda values: calibration_error(bin_sums(*values.T)),
        streamed=lambda num_classes, ignore: CalibrationError(ignore_index=ignore),
    ),
    "aurc": MetricRow(
        "AURC",
        "error left when the least certain points are rejected, averaged; smaller is better",
        _confidence_and_right,
        False,
        0.005,
        summary=lambda values: risk_curve(-values[:, 0], 1 - values[:, 1]).mean(),
        tasks=("classes",),
    ),
    "confidence": MetricRow(
        "mean confidence", "largest probability, averaged", lambda p: p.confidence
    ),
    "sharpness": MetricRow(
        "sharpness",
        "1 is always certain, 0 knows nothing; worth having only when honest",
        _sharpness,
    ),
    "aleatoric": MetricRow(
        "aleatoric",
        "the draws' own mean entropy (nats)",
        lambda p: p.aleatoric,
    ),
    "epistemic": MetricRow(
        "epistemic",
        "uncertainty about the weights (nats): what the draws disagree about",
        lambda p: p.epistemic,
    ),
    "label_accuracy": MetricRow(
        "label accuracy",
        "share of right labels, a label being said from probability 1/2 on: 1 - Hamming loss",
        lambda p: ((p.known_probs > 0.5) == (p.targets > 0)).double().mean(1),
        True,
        0.005,
        tasks=("labels",),
    ),
    "label_nll": MetricRow(
        "NLL per label",
        "loss of an example's labels together, in nats, divided by their number",
        lambda p: -p.log_score / p.targets.shape[1],
        False,
        0.005,
        tasks=("labels",),
    ),
    "mean_precision": MetricRow(
        "mean AP",
        "average precision: how far those that have a label are ranked before the others; averaged "
        "over the labels that occur",
        _label_and_truth,
        True,
        0.005,
        summary=lambda values: mean_precision(*_halves(values)),
        tasks=("labels",),
    ),
    "label_brier": MetricRow(
        "Brier score per label",
        "squared error of a label's probability, between 0 and 1; 0 is perfect",
        lambda p: (p.known_probs - p.targets).square().mean(1),
        False,
        0.005,
        tasks=("labels",),
    ),
    "label_ece": MetricRow(
        "ECE over labels",
        "average gap between a label's probability and its frequency; 0 is honest",
        _label_and_truth,
        False,
        0.005,
        summary=lambda values: calibration_error(
            bin_sums(*(half.flatten() for half in _halves(values)))
        ),
        tasks=("labels",),
    ),
    "rmse": MetricRow(
        "RMSE",
        "typical error, in the targets' unit",
        lambda p: (p.mean - p.targets).square().mean(1),
        False,
        summary=lambda values: values.mean().sqrt(),
        streamed=lambda num_classes, ignore: MeanSquaredError(squared=False),
        tasks=("numbers",),
    ),
    "crps": MetricRow(
        "CRPS",
        "error of the whole predictive law, in the targets' unit; smaller is better",
        lambda p: p.known_crps,
        False,
        tasks=("numbers",),
    ),
    "pit": MetricRow(
        "PIT distance",
        "largest gap between the targets' ranks in their predictive laws and uniform ones",
        lambda p: p.known_ranks,
        False,
        summary=rank_error,
        tasks=("numbers",),
    ),
    "coverage_50": MetricRow(
        "50 % coverage",
        "share of the targets in their 50 % interval; 0.5 is honest",
        lambda p: p.inside(0.5),
        tasks=("numbers",),
    ),
    "coverage_90": MetricRow(
        "90 % coverage",
        "share of the targets in their 90 % interval; 0.9 is honest",
        lambda p: p.inside(0.9),
        tasks=("numbers",),
    ),
}
"""``name -> row``, in the order of the tables.

A difference of half a percentage point, or of 0.005 nats, is called none. Half a point is less
than another seed of the same fit moves either. For numbers the unit decides: RMSE and CRPS
have no margin.
"""


@functools.singledispatch
def default_metrics(likelihood: Any, num_classes: int) -> MetricCollection:
    """Return the metrics that `predict` computes when told nothing: `METRICS` of the task.

    Of several labels an example none streams: `whole_scores` has them all. For a likelihood from
    outside there are none (but `predict` always gives the ``nll``) until
    its author registers some. No compute groups: these merge metrics whose states happen to be
    equal after the first batch.

    Parameters
    ----------
    likelihood
        Decides which, by its class.
    num_classes
        Size of axis 1 of the probabilities (or of the mean).

    Examples
    --------
    >>> sorted(default_metrics(Categorical(), 10))
    ['accuracy', 'brier', 'ece']
    >>> class Poisson:
    ...     '''A likelihood from outside.'''
    >>> default_metrics.register(Poisson, lambda likelihood, num_classes: MetricCollection({}))
    ... # doctest: +ELLIPSIS
    <function <lambda> at ...>
    """
    return MetricCollection({})


def whole_scores(found: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the metrics that need every point at once, which `predict` keeps.

    Parameters
    ----------
    found
        Fields of `Points`: ``targets``, and ``mean`` and ``variance`` of numbers or ``probs`` and
        ``log_score`` of several labels.

    Examples
    --------
    >>> zeros = torch.zeros(2, 1)
    >>> numbers = {"targets": torch.tensor([[0.1], [1.0]]), "mean": zeros, "variance": zeros + 1}
    >>> whole_scores(numbers)["coverage_50"]
    0.5
    """
    task = "numbers" if "mean" in found else "labels"
    unscored = torch.full((len(found["targets"]),), torch.nan)  # the draws' own tell the log score
    points = Points(**{"log_score": unscored, **found})
    rows = {n: row for n, row in METRICS.items() if row.tasks == (task,)}
    return {n: r.summarize(r.points(points)) for n, r in rows.items() if r.streamed is None}


def _of_task(task: str, likelihood: Any, num_classes: int) -> MetricCollection:
    ignore_index = getattr(likelihood, "ignore_index", None)
    found = {
        name: row.metric(num_classes, ignore_index)
        for name, row in METRICS.items()
        # elsewhere `predict` has it from the draws' log likelihoods, which do not underflow
        if task in row.tasks and (name != "nll" or task == "pixels")
    }
    kept: dict[str, Metric | MetricCollection] = {n: m for n, m in found.items() if m is not None}
    return MetricCollection(kept, compute_groups=False)


for _kind, _task in {
    Categorical: "classes",
    PixelCategorical: "pixels",
    Normal: "numbers",
    HeteroscedasticNormal: "numbers",
}.items():
    default_metrics.register(_kind, functools.partial(_of_task, _task))
