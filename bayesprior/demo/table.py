"""From predictions to the demo's table, its paired differences and its sentences."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bayesprior.demo.methods import METHODS
from bayesprior.diagnostics.compare import MethodResult, comparison_table, paired_differences
from bayesprior.diagnostics.predictions import Outcome

__all__ = ["COLUMNS", "REFERENCE", "compare", "rows", "sentences"]

COLUMNS = ("accuracy", "nll", "ece")
REFERENCE = "fine-tuning"
"""The method that the others are compared with."""


def rows(outcomes: Mapping[str, Sequence[Outcome]], seconds: Mapping[str, float]) -> list[Any]:
    """Return one row a method: mean and standard error of each column over the seeds."""
    runs = [
        MethodResult(METHODS[m].title, list(found), seconds=seconds[m])
        for m, found in outcomes.items()
    ]
    kept = ("method", "seeds", *(f"{c}{end}" for c in COLUMNS for end in ("", "_se")), "seconds")
    return [{key: row[key] for key in kept} for row in comparison_table(runs)]


def compare(
    outcomes: Mapping[str, Sequence[Outcome]], method: str, reference: str
) -> dict[str, dict[str, Any]]:
    """Return a method's metrics minus a reference's, paired by seed, with 95 % intervals."""
    results = [MethodResult(name, list(outcomes[name])) for name in (method, reference)]
    return {
        d.metric: {k: float(v) for k, v in d.interval._asdict().items()} | {"verdict": d.verdict}
        for d in paired_differences(results, reference)
    }


def sentences(outcomes: Mapping[str, Sequence[Outcome]]) -> list[str]:
    """Say what the table shows: who differs from fine-tuning, and who ties."""
    seeds = len(next(iter(outcomes.values())))
    if seeds < 2:
        return ["One seed has no interval, so nothing is said of differences: use --seeds 5."]
    said = []
    tied = []
    for method in METHODS:
        if method == REFERENCE:
            continue
        found = compare(outcomes, method, REFERENCE)
        text = _numbers(found)
        title = METHODS[method].title
        words = {found["accuracy"]["verdict"], found["nll"]["verdict"]}
        if words == {"tie"}:
            tied.append(f"{title} ({text})")
        elif "worse" not in words:
            said.append(f"Better than fine-tuning: {title}: {text}.")
        elif "better" not in words:
            said.append(f"Worse than fine-tuning: {title}: {text}.")
        else:
            said.append(f"Mixed against fine-tuning: {title}: {text}.")
    if tied:
        said.append(f"Tied with fine-tuning: {'; '.join(tied)}.")
    covariance = compare(outcomes, "map", "l2-sp")
    words = {covariance[m]["verdict"] for m in ("accuracy", "nll")}
    text = _numbers(covariance)
    if words == {"tie"}:
        said.append(
            f"MAP with the learned prior and L2-SP tie: {text}. The learned covariance brought "
            "nothing measurable over an isotropic one around the same source weights."
        )
    else:
        better = "worse" not in words
        said.append(
            f"MAP with the learned prior is {'better' if better else 'not better'} than L2-SP: "
            f"{text}."
        )
    said.append(
        f"Intervals: 95 %, over {seeds} paired seeds and test points, not corrected for the number "
        "of comparisons; one source fit, so they say nothing of other sources."
    )
    return said


def _numbers(found: Mapping[str, Mapping[str, float]]) -> str:
    nll, acc = found["nll"], found["accuracy"]
    points = [100 * acc[k] for k in ("estimate", "low", "high")]
    return (
        f"NLL {nll['estimate']:+.3f} [{nll['low']:+.3f}, {nll['high']:+.3f}], "
        f"accuracy {points[0]:+.1f} points [{points[1]:+.1f}, {points[2]:+.1f}]"
    )


def as_arrays(outcome: Outcome) -> dict[str, np.ndarray]:
    """Return what a file needs to hold of an outcome."""
    return {
        "probs": outcome.probs,
        "targets": np.asarray(outcome.targets),
        "log_score": np.asarray(outcome.log_score),
        "aleatoric": outcome.aleatoric,
        "epistemic": outcome.epistemic,
    }
