"""Methods x seeds x numbers of examples: equal budgets, chosen on validation, told in pairs."""

import os
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from joblib import Parallel, delayed

from bayesprior.data import DataBundle
from bayesprior.diagnostics.compare import (
    Difference,
    MethodResult,
    comparison_table,
    only_prior_differs,
    paired_differences,
)
from bayesprior.errors import BayesPriorError, ConfigError, DivergenceError
from bayesprior.inference.progress import progress_bar
from bayesprior.prediction.metrics import METRICS
from bayesprior.recipes.calls import recipe
from bayesprior.recipes.digests import file_digest
from bayesprior.recipes.named import load_data, load_model
from bayesprior.recipes.options import (
    MadeFrom,
    plain_values,
)
from bayesprior.recipes.predicting import method_result
from bayesprior.recipes.prior import make_prior
from bayesprior.recipes.runs import add_results, open_run, read_results
from bayesprior.recipes.sessions import locked
from bayesprior.recipes.study_cells import (
    DIVERGED,
    FIRST_SELECTION_SEED,
    Cell,
    averaging,
    data_options,
    fit_and_predict,
    model_options,
    prior_folder,
)
from bayesprior.recipes.study_options import StudyOptions
from bayesprior.recipes.study_plan import Method, edges, evaluations, plan, select
from bayesprior.report.document import Column, Item, Picture, Report, Section, Table, Text
from bayesprior.report.plots import learning_curves
from bayesprior.report.sections.comparison import compared
from bayesprior.report.verdicts import Verdict, comparison_verdict
from bayesprior.weights.gaussian import GaussianWeights

__all__ = ["Comparison", "StudyResult", "study"]

_STAGE = "study"


@dataclass(frozen=True)
class Comparison:
    """All methods at one number of training examples.

    Attributes
    ----------
    num_data
        Training examples.
    baseline
        Name of the method that the others are held against.
    results
        Every method's outcomes on the test split, by seed.
    rows
        One a method: means and standard errors, what was chosen, gradient evaluations of a fit.
    differences, verdicts
        Every other method against the baseline, by the one rule of `judge`.
    remarks
        What else a reader must know: choices at the edge of a grid, fits that diverged or were
        lost, unequal tuning.
    folders
        Run folders of each method's final fits.
    """

    num_data: int
    baseline: str
    results: Sequence[MethodResult]
    rows: Sequence[Mapping[str, Any]]
    differences: Sequence[Difference]
    verdicts: Sequence[Verdict]
    remarks: Sequence[str]
    folders: Mapping[str, Sequence[Path]]

    @property
    def sentences(self) -> list[str]:
        """What the comparison says, in the report's words."""
        said = [f"{v.question} {v.headline}. {v.reason}" for v in self.verdicts]
        return [*said, *self.remarks]


@dataclass(frozen=True)
class StudyResult:
    """What a study found: one comparison for each number of examples, and the page of them."""

    folder: Path
    comparisons: Sequence[Comparison]
    report: Report


@recipe(StudyOptions)
def study(call: StudyOptions) -> StudyResult:
    """Compare methods over seeds and numbers of examples, at equal budgets of gradient evaluations.

    Each fit is a run folder of its recipe below ``out/fits``, which `load_run`, ``predict``,
    ``report`` and ``compare`` read. A method's grid, and where a run with snapshots stops, are
    chosen by the mean validation NLL over seeds that the final fits do not use. A sampler's
    backbone takes at most half the largest step that is stable under its prior, so that one grid
    serves all widths; the new weights take the whole. Fits that diverge are results: never chosen
    while tuning, and told in the end. ``joblib.parallel_config(backend="dask")`` around the call
    spreads the fits over a cluster that shares the folder.

    Returns
    -------
    StudyResult
        Also in ``out``: ``results.json``, ``report.html`` and ``report.md``.

    Raises
    ------
    ConfigError
        If a method cannot work or exceeds the budget, before anything is fitted; or ``out`` is
        another run's.
    """
    methods = plan(call)
    source = GaussianWeights.load(call.source)
    amounts: Sequence[int | None] = call.num_data or (None,)
    model = model_options(call)
    task = [load_data(data_options(call, n, call.seed), model) for n in amounts][0]
    if what := _uncompared(task):
        raise ConfigError(
            f"{task.name} has {what}, and a study compares methods on one class an example or "
            "pixel; fit each method, then bayesprior compare"
        )
    if task.validation is None:
        raise ConfigError(f"{task.name} has no validation split to choose by; give num_validation")
    with locked(call.out):
        folder = open_run(
            call.out, "study", plain_values(call), {"source": file_digest(call.source)}
        )
        _make_priors(call, methods, source, task)
        runner = _Runner(call)
        first = call.seed + FIRST_SELECTION_SEED
        trials = [
            Cell(m, c, n, seed, "validation")
            for n in amounts
            for m in methods.values()
            for c in m.configurations
            for seed in range(first, first + call.selection_seeds)
        ]
        runner.run(trials, "choosing")
        finals, tried = _choose(call, trials)
        runner.run(finals, "final fits")
        comparisons = [
            _compare(call, [c for c in finals if c.num_data == n], task, runner.lost)
            for n in amounts
        ]
        result = StudyResult(folder, comparisons, _page(call, comparisons))
        add_results(folder, _STAGE, _numbers(call, comparisons, tried))
        result.report.write(folder)
    return result


def _uncompared(task: DataBundle) -> str:
    """Say what a study does not know to compare, or nothing."""
    if task.num_numbers:
        return "numbers to predict"
    return "several labels an example" if task.has_several_labels else ""


def _make_priors(
    call: StudyOptions, methods: Mapping[str, Method], source: GaussianWeights, task: DataBundle
) -> None:
    module, head = load_model(model_options(call), task, seed=call.seed)
    made_from = MadeFrom(model=model_options(call), source=call.source)
    for configuration in (c for m in methods.values() for c in m.configurations):
        out = prior_folder(call.out, configuration)
        make_prior(source, module, head=head, made_from=made_from, out=out, **configuration.prior)


class _Runner:
    """Runs cells that are not done, in processes of one thread; a dead one costs its own cell."""

    def __init__(self, call: StudyOptions) -> None:
        self.call = call
        self.lost: set[Cell] = set()

    def run(self, cells: Sequence[Cell], description: str) -> None:
        """Run all cells, in whatever order they end."""
        todo = self._open(cells)
        total, start = len(cells), len(cells) - len(todo)
        with progress_bar(description, start=start, total=total, show=self.call.progress) as bar:
            while todo:
                try:
                    for done, _ in enumerate(self._parallel(todo, self.call.jobs), start + 1):
                        bar(done, {})
                except BrokenProcessPool:
                    self._retry(todo)
                todo = self._open(todo)
                start = total - len(todo)
                bar(start, {})

    def _open(self, cells: Sequence[Cell]) -> list[Cell]:
        lost = {cell.folder(self.call.out) for cell in self.lost}
        folders = ((cell, cell.folder(self.call.out)) for cell in cells)
        return [c for c, folder in folders if folder not in lost and not c.is_done(self.call)]

    def _parallel(self, cells: Sequence[Cell], jobs: int | None) -> Iterator[None]:
        pool = Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1)
        found: Iterator[None] = pool(delayed(_run_cell)(self.call, c, os.getpid()) for c in cells)
        return found

    def _retry(self, todo: Sequence[Cell]) -> None:
        """Go on alone with each cell that was at work: the one that kills its worker is lost."""
        left = self._open(todo)
        at_work = [cell for cell in left if cell.folder(self.call.out).is_dir()] or left[:1]
        names = ", ".join(str(cell.folder(self.call.out)) for cell in at_work)
        warnings.warn(f"a worker was killed while these were fitted: {names}", stacklevel=4)
        for cell in at_work:
            try:
                list(self._parallel([cell], 2))
            except BrokenProcessPool:
                self.lost.add(cell)
                where = cell.folder(self.call.out)
                warnings.warn(f"{where} kills its worker and is left out", stacklevel=4)


def _run_cell(call: StudyOptions, cell: Cell, study_process: int) -> None:
    """Fit and predict; one thread, and no longer than the study lives."""
    folder = cell.folder(call.out)
    folder.mkdir(parents=True, exist_ok=True)
    _end_with(study_process)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        fit_and_predict(call, cell, folder)
    except DivergenceError as error:
        add_results(folder, DIVERGED, {"reason": str(error)})
    except BayesPriorError as error:
        raise type(error)(f"{folder}: {error}") from error
    finally:
        torch.set_num_threads(threads)


def _end_with(study_process: int) -> None:
    """Let a worker process not outlive its study: it would hold the cell's folder."""
    if os.getppid() != study_process or any(t.name == __name__ for t in threading.enumerate()):
        return

    def watch() -> None:
        while os.getppid() == study_process:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, name=__name__, daemon=True).start()


def _choose(
    call: StudyOptions, trials: Sequence[Cell]
) -> tuple[list[Cell], dict[str, list[dict[str, Any]]]]:
    """Return the final fits of what validation chooses, and all that was tried."""
    scores: dict[tuple[int | None, str], dict[int, list[Any]]] = {}
    for cell in trials:
        index = cell.method.configurations.index(cell.configuration)
        of_method = scores.setdefault((cell.num_data, cell.method.name), {})
        of_method.setdefault(index, []).append(cell.scores(call.out))
    methods = {cell.method.name: cell.method for cell in trials}
    finals, tried = [], {}
    for (n, name), by_index in scores.items():
        chosen, tried[f"{name}, {n or 'all'} examples"] = select(methods[name], by_index)
        seeds = range(call.seed, call.seed + call.seeds)
        finals += [Cell(methods[name], chosen, n, seed, "test") for seed in seeds]
    return finals, tried


def _compare(
    call: StudyOptions, cells: Sequence[Cell], task: DataBundle, lost: set[Cell]
) -> Comparison:
    """Read one number of examples' final fits and set the methods side by side."""
    first = {cell.method.name: cell for cell in cells if cell.seed == call.seed}
    remarks = [text for c in first.values() for text in edges(c.method, c.configuration)]
    remarks += [
        f"{c.method.name}, {c.configuration.name}, seed {c.seed}: lost, its worker was killed."
        for c in lost
        if c.num_data == cells[0].num_data
    ]
    folders: dict[str, list[Path]] = {name: [] for name in first}
    seeds: dict[str, list[int]] = {name: [] for name in first}
    for cell in (c for c in cells if c not in lost):
        name, folder = cell.method.name, cell.folder(call.out)
        if reason := read_results(folder).get(DIVERGED):
            remarks.append(f"{name}, seed {cell.seed}: diverged ({reason['reason']}).")
        else:
            folders[name].append(folder)
            seeds[name].append(cell.seed)
    tuned = {name: len(cell.method.configurations) for name, cell in first.items()}
    if len(set(tuned.values())) > 1:
        counts = ", ".join(f"{name} {n}" for name, n in tuned.items())
        remarks.append(f"Unequal tuning, in configurations tried: {counts}.")
    options = averaging(call)
    results = [
        method_result(name, folders[name], seeds[name], options) for name in first if folders[name]
    ]
    rows = []
    for row in comparison_table(results):
        method, configuration = (cell := first[row["method"]]).method, cell.configuration
        used = evaluations(method.inference, configuration.options)
        own = {"evaluations": used, "tried": tuned[method.name], "selected": configuration.name}
        rows.append(row | own)
    baseline = call.baseline or next(iter(first))
    differences: list[Difference] = []
    if not folders[baseline]:
        remarks.append(f"Nothing is compared: no fit of the baseline {baseline} is there.")
    elif len(results) > 1:
        differences = paired_differences(results, baseline)
    verdicts = [
        comparison_verdict(
            differences,
            name,
            baseline,
            only_prior=only_prior_differs(first[name].described, first[baseline].described),
        )
        for name in dict.fromkeys(d.method for d in differences)
    ]
    amount = cells[0].num_data or task.num_data
    return Comparison(amount, baseline, results, rows, differences, verdicts, remarks, folders)


def _numbers(
    call: StudyOptions, comparisons: Sequence[Comparison], tried: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "budget": call.budget,
        "batch_size": call.batch_size,
        "seeds": list(range(call.seed, call.seed + call.seeds)),
        "comparisons": [
            {
                "num_data": c.num_data,
                "baseline": c.baseline,
                "table": list(c.rows),
                "differences": [
                    {**vars(d), "interval": d.interval._asdict()} for d in c.differences
                ],
                "said": c.sentences,
            }
            for c in comparisons
        ],
        "tried": tried,
    }


def _page(call: StudyOptions, comparisons: Sequence[Comparison]) -> Report:
    def picture(title: str, caption: str, draw: Any, *args: Any) -> list[Picture]:
        return [Picture(title, caption, draw(*args))]

    sections = []
    if len(comparisons) > 1:
        results = {c.num_data: c.results for c in comparisons}
        caption = "Means over seeds, with standard errors."
        curves = [
            Picture(METRICS[name].label, caption, learning_curves(results, name))
            for name in ("nll", "accuracy")
        ]
        sections.append(Section("More examples", curves))
    columns = [
        Column("method", "method"),
        Column("evaluations", "gradient evaluations of a fit", "d"),
        Column("tried", "configurations tried", "d"),
        Column("selected", "selected"),
    ]
    note = (
        f"At most {call.budget} gradient evaluations of {call.batch_size} examples a fit, for "
        f"every method. Chosen by the mean validation NLL over {call.selection_seeds} more seed(s)."
    )
    for c in comparisons:
        items: list[Item] = [Text(text) for text in c.remarks]
        items.append(Table("Budgets and choices", columns, c.rows, note))
        items += compared(c.results, c.differences, c.baseline, picture)
        sections.append(Section(f"{c.num_data:,} training examples", items))
    verdicts = []
    for c in comparisons:
        at = f" ({c.num_data:,} examples)" if len(comparisons) > 1 else ""
        verdicts += [replace(v, question=v.question + at) for v in c.verdicts]
    title = f"Study of {len(call.methods)} methods on {call.data}"
    subtitle = (
        f"{call.model}, {call.seeds} seed(s), budget {call.budget} gradient evaluations a fit"
    )
    return Report(title, subtitle, verdicts, sections, {"options": plain_values(call)})
