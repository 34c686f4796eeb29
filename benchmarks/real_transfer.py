"""Transfer on real data: what the source, the prior and the averaging each bring.

    python benchmarks/real_transfer.py [--task fashion flowers cifar] [--out FOLDER] [--quick]

One study a task (`bayesprior.study`): every method gets equally many configurations over the same
range of prior widths and the same gradient evaluations, is chosen by the NLL on validation images,
and fitted again with fresh training images. Results are kept in ``--out``: a second run goes on.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import _bench
import torch

from bayesprior.inference.posteriors import PointPosterior
from bayesprior.prediction.metrics import METRICS
from bayesprior.recipes import StudyResult, fit_source, study
from bayesprior.recipes.named import load_data, load_model
from bayesprior.recipes.options import DataOptions, ModelOptions
from bayesprior.weights.gaussian import GaussianWeights

HEAD_STD = 1.0  # prior of every head weight, for every method
MOMENTUM = 0.9
BASELINE = "fine-tuning"
SHOWN = ("accuracy", "nll", "ece")
QUIET: Mapping[str, Any] = {"progress": False, "device": "cpu"}


class Task(NamedTuple):
    """A source and a few-shot target, by the names of data and network."""

    text: str
    model: str
    source: Mapping[str, Any]  # options of the data
    source_fit: Mapping[str, Any]
    target: Mapping[str, Any]
    study: Mapping[str, Any]
    lrs: tuple[float, ...]
    rms_stds: tuple[float, ...]
    checkpoint: str = ""  # whose weights are the source's mean

    @property
    def files(self) -> list[str]:
        """What must lie in the data folder."""
        return [
            str(self.source["data"]),
            str(self.target["data"]),
            *filter(None, [self.checkpoint]),
        ]


TASKS = {
    "fashion": Task(
        "Fashion-MNIST 0-4 -> 5-9 at 16 x 16, 10 images per class (n = 50); SmallConvNet "
        "(GroupNorm). Source: SWAG of the network trained on the images of classes 0-4.",
        "small_conv",
        {
            "data": "fashion_mnist.npz",
            "data_options": {"size": 16, "augment": "crop"},
            "classes": "0,1,2,3,4",
        },
        {"num_steps": 400, "collect_every": 10, "lr": 0.05},
        {
            "data": "fashion_mnist.npz",
            "data_options": {"size": 16},
            "classes": "5,6,7,8,9",
            "num_validation": 400,
        },
        {"num_data": [50], "budget": 200, "batch_size": 50, "seeds": 6, "selection_seeds": 2},
        (0.01, 0.03),
        (0.1, 1.0, 10.0),
    ),
    "flowers": Task(
        "SqueezeNet 1.1, ImageNet checkpoint -> flowers12 at 64 x 64, 5 images per class (n = 60). "
        "Source mean: the ImageNet checkpoint itself. Source covariance: SWAG snapshots while that "
        "network goes on learning CIFAR-100 (upsampled, new head), moved to the checkpoint: a "
        "proxy, ImageNet is not here.",
        "squeezenet1_1",
        {"data": "cifar100.npz", "data_options": {"size": 64, "normalize": "imagenet"}},
        {"num_steps": 60, "collect_every": 4, "lr": 0.005, "batch_size": 64},
        {
            "data": "flowers12.npz",
            "data_options": {"size": 64, "normalize": "imagenet"},
            "num_validation": 180,
        },
        {"num_data": [60], "budget": 100, "batch_size": 20, "seeds": 3, "selection_seeds": 1},
        (0.001, 0.003),
        (0.03, 0.3, 3.0),
        "squeezenet1_1_imagenet.safetensors",
    ),
    "cifar": Task(
        "CIFAR-100 -> CIFAR-10, 20 images per class (n = 200); ResNet-8 (GroupNorm). Source: SWAG "
        "of the network trained on CIFAR-100.",
        "small_resnet",
        {"data": "cifar100.npz", "data_options": {"augment": "crop-flip"}},
        {"num_steps": 1500, "collect_every": 10, "lr": 0.1},
        {"data": "cifar10.npz", "num_validation": 400},
        {"num_data": [200], "budget": 100, "batch_size": 50, "seeds": 4, "selection_seeds": 1},
        (0.01, 0.03),
        (0.1, 1.0),
    ),
}
# Only shows that the script works.
QUICK_STUDY = {"budget": 16, "seeds": 2, "selection_seeds": 1}
QUICK_SOURCE = {"num_steps": 4, "collect_every": 1, "batch_size": 4}


def methods(task: Task, budget: int) -> dict[str, Any]:
    """Return seven methods with the same number of configurations."""
    grid = {"lr": list(task.lrs), "rms_std": list(task.rms_stds)}
    # SGLD has no momentum; of the backbone's temperature as many values as of the rate elsewhere
    temperatures = [0.01, 1.0][: len(task.lrs)]
    snapshots = min(20, budget // 4)
    described: dict[str, dict[str, Any]] = {
        "scratch": {"start": "random", "prior": {"shape": "zero"}},
        BASELINE: {"start": "source", "prior": {"shape": "zero"}},
        "L2-SP": {"prior": {"shape": "isotropic"}},
        "MAP diagonal": {"prior": {"shape": "diagonal"}},
        "MAP low-rank": {},
        "SWAG low-rank": {
            "inference": "swag",
            "num_snapshots": snapshots,
            "rank": snapshots - 1,
            "collect_every": max(budget // 40, 1),
        },
        "SGLD low-rank": {
            "inference": "sgld",
            "chains": 1,
            "num_draws": min(15, budget // 4),
            "thin": max(budget // 30, 1),
            "lr": min(task.lrs) / (1 - MOMENTUM),
            "head_temperature": 0.01,
            "start_spread": 0.0,  # so few steps do not lead back from a draw of a wide prior
            "grid": {"temperature": temperatures, "rms_std": list(task.rms_stds)},
        },
    }
    for method in described.values():
        method["prior"] = {"head_std": HEAD_STD, **method.get("prior", {})}
        method.setdefault("grid", grid)
    return described


def make_source(task: Task, data_dir: Path, out: Path, *, quick: bool = False) -> Path:
    """Fit the source in a run folder; around the checkpoint's own weights if there is one."""
    data = load_data(_options(task.source, data_dir))
    weights = str(data_dir / task.checkpoint) if task.checkpoint else None
    module, head = load_model(ModelOptions(model=task.model), data, seed=0, weights=weights)
    checkpoint = PointPosterior.from_module(module)
    num_snapshots = 4 if quick else 20
    law = fit_source(
        module,
        data,
        head=head,
        out=out / "source",
        num_snapshots=num_snapshots,
        rank=num_snapshots - 1,
        **QUIET,
        **{**task.source_fit, **(QUICK_SOURCE if quick else {})},
    )
    path = out / "around.safetensors"
    if weights is not None:
        means = checkpoint.layout.unflatten(checkpoint.weights)
        loc = torch.cat([means[name].flatten() for name in law.layout.names])
        law = GaussianWeights(
            law.layout, loc, law.cov_diag, law.cov_factor, provenance=law.provenance
        )
    law.save(path)
    return path


def _options(data: Mapping[str, Any], data_dir: Path) -> DataOptions:
    return DataOptions(**{**data, "data": str(data_dir / data["data"])})


def compare(
    task: Task, data_dir: Path, out: Path, *, quick: bool = False, **changes: Any
) -> StudyResult:
    """Run a task's study."""
    if quick:
        task = task._replace(lrs=task.lrs[:1], rms_stds=task.rms_stds[:2])
        changes = QUICK_STUDY | changes
    options = {**task.study, **changes}
    return study(
        **{**task.target, "data": str(data_dir / task.target["data"])},
        model=task.model,
        source=str(make_source(task, data_dir, out, quick=quick)),
        out=str(out / "study"),
        methods=methods(task, options["budget"]),
        baseline=BASELINE,
        device="cpu",
        progress=False,
        **options,
    )


def section(name: str, task: Task, found: StudyResult) -> str:
    """Return the table of a task and what it says, in Markdown."""
    comparison = found.comparisons[0]
    labels = [METRICS[metric].label for metric in SHOWN]
    header = ["method", *labels, "gradient evaluations", "selected", "NLL against the baseline"]
    verdicts = {d.method: d for d in comparison.differences if d.metric == "nll"}
    rows = []
    for row in comparison.rows:
        told = [
            str(row["evaluations"]),
            row["selected"],
            _bench.difference(verdicts.get(row["method"])),
        ]
        rows.append([row["method"], *_bench.means(row, SHOWN), *told])
    said = "\n".join(f"* {sentence}" for sentence in comparison.sentences)
    return f"### {name}\n\n{task.text}\n\n{_bench.table(header, rows)}\n\n{said}\n"


def main(argv: Sequence[str] | None = None) -> None:
    options = _bench.parser(__doc__)
    options.add_argument("--task", nargs="+", choices=TASKS, default=list(TASKS))
    options.add_argument("--data-dir", help="folder of the .npz files and checkpoints")
    options.add_argument("--out", type=Path, help="folder of the studies")
    options.add_argument("--jobs", type=int, default=1, help="fits at a time")
    arguments = options.parse_args(argv)
    files = [file for task in arguments.task for file in TASKS[task].files]
    data_dir = _bench.data_folder(arguments.data_dir, files)
    out = arguments.out or Path("build") / ("transfer-quick" if arguments.quick else "transfer")
    _bench.start(arguments, "Transfer on real data")
    for name in arguments.task:
        task, quick = TASKS[name], arguments.quick
        found = compare(task, data_dir, out / name, quick=quick, jobs=arguments.jobs)
        print(section(name, task, found), flush=True)


if __name__ == "__main__":
    main()
