"""``predict``, ``report`` and ``compare``: from fits to predictions, figures and words."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bayesprior import recipes
from bayesprior.cli.commands import Compare, Predict, Report, values_of
from bayesprior.cli.console import print_pairs, print_table, printable, say
from bayesprior.diagnostics.compare import comparison_table, paired_differences, pick_baseline
from bayesprior.errors import ConfigError, DataError
from bayesprior.recipes.named import foreign_set
from bayesprior.recipes.new_data import NewPredictions, check_out, predict_new
from bayesprior.recipes.options import AverageOptions
from bayesprior.recipes.predicting import load_results, predict_run
from bayesprior.recipes.runs import read_results, versions, write_json
from bayesprior.recipes.saved import load_run
from bayesprior.storage import REPORT_PAGE, RESULTS

__all__ = ["compare", "predict", "report"]


def predict(options: Predict) -> None:
    """Predict a split and print its metrics, or new data and write the rows."""
    average = values_of(AverageOptions, options)
    if options.new:
        _predict_new(options, average)
        return
    if options.out is not None:
        raise ConfigError("--out is for the predictions of NEW; name pictures or an .npz file")
    stage = predict_run(options.run, options.split, **average)
    print_pairs(read_results(options.run)[stage])
    print(f"written to {printable(Path(options.run) / RESULTS)}")


def _predict_new(options: Predict, average: Mapping[str, Any]) -> None:
    if options.out is not None:
        check_out(options.out)
    found = predict_new(options.run, options.new, risk=options.risk, **average)
    tell: Callable[[str], None] = say  # the rows have the standard output to themselves
    where = ""
    if options.out is None:
        print(found.csv(), end="")
    else:
        found.write(options.out)
        tell, where = print, f"; the rows are in {printable(options.out)}"
    tell(_of_threshold(found, options.risk))
    if found.unreadable:
        told = [f"{file}: {reason}" for file, reason in found.unreadable.items()]
        more = f"; and {len(told) - 5} more" if len(told) > 5 else ""
        raise DataError(
            f"{len(told)} of the files could not be read: {'; '.join(told[:5])}{more}. The other "
            f"{len(found.files)} inputs are predicted{where}"
        )
    tell(f"{len(found.files)} inputs predicted{where}")


def _of_threshold(found: NewPredictions, risk: float) -> str:
    known = found.threshold
    if known is None:
        return (
            "the run has no validation data, so nothing is abstained from and the column is empty; "
            "fit with --num_validation to have a threshold"
        )
    if not known.num_kept:
        return (
            f"abstains from everything: no threshold keeps the errors on the {known.num_data} "
            f"validation examples to {risk:.3g}; raise --risk"
        )
    return (
        f"abstains where the largest probability is below {known.confidence:.3g}: of the "
        f"{known.num_data} validation examples that leaves {known.num_kept}, {known.num_errors} of "
        "them wrong"
    )


def report(options: Report) -> None:
    """Write a report and print where its page is."""
    average = values_of(AverageOptions, options)
    runs = _with_reference(options.runs, options.reference, 1)
    first = load_run(runs[0], trust=options.trust)
    sets = {
        name: {key: foreign_set(file, first.data, labeled=name == "shift") for key, file in given}
        for name, given in (("shift", options.shift.items()), ("ood", options.ood.items()))
    }
    results = load_results(runs, **average) if len(runs) > 1 else []
    folder = Path(runs[0] if options.out is None else options.out)
    recipes.report(
        first.module,
        first.posterior,
        first.data,
        out=folder,
        prior=first.prior,
        run_dir=runs[0],
        title=f"{first.method.upper()} on {first.data.name}",
        subtitle=f"{first.data.num_data} training examples, {type(first.module).__name__}",
        temperature=first.options.get("temperature", 1.0),
        shifted=sets["shift"],
        ood=sets["ood"],
        corruptions=(1, 3, 5) if options.corruptions else (),
        runs=results,
        method=results[0].name if results else None,
        baseline=results[1].name if len(results) > 1 else None,
        configuration=first.options,
        mode=options.mode,
        num_draws=options.num_draws,
        batch_size=options.batch_size,
        seed=options.seed,
        device=options.device,
        progress=options.progress,
    )
    print(folder / REPORT_PAGE)


def compare(options: Compare) -> None:
    """Print fits side by side, and the paired differences to the baseline."""
    runs = _with_reference(options.runs, options.reference, 1)
    if len(runs) < 2:
        raise ConfigError("compare needs at least two runs")
    if options.out is not None and Path(options.out).exists():
        raise ConfigError(f"--out {options.out} exists; choose another; nothing was overwritten")
    results = load_results(runs, **values_of(AverageOptions, options))
    table = comparison_table(results)
    _, baseline = pick_baseline([result.name for result in results])
    differences = [
        {"method": d.method, "metric": d.metric, "over": d.over, "verdict": d.verdict}
        | {k: float(v) for k, v in d.interval._asdict().items()}
        for d in (paired_differences(results, baseline) if baseline else ())
    ]
    columns = [key for key in table[0] if not key.endswith("_se")]
    print_table(columns, ([row["method"], *_cells(row, columns[1:])] for row in table))
    for line in _lines(differences, baseline or ""):
        print(f"* {printable(line)}")
    if options.out is not None:
        found = {"versions": versions(), "runs": list(runs)}
        write_json(options.out, {**found, "table": table, "differences": differences})


def _with_reference(runs: Sequence[str], reference: str | None, place: int) -> list[str]:
    """Return the runs with the reference at the place where it is looked for."""
    if reference is None:
        return list(runs)
    others = [run for run in runs if Path(run).resolve() != Path(reference).resolve()]
    if not others:
        raise ConfigError("--reference is the only run; name another to hold against it")
    return [*others[:place], reference, *others[place:]]


def _cells(row: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    cells = []
    for column in columns:
        value, error = row[column], row.get(f"{column}_se")
        text = "" if value is None else f"{value:.4g}"
        cells.append(text if error is None else f"{text} ± {error:.2g}")
    return cells


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
