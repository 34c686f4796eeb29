"""A source without labels against one with labels: the same images, network and target.

    python benchmarks/self_supervised.py [--out FOLDER] [--quick]

SimCLR and a classification are trained for equally many steps, and a study of each on the same
few labeled images, seeds and validation images follows. All is kept in ``--out``: a second run
goes on.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import _bench

from bayesprior.diagnostics.compare import MethodResult, paired_differences
from bayesprior.recipes import StudyResult, fit_source, study
from bayesprior.recipes.named import load_data, load_model
from bayesprior.recipes.options import DataOptions, ModelOptions

OBJECTIVES = ("supervised", "simclr")
BASELINE = "fine-tuning"
SHOWN = ("accuracy", "nll", "ece")
QUIET: Mapping[str, Any] = {"progress": False, "device": "cpu"}


class Task(NamedTuple):
    """Where sources are trained, and the few-shot target."""

    text: str
    model: str
    source: Mapping[str, Any]  # options of the data
    augment: str | None  # of the classification; SimCLR has views of its own
    source_fit: Mapping[str, Any]
    target: Mapping[str, Any]
    study: Mapping[str, Any]
    grid: Mapping[str, Sequence[float]]


CIFAR = Task(
    "CIFAR-100 (8,000 images) -> CIFAR-10, 20 images per class (n = 200), at 16 x 16; ResNet-8 "
    "(GroupNorm). Sources: SWAG (20 snapshots, rank 19) after SGD on the same images.",
    "small_resnet",
    {"data": "cifar100.npz", "data_options": {"size": 16}},
    "crop-flip",
    {"num_steps": 2400, "lr": 0.1, "num_snapshots": 20, "rank": 19, "checkpoint_every": 100},
    {"data": "cifar10.npz", "data_options": {"size": 16}, "num_validation": 400},
    {"num_data": [200], "budget": 200, "batch_size": 50, "seeds": 6, "selection_seeds": 1},
    {"lr": [0.003, 0.01, 0.03, 0.1], "rms_std": [0.03, 0.1, 1.0, 10.0]},
)
# Only shows that the script works, without any file.
QUICK = Task(
    "Typeset characters -> handwritten digits, a few steps.",
    "small_conv",
    {"data": "glyphs", "num_data": 124},
    None,
    # so few steps teach nothing, and a warning would say so
    {"num_steps": 4, "num_snapshots": 3, "rank": 2, "collect_every": 1, "accuracy": False},
    {"data": "digits"},
    {"num_data": [20], "budget": 8, "batch_size": 10, "seeds": 2, "selection_seeds": 1},
    {"lr": [0.03], "rms_std": [1.0]},
)


def methods(task: Task, objective: str) -> dict[str, Any]:
    """Return methods with equally many configurations, each of which could stop at four steps."""
    described: dict[str, dict[str, Any]] = {
        BASELINE: {"start": "source", "prior": {"shape": "zero"}},
        "isotropic prior": {"prior": {"shape": "isotropic"}},
        "learned prior": {},
    }
    if objective == OBJECTIVES[0]:  # once is enough
        described["from scratch"] = {"start": "random", "prior": {"shape": "zero"}}
    for method in described.values():
        method["prior"] = {"head_std": 1.0, **method.get("prior", {})}
        method |= {"grid": dict(task.grid), "snapshots": 4}
    return described


def options_of(data: Mapping[str, Any], data_dir: Path | None) -> dict[str, Any]:
    """Return options of data with the file's place."""
    return dict(data) if data_dir is None else {**data, "data": str(data_dir / data["data"])}


def make_source(task: Task, objective: str, data_dir: Path | None, out: Path) -> Path:
    """Fit a source in its run folder."""
    options = options_of(task.source, data_dir)
    if objective == "supervised" and task.augment:
        options["data_options"] = {**options["data_options"], "augment": task.augment}
    data = load_data(DataOptions(**options))
    module, head = load_model(ModelOptions(model=task.model), data, seed=0)
    fit = {"head": head, "objective": objective, **task.source_fit, **QUIET}
    fit_source(module, data, out=out / "source", **fit)
    return out / "source"


def compare(task: Task, objective: str, data_dir: Path | None, out: Path) -> StudyResult:
    """Fit the source and run the study of what is made of it."""
    source = make_source(task, objective, data_dir, out)
    return study(
        **options_of(task.target, data_dir),
        model=task.model,
        source=str(source / "source.safetensors"),
        out=str(out / "study"),
        methods=methods(task, objective),
        baseline=BASELINE,
        **task.study,
        **QUIET,
    )


def section(task: Task, found: Mapping[str, StudyResult]) -> str:
    """Return all methods under their source's name, held against two others each."""
    results: dict[str, MethodResult] = {}
    rows: list[list[str]] = []
    for objective, of_source in found.items():
        comparison = of_source.comparisons[0]
        against = {d.method: d for d in comparison.differences if d.metric == "nll"}
        for row, result in zip(comparison.rows, comparison.results, strict=True):
            name = f"{objective}: {row['method']}"
            results[name] = dataclasses.replace(result, name=name)
            twin = f"{OBJECTIVES[0]}: {row['method']}"
            pair = [results[name], results[twin]] if twin != name else []
            twins = paired_differences(pair, twin) if pair else []
            rows.append(
                [
                    name,
                    *_bench.means(row, SHOWN),
                    str(row["selected"]),
                    _bench.difference(against.get(row["method"])),
                    *(_bench.difference(d) for d in twins if d.metric == "nll"),
                    *([] if twins else [""]),
                ]
            )
    header = [
        "source: method",
        *("accuracy", "NLL", "ECE", "selected"),
        f"NLL - {BASELINE} from the same source",
        "NLL - the same method from labels",
    ]
    return f"{task.text}\n\n{_bench.table(header, rows)}\n"


def features(out: Path) -> str:
    """Say what SimCLR's features are worth on the source's own test images."""
    results = json.loads((out / "simclr" / "source" / "results.json").read_text())["fit-source"]
    told = "; ".join(
        f"{name} {found['source']:.3f} against {found['start']:.3f} at the start, "
        f"± {found['std_error']:.3f}"
        for name, found in results["accuracy"].items()
    )
    return f"SimCLR's features on the source's test images: {told}."


def main(argv: Sequence[str] | None = None) -> None:
    options = _bench.parser(__doc__)
    options.add_argument("--data-dir", help="folder of the .npz files")
    options.add_argument("--out", type=Path, help="folder of sources and studies")
    arguments = options.parse_args(argv)
    task = QUICK if arguments.quick else CIFAR
    files = [str(data["data"]) for data in (task.source, task.target)]
    data_dir = None if arguments.quick else _bench.data_folder(arguments.data_dir, files)
    with _bench.folder(arguments, "self-supervised") as out:
        _bench.start(arguments, "A source without labels")
        found = {name: compare(task, name, data_dir, out / name) for name in OBJECTIVES}
        print(section(task, found), flush=True)
        if not arguments.quick:
            print(features(out))


if __name__ == "__main__":
    main()
