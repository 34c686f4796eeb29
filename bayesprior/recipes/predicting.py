"""A finished run's predictions of its own splits, kept in its folder, and runs side by side."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bayesprior.diagnostics.compare import FREE, MethodResult, only_prior_differs, pick_baseline
from bayesprior.diagnostics.predictions import outcome_of
from bayesprior.errors import ConfigError
from bayesprior.inference.posteriors import PointPosterior, StoredDraws
from bayesprior.inference.protocols import Batch, Posterior
from bayesprior.prediction.predict import predict
from bayesprior.prediction.results import Prediction
from bayesprior.recipes.options import AverageOptions
from bayesprior.recipes.runs import FITS, add_results, finished_fit, read_config, read_results
from bayesprior.recipes.saved import FitRun, load_run
from bayesprior.recipes.training import pick_device
from bayesprior.storage import predictive_path
from bayesprior.tasks.protocols import Forward
from bayesprior.tree.build import to_datatree, to_prediction
from bayesprior.tree.files import load_tree, save_tree

__all__ = [
    "RunComparison",
    "at_most",
    "averaged",
    "compare_runs",
    "is_predicted",
    "load_prediction",
    "method_result",
    "predict_run",
]

# Options that change the numbers; a prediction with others has a file of its own.
_DECISIVE = ("num_draws", "batch_norm", "seed")


def averaged(
    fit: FitRun,
    loader: Iterable[Batch],
    options: AverageOptions,
    forward: Forward | None = None,
    *,
    keep_maps: bool = False,
) -> Prediction:
    """Predict with a run's model average, of at most the draws that it stored.

    Parameters
    ----------
    fit
        The run.
    loader
        Batches of inputs and targets.
    options
        Of the average.
    forward
        Of other batches than the fit's own.
    keep_maps
        As of `predict`.
    """
    reestimates = options.batch_norm == "reestimate"
    return predict(
        fit.module.to(pick_device(options.device)),
        fit.posterior,
        loader,
        fit.likelihood,
        forward=fit.forward if forward is None else forward,
        num_draws=at_most(options.num_draws, fit.posterior),
        batch_norm=options.batch_norm,
        bn_loader=fit.data.loader("train", options.batch_size) if reestimates else None,
        keep_maps=keep_maps,
        progress=options.progress,
        seed=options.seed,
    )


def at_most(num_draws: int | None, posterior: Posterior) -> int | None:
    """Return how many draws to average: no more than are stored."""
    if num_draws is not None and isinstance(posterior, PointPosterior):
        return 1
    if num_draws is not None and isinstance(posterior, StoredDraws):
        return min(num_draws, posterior.num_chains * posterior.num_draws)
    return num_draws


def is_predicted(run: str | Path, split: str, options: AverageOptions) -> bool:
    """Whether `predict_run` has written what it writes."""
    stage = _stage(split, options)
    return stage in read_results(run) and _file(run, stage).exists()


def _file(run: str | Path, stage: str) -> Path:
    return predictive_path(run, stage.removeprefix("predict-"))


def _stage(split: str, options: AverageOptions) -> str:
    own = _own(options)
    suffix = f"-{hashlib.sha256(json.dumps(own).encode()).hexdigest()[:8]}" if own else ""
    return f"predict-{split}{suffix}"


def _own(options: AverageOptions) -> dict[str, Any]:
    """Return what makes the numbers others than those of the defaults."""
    defaults = AverageOptions()
    return {
        k: getattr(options, k) for k in _DECISIVE if getattr(options, k) != getattr(defaults, k)
    }


def predict_run(
    run: str | Path,
    split: str = "test",
    options: AverageOptions | None = None,
    *,
    fit: FitRun | None = None,
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
    options
        Of the average.
    fit
        The run, where it is loaded already.

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
    options = options or AverageOptions()
    stage = _stage(split, options)
    finished_fit(run)
    if is_predicted(run, split, options):
        return stage
    fit = load_run(run, trust=options.trust) if fit is None else fit
    found = averaged(fit, fit.data.loader(split, options.batch_size), options)
    names = fit.data.class_names or None
    tree = to_datatree(test=found, class_names=names, mode="summary", attrs={"split": split})
    save_tree(tree, _file(run, stage))
    numbers = {"num_points": found.num_points, "draws": len(found.draw)}
    add_results(run, stage, {**found.metrics, **numbers, **_own(options)})
    return stage


def load_prediction(
    run: str | Path, options: AverageOptions | None = None, *, fit: FitRun | None = None
) -> Prediction:
    """Return what `predict_run`, which takes the same, wrote of the test split."""
    stage = predict_run(run, options=options, fit=fit)
    return to_prediction(load_tree(_file(run, stage)))


def method_result(
    name: str, runs: Sequence[Path], seeds: Sequence[int], options: AverageOptions | None
) -> MethodResult:
    """Return one method's outcomes on the test split, a run a seed, and the mean of its seconds."""
    found = [load_prediction(run, options) for run in runs]
    outcomes = [outcome_of("test set", prediction) for prediction in found]
    seconds = sum(read_results(run)["fit"]["seconds"] for run in runs) / len(runs)
    return MethodResult(name, outcomes, seeds, seconds)


class RunComparison(NamedTuple):
    """Runs side by side.

    Attributes
    ----------
    results
        One a method, by the first of its runs; runs that differ in their seeds only are one.
    method, baseline
        What it is about and what that is held against (None for one method), by
        `bayesprior.diagnostics.compare.pick_baseline`.
    only_prior
        Whether these two differ in nothing but the prior.
    """

    results: list[MethodResult]
    method: str
    baseline: str | None
    only_prior: bool


def compare_runs(
    runs: Sequence[str | Path],
    baseline: str | Path | None = None,
    options: AverageOptions | None = None,
) -> RunComparison:
    """Set runs side by side, predicted on their test split where that is not done.

    Parameters
    ----------
    runs
        Folders of fits.
    baseline
        The run whose method the first one's is held against, among the others or beside them; the
        second method by default.
    options
        Of the average.

    Raises
    ------
    ConfigError
        If a folder is no finished fit's, two methods would have one name, or the baseline is of
        the first run's own method.
    """
    folders = {Path(run).expanduser().resolve(): Path(run) for run in runs}
    against = None if baseline is None else Path(baseline).expanduser().resolve()
    if against is not None:
        folders.setdefault(against, Path(baseline or ""))
    for run in folders.values():  # before any of them is predicted
        finished_fit(run)
    groups: dict[str, list[Path]] = {}
    seeds: dict[Path, tuple[int, int]] = {}  # of the data, and of the fit
    for folder in folders:
        found = _configuration(folder)
        seeds[folder] = int(found.get("data_seed", 0)), int(found.get("seed", 0))
        method = {k: v for k, v in found.items() if k not in FREE}
        groups.setdefault(json.dumps(method, sort_keys=True), []).append(folder)
    step = 1 + max(own for _, own in seeds.values())
    pairs = {folder: of_data * step + own for folder, (of_data, own) in seeds.items()}
    members = list(groups.values())
    results = [_result(group, pairs, options) for group in members]
    names = [result.name for result in results]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ConfigError(f"two of the runs are in folders named {twice[0]!r}; rename one")
    named = next((n for n, group in zip(names, members, strict=True) if against in group), None)
    first, second = pick_baseline(names, named)
    only_prior = second is not None and only_prior_differs(
        *(_configuration(members[names.index(name)][0]) for name in (first, second))
    )
    return RunComparison(results, first, second, only_prior)


def _configuration(run: Path) -> dict[str, Any]:
    """Return everything that a run was asked for, in one level; the prior by its content."""
    config = read_config(run, *FITS)
    own = {"recipe": config.recipe, "network": config.digests.get("network")}
    found = {**own, **config.options, **config.chosen}
    if "prior" in config.digests:  # wherever its file lies, and whatever width it was brought to
        files = ("rms_std", "source", "weights")
        found = {k: v for k, v in found.items() if k not in files}
        found["prior"] = config.digests["prior"]
    return found


def _result(
    runs: Sequence[Path], pairs: Mapping[Path, int], options: AverageOptions | None
) -> MethodResult:
    """Return one method's runs, by the number of the pair that each is in."""
    runs = sorted(runs, key=pairs.__getitem__)
    own = [pairs[run] for run in runs]
    if len(set(own)) < len(own):
        data = [(pairs[run], read_config(run).digests.get("data.train")) for run in runs]
        if len(set(data)) < len(data):
            raise ConfigError(
                f"among {', '.join(run.name for run in runs)} are fits of the same seeds to the "
                "same examples; a copy is no repetition, leave it out"
            )
        own = []  # fits in Python, whose folders do not name the seeds of their data
    more = f" and {len(runs) - 1} more" if len(runs) > 1 else ""
    return method_result(runs[0].name + more, runs, own, options)
