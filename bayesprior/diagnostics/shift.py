"""Further sets beside the test set: scores against severity, and detection of foreign data."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bayesprior.diagnostics.predictions import Outcome, scores
from bayesprior.diagnostics.uncertainty import Detection, detection, ood_scores
from bayesprior.diagnostics.verdicts import Verdict

__all__ = ["DetectionRow", "ShiftRow", "ood_table", "shift_table", "shift_verdict"]


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
    """

    shift: str
    severity: int | None
    scores: dict[str, float]


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
    rows = [ShiftRow(test.name, 0, scores(test))]
    for outcome in shifted:
        match = re.fullmatch(r"(.+)-(\d+)", outcome.name)
        kind, severity = (match[1], int(match[2])) if match else (outcome.name, None)
        outcome.is_right  # noqa: B018 - raises for a set without labels
        rows.append(ShiftRow(kind, severity, scores(outcome)))
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


def shift_verdict(rows: Sequence[ShiftRow], *, tolerance: float = 0.1) -> Verdict:
    """Say whether the probabilities stay honest on shifted data.

    Parameters
    ----------
    rows
        From `shift_table`, the test set first.
    tolerance
        Largest ECE that is still called honest.
    """
    question = "Do the probabilities stay honest when the data change?"
    if len(rows) < 2:
        return Verdict(question, "unknown", "Not measured", "No shifted set was given.")
    bad = max(rows[1:], key=lambda row: row.scores["ece"])
    name = bad.shift if bad.severity is None else f"{bad.shift} of severity {bad.severity}"
    reason = (
        f"The worst is {name}: accuracy {bad.scores['accuracy']:.0%} at a mean confidence of "
        f"{bad.scores['confidence']:.0%} (ECE {bad.scores['ece']:.1%}, on the test set "
        f"{rows[0].scores['ece']:.1%})."
    )
    if bad.scores["ece"] <= tolerance:
        return Verdict(question, "ok", "Yes", reason)
    sure = bad.scores["confidence"] > bad.scores["accuracy"]
    headline = f"No, it stays {'too sure' if sure else 'too unsure'}"
    return Verdict(question, "warn" if bad.scores["ece"] < 0.25 else "fail", headline, reason)
