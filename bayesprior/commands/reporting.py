"""``predict``, ``report`` and ``compare``: from fits to numbers, figures and words."""

from typing import Any, Literal

from bayesprior.commands.choices import DataChoice, ModelChoice, flat, grouped

__all__ = ["compare", "predict", "report"]


def predict(
    run: str,
    *,
    split: Literal["test", "validation", "train"] = "test",
    num_draws: int | None = None,
    batch_size: int = 256,
    batch_norm: Literal["stored", "reestimate"] = "stored",
    seed: int = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    progress: bool = True,
) -> None:
    """Predict a split with a fit's model average: accuracy, NLL, Brier, ECE.

    Writes predictive-<split>.nc (an ArviZ DataTree) and the metrics into results.json.

    Parameters
    ----------
    run
        Folder that fit wrote.
    split
        Which examples.
    num_draws
        Draws averaged; all that are stored, or 30 of a SWAG posterior, by default.
    batch_size
        Examples at a time.
    batch_norm
        BatchNorm statistics: those stored with each draw, or averages over the training split.
    seed
        Of the draws from a SWAG posterior.
    device
        Where to compute; auto takes a GPU if there is one.
    progress
        Show a progress bar.
    """
    options = flat(locals())
    from pathlib import Path

    from bayesprior import prediction
    from bayesprior.commands.inspection import show_results
    from bayesprior.commands.loading import load_data, load_model, load_posterior
    from bayesprior.diagnostics.tree import to_datatree
    from bayesprior.diagnostics.tree_files import save_tree
    from bayesprior.errors import ConfigError
    from bayesprior.likelihoods import Categorical
    from bayesprior.recipes import pick_device
    from bayesprior.runs import add_results, read_config, read_results

    config = read_config(run, "fit")
    stage = f"predict-{split}"
    path = Path(run) / f"predictive-{split}.nc"
    asked = {k: options[k] for k in ("num_draws", "batch_norm", "seed")}
    done = read_results(run).get(stage)
    if done is not None and path.exists():
        for key, value in asked.items():
            if done[key] != value:
                raise ConfigError(
                    f"{path} was made with {key} = {done[key]}, not {value}; delete it to make it "
                    "anew; nothing was overwritten"
                )
        show_results(run, stage)
        return
    bundle = load_data(grouped(DataChoice, config.options))
    bundle.split(split)
    choice = grouped(ModelChoice, config.options)
    module, _ = load_model(choice, bundle, seed=config.options["seed"])
    posterior = load_posterior(run, config.options["method"])
    where = pick_device(device)
    again = bundle.loader("train", batch_size) if batch_norm == "reestimate" else None
    found = prediction.predict(
        module.to(where),
        posterior,
        bundle.loader(split, batch_size),
        Categorical(),
        num_draws=num_draws,
        batch_norm=batch_norm,
        bn_loader=again,
        progress=progress,
        seed=seed,
    )
    tree = to_datatree(
        test=found, class_names=bundle.class_names, mode="summary", attrs={"split": split}
    )
    save_tree(tree, path)
    numbers = {"num_points": found.log_likelihood.shape[1], "draws": len(found.draw)}
    add_results(run, stage, {**found.metrics, **numbers, **asked})
    show_results(run, stage)


def report(
    runs: list[str],
    *,
    out: str | None = None,
    shift: list[str] | None = None,
    ood: list[str] | None = None,
    corruptions: bool = False,
    num_draws: int | None = None,
    batch_size: int = 256,
    mode: Literal["full", "summary"] = "full",
    seed: int = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    progress: bool = True,
) -> None:
    """Say whether the prior helped, the sampler worked and the probabilities can be trusted.

    Writes report.nc (an ArviZ DataTree), report.html, report.md and report.json.

    Parameters
    ----------
    runs
        Folders that fit wrote. The first is reported, the others are set beside it; the last one
        is the reference of the comparison.
    out
        Folder to write; the first run's by default.
    shift
        NAME=FILE.npz: images of the task's classes from elsewhere; may be given several times.
    ood
        NAME=FILE.npz: foreign images.
    corruptions
        Corrupt the test images as well: noise, blur, contrast, pixelate, JPEG at severities 1, 3
        and 5.
    num_draws
        Draws averaged; all that are stored, or 30 of a SWAG posterior, by default.
    batch_size
        Examples at a time.
    mode
        summary keeps moments instead of sampled labels, for large sets.
    seed
        Of the draws from a SWAG posterior.
    device
        Where to compute; auto takes a GPU if there is one.
    progress
        Show progress bars.
    """
    from pathlib import Path

    from bayesprior import recipes
    from bayesprior.commands.loading import foreign_set, load_run

    first = load_run(runs[0])
    beside = _results(runs, num_draws, batch_size, seed, device) if len(runs) > 1 else []
    folder = Path(out or runs[0])
    options = first.config.options
    recipes.report(
        first.module,
        first.posterior,
        first.data,
        out=folder,
        prior=first.prior,
        run_dir=runs[0],
        title=f"{options['method'].upper()} on {first.data.name}",
        subtitle=f"{options['model']}, {first.data.num_data} training examples",
        temperature=options.get("temperature") or 1.0,
        shifted=dict(foreign_set(text, first.data, labeled=True) for text in shift or []),
        ood=dict(foreign_set(text, first.data, labeled=False) for text in ood or []),
        corruptions=(1, 3, 5) if corruptions else (),
        runs=beside,
        method=beside[0].name if beside else None,
        baseline=beside[-1].name if beside else None,
        configuration=options,
        num_draws=num_draws,
        batch_size=batch_size,
        seed=seed,
        device=device,
        mode=mode,
        progress=progress,
    )
    print(folder / "report.html")


def compare(
    runs: list[str],
    *,
    out: str | None = None,
    num_draws: int | None = None,
    batch_size: int = 256,
    seed: int = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> None:
    """Set fits side by side on the same test points; a tie is called a tie.

    Prints accuracy, NLL, ECE and more, then each fit's paired difference to the first one with a
    95 % bootstrap interval over the test points.

    Parameters
    ----------
    runs
        Folders that fit wrote, of one task; the first is the reference.
    out
        File for the same numbers as JSON.
    num_draws
        Draws averaged; all that are stored, or 30 of a SWAG posterior, by default.
    batch_size
        Examples at a time.
    seed
        Of the draws from a SWAG posterior.
    device
        Where to compute; auto takes a GPU if there is one.
    """
    import dataclasses

    from rich.console import Console
    from rich.table import Table

    from bayesprior.diagnostics.compare import comparison_table, paired_differences
    from bayesprior.errors import ConfigError
    from bayesprior.runs import write_json

    if len(runs) < 2:
        raise ConfigError("compare needs at least two run folders")
    results = _results(runs, num_draws, batch_size, seed, device)
    rows = comparison_table(results)
    differences = paired_differences(results, results[0].name)
    console = Console(highlight=False)
    columns = [key for key, value in rows[0].items() if value is not None]
    table = Table(*columns, box=None)
    for row in rows:
        cells = (row.get(key) for key in columns)
        table.add_row(*(f"{c:.4g}" if isinstance(c, float) else str(c) for c in cells))
    console.print(table)
    for found in differences:
        low, high = found.interval.low, found.interval.high
        console.print(
            f"{found.method} - {results[0].name}, {found.metric}: "
            f"{found.interval.estimate:+.4f} [{low:+.4f}, {high:+.4f}]: {found.verdict}"
        )
    if out is not None:
        listed = [
            dataclasses.asdict(found) | {"interval": found.interval._asdict()}
            for found in differences
        ]
        write_json(out, {"table": rows, "reference": results[0].name, "differences": listed})


def _results(
    runs: list[str], num_draws: int | None, batch_size: int, seed: int, device: str
) -> list[Any]:
    """Predict the first run's test points with every run; names are the folders' names."""
    from pathlib import Path

    from bayesprior.commands.loading import load_run
    from bayesprior.diagnostics.compare import RunResult
    from bayesprior.diagnostics.outcomes import Outcome
    from bayesprior.errors import ConfigError
    from bayesprior.likelihoods import Categorical
    from bayesprior.prediction import predict as predict_with
    from bayesprior.recipes import pick_device
    from bayesprior.runs import read_results

    names = [Path(run).name for run in runs]
    if len(set(names)) < len(names):
        names = [str(Path(run)) for run in runs]
    if len(set(names)) < len(names):
        raise ConfigError("a run folder is given twice; compare different runs")
    results = []
    for name, run in zip(names, runs, strict=True):
        found = load_run(run)
        prediction = predict_with(
            found.module.to(pick_device(device)),
            found.posterior,
            found.data.loader("test", batch_size),
            Categorical(),
            num_draws=num_draws,
            seed=seed,
        )
        outcome = Outcome.from_prediction("test set", prediction)
        seconds = read_results(run).get("fit", {}).get("seconds")
        results.append(RunResult(name, [outcome], seconds=seconds))
    return results
