"""Metrics of averaged predictions, one collection for each likelihood, on torchmetrics.

All take the model average: probabilities with the classes on axis 1 and integer targets, or mean
and targets in regression. All stream in constant memory: torchmetrics' own calibration error
keeps every confidence, which no set of images fits. Collections have no compute groups: these
merge metrics whose states happen to be equal after the first batch.
"""

import functools
import math
from typing import Any

import torch
from jaxtyping import Float, Integer
from torch import Tensor
from torchmetrics import MeanSquaredError, Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from bayesprior.errors import ConfigError
from bayesprior.tasks.likelihoods import (
    Categorical,
    HeteroscedasticNormal,
    Normal,
    PixelCategorical,
)

__all__ = [
    "BrierScore",
    "CalibrationError",
    "LogLoss",
    "classification_metrics",
    "default_metrics",
    "nll",
    "pixel_metrics",
    "regression_metrics",
]


def nll(log_likelihood: Float[Tensor, "S N"]) -> float:
    """Return the negative log likelihood of the model average, in nats per point.

    -(1 / N) sum_n log[(1 / S) sum_s p(y_n | x_n, w_s)], in float64 and free of underflow.

    Parameters
    ----------
    log_likelihood
        log p(y_n | x_n, w_s) of S draws and N points.

    Examples
    --------
    >>> f"{nll(torch.tensor([[0.2], [0.6]]).log()):.4f}"  # -log 0.4
    '0.9163'
    """
    log_mean = log_likelihood.double().logsumexp(0) - math.log(len(log_likelihood))
    return -log_mean.mean().item()


class _MeanScore(Metric):
    """Mean over (labeled) points of a score of the probabilities."""

    full_state_update = False
    higher_is_better = False
    total: Tensor
    count: Tensor

    def __init__(self, ignore_index: int | None = None) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(
        self, probs: Float[Tensor, "B C *grid"], targets: Integer[Tensor, "B *grid"]
    ) -> None:
        """Take in one batch."""
        counts, safe = _labeled(targets, self.ignore_index)
        picked = probs.gather(1, safe[:, None]).squeeze(1)
        scores = self._score(probs, picked)[counts]
        self.total += scores.sum(dtype=self.total.dtype)
        self.count += scores.numel()

    def compute(self) -> Float[Tensor, ""]:
        """Return the mean; NaN without points."""
        return self.total / self.count

    def _score(self, probs: Tensor, picked: Tensor) -> Tensor:
        """Score of each point, from all probabilities and that of its label."""
        raise NotImplementedError


class BrierScore(_MeanScore):
    """Mean squared distance of the probabilities from the one-hot label, between 0 and 2.

    sum_c (p_c - 1[c = y])^2, a proper score.

    Parameters
    ----------
    ignore_index
        Label of points that do not count.

    Examples
    --------
    >>> metric = BrierScore()
    >>> metric.update(torch.tensor([[0.8, 0.2]]), torch.tensor([1]))
    >>> f"{metric.compute():.2f}"
    '1.28'
    """

    def _score(self, probs: Tensor, picked: Tensor) -> Tensor:
        return probs.square().sum(1) - 2 * picked + 1


class LogLoss(_MeanScore):
    """Mean of -log p_y in nats, point by point; infinite if a true label has probability 0.

    For pixels, where the draws are averaged pixel by pixel. Elsewhere `nll` is the same number
    without underflow.

    Parameters
    ----------
    ignore_index
        Label of points that do not count.
    """

    def _score(self, probs: Tensor, picked: Tensor) -> Tensor:
        return -picked.log()


class CalibrationError(Metric):
    """Expected calibration error of the predicted class, from ``num_bins`` bins of equal width.

    sum_m (n_m / n) |accuracy_m - confidence_m| over bins ((m - 1) / M, m / M] of the largest
    probability. The state is three sums a bin, whatever the number of points.

    Parameters
    ----------
    num_bins
        M.
    ignore_index
        Label of points that do not count.

    Raises
    ------
    ConfigError
        If there is not at least one bin.

    References
    ----------
    Guo et al., On Calibration of Modern Neural Networks, arXiv:1706.04599, equation 3.

    Examples
    --------
    >>> metric = CalibrationError()
    >>> metric.update(torch.tensor([[0.8, 0.2], [0.8, 0.2]]), torch.tensor([0, 1]))
    >>> f"{metric.compute():.2f}"
    '0.30'
    """

    full_state_update = False
    higher_is_better = False
    num_points: Tensor
    confidence: Tensor
    correct: Tensor

    def __init__(self, num_bins: int = 15, ignore_index: int | None = None) -> None:
        super().__init__()
        if num_bins < 1:
            raise ConfigError(f"num_bins must be at least 1, got {num_bins}")
        self.num_bins, self.ignore_index = num_bins, ignore_index
        for name in ("num_points", "confidence", "correct"):
            self.add_state(name, torch.zeros(num_bins, dtype=torch.float64), dist_reduce_fx="sum")

    def update(
        self, probs: Float[Tensor, "B C *grid"], targets: Integer[Tensor, "B *grid"]
    ) -> None:
        """Take in one batch."""
        counts, safe = _labeled(targets, self.ignore_index)
        top, label = probs.max(1)
        confidence, is_right = top[counts].double(), (label == safe)[counts]
        edges = torch.arange(1, self.num_bins, device=probs.device).double() / self.num_bins
        where = torch.bucketize(confidence, edges)
        self.num_points.index_add_(0, where, torch.ones_like(confidence))
        self.confidence.index_add_(0, where, confidence)
        self.correct.index_add_(0, where, is_right.double())

    def sums(self) -> Float[Tensor, "3 M"]:
        """Return each bin's number of points, sum of confidences and number of right answers."""
        return torch.stack([self.num_points, self.confidence, self.correct])

    def compute(self) -> Float[Tensor, ""]:
        """Return the error, between 0 and 1; NaN without points."""
        return (self.correct - self.confidence).abs().sum() / self.num_points.sum()


def classification_metrics(num_classes: int) -> MetricCollection:
    """Return ``accuracy``, ``brier`` and ``ece`` for probabilities (B, C) and labels (B,)."""
    return MetricCollection(
        {
            "accuracy": MulticlassAccuracy(num_classes, average="micro", validate_args=False),
            "brier": BrierScore(),
            "ece": CalibrationError(),
        },
        compute_groups=False,
    )


def pixel_metrics(num_classes: int, ignore_index: int | None = None) -> MetricCollection:
    """Return metrics over the labeled pixels of probabilities (B, C, H, W) and labels (B, H, W).

    ``accuracy``, ``mean_iou`` (classes that occur in neither labels nor predictions are left
    out), ``nll``, ``brier`` and ``ece``.
    """
    common: dict[str, Any] = {"ignore_index": ignore_index, "validate_args": False}
    return MetricCollection(
        {
            "accuracy": _PixelAccuracy(num_classes, average="micro", **common),
            "mean_iou": _PixelJaccardIndex(num_classes, average="macro", **common),
            "nll": LogLoss(ignore_index),
            "brier": BrierScore(ignore_index),
            "ece": CalibrationError(ignore_index=ignore_index),
        },
        compute_groups=False,
    )


def regression_metrics() -> MetricCollection:
    """Return ``rmse`` of the predictive mean (B, P), over all targets together."""
    return MetricCollection({"rmse": MeanSquaredError(squared=False)})


@functools.singledispatch
def default_metrics(likelihood: Any, num_classes: int) -> MetricCollection:
    """Return the metrics that `predict` computes when told nothing.

    Those of our likelihoods are listed above. For a likelihood from outside there are none (but
    `predict` always gives the ``nll``) until its author registers some.

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
    >>> default_metrics.register(Poisson, lambda likelihood, num_classes: regression_metrics())
    ... # doctest: +ELLIPSIS
    <function <lambda> at ...>
    """
    return MetricCollection({})


@default_metrics.register
def _(likelihood: Categorical, num_classes: int) -> MetricCollection:
    return classification_metrics(num_classes)


@default_metrics.register
def _(likelihood: PixelCategorical, num_classes: int) -> MetricCollection:
    return pixel_metrics(num_classes, likelihood.ignore_index)


@default_metrics.register(Normal)
@default_metrics.register(HeteroscedasticNormal)
def _(likelihood: Normal | HeteroscedasticNormal, num_classes: int) -> MetricCollection:
    return regression_metrics()


def _labeled(targets: Tensor, ignore_index: int | None) -> tuple[Tensor, Tensor]:
    """Which points count, and labels with a class also where none is given."""
    targets = targets.long()
    if ignore_index is None:
        return torch.ones_like(targets, dtype=torch.bool), targets
    counts = targets != ignore_index
    return counts, targets.where(counts, 0)


class _PixelAccuracy(MulticlassAccuracy):
    """torchmetrics' own, told the most probable classes, which it takes far longer to find."""

    def update(self, probs: Tensor, targets: Tensor) -> None:
        super().update(probs.max(1).indices, targets)


class _PixelJaccardIndex(MulticlassJaccardIndex):
    """Likewise."""

    def update(self, probs: Tensor, targets: Tensor) -> None:
        super().update(probs.max(1).indices, targets)
