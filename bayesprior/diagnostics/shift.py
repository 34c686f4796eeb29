"""Further sets beside the test set: scores against severity, and detection of foreign data."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bayesprior.diagnostics.predictions import Outcome, scores
from bayesprior.diagnostics.uncertainty import detection, ood_scores

__all__ = ["ShiftRow", "ood_table", "shift_table"]


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
    chance
        ECE that a perfectly calibrated model exceeds by chance on one such set in twenty.
    bound
        Upper end of the 95 % interval of the ECE.
    """

    shift: str
    severity: int | None
    scores: dict[str, float]
    chance: float
    bound: float


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
        bins = outcome.bins()
        rows.append(ShiftRow(kind, severity, scores(outcome), bins.chance, bins.bound))
    return rows


def ood_table(test: Outcome, foreign: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Say how well each score of uncertainty detects each foreign set.

    Scores: 1 - max probability, entropy, mutual information and energy, each where both sets
    have it; see `bayesprior.diagnostics.uncertainty.ood_scores`.

    Returns
    -------
    list of dict
        ``set``, ``score``, and the fields of `bayesprior.diagnostics.uncertainty.Detection`.
    """
    inside, *outside = (
        ood_scores(o.probs, mutual_information=o.epistemic, energy=o.energy)
        for o in (test, *foreign)
    )
    return [
        {"set": o.name, "score": score, **detection(inside[score], values)._asdict()}
        for o, found in zip(foreign, outside, strict=True)
        for score, values in found.items()
        if score in inside
    ]
