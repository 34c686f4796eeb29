"""What a transfer's parts and baselines are worth, side by side."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Integer
from torch import Tensor
from torch.nn import functional as F

from bayesprior.data import DataBundle
from bayesprior.diagnostics.compare import judge
from bayesprior.diagnostics.intervals import mean_interval
from bayesprior.inference.collectors.memory import DrawsInMemory
from bayesprior.inference.protocols import Draw
from bayesprior.prediction.metrics import METRICS, default_metrics
from bayesprior.prediction.predict import predict
from bayesprior.recipes.baselines import fine_tunings
from bayesprior.recipes.committee import Committee, probe_draw
from bayesprior.recipes.members import MemberTask
from bayesprior.tasks.likelihoods import Categorical

__all__ = ["held_out_numbers", "leaderboard", "split_numbers"]

METHOD, PROBE = "transfer", "probe"
PARTS = ("map", "fine-tuning")


def held_out_numbers(
    logits: Float[Tensor, "N C"], labels: Integer[Tensor, " N"]
) -> dict[str, float]:
    """Return the metrics of logits, as `bayesprior.predict` has them."""
    metrics = default_metrics(Categorical(), logits.shape[1])
    metrics.update(logits.softmax(1), labels)
    found = {name: float(value) for name, value in metrics.compute().items()}
    return {"nll": float(F.cross_entropy(logits, labels)), **found}


@dataclass(frozen=True)
class _Part:
    """A method of the leaderboard: its draws, and what it took to fit them."""

    draws: list[Draw]
    fits: int = 0
    fit_seconds: float = 0.0


def leaderboard(
    task: MemberTask, committee: Committee, data: DataBundle, *, baselines: str = "quick"
) -> list[dict[str, Any]]:
    """Return a row for each method: the committee, its parts, and the baselines.

    On the test split where there is one with labels; else out of fold, where that is known. Each
    has its metrics, ``n``, ``fits`` and ``fit_seconds`` (of the committee all that the call tried,
    decisions included), and on a test split ``predict_seconds``; those beside the committee also
    ``nll_difference`` and ``nll_interval``, its 95 % interval over examples, to the committee's,
    and the ``verdict`` on it. Of single fits: another choice of training images, or another seed,
    can move them by more.
    """
    parts = _parts(task, committee)
    if baselines != "none":
        probe = [probe_draw(task, committee.probe)]
        parts[PROBE] = _Part(probe, 0, committee.probe_seconds)
    if baselines == "all" and data.test is not None:
        for name, draw in fine_tunings(task, committee.probe).items():
            parts[name] = _Part([draw], int(name in task.seconds), task.seconds.get(name, 0.0))
    rows: list[dict[str, Any]] = []
    losses: dict[str, Tensor] = {}
    if data.test is not None:
        for name, part in parts.items():
            began = time.perf_counter()
            posterior = DrawsInMemory(part.draws, task.prior.layout, average="logits")
            loader = data.loader("test", 256)
            found = predict(task.module, posterior, loader, Categorical(), forward=task.forward)
            if not found.metrics:
                break
            seconds = time.perf_counter() - began
            row = {"method": name, "on": "test", "n": found.num_points, **found.metrics}
            rows.append({**row, **_spent(part), "predict_seconds": seconds})
            assert found.average_log_likelihood is not None  # as there are metrics
            losses[name] = -found.average_log_likelihood
    if not rows:
        labels = task.labels[committee.rows]
        for name, logits in committee.held_out.items():
            known = METHOD if name == "committee" else name
            if known in parts:
                row = {"method": known, "on": "out of fold", "n": len(labels)}
                rows.append({**row, **held_out_numbers(logits, labels), **_spent(parts[known])})
                losses[known] = F.cross_entropy(logits, labels, reduction="none")
    for board_row in rows:
        if METHOD in losses and (name := board_row["method"]) != METHOD:
            board_row |= _difference(losses[name], losses[METHOD])
    return rows


def _spent(part: _Part) -> dict[str, Any]:
    return {"fits": part.fits, "fit_seconds": part.fit_seconds}


def _difference(one: Float[Tensor, " N"], other: Float[Tensor, " N"]) -> dict[str, Any]:
    """Say by how much one's loss exceeds another's, over the same examples."""
    gaps = (one - other).double().numpy()
    if len(gaps) < 2:
        return {"nll_difference": float(gaps.mean())}
    mean, *ends = interval = mean_interval(gaps)
    verdict = judge(interval, METRICS["nll"], len(gaps))
    return {"nll_difference": mean, "nll_interval": ends, "verdict": verdict}


def _parts(task: MemberTask, committee: Committee) -> dict[str, _Part]:
    """Return the committee by its name, and its parts by theirs."""
    pairs = list(zip(committee.names, committee.draws, strict=True))
    spent = sum(task.seconds.values()) + committee.probe_seconds
    parts = {METHOD: _Part(committee.draws, committee.num_fits, spent)}
    groups: tuple[list[Any], list[Any]] = ([], [])
    for name, draw in pairs:
        groups[not name.startswith("map-")].append((name, draw))
    if all(groups):
        for title, group in zip(PARTS, groups, strict=True):
            seconds = sum(task.seconds[name] for name, _ in group)
            parts[title] = _Part([draw for _, draw in group], len(group), seconds)
    return parts


def split_numbers(rows: Sequence[Mapping[str, Any]], *, seed: int) -> dict[str, Any]:
    """Return ``test``, ``parts.<name>.test`` and ``baselines.<name>.test`` of ``results.json``."""
    test = {row["method"]: {**row, "seed": seed} for row in rows if row["on"] == "test"}
    if not test:
        return {}
    found: dict[str, Any] = {"test": test.pop(METHOD), "parts": {}, "baselines": {}}
    for name, row in test.items():
        found["parts" if name in PARTS else "baselines"][name] = {"test": row}
    return found
