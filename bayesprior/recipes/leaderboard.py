"""What a transfer's parts and baselines are worth, side by side."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Float, Integer
from torch import Tensor
from torch.nn import functional as F

from bayesprior.data import DataBundle
from bayesprior.inference.collectors.memory import DrawsInMemory
from bayesprior.inference.protocols import Draw
from bayesprior.prediction.metrics import default_metrics
from bayesprior.prediction.predict import predict
from bayesprior.recipes.baselines import fine_tunings
from bayesprior.recipes.committee import Committee, probe_draw
from bayesprior.recipes.members import MemberTask
from bayesprior.tasks.likelihoods import Categorical

__all__ = ["held_out_numbers", "leaderboard", "split_numbers"]

METHOD = "transfer"


def held_out_numbers(
    logits: Float[Tensor, "N C"], labels: Integer[Tensor, " N"]
) -> dict[str, float]:
    """Return the metrics of logits, as `bayesprior.predict` has them."""
    metrics = default_metrics(Categorical(), logits.shape[1])
    metrics.update(logits.softmax(1), labels)
    found = {name: float(value) for name, value in metrics.compute().items()}
    return {"nll": float(F.cross_entropy(logits, labels)), **found}


def leaderboard(
    task: MemberTask, committee: Committee, data: DataBundle, *, baselines: str = "quick"
) -> list[dict[str, Any]]:
    """Return a row for each method: the committee, its parts, and the baselines.

    On the test split where there is one with labels; else out of fold, where that is known.
    """
    parts = _parts(committee)
    if baselines != "none" and committee.names != ["probe"]:
        parts["probe"] = ([probe_draw(task, committee.probe)], 0)
    if baselines == "all" and data.test is not None:
        for name, draw in fine_tunings(task, committee.probe).items():
            parts[name] = ([draw], 0 if name == "WiSE-FT" else 1)
    rows = []
    if data.test is not None:
        for name, (draws, fits) in parts.items():
            began = time.perf_counter()
            posterior = DrawsInMemory(draws, task.prior.layout, average="logits")
            loader = data.loader("test", 256)
            found = predict(task.module, posterior, loader, Categorical(), forward=task.forward)
            if not found.metrics:
                break
            seconds = time.perf_counter() - began
            row = {"method": name, "on": "test", "n": found.num_points, **found.metrics}
            rows.append({**row, "fits": fits, "predict_seconds": seconds})
    if rows:
        return rows
    labels = task.labels[committee.rows]
    for name, logits in committee.held_out.items():
        known = METHOD if name == "committee" else name
        if known in parts or known == METHOD:
            row = {"method": known, "on": "out of fold", "n": len(labels)}
            fits = parts[known][1] if known in parts else 0
            rows.append({**row, **held_out_numbers(logits, labels), "fits": fits})
    return rows


def _parts(committee: Committee) -> dict[str, tuple[list[Draw], int]]:
    """Return draws, and how many fits they took, by method; the whole first."""
    pairs = list(zip(committee.names, committee.draws, strict=True))
    parts = {METHOD: (committee.draws, len(pairs))}
    first = [draw for name, draw in pairs if name.startswith("map-")]
    others = [draw for name, draw in pairs if not name.startswith("map-")]
    if first and others:
        parts["map"] = (first, 1)
        parts["fine-tuning"] = (others, len(others))
    return parts


def split_numbers(rows: Sequence[Mapping[str, Any]], *, seed: int) -> dict[str, Any]:
    """Return ``test`` and ``baselines.<name>.test`` as ``results.json`` holds them."""
    test = {row["method"]: {**row, "seed": seed} for row in rows if row["on"] == "test"}
    if not test:
        return {}
    others = {name: {"test": row} for name, row in test.items() if name != METHOD}
    return {"test": test[METHOD], "baselines": others}
