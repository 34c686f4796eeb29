"""What a model said about one set of points, and every score of it in one dictionary."""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float, Int
from scipy.special import logsumexp

from bayesprior.diagnostics.calibration import brier, ece, mce
from bayesprior.diagnostics.checks import check_probs
from bayesprior.diagnostics.intervals import Interval, bootstrap_interval
from bayesprior.diagnostics.reliability import CalibrationBins
from bayesprior.diagnostics.uncertainty import risk_coverage, sharpness
from bayesprior.errors import DataError
from bayesprior.prediction.predict import Prediction

__all__ = ["LABELS", "Outcome", "score_intervals", "scores"]

LABELS = {
    "accuracy": "accuracy",
    "nll": "NLL",
    "brier": "Brier score",
    "ece": "ECE",
    "aurc": "AURC",
}
"""How scores are called in tables and figures."""


@dataclass(frozen=True)
class Outcome:
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
    def from_prediction(
        cls, name: str, prediction: Prediction, *, has_labels: bool = True
    ) -> "Outcome":
        """Take a prediction of classes; ``has_labels=False`` for foreign data.

        Raises
        ------
        DataError
            If it holds no class probabilities, or NaN.
        """
        p = prediction
        return _outcome(
            name,
            p.mean_probs,
            p.targets if has_labels else None,
            p.log_likelihood,
            p.expected_entropy,
            p.mutual_information,
            p.energy,
        )

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
        likelihood = data.get("log_likelihood")
        if likelihood is not None:
            likelihood = likelihood.stack(s=("chain", "draw")).transpose("s", ...)
        return _outcome(
            "test set" if group == "predictions" else group.removeprefix("predictions_"),
            data.get("probs"),
            data.get("target"),
            likelihood,
            data.get("expected_entropy"),
            data.get("mutual_information"),
            data.get("energy"),
        )

    @property
    def is_right(self) -> Float[np.ndarray, " N"]:
        """1 where the most probable class is the target, else 0.

        Raises
        ------
        DataError
            If the set has no labels.
        """
        if self.targets is None:
            raise DataError(f"the set {self.name!r} has no labels of the task")
        return (self.probs.argmax(axis=1) == self.targets).astype(float)

    @property
    def confidence(self) -> Float[np.ndarray, " N"]:
        """Largest probability of each point."""
        return self.probs.max(axis=1)

    def bins(self, num_bins: int = 15) -> CalibrationBins:
        """Return the top-label calibration bins."""
        bins = CalibrationBins(num_bins)
        bins.update(self.confidence, self.is_right.astype(bool))
        return bins


def _outcome(
    name: str,
    probs: Any,
    targets: Any,
    log_likelihood: Any,
    aleatoric: Any,
    epistemic: Any,
    energy: Any,
) -> Outcome:
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
        check_probs(probs)
        return Outcome(name, probs, None, None, is_dense=is_dense, **points)
    targets = np.asarray(targets).reshape(-1).astype(np.int64)
    if is_dense:  # pixels without a label do not count
        kept = (targets >= 0) & (targets < probs.shape[1])
        probs, targets = probs[kept], targets[kept]
        points = {k: part[kept] for k, part in points.items()}
    probs, targets = check_probs(probs, targets)
    if is_dense:
        score = np.log(np.maximum(probs[np.arange(len(targets)), targets], np.finfo(float).tiny))
    else:
        draws = np.asarray(log_likelihood, dtype=float)
        score = logsumexp(draws, axis=0) - np.log(len(draws))
    return Outcome(name, probs, targets, score, is_dense=is_dense, **points)


def scores(outcome: Outcome) -> dict[str, float]:
    """Return every score of a set.

    Parameters
    ----------
    outcome
        Predictions and labels; without labels only what needs none is returned.

    Returns
    -------
    dict
        ``accuracy``, ``nll``, ``brier`` and its ``reliability`` and ``resolution``, ``ece``,
        ``ece_class_wise``, ``ece_adaptive``, ``mce``, ``aurc`` (loss 0/1, ordered by
        confidence), ``confidence`` (mean), ``sharpness``, ``aleatoric`` and ``epistemic`` (mean,
        nats), ``num_points``.
    """
    probs, targets = outcome.probs, outcome.targets
    general = {
        "confidence": float(outcome.confidence.mean()),
        "sharpness": sharpness(probs),
        "aleatoric": float(outcome.aleatoric.mean()),
        "epistemic": float(outcome.epistemic.mean()),
        "num_points": float(len(probs)),
    }
    if targets is None or outcome.log_score is None:
        return general
    parts = brier(probs, targets)
    return {
        "accuracy": float(outcome.is_right.mean()),
        "nll": float(-outcome.log_score.mean()),
        "brier": parts.score,
        "reliability": parts.reliability,
        "resolution": parts.resolution,
        "ece": outcome.bins().ece,
        "ece_class_wise": ece(probs, targets, kind="class_wise"),
        "ece_adaptive": ece(probs, targets, kind="adaptive"),
        "mce": mce(probs, targets),
        "aurc": risk_coverage(-outcome.confidence, 1 - outcome.is_right).aurc,
        **general,
    }


def score_intervals(
    outcome: Outcome, *, num_resamples: int = 500, level: float = 0.95, seed: int = 0
) -> dict[str, Interval]:
    """Return accuracy, NLL, ECE and AURC with bootstrap intervals over points.

    Raises
    ------
    DataError
        If the set has no labels, or its points are pixels, which are no independent sample.
    """
    if outcome.is_dense:
        raise DataError("pixels are not independent: no bootstrap interval over them")
    right, confidence = outcome.is_right, outcome.confidence
    assess = functools.partial(
        bootstrap_interval, num_resamples=num_resamples, level=level, seed=seed
    )

    def binned(confidence: np.ndarray, right: np.ndarray) -> float:
        bins = CalibrationBins()
        bins.update(confidence, right.astype(bool))
        return bins.ece

    def area(confidence: np.ndarray, right: np.ndarray) -> float:
        return risk_coverage(-confidence, 1 - right).aurc

    error = assess(binned, confidence, right, method="basic")
    return {
        "accuracy": assess(np.mean, right),
        "nll": assess(lambda s: -s.mean(), np.asarray(outcome.log_score)),
        "ece": error._replace(low=max(error.low, 0.0)),
        "aurc": assess(area, confidence, right),
    }
