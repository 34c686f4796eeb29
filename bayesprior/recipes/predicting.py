"""A finished run's predictions of its own splits, kept in its folder."""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bayesprior.diagnostics.compare import MethodResult
from bayesprior.diagnostics.predictions import Outcome
from bayesprior.errors import ConfigError
from bayesprior.inference.posteriors import PointPosterior, StoredDraws
from bayesprior.inference.protocols import Batch
from bayesprior.prediction.predict import Prediction, predict
from bayesprior.recipes.options import AverageOptions
from bayesprior.recipes.runs import FITS, add_results, is_finished, read_config, read_results
from bayesprior.recipes.saved import FitRun, load_run
from bayesprior.recipes.training import pick_device
from bayesprior.storage import predictive_path
from bayesprior.tasks.protocols import Forward
from bayesprior.tree.build import to_datatree
from bayesprior.tree.files import load_tree, save_tree

__all__ = ["averaged", "load_results", "predict_run"]

# Options that change the numbers; a prediction with others has a file of its own.
_DECISIVE = ("num_draws", "batch_norm", "seed")


def averaged(
    fit: FitRun,
    loader: Iterable[Batch],
    *,
    forward: Forward | None = None,
    num_draws: int | None = None,
    batch_size: int = 256,
    batch_norm: str = "draw",
    seed: int = 0,
    device: str = "auto",
    progress: bool = True,
) -> Prediction:
    """Predict with a run's model average, of at most the draws that it stored.

    Parameters
    ----------
    fit
        The run.
    loader
        Batches of inputs and targets.
    forward
        Of other batches than the fit's own.
    num_draws, batch_norm, seed, progress
        As in `bayesprior.predict`.
    batch_size
        Examples at a time where BatchNorm statistics are re-estimated.
    device
        As in the recipes.
    """
    reestimates = batch_norm == "reestimate"
    return predict(
        fit.module.to(pick_device(device)),
        fit.posterior,
        loader,
        fit.likelihood,
        forward=fit.forward if forward is None else forward,
        num_draws=_at_most(fit, num_draws),
        batch_norm=batch_norm,
        bn_loader=fit.data.loader("train", batch_size) if reestimates else None,
        progress=progress,
        seed=seed,
    )


def _at_most(fit: FitRun, num_draws: int | None) -> int | None:
    if num_draws is None:
        return None
    if isinstance(fit.posterior, PointPosterior):
        return 1
    if isinstance(fit.posterior, StoredDraws):
        return min(num_draws, fit.posterior.num_chains * fit.posterior.num_draws)
    return num_draws


def predict_run(
    run: str | Path, split: str = "test", *, trust: bool = False, **options: Any
) -> str:
    """Predict a split of a finished run, or find that it is done.

    Writes ``predictive-<split>.nc`` (an ArviZ DataTree) and the metrics into ``results.json``;
    with other options than the defaults, each name ends in a digest of them.

    Parameters
    ----------
    run
        Folder of a fit.
    split
        "train", "validation" or "test".
    trust
        Import what the folder names by an import path.
    **options
        Of `averaged`.

    Returns
    -------
    str
        The name of its numbers in ``results.json``, such as ``"predict-test"``; the tree's file
        has ``predictive`` in its place.

    Raises
    ------
    ConfigError
        If it is no fit's folder or the fit is not finished.
    """
    defaults = dataclasses.asdict(AverageOptions())
    own = {k: options[k] for k in _DECISIVE if options.get(k, defaults[k]) != defaults[k]}
    suffix = f"-{hashlib.sha256(json.dumps(own).encode()).hexdigest()[:8]}" if own else ""
    stage, path = f"predict-{split}{suffix}", predictive_path(run, f"{split}{suffix}")
    _check_finished(run)
    if stage in read_results(run) and path.exists():
        return stage
    fit = load_run(run, trust=trust)
    loader = fit.data.loader(split, options.get("batch_size", defaults["batch_size"]))
    found = averaged(fit, loader, **options)
    names = fit.data.class_names or None
    tree = to_datatree(test=found, class_names=names, mode="summary", attrs={"split": split})
    save_tree(tree, path)
    numbers = {"num_points": found.num_points, "draws": len(found.draw)}
    add_results(run, stage, {**found.metrics, **numbers, **own})
    return stage


def _check_finished(run: str | Path) -> None:
    if not is_finished(run, read_config(run, *FITS).recipe):
        raise ConfigError(f"{run} is not finished; run the same fit again, which goes on with it")


def load_results(runs: Sequence[str], *, trust: bool = False, **options: Any) -> list[MethodResult]:
    """Return runs as rows of a comparison, predicted on their test split where that is not done.

    Parameters
    ----------
    runs
        Folders of fits. Those that differ in their seeds only are one row of several seeds.
    trust
        Import what a folder names by an import path.
    **options
        Of `averaged`.

    Raises
    ------
    ConfigError
        If a folder is no finished fit's, or two rows would have one name.
    """
    for run in runs:  # before any of them is predicted
        _check_finished(run)
    groups: dict[str, list[tuple[tuple[int, int], Path, Outcome]]] = {}
    for run in runs:
        stage = predict_run(run, trust=trust, **options)
        tree = load_tree(predictive_path(run, stage.removeprefix("predict-")))
        key, seeds = _method(run)
        groups.setdefault(key, []).append(
            (seeds, Path(run), Outcome.from_group(tree, "predictions"))
        )
    results = []
    for members in groups.values():
        members.sort(key=lambda member: member[0])
        seconds = [read_results(run)["fit"]["seconds"] for _, run, _ in members]
        more = f" and {len(members) - 1} more" if len(members) > 1 else ""
        name = members[0][1].resolve().name + more
        outcomes = [outcome for *_, outcome in members]
        own = [seed for (_, seed), *_ in members]
        if len(set(own)) < len(own):  # other training images with the same seed
            own = []
        results.append(MethodResult(name, outcomes, own, sum(seconds) / len(seconds)))
    if twice := [n for n, k in Counter(r.name for r in results).items() if k > 1]:
        raise ConfigError(f"two of the runs are in folders named {twice[0]!r}; rename one")
    return results


def _method(run: str | Path) -> tuple[str, tuple[int, int]]:
    """Return what makes a run its method, as text, and its seeds: of the data, and of the fit."""
    config = read_config(run, *FITS)
    options, made_from = dict(config.options), dict(config.made_from)
    made_from.pop("relative", None)
    data = dict(made_from.pop("data", None) or {})
    seeds = int(data.pop("data_seed", 0)), int(options.pop("seed", 0))
    for name in ("out", "device", "progress", "checkpoint_every"):
        options.pop(name, None)
    return json.dumps([config.recipe, options, made_from, data], sort_keys=True), seeds
