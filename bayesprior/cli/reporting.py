"""``report`` and ``compare``: from fits to figures and words."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bayesprior.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from bayesprior.diagnostics.compare import MethodResult

__all__ = ["compare_command", "load_results", "report_command"]


def report_command(
    runs: list[str],
    *,
    out: str | None = None,
    shift: dict[str, str] | None = None,
    ood: dict[str, str] | None = None,
    corruptions: bool = False,
    num_draws: int | None = None,
    batch_size: int = 256,
    mode: Literal["full", "summary"] = "full",
    seed: int = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    progress: bool = True,
) -> None:
    """Report on a fit, set beside other fits: report.html, .md, .json and report.nc for ArviZ.

    The page is about the first run. The others are set beside it on the same test points; the
    second is the one it is held against. Runs that differ in their seeds only are one method.

    Parameters
    ----------
    runs
        Folders that fit wrote.
    out
        Folder of the report; the first run's by default.
    shift
        Further test sets with the same classes, as NAME=FILE: an .npz file or a data set's name.
    ood
        Foreign sets, likewise; their labels are not used.
    corruptions
        Also corrupt the test images: noise, blur, contrast and more, at severities 1, 3 and 5.
    num_draws
        Draws averaged; all that are stored, or 30 of a SWAG posterior, by default.
    batch_size
        Examples at a time.
    mode
        summary keeps moments instead of sampled labels, for large sets.
    seed
        Of what is drawn.
    device
        Where to compute; auto takes a GPU if there is one.
    progress
        Show progress bars.
    """
    from bayesprior import recipes
    from bayesprior.cli.loading import foreign_set, load_run

    first = load_run(runs[0])
    sets = {
        kind: {name: foreign_set(file, first.data, labeled=kind == "shift") for name, file in named}
        for kind, named in (("shift", (shift or {}).items()), ("ood", (ood or {}).items()))
    }
    predicting: dict[str, Any] = {
        "num_draws": num_draws,
        "batch_size": batch_size,
        "seed": seed,
        "device": device,
        "progress": progress,
    }
    results = load_results(runs, **predicting) if len(runs) > 1 else []
    folder = Path(runs[0] if out is None else out)
    recipes.report(
        first.module,
        first.posterior,
        first.data,
        out=folder,
        prior=first.prior,
        run_dir=runs[0],
        title=f"{first.options['method'].upper()} on {first.data.name}",
        subtitle=f"{first.data.num_data} training examples, {first.options['model']}",
        temperature=first.options.get("temperature", 1.0),
        shifted=sets["shift"],
        ood=sets["ood"],
        corruptions=(1, 3, 5) if corruptions else (),
        runs=results,
        method=results[0].name if results else None,
        only_prior=_only_prior(runs),
        configuration=first.options,
        mode=mode,
        **predicting,
    )
    print(folder / "report.html")


def compare_command(
    runs: list[str],
    *,
    out: str | None = None,
    num_draws: int | None = None,
    seed: int = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    progress: bool = True,
) -> None:
    """Set fits side by side: one table, and paired differences to the second.

    Runs that differ in their seeds only are one method with several seeds. Runs are predicted on
    their test split first where that is not done.

    Parameters
    ----------
    runs
        Folders that fit wrote, of the same test split; the second is the baseline.
    out
        Also write the numbers to this .json file.
    num_draws
        Draws averaged, where a run is not predicted yet.
    seed
        Of the draws from a SWAG posterior.
    device
        Where to compute; auto takes a GPU if there is one.
    progress
        Show progress bars.
    """
    from rich.console import Console

    from bayesprior.diagnostics.compare import (
        comparison_table,
        paired_differences,
        pick_baseline,
    )
    from bayesprior.recipes.runs import versions, write_json

    if len(runs) < 2:
        raise ConfigError("compare needs at least two runs")
    if out is not None and Path(out).exists():
        raise ConfigError(f"{out} exists; choose another --out; nothing was overwritten")
    results = load_results(runs, num_draws=num_draws, seed=seed, device=device, progress=progress)
    table = comparison_table(results)
    _, baseline = pick_baseline([result.name for result in results])
    differences = [
        {"method": d.method, "metric": d.metric, "over": d.over, "verdict": d.verdict}
        | {k: float(v) for k, v in d.interval._asdict().items()}
        for d in (paired_differences(results, baseline) if baseline else ())
    ]
    console = Console(highlight=False)
    console.print(_table(table))
    for line in _lines(differences, baseline or ""):
        console.print(f"* {line}")
    if out is not None:
        write_json(
            out, {"versions": versions(), "runs": runs, "table": table, "differences": differences}
        )


def load_results(runs: Sequence[str], **options: Any) -> "list[MethodResult]":
    """Return fits as rows of a comparison, predicted where that is not done.

    Parameters
    ----------
    runs
        Folders of fits. Those that differ in their seeds only are one row of several seeds.
    **options
        Of `bayesprior.cli.predicting.run_predict`.
    """
    import json
    from collections import Counter

    from bayesprior.cli.predicting import run_predict
    from bayesprior.diagnostics.compare import MethodResult
    from bayesprior.diagnostics.predictions import Outcome
    from bayesprior.recipes.runs import read_config, read_results
    from bayesprior.tree.files import load_tree

    groups: dict[str, list[tuple[Any, Path, Outcome]]] = {}
    configured = [dict(read_config(run, "fit").options) for run in runs]
    for run, fit in zip(runs, configured, strict=True):
        tree = load_tree(run_predict(run, **options))
        seeds = (fit.pop("data_seed"), fit.pop("seed"))
        key = json.dumps({k: v for k, v in fit.items() if k not in ("out", "device", "progress")})
        outcome = Outcome.from_group(tree, "predictions")
        groups.setdefault(key, []).append((seeds, Path(run), outcome))
    results = []
    for members in groups.values():
        members.sort(key=lambda member: member[0])
        seconds = [read_results(run)["fit"]["seconds"] for _, run, _ in members]
        seeds = [seed for (_, seed), *_ in members]
        if len(set(seeds)) < len(seeds):  # other training images with the same seed
            seeds = []
        more = f" and {len(members) - 1} more" if len(members) > 1 else ""
        name = members[0][1].resolve().name + more
        outcomes = [outcome for *_, outcome in members]
        results.append(MethodResult(name, outcomes, seeds, sum(seconds) / len(seconds)))
    if twice := [n for n, k in Counter(r.name for r in results).items() if k > 1]:
        raise ConfigError(f"two of the runs are in folders named {twice[0]!r}; rename one")
    return results


def _table(rows: Sequence[Mapping[str, Any]]) -> "Table":
    from rich.table import Table

    table = Table(box=None)
    table.add_column("method")
    columns = [key for key in rows[0] if key != "method" and not key.endswith("_se")]
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        cells = []
        for column in columns:
            value, error = row[column], row.get(f"{column}_se")
            text = "" if value is None else f"{value:.4g}"
            cells.append(text if error is None else f"{text} ± {error:.2g}")
        table.add_row(row["method"], *cells)
    return table


def _lines(differences: Sequence[Mapping[str, Any]], baseline: str) -> list[str]:
    """One sentence a method."""
    lines = []
    for method in dict.fromkeys(d["method"] for d in differences):
        mine = [d for d in differences if d["method"] == method]
        parts = [
            f"{d['metric']} {d['estimate']:+.4f} [{d['low']:+.4f}, {d['high']:+.4f}] {d['verdict']}"
            for d in mine
        ]
        lines.append(f"{method} minus {baseline}, 95 % over {mine[0]['over']}: {'; '.join(parts)}")
    return lines


def _only_prior(runs: Sequence[str]) -> bool:
    """Whether the first two fits differ in nothing but the prior."""
    from bayesprior.diagnostics.compare import only_prior_differs
    from bayesprior.recipes.runs import read_config

    if len(runs) < 2:
        return False
    return only_prior_differs(*(read_config(run, "fit").options for run in runs[:2]))
