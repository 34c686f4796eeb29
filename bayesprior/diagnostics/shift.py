"""Further sets beside the test set: scores against severity, and detection of foreign data."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bayesprior.diagnostics.predictions import Outcome, scores
from bayesprior.diagnostics.uncertainty import Detection, detection, ood_scores

__all__ = ["DetectionRow", "ShiftRow", "ood_table", "shift_table"]


@dataclass(frozen=True)
class ShiftRow:
    """Scores of one set.

    Attributes
    ----------
    shift
        Kind of shift: the set's name without its severity.
    severity
        0 for the test set; the number after a dash at the end of the set's name; else None.
    scores
        From `bayesprior.diagnostics.predictions.scores`.
    num_points
        Points of the set.
    chance
        ECE that a perfectly calibrated model exceeds by chance on one such set in twenty.
    """

    shift: str
    severity: int | None
    scores: dict[str, float]
    num_points: int
    chance: float


@dataclass(frozen=True)
class DetectionRow:
    """How well one score tells one foreign set from the test set."""

    name: str
    score: str
    detection: Detection


def shift_table(test: Outcome, shifted: Sequence[Outcome]) -> list[ShiftRow]:
    """Score the test set and every shifted one, which must have labels.

    Parameters
    ----------
    test
        The test set.
    shifted
        Named sets; ``jpeg-3`` is severity 3 of ``jpeg``.

    Raises
    ------
    DataError
        If a set has no labels.
    """
    rows = []
    for outcome in (test, *shifted):
        match = re.fullmatch(r"(.+)-(\d+)", outcome.name)
        kind, severity = (match[1], int(match[2])) if match else (outcome.name, None)
        severity = 0 if outcome is test else severity
        num_points = len(outcome.probs)
        found = scores(outcome), num_points, outcome.bins().chance
        rows.append(ShiftRow(kind, severity, *found))
    return rows


def ood_table(test: Outcome, foreign: Sequence[Outcome]) -> list[DetectionRow]:
    """Say how well each score of uncertainty detects each foreign set.

    Scores: 1 - max probability, entropy, mutual information and energy, each where both sets
    have it; see `bayesprior.diagnostics.uncertainty.ood_scores`.
    """

    def of(outcome: Outcome) -> dict[str, np.ndarray]:
        parts = {"mutual_information": outcome.epistemic, "energy": outcome.energy}
        return ood_scores(outcome.probs, **parts)

    inside = of(test)
    return [
        DetectionRow(outcome.name, score, detection(inside[score], values))
        for outcome in foreign
        for score, values in of(outcome).items()
        if score in inside
    ]
