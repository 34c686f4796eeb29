"""What a model said about one set of points, and every metric of it."""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int

from bayesprior.diagnostics.calibration import CalibrationBins
from bayesprior.diagnostics.intervals import Interval, metric_interval
from bayesprior.diagnostics.outcomes import (
    ImageOutcome,
    LabelOutcome,
    NumberOutcome,
    Scored,
    metric_rows,
)
from bayesprior.errors import DataError
from bayesprior.prediction.metrics import MetricRow
from bayesprior.prediction.points import Points
from bayesprior.prediction.results import Prediction

__all__ = [
    "AnyOutcome",
    "Outcome",
    "outcome_of",
    "score_intervals",
    "scores",
]


@dataclass(frozen=True)
class Outcome(Scored):
    """Averaged predictions of one set beside what happened; pixels count as points.

    Attributes
    ----------
    name
        Of the set.
    probs
        Averaged probabilities, shape (N, C).
    targets
        Labels, shape (N,); None for foreign data without labels of the task.
    log_score
        Log of the averaged likelihood of each label, shape (N,).
    aleatoric, epistemic
        Parts of each point's entropy in nats, shape (N,).
    is_dense
        Whether the points are pixels, which depend on their neighbors.
    energy
        -logsumexp of the logits averaged over draws, shape (N,); None where it was not kept.
    """

    name: str
    probs: Float[np.ndarray, "N C"]
    targets: Int[np.ndarray, " N"] | None
    log_score: Float[np.ndarray, " N"] | None
    aleatoric: Float[np.ndarray, " N"]
    epistemic: Float[np.ndarray, " N"]
    is_dense: bool = False
    energy: Float[np.ndarray, " N"] | None = None

    @classmethod
    def from_prediction(cls, name: str, prediction: Prediction) -> "Outcome":
        """Take a prediction of classes.

        Raises
        ------
        DataError
            If it holds no class probabilities, or NaN.
        """
        p = prediction
        parts = p.expected_entropy, p.mutual_information, p.energy
        return _outcome(name, p.mean_probs, p.targets, p.average_log_likelihood, *parts)

    @classmethod
    def from_group(cls, tree: xr.DataTree, group: str) -> "Outcome":
        """Take a ``predictions`` group of a tree.

        Raises
        ------
        DataError
            If the group is missing or holds no class probabilities.
        """
        if group not in tree.children:
            raise DataError(f"the tree has no group {group!r}")
        data = tree[group]
        name = "test set" if group == "predictions" else group.removeprefix("predictions_")
        names = ("probs", "target", "log_score", "expected_entropy", "mutual_information", "energy")
        return _outcome(name, *map(data.get, names))

    @functools.cached_property
    def points(self) -> Points:
        """The same as metrics take it.

        Raises
        ------
        DataError
            If the set has no labels.
        """
        if self.targets is None or self.log_score is None:
            raise DataError(f"the set {self.name!r} has no labels of the task")
        names = ("targets", "log_score", "probs", "aleatoric", "epistemic")
        return Points(**{n: torch.from_numpy(np.array(getattr(self, n))) for n in names})

    @property
    def rows(self) -> dict[str, MetricRow]:
        """The metrics of such a set."""
        return metric_rows("pixels" if self.is_dense else "classes")

    @property
    def labels(self) -> np.ndarray | None:
        """By what the same points are known, one row each; None without labels."""
        return self.targets

    @property
    def shape(self) -> tuple[int, ...]:
        """Points and classes."""
        return self.probs.shape

    @property
    def is_right(self) -> Float[np.ndarray, " N"]:
        """1 where the most probable class is the target, else 0; see `points`."""
        return self.points.is_right.numpy()

    @property
    def confidence(self) -> Float[np.ndarray, " N"]:
        """Largest probability of each point."""
        return self.probs.max(axis=1)

    def bins(self) -> CalibrationBins:
        """Return the top-label calibration bins."""
        return CalibrationBins.of(self.confidence, self.is_right)


AnyOutcome = Outcome | ImageOutcome | NumberOutcome | LabelOutcome
"""What methods are compared by."""


def outcome_of(name: str, prediction: Prediction) -> AnyOutcome:
    """Take a prediction of classes, several labels, numbers, or pixels whose maps were not kept.

    Raises
    ------
    DataError
        If it holds none of them, has NaN, or numbers without targets.
    """
    if prediction.mean_probs is None and prediction.images is not None:
        return ImageOutcome(name, prediction.images)
    score = prediction.average_log_likelihood
    if prediction.label_probs is not None:
        return LabelOutcome.of(name, prediction.label_probs, prediction.targets, score)
    if prediction.mean is None:
        return Outcome.from_prediction(name, prediction)
    if prediction.variance is None or prediction.targets is None or score is None:
        raise DataError(f"the predictions of {name!r} hold no targets; predict labeled points")
    parts = (prediction.mean, prediction.variance, prediction.targets, score)
    found = {"ranks": prediction.ranks, "crps": prediction.crps}
    known = {n: np.asarray(v) for n, v in found.items() if v is not None}
    return NumberOutcome(name, *map(np.asarray, parts), **known)


def _check(probs: Float[np.ndarray, "N C"], targets: Int[np.ndarray, " N"]) -> None:
    if not probs.size:
        raise DataError("there are no labeled points")
    bad = np.flatnonzero(~np.isfinite(probs).all(axis=1))
    if bad.size:
        raise DataError(
            f"{bad.size} of {len(probs)} rows of probabilities hold NaN or infinity (first: row "
            f"{bad[0]}); the model's outputs overflowed or its weights diverged"
        )
    off = np.abs(probs.sum(axis=1) - 1)
    if probs.min() < 0 or off.max() > 1e-3:
        raise DataError(
            f"probabilities must be >= 0 and each row must sum to 1 (lowest value "
            f"{probs.min():.3g}, a row sums to {probs[off.argmax()].sum():.3g}); apply softmax"
        )
    if targets.min() < 0 or targets.max() >= probs.shape[1]:
        raise DataError(
            f"targets range from {targets.min()} to {targets.max()} but the probabilities have "
            f"{probs.shape[1]} classes"
        )


def _outcome(name: str, *given: Any) -> Outcome:
    probs, targets, log_score, aleatoric, epistemic, energy = given
    if probs is None:
        raise DataError(
            f"the predictions of {name!r} hold no class probabilities: for pixels predict with "
            "keep_maps=True; regression has no calibration of classes"
        )
    probs = np.asarray(probs, dtype=float)
    is_dense = probs.ndim > 2
    probs = np.moveaxis(probs, 1, -1).reshape(-1, probs.shape[1])
    if aleatoric is None or epistemic is None:
        raise DataError(f"the predictions of {name!r} hold no entropies; predict again")
    parts = {"aleatoric": aleatoric, "epistemic": epistemic, "energy": energy}
    points = {
        k: np.asarray(part, dtype=float).reshape(-1)
        for k, part in parts.items()
        if part is not None
    }
    if targets is None:
        _check(probs, np.zeros(len(probs), int))
        return Outcome(name, probs, None, None, is_dense=is_dense, **points)
    targets = np.asarray(targets).reshape(-1).astype(np.int64)
    if is_dense:  # pixels without a label do not count
        kept = (targets >= 0) & (targets < probs.shape[1])
        probs, targets = probs[kept], targets[kept]
        points = {k: part[kept] for k, part in points.items()}
    _check(probs, targets)
    if is_dense or log_score is None:  # of images, and of files of the first edition
        picked = probs[np.arange(len(targets)), targets]
        score = np.log(np.maximum(picked, np.finfo(float).tiny))
    else:  # of the draws, so that it does not underflow
        score = np.asarray(log_score, dtype=float)
    return Outcome(name, probs, targets, score, is_dense=is_dense, **points)


def scores(outcome: Outcome) -> dict[str, float]:
    """Return every metric of a labeled set, by its name in the table.

    Raises
    ------
    DataError
        If the set has no labels.
    """
    return {name: outcome.metric(name) for name in outcome.rows}


def score_intervals(outcome: Outcome) -> dict[str, Interval]:
    """Return the metrics that have a direction with their intervals over points.

    Raises
    ------
    DataError
        If the set has no labels, or its points are pixels, which are no independent sample.
    """
    if outcome.is_dense:
        raise DataError("pixels are not independent: no bootstrap interval over them")
    return {
        name: metric_interval(row, outcome.values(row))
        for name, row in metric_rows("classes").items()
        if row.larger_is_better is not None
    }
