"""What a model said of numbers, several labels and images, as metrics take it."""

import functools
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int

from bayesprior.diagnostics.calibration import CalibrationBins
from bayesprior.errors import DataError
from bayesprior.prediction.images import IMAGE_METRICS, ImageSums
from bayesprior.prediction.metrics import METRICS, MetricRow
from bayesprior.prediction.points import Points

__all__ = [
    "ImageOutcome",
    "LabelOutcome",
    "NumberOutcome",
    "Scored",
    "metric_rows",
    "ranking_scores",
]


def metric_rows(task: str) -> dict[str, MetricRow]:
    """Return the rows of `bayesprior.prediction.metrics.METRICS` of a task."""
    return {name: row for name, row in METRICS.items() if task in row.tasks}


class Scored:
    """What metrics are computed of: ``points`` as they take it, and ``rows``, the metrics."""

    points: Any
    unit: ClassVar[str] = "points"

    @property
    def rows(self) -> dict[str, MetricRow]:
        """The metrics of such a set."""
        raise NotImplementedError

    def values(self, row: MetricRow) -> Float[np.ndarray, "N *k"]:
        """Return a metric's values at the points."""
        return np.asarray(row.points(self.points), dtype=float)

    def metric(self, name: str) -> float:
        """Return one of the metrics of such a set."""
        row = self.rows[name]
        return row.summarize(row.points(self.points).double())


@dataclass(frozen=True)
class NumberOutcome(Scored):
    """Predictive means and variances of one set beside the numbers that came.

    Attributes
    ----------
    name
        Of the set.
    mean, variance, targets
        Shape (N, P).
    log_score
        Log of the averaged likelihood of each target, shape (N,).
    ranks, crps
        As of `bayesprior.prediction.points.Points`.
    """

    name: str
    mean: Float[np.ndarray, "N P"]
    variance: Float[np.ndarray, "N P"]
    targets: Float[np.ndarray, "N P"]
    log_score: Float[np.ndarray, " N"]
    ranks: Float[np.ndarray, "N P"] | None = None
    crps: Float[np.ndarray, " N"] | None = None

    is_dense: ClassVar[bool] = False

    @property
    def rows(self) -> dict[str, MetricRow]:
        """The metrics of such a set."""
        return metric_rows("numbers")

    @property
    def labels(self) -> np.ndarray:
        """By what the same points are known: their targets."""
        return self.targets

    @property
    def shape(self) -> tuple[int, ...]:
        """Points and outputs."""
        return self.mean.shape

    @functools.cached_property
    def points(self) -> Points:
        """The same as metrics take it."""
        names = ("targets", "log_score", "mean", "variance", "ranks", "crps")
        known = {n: getattr(self, n) for n in names if getattr(self, n) is not None}
        return Points(**{n: torch.from_numpy(np.array(v, float)) for n, v in known.items()})


@dataclass(frozen=True)
class LabelOutcome(Scored):
    """Averaged probabilities of several labels an example beside those that came.

    Attributes
    ----------
    name
        Of the set.
    probs
        Shape (N, C), each of its own label.
    targets
        0 or 1 each, shape (N, C).
    log_score
        Log of the averaged likelihood of each example's labels together, shape (N,).
    """

    name: str
    probs: Float[np.ndarray, "N C"]
    targets: Int[np.ndarray, "N C"]
    log_score: Float[np.ndarray, " N"]

    is_dense: ClassVar[bool] = False

    @classmethod
    def of(cls, name: str, probs: Any, targets: Any, score: Any) -> "LabelOutcome":
        """Take arrays.

        Raises
        ------
        DataError
            If there are no targets, or the probabilities are NaN.
        """
        if targets is None or score is None:
            raise DataError(f"the predictions of {name!r} hold no labels; predict labeled points")
        parts = np.asarray(probs, float), np.asarray(targets, np.int64), np.asarray(score, float)
        if not np.isfinite(parts[0]).all():
            raise DataError(f"the probabilities of {name!r} hold NaN; the weights have diverged")
        return cls(name, *parts)

    @classmethod
    def from_group(cls, tree: xr.DataTree, group: str = "predictions") -> "LabelOutcome":
        """Take a ``predictions`` group of a tree.

        Raises
        ------
        DataError
            If it has no targets, or NaN.
        """
        data = tree[group]
        found = (data.get(name) for name in ("label_probs", "target", "log_score"))
        return cls.of("test set", *found)

    @functools.cached_property
    def points(self) -> Points:
        """The same as metrics take it."""
        names = ("targets", "log_score", "probs")
        return Points(**{n: torch.from_numpy(np.array(getattr(self, n))) for n in names})

    @property
    def rows(self) -> dict[str, MetricRow]:
        """The metrics of such a set."""
        return metric_rows("labels")

    @property
    def labels(self) -> np.ndarray:
        """By what the same points are known: their labels."""
        return self.targets

    @property
    def shape(self) -> tuple[int, ...]:
        """Points and labels."""
        return self.probs.shape

    def bins(self) -> CalibrationBins:
        """Return the calibration bins over all labels, those of a point counting as one."""
        bins = CalibrationBins.of(self.probs.ravel(), self.targets.ravel())
        return CalibrationBins(bins.sums, self.probs.shape[1])


@dataclass(frozen=True)
class ImageOutcome(Scored):
    """What a model said about the pixels of N labeled images, which count as points.

    Attributes
    ----------
    name
        Of the set.
    images
        Sums over each image's pixels.
    """

    name: str
    images: ImageSums
    is_dense: ClassVar[bool] = False
    unit: ClassVar[str] = "images"

    @property
    def points(self) -> ImageSums:
        """The same as metrics take it."""
        return self.images

    @property
    def rows(self) -> dict[str, MetricRow]:
        """The metrics of such a set."""
        return IMAGE_METRICS

    @property
    def labels(self) -> np.ndarray:
        """By what the same images are known: their pixels of each class, (N, C)."""
        return np.asarray(self.images.confusion.sum(2))

    @property
    def shape(self) -> tuple[int, ...]:
        """Points and classes."""
        return tuple(self.images.confusion.shape[:2])


def ranking_scores(
    probs: Float[np.ndarray, " N"], truth: Int[np.ndarray, " N"]
) -> tuple[float | None, float | None]:
    """Return a label's average precision and AUROC; None where they have no meaning.

    Examples
    --------
    >>> ranking_scores(np.array([0.9, 0.2, 0.6]), np.array([1, 0, 1]))
    (1.0, 1.0)
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    if not truth.any():
        return None, None
    area = None if truth.all() else float(roc_auc_score(truth, probs))
    return float(average_precision_score(truth, probs)), area
