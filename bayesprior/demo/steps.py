"""The demo's steps, each finished piece in a file, so that a stopped run continues."""

import contextlib
import json
import multiprocessing
import signal
import string
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bayesprior import recipes
from bayesprior.data import DataBundle, digits, few_shot, select_classes
from bayesprior.demo.glyphs import glyphs
from bayesprior.demo.methods import HEAD_STD, METHODS, MODEL, Setting, predict_with
from bayesprior.demo.table import REFERENCE, as_arrays, compare, rows, sentences
from bayesprior.diagnostics.compare import MethodResult
from bayesprior.diagnostics.predictions import Outcome
from bayesprior.errors import ConfigError
from bayesprior.inference.progress import progress_bar
from bayesprior.recipes.named import load_model
from bayesprior.recipes.runs import open_run, versions, write_json
from bayesprior.recipes.saved import load_run
from bayesprior.storage import PRIOR, RESULTS, SOURCE, atomic_path
from bayesprior.weights.gaussian import GaussianWeights

__all__ = ["GRID", "run_demo", "run_pieces"]

GRID = tuple((lr, rms_std) for lr in (0.005, 0.02) for rms_std in (0.01, 0.3, 10.0))
"""(learning rate, width of the backbone's prior) that every method is tried with."""
SELECTION_SEEDS = 2
FIRST_SELECTION_SEED = 1000
CORRUPTIONS = (3,)
"""Severities at which the report corrupts the test images."""
KEPT = ("map", "swag", "sgld")
"""Methods whose first final fit stays as a run folder."""


def run_demo(options: Mapping[str, Any]) -> None:
    """Do all steps that are not done; see `bayesprior.recipes.options.DemoOptions`.

    Raises
    ------
    ConfigError
        If an option cannot work, or the folder holds another run.
    """
    few_shot(digits(), num_data=options["num_data"])  # refuse what cannot be drawn at once
    folder = open_run(options["out"], "demo", options)
    with _workers(options["jobs"]) as pool:
        _run_steps(folder, options, pool)


def _run_steps(folder: Path, options: Mapping[str, Any], pool: ProcessPoolExecutor | None) -> None:
    prior_file = _make_prior(folder, options)
    base = Setting("", 0.0, 0.0, 0, options["num_data"], options["num_steps"])

    first = FIRST_SELECTION_SEED + options["seed"]
    trials = {
        _name("tune", s): (s, "validation", None)
        for method in METHODS
        for lr, rms_std in GRID
        for seed in range(first, first + SELECTION_SEEDS)
        for s in [replace(base, method=method, lr=lr, rms_std=rms_std, seed=seed)]
    }
    show = options["progress"]
    run_pieces(folder, prior_file, trials, pool, description="tuning", progress=show)
    selection = _select(folder, trials)
    finals = {}
    for method, chosen in selection["chosen"].items():
        for seed in range(options["seed"], options["seed"] + options["seeds"]):
            s = replace(base, method=method, **chosen, seed=seed)
            is_kept = method in KEPT and seed == options["seed"]
            finals[_name("final", s)] = (s, "test", folder / method if is_kept else None)
    run_pieces(folder, prior_file, finals, pool, description="final fits", progress=show)
    _conclude(folder, options, selection, finals)


def _make_prior(folder: Path, options: Mapping[str, Any]) -> Path:
    """Fit the source and write ``source.safetensors`` and ``prior.safetensors``."""
    path = folder / PRIOR
    if path.exists():
        return path
    source_file = folder / SOURCE
    if source_file.exists():
        source = GaussianWeights.load(source_file)
    else:
        data = glyphs()
        module, head = load_model(MODEL, data, seed=options["seed"])
        with _one_thread():
            source = recipes.fit_source(
                module,
                data,
                head=head,
                rank=10,
                num_steps=options["source_steps"],
                num_snapshots=20,
                collect_every=max(options["source_steps"] // 50, 1),
                out=folder / "source",
                seed=options["seed"],
                device="cpu",
                progress=options["progress"],
            )
        source.save(source_file)
    target, head = load_model(MODEL, digits(), seed=options["seed"])
    recipes.make_prior(source, target, head=head, head_std=HEAD_STD).save(path)
    return path


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Use one core: so small a network gains little from two, and loses much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


Piece = tuple[Setting, str, Path | None]


def run_pieces(
    folder: Path,
    prior_file: Path,
    pieces: Mapping[str, Piece],
    pool: ProcessPoolExecutor | None,
    *,
    description: str = "pieces",
    progress: bool = True,
) -> None:
    """Do the pieces that have no file yet, in the pool or one by one."""
    todo = {name: piece for name, piece in pieces.items() if not _path(folder, name).exists()}
    start = len(pieces) - len(todo)
    with progress_bar(description, start=start, total=len(pieces), show=progress) as bar:
        if pool is None:
            with _one_thread():
                for done, (name, piece) in enumerate(todo.items(), start + 1):
                    _do(_path(folder, name), prior_file, piece)
                    bar(done, {})
            return
        jobs = [
            pool.submit(_do, _path(folder, name), prior_file, piece) for name, piece in todo.items()
        ]
        for done, job in enumerate(as_completed(jobs), start + 1):
            job.result()
            bar(done, {})


@contextlib.contextmanager
def _workers(jobs: int) -> Iterator[ProcessPoolExecutor | None]:
    """Start worker processes; None stands for this process alone.

    They are fresh ones: forking after torch has started its threads is not safe. Where there is
    a fork server, the package is imported once for all of them, beside the source fit.
    """
    if jobs == 1:
        yield None
        return
    has_server = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if has_server else "spawn")
    context.set_forkserver_preload([__name__])
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_start_worker)
    pool.submit(int)  # starts the first one
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops the pool
    torch.set_num_threads(1)


def _do(path: Path, prior_file: Path, piece: Piece) -> None:
    """Fit, predict, and write metrics (and for the test split the predictions)."""
    setting, split, keep = piece
    found = predict_with(setting, prior_file, split, keep)
    record: dict[str, Any] = {"setting": asdict(setting), "split": split}
    if found is None:
        write_json(path, record | {"diverged": True})
        return
    prediction, seconds = found
    if split == "test":
        outcome = Outcome.from_prediction(split, prediction)
        with atomic_path(path.with_suffix(".npz")) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **as_arrays(outcome))  # type: ignore[arg-type]
    write_json(path, record | {"metrics": dict(prediction.metrics), "seconds": seconds})


def _name(stage: str, s: Setting) -> str:
    return f"{stage}-{s.method}-lr{s.lr:g}-std{s.rms_std:g}-seed{s.seed}"


def _path(folder: Path, name: str) -> Path:
    return folder / "pieces" / f"{name}.json"


def _read(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_path(folder, name).read_text())
    return found


def _select(folder: Path, trials: Mapping[str, Piece]) -> dict[str, Any]:
    """Average the validation NLL of each setting over its seeds; take the least per method."""
    tried: dict[str, list[dict[str, Any]]] = {method: [] for method in METHODS}
    for name, (setting, _, _) in trials.items():
        found = _read(folder, name)
        nll = found["metrics"]["nll"] if "metrics" in found else float("inf")
        key = {"lr": setting.lr, "rms_std": setting.rms_std}
        row = next((r for r in tried[setting.method] if r.items() >= key.items()), None)
        if row is None:
            row = {**key, "by_seed": []}
            tried[setting.method].append(row)
        row["by_seed"].append(nll)
    chosen = {}
    for method, settings in tried.items():
        for row in settings:
            row["validation_nll"] = float(np.mean(row["by_seed"]))
        best = min(settings, key=lambda row: row["validation_nll"])
        chosen[method] = {"lr": best["lr"], "rms_std": best["rms_std"]}
    return {
        "rule": (
            f"least mean NLL on the validation split over {SELECTION_SEEDS} seeds that the final "
            f"fits do not use; {len(GRID)} settings for every method, the same learning rates and "
            "the same widths of the backbone's prior"
        ),
        "tried": tried,
        "chosen": chosen,
    }


def _conclude(
    folder: Path,
    options: Mapping[str, Any],
    selection: Mapping[str, Any],
    finals: Mapping[str, Piece],
) -> None:
    """Write ``results.json`` and the report; print the table and what it says."""
    outcomes: dict[str, list[Outcome]] = {}
    seconds: dict[str, list[float]] = {}
    for name, (setting, split, _) in finals.items():
        found = _read(folder, name)
        if "metrics" not in found:
            raise ConfigError(f"{METHODS[setting.method].title} diverged with the chosen setting")
        with np.load(_path(folder, name).with_suffix(".npz")) as arrays:
            outcome = Outcome(split, **{k: arrays[k] for k in arrays.files})
        outcomes.setdefault(setting.method, []).append(outcome)
        seconds.setdefault(setting.method, []).append(found["seconds"])
    table = rows(outcomes, {m: float(np.mean(s)) for m, s in seconds.items()})
    said = sentences(outcomes)
    differences = (
        {m: compare(outcomes, m, REFERENCE) for m in METHODS if m != REFERENCE}
        if options["seeds"] > 1
        else {}
    )
    write_json(
        folder / RESULTS,
        {
            "versions": versions(),
            "task": {
                "source": "glyphs",
                "target": "digits",
                "num_data": options["num_data"],
                "num_test": len(next(iter(outcomes.values()))[0].probs),
            },
            "seeds": list(range(options["seed"], options["seed"] + options["seeds"])),
            "table": table,
            "differences_to_fine_tuning": differences,
            "said": said,
            "selection": selection,
        },
    )
    _report(folder, options, outcomes, seconds)
    _show(folder, options, table, said)


def _report(
    folder: Path,
    options: Mapping[str, Any],
    outcomes: Mapping[str, list[Outcome]],
    seconds: Mapping[str, list[float]],
) -> None:
    """Write the report of the kept SGLD run, all methods beside it."""
    run = load_run(folder / "sgld")
    runs = [
        MethodResult(METHODS[method].title, found, seconds=float(np.mean(seconds[method])))
        for method, found in outcomes.items()
    ]
    with _one_thread():
        recipes.report(
            run.module,
            run.posterior,
            run.data,
            out=folder,
            prior=run.prior,
            run_dir=folder / "sgld",
            title="From typeset glyphs to handwritten digits",
            subtitle=f"SGLD with the learned prior, {options['num_data']} labeled images",
            ood={"typeset letters": _letters()},
            corruptions=CORRUPTIONS,
            runs=runs,
            method=METHODS["sgld"].title,
            baseline=METHODS[REFERENCE].title,
            configuration=run.options,
            progress=False,
            device="cpu",
        )


def _letters() -> DataBundle:
    """Test images of letters, which are foreign to a network that knows ten digits."""
    return select_classes(glyphs(), list(string.ascii_letters))


def _show(
    folder: Path, options: Mapping[str, Any], table: list[dict[str, Any]], said: list[str]
) -> None:
    from rich.console import Console
    from rich.table import Table

    grid = Table(
        title=f"{options['num_data']} labeled handwritten digits, mean ± standard error over "
        f"{options['seeds']} seed{'s' * (options['seeds'] > 1)}",
        box=None,
        title_justify="left",
    )
    grid.add_column("method")
    for name in ("accuracy", "NLL", "ECE", "seconds a fit"):
        grid.add_column(name, justify="right")
    for row in table:
        cells = [_cell(row["accuracy"], row["accuracy_se"], 100, 1)]
        cells += [_cell(row[c], row[f"{c}_se"], 1, 3) for c in ("nll", "ece")]
        grid.add_row(row["method"], *cells, f"{row['seconds']:.1f}")
    console = Console(highlight=False)
    console.print(grid)
    for sentence in said:
        console.print(f"* {sentence}")
    console.print(f"The report, with figures: {folder / 'report.html'}")


def _cell(mean: float, error: float | None, factor: float, digits_: int) -> str:
    text = f"{factor * mean:.{digits_}f}"
    return text if error is None else f"{text} ± {factor * error:.{digits_}f}"
