"""Transfer on real data: what the source, the prior and the averaging each bring.

    python benchmarks/real_transfer.py [--task fashion flowers cifar] [--out FOLDER] [--quick]

Every method gets equally many configurations over the same range of prior widths. They are
selected by the NLL on validation images, then refitted with fresh training images and scored on
the test images. Results are kept in ``--out``: a second run continues where the first stopped.
"""

import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import _bench
import numpy as np
from _transfer import FILES, METHODS, TASKS, Config, Task
from scipy.stats import t as student

from bayesprior.weights.gaussian import GaussianWeights

FIRST_TEST_SEED = 100
REFERENCE = "fine-tuning"
SHOWN = ("accuracy", "nll", "ece")


class Record:
    """Finished fits, one JSON line each, keyed by what was fitted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, dict[str, float]] = {}
        if path.exists():
            for line in path.read_text().splitlines():
                row = json.loads(line)
                self.rows[row["key"]] = row["metrics"]

    def get(
        self,
        task: Task,
        method: str,
        config: Config,
        source: GaussianWeights,
        seed: int,
        split: str,
    ) -> dict[str, float]:
        """Return the scores of a fit, fitted now unless they are known."""
        setting = dataclasses.replace(task.setting, selection_seeds=0, test_seeds=0)
        key = json.dumps([method, config, seed, split, repr(setting)])
        if key not in self.rows:
            metrics = task.score(method, config, source, seed, split)
            self.rows[key] = metrics
            with self.path.open("a") as file:
                file.write(json.dumps({"key": key, "metrics": metrics}) + "\n")
        return self.rows[key]


def compare(task: Task, out: Path) -> dict[str, dict[str, object]]:
    """Select and test every method of a task."""
    out.mkdir(parents=True, exist_ok=True)
    s = task.setting
    made = f"{s.size}-{s.source_steps}-{s.num_snapshots}x{s.collect_every}"
    source_file = out / f"{task.name}-source-{made}.safetensors"
    if source_file.exists():
        source = GaussianWeights.load(source_file)
    else:
        _say(f"{task.name}: fitting the source")
        source = task.make_source()
        source.save(source_file)
    record = Record(out / f"{task.name}.jsonl")
    results: dict[str, dict[str, object]] = {}
    begin = time.perf_counter()
    for method in METHODS:
        grid = task.grid(method)
        losses = []
        for config in grid:
            seeds = range(task.setting.selection_seeds)
            scores = [record.get(task, method, config, source, s, "validation") for s in seeds]
            losses.append(float(np.mean([s["nll"] for s in scores])))
        best = grid[int(np.argmin(losses))]
        seeds = range(FIRST_TEST_SEED, FIRST_TEST_SEED + task.setting.test_seeds)
        tests = [record.get(task, method, best, source, seed, "test") for seed in seeds]
        results[method] = {
            "config": best,
            "validation_nll": losses,
            **{name: [row[name] for row in tests] for name in SHOWN},
        }
        nll = np.mean(results[method]["nll"])  # type: ignore[arg-type]
        _say(
            f"{task.name}: {method} {best} test NLL {nll:.3f}, {time.perf_counter() - begin:.0f} s"
        )
    summary = {"task": task.text, "setting": repr(task.setting), "machine": _bench.machine()}
    summary |= {"source": source.provenance, "results": results}
    (out / f"{task.name}.json").write_text(json.dumps(summary, indent=1))
    return results


def paired(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Return mean difference, its standard error and the half width of the 95 % t interval."""
    difference = np.asarray(ours) - np.asarray(theirs)
    error = float(difference.std(ddof=1) / np.sqrt(len(difference)))
    return float(difference.mean()), error, error * float(student.ppf(0.975, len(difference) - 1))


def verdict(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Call a difference in NLL by its name."""
    mean, _, half = paired(ours, theirs)
    if abs(mean) <= half:
        return "tie"
    return "better" if mean < 0 else "worse"


def report(task: Task, results: dict[str, dict[str, object]]) -> str:
    """Return the task's section."""
    rows = []
    for method, found in results.items():
        cells = [_mean_and_error(found[name]) for name in SHOWN]  # type: ignore[arg-type]
        if method == REFERENCE:
            against = ["", ""]
        else:
            pair = (found["nll"], results[REFERENCE]["nll"])
            mean, error, _ = paired(*pair)  # type: ignore[arg-type]
            against = [f"{mean:+.3f} ± {error:.3f}", verdict(*pair)]  # type: ignore[arg-type]
        chosen = ", ".join(f"{k} {v:g}" for k, v in found["config"].items())  # type: ignore[attr-defined]
        rows.append([method, *cells, *against, chosen])
    s = task.setting
    header = [
        "method",
        "accuracy",
        "NLL",
        "ECE",
        f"NLL - {REFERENCE}",
        "",
        "selected",
    ]
    notes = (
        f"Selected by validation NLL ({s.num_validation} images, {s.selection_seeds} seed(s), "
        f"{len(task.grid(REFERENCE))} configurations for each method: lr {s.lrs} or, for SGLD, "
        f"backbone temperature {s.temperatures}; rms_std {s.rms_stds}). Then {s.test_seeds} fresh "
        f"seeds (training images and heads {FIRST_TEST_SEED}...), one source, {s.num_test} test "
        f"images; ± is the standard error over seeds. {s.num_steps} steps (SWAG and SGLD go on "
        f"after them), batch {s.batch_size}; SGLD's head temperature {s.head_temperature}. A tie: "
        "the paired 95 % t interval holds 0."
    )
    return f"### {task.name}\n\n{task.text}\n\n{_bench.table(header, rows)}\n\n{notes}\n"


def _mean_and_error(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1) / np.sqrt(len(values)):.3f}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def find_data(folder: str | None, tasks: Sequence[str]) -> Path:
    """Return the data folder; exit with a clear line if a file is missing."""
    default = Path(__file__).parents[2] / "shared" / "data"
    data_dir = Path(folder or os.environ.get("BAYESPRIOR_DATA", default))
    for name in [file for task in tasks for file in FILES[task]]:
        if not (data_dir / name).is_file():
            raise SystemExit(
                f"error: no file {name} in {data_dir}; name the data folder with --data-dir or "
                "the environment variable BAYESPRIOR_DATA"
            )
    return data_dir


def main(argv: Sequence[str] | None = None) -> None:
    options = _bench.parser(__doc__)
    options.add_argument("--task", nargs="+", choices=TASKS, default=list(TASKS))
    options.add_argument("--data-dir", help="folder of the .npz files and checkpoints")
    options.add_argument("--out", type=Path, help="folder of finished pieces")
    arguments = options.parse_args(argv)
    data_dir = find_data(arguments.data_dir, arguments.task)
    out = arguments.out or Path("build") / ("transfer-quick" if arguments.quick else "transfer")
    _bench.start(arguments, "Transfer on real data")
    for name in arguments.task:
        task = TASKS[name](data_dir, quick=arguments.quick)
        print(report(task, compare(task, out)), flush=True)


if __name__ == "__main__":
    main()
