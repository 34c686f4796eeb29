"""``predict``, ``report``, ``compare``, ``study``: from fits to predictions, figures and words."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bayesprior import recipes
from bayesprior.cli.commands import Compare, Predict, Report, Study
from bayesprior.cli.console import print_pairs, print_table, printable, say, written_out
from bayesprior.data import DataBundle
from bayesprior.diagnostics.compare import comparison_table, paired_differences
from bayesprior.errors import ConfigError, DataError
from bayesprior.prediction.metrics import METRICS
from bayesprior.recipes.fields import values_of
from bayesprior.recipes.named import as_test_of, foreign_set
from bayesprior.recipes.new_data import NewPredictions, check_out, listed, predict_new
from bayesprior.recipes.new_masks import TABLE, predict_masks
from bayesprior.recipes.options import AverageOptions, NewDataOptions
from bayesprior.recipes.predicting import compare_runs, load_prediction, predict_run
from bayesprior.recipes.reporting import rebuild
from bayesprior.recipes.runs import read_results, versions, write_json
from bayesprior.recipes.saved import FitRun, load_run
from bayesprior.recipes.study_options import StudyOptions
from bayesprior.recipes.studying import Comparison
from bayesprior.storage import REPORT_PAGE, RESULTS

__all__ = ["compare", "predict", "report", "show_comparison", "study"]


def predict(options: Predict) -> None:
    """Predict a split and print its metrics, or new data and write the rows."""
    if options.new:
        _predict_new(options)
        return
    if options.out is not None:
        raise ConfigError(
            "--out is for the predictions of NEW; name pictures, a table or an .npz file"
        )
    stage = predict_run(options.run, options.split, options)
    print_pairs(read_results(options.run)[stage])
    print(f"written to {printable(Path(options.run) / RESULTS)}")


def _predict_new(options: Predict) -> None:
    fit = load_run(options.run, trust=options.trust)
    if fit.data.has_masks:
        _predict_masks(options, fit)
        return
    if options.out is not None:
        check_out(options.out)
    found = predict_new(fit, options.new, **values_of(NewDataOptions, options))
    tell: Callable[[str], None] = say  # the rows have the standard output to themselves
    where = ""
    if options.out is None:
        print(written_out(found.csv()), end="")
    else:
        found.write(options.out)
        tell, where = print, f"; the rows are in {printable(options.out)}"
    if isinstance(found, NewPredictions):
        tell(_of_threshold(found, options.risk))
    if bad := found.unreadable:
        raise DataError(
            f"{len(bad)} of the files could not be read: {listed(bad)}. The other "
            f"{len(found.files)} inputs are predicted{where}"
        )
    tell(f"{len(found.files)} inputs predicted{where}")


def _predict_masks(options: Predict, fit: FitRun) -> None:
    if options.out is None:
        raise ConfigError("--out is missing: name a folder for the masks, one each")
    found = predict_masks(fit, options.new, out=options.out, **values_of(NewDataOptions, options))
    where = f"masks and entropies are in {printable(found.folder)}, a row each in {TABLE}"
    if bad := found.unreadable:
        raise DataError(
            f"{len(bad)} of the files could not be read: {listed(bad)}. The other "
            f"{len(found.rows)} are predicted; {where}"
        )
    print(f"{len(found.rows)} pictures predicted; {where}")


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
    folder = Path(options.runs[0] if options.out is None else options.out)
    if options.rebuild:
        print(printable(rebuild(folder)))
        return
    fit = load_run(options.runs[0], trust=options.trust)
    left_out: dict[str, str] = {}
    shifted = _sets(options.shift, fit.data, left_out, labeled=True)
    ood = _sets(options.ood, fit.data, left_out, labeled=False)
    test = load_prediction(options.runs[0], options, fit=fit)
    is_alone = len(options.runs) == 1 and options.baseline is None
    found = None if is_alone else compare_runs(options.runs, options.baseline, options)
    of_average = values_of(AverageOptions, options)
    of_average.pop("trust")
    tree = recipes.report(
        fit.module,
        fit.posterior,
        fit.data,
        out=folder,
        prior=fit.prior,
        likelihood=fit.likelihood,
        forward=fit.forward,
        test=test,
        run_dir=fit.folder,
        title=f"{fit.method.upper()} on {fit.data.name}",
        subtitle=f"{fit.data.num_data} training examples, {type(fit.module).__name__}",
        temperature=fit.options.get("temperature", 1.0),
        shifted=shifted,
        ood=ood,
        left_out=left_out,
        corruptions=(1, 3, 5) if options.corruptions else (),
        runs=found.results if found else (),
        method=found.method if found else None,
        baseline=found.baseline if found else None,
        only_prior=found is not None and found.only_prior,
        configuration=fit.options,
        mode=options.mode,
        **of_average,
    )
    for name, reason in json.loads(tree.attrs["missing"]).items():
        if name.startswith("set "):
            say(f"{name} is left out: {reason}")
    print(printable(folder / REPORT_PAGE))


def _sets(
    given: Mapping[str, str], task: DataBundle, left_out: dict[str, str], *, labeled: bool
) -> dict[str, DataBundle]:
    """Read further test sets; one that is there but does not fit the task is left out."""
    sets = {}
    for name, source in given.items():
        found = foreign_set(source, task)
        try:
            sets[name] = as_test_of(task, *found, labeled=labeled)
        except DataError as error:
            left_out[name] = str(error)
    return sets


def compare(options: Compare) -> None:
    """Print fits side by side, and the paired differences to the baseline."""
    if options.out is not None and Path(options.out).exists():
        raise ConfigError(f"--out {options.out} exists; choose another; nothing was overwritten")
    if len(options.runs) < 2 and options.baseline is None:
        raise ConfigError("compare needs at least two runs")
    found = compare_runs(options.runs, options.baseline, options)
    table = comparison_table(found.results)
    differences = [
        {"method": d.method, "metric": d.metric, "over": d.over, "verdict": d.verdict}
        | {k: float(v) for k, v in d.interval._asdict().items()}
        for d in (paired_differences(found.results, found.baseline) if found.baseline else ())
    ]
    columns = [key for key in table[0] if not key.endswith("_se")]
    print_table(columns, ([row["method"], *_cells(row, columns[1:])] for row in table))
    for method in dict.fromkeys(d["method"] for d in differences):
        mine = [d for d in differences if d["method"] == method]
        parts = [
            f"{d['metric']} {d['estimate']:+.4f} [{d['low']:+.4f}, {d['high']:+.4f}] {d['verdict']}"
            for d in mine
        ]
        over = f"{method} minus {found.baseline}, 95 % over {mine[0]['over']}"
        print(printable(f"* {over}: {'; '.join(parts)}"))
    if options.out is not None:
        said = {"versions": versions(), "runs": list(options.runs), "baseline": found.baseline}
        write_json(options.out, {**said, "table": table, "differences": differences})


def _cells(row: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    cells = []
    for column in columns:
        value, error = row[column], row.get(f"{column}_se")
        text = "" if value is None else f"{value:.4g}"
        cells.append(text if error is None else f"{text} ± {error:.2g}")
    return cells


_COMPARED = ("accuracy", "nll", "ece")


def study(options: Study) -> None:
    """Run a study and print what it found."""
    found = recipes.study(**values_of(StudyOptions, options))
    for comparison in found.comparisons:
        show_comparison(comparison)
    print(f"The page, with figures: {printable(found.folder / REPORT_PAGE)}")


def show_comparison(comparison: Comparison) -> None:
    """Print the table of all methods and the sentences under it."""
    header = [
        "method",
        *(METRICS[name].label for name in _COMPARED),
        "gradients",
        "seconds",
        "selected",
    ]
    rows = []
    for row in comparison.rows:
        cells = []
        for name in _COMPARED:
            error, digits = row[f"{name}_se"], METRICS[name].format
            text = format(row[name], digits)
            cells.append(text if error is None else f"{text} ± {error:{digits}}")
        used, seconds = f"{row['evaluations']:,}", f"{row['seconds']:.1f}"
        rows.append([row["method"], *cells, used, seconds, row["selected"]])
    print(
        f"{comparison.num_data:,} training examples, mean ± standard error over the seeds; a fit's "
        "gradient evaluations and seconds"
    )
    print_table(header, rows)
    for sentence in comparison.sentences:
        print(f"* {printable(sentence)}")
