"""`transfer` against what else one would do with few labels and a trained network.

    python benchmarks/transfer.py [--cells NAME ...] [--draws 6] [--out FOLDER] [--quick]

A cell is a source, a target and a number of images a class; a draw is a choice of these images.
Every finished draw is a line of ``results.jsonl`` in ``--out``: a second run goes on, and several
processes share the work. Needs the data folder (``--data-dir``, or ``BAYESPRIOR_DATA``).
"""

import contextlib
import dataclasses
import itertools
import json
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import _bench
import numpy as np
import torch
from filelock import FileLock, Timeout
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from bayesprior.data import DataBundle, digits, few_shot, from_npz, split_validation
from bayesprior.demo.glyphs import glyphs
from bayesprior.diagnostics.calibration import CalibrationBins
from bayesprior.inference.strength.features import head_inputs
from bayesprior.inference.strength.probe import fit_probe
from bayesprior.models import head_prefix
from bayesprior.prediction.predict import predict
from bayesprior.recipes import fit_source, transfer
from bayesprior.recipes.leaderboard import held_out_numbers
from bayesprior.recipes.named import load_model
from bayesprior.recipes.options import ModelOptions
from bayesprior.recipes.saved import Transfer
from bayesprior.recipes.training import initialize_
from bayesprior.tasks.likelihoods import Categorical
from bayesprior.weights.gaussian import GaussianWeights

QUIET: Mapping[str, Any] = {"progress": False, "device": "cpu"}
POOL, TEST = 400, 2000  # images set aside for the grid's choice; test images at most
GRID_RATES = {"small": (0.003, 0.01, 0.03, 0.1), "photographs": (0.001, 0.003, 0.01, 0.03)}
GRID_DECAYS = (1e-4, 1e-2)
GRID_SNAPSHOTS = (40, 100, 200)
GRID_BATCH = {"small": 64, "photographs": 16}
SHOWN = ("nll", "accuracy", "ece")
WHOLE, GRID = "transfer", "grid"
FIRST = (WHOLE, "map", "fine-tuning", "isotropic head", GRID, "probe")


@dataclasses.dataclass(frozen=True)
class Affine:
    """Small rotations, scalings, shears and shifts, and a mirror image where asked for."""

    turn: float = 0.0
    zoom: tuple[float, float] = (0.8, 1.2)
    shear: float = 0.0
    shift: float = 0.15
    flip: bool = False

    def __call__(self, images: Tensor, uniforms: Tensor) -> Tensor:
        """Transform a batch; five numbers of each row are used, six with a mirror image."""
        angle, shear = ((2 * uniforms[:, k] - 1) * s for k, s in enumerate((self.turn, self.shear)))
        low, high = self.zoom
        scale = low + (high - low) * uniforms[:, 2]
        side = torch.where(uniforms[:, 5] < 0.5, -1.0, 1.0) if self.flip else 1.0
        grid = torch.zeros(len(images), 2, 3)
        grid[:, 0, 0], grid[:, 0, 1] = angle.cos() * scale * side, shear - angle.sin() * scale
        grid[:, 1, 0], grid[:, 1, 1] = angle.sin() * scale, angle.cos() * scale
        grid[:, :, 2] = (2 * uniforms[:, 3:5] - 1) * self.shift
        places = F.affine_grid(grid, list(images.shape), align_corners=False)
        moved = F.grid_sample(
            images.float(), places, padding_mode="reflection", align_corners=False
        )
        return moved.round().to(images.dtype) if images.dtype == torch.uint8 else moved


class Source(NamedTuple):
    """Where a cell starts: a source task, or the file of a checkpoint."""

    model: str
    kind: str
    data: Mapping[str, Any]
    fit: Mapping[str, Any] = {}
    checkpoint: str = ""


class Cell(NamedTuple):
    """A source, a target, and images a class."""

    source: str
    target: str
    per_class: int
    options: Mapping[str, Any]


_WRITTEN = Affine(turn=0.25, zoom=(0.8, 1.2), shear=0.2)
_PHOTO = Affine(zoom=(0.75, 1.0), shift=0.1, flip=True)
SOURCES = {
    "omniglot": Source(
        "small_conv",
        "small",
        {"file": "omniglot_small1.npz", "size": 12, "augment": _WRITTEN},
        {"num_steps": 3500, "lr": 0.1, "batch_size": 64, "warm_up": 50},
    ),
    "glyphs": Source(
        "small_conv", "small", {}, {"num_steps": 1500, "lr": 0.1, "batch_size": 64, "warm_up": 50}
    ),
    "cifar100": Source(
        "small_resnet",
        "small",
        {"file": "cifar100.npz", "size": 16, "augment": "crop-flip"},
        {"num_steps": 2200, "lr": 0.1, "batch_size": 64, "warm_up": 50},
    ),
    "mobilenet": Source(
        "mobilenet_v1", "photographs", {}, {}, "mobilenet_v1_025_imagenet.safetensors"
    ),
    "squeezenet": Source(
        "squeezenet1_1", "photographs", {}, {}, "squeezenet1_1_imagenet.safetensors"
    ),
}
_HALF = ((0.5,) * 3, (0.5,) * 3)
_FLOWERS = {
    "mobilenet": {"size": 96, "normalize": _HALF, "augment": _PHOTO},
    "squeezenet": {"size": 128, "normalize": "imagenet", "augment": _PHOTO},
}
CELLS = {
    f"{source} -> {target}, {per_class}": Cell(source, target, per_class, options)
    for source, target, numbers, options in (
        ("glyphs", "digits", (2, 20), {}),
        ("omniglot", "mnist", (5,), {"size": 12}),
        ("omniglot", "usps", (5, 20), {"size": 12}),
        ("omniglot", "fashion_mnist", (5, 20), {"size": 12}),
        ("cifar100", "cifar10", (20,), {"size": 16}),
        ("mobilenet", "flowers12", (5, 17), _FLOWERS["mobilenet"]),
        ("squeezenet", "flowers12", (5, 17), _FLOWERS["squeezenet"]),
    )
    for per_class in numbers
}


def source_of(
    name: str, data_dir: Path, out: Path, *, quick: bool = False
) -> GaussianWeights | str:
    """Return the source's law, fitted once, or the path of its checkpoint."""
    source = SOURCES[name]
    if source.checkpoint:
        return str(data_dir / source.checkpoint)
    options = dict(source.data)
    data = from_npz(data_dir / options.pop("file"), **options) if options else glyphs()
    module = _network(source.model, data)
    fit = {"head": head_prefix(module), "rank": 20, **source.fit, **QUIET}
    if quick:
        fit |= {"num_steps": 4, "num_snapshots": 3, "rank": 2, "warm_up": 1}
    with FileLock(out / f"{name}.lock"):
        return fit_source(module, data, out=out / name, **fit)


def _network(model: str, data: DataBundle, weights: str | None = None) -> nn.Module:
    return load_model(ModelOptions(model=model), data, seed=0, weights=weights)[0]


def task_of(cell: Cell, draw: int, data_dir: Path) -> tuple[DataBundle, DataBundle]:
    """Return the few-shot task, and the one whose validation images choose the grid's point."""
    path = data_dir / f"{cell.target}.npz"
    whole = digits() if cell.target == "digits" else from_npz(path, **cell.options)
    if whole.validation is None:
        whole = split_validation(whole, num=min(POOL, len(whole.train) // 3), seed=1)
    few = few_shot(whole, per_class=cell.per_class, seed=draw)
    rows = torch.from_numpy(np.random.default_rng(2).permutation(len(few.test))[:TEST])
    few = dataclasses.replace(few, test=few.test.subset(rows.sort().values))
    pool = dataclasses.replace(few, train=few.validation, validation=None)
    chosen = few_shot(pool, num_data=min(few.num_data, len(pool.train)), seed=draw)
    return dataclasses.replace(few, validation=None), chosen


@torch.no_grad()
def logits_of(module: nn.Module, data: DataBundle, split: str = "test") -> tuple[Tensor, Tensor]:
    """Return logits and labels in evaluation mode."""
    module.eval()
    parts = [(module(x), y) for x, y in data.loader(split, 256)]
    logits, labels = (torch.cat(column) for column in zip(*parts, strict=True))
    return logits.double(), labels


def grid(
    module: nn.Module, task: DataBundle, chosen: DataBundle, kind: str, *, quick: bool = False
) -> dict[str, Any]:
    """Fine-tune at 24 points (8 runs, 3 snapshots each) and return the chosen one's numbers.

    SGD with momentum 0.9 and a cosine; BatchNorm's statistics stay. The point is chosen by the
    NLL on as many validation images as there are training images.
    """
    start = {name: value.clone() for name, value in module.state_dict().items()}
    found: list[tuple[float, dict[str, float], tuple[float, float, int]]] = []
    snapshots = (1, 2, 4) if quick else GRID_SNAPSHOTS
    last, size = snapshots[-1], min(GRID_BATCH[kind], task.num_data)
    for rate in GRID_RATES[kind]:
        for decay in GRID_DECAYS:
            module.load_state_dict(start)
            optimizer = torch.optim.SGD(module.parameters(), rate, 0.9, weight_decay=decay)
            batches = _endless(task, size)
            for step in range(1, last + 1):
                optimizer.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * step / last)) / 2
                x, y = next(batches)
                module.eval()
                optimizer.zero_grad()
                F.cross_entropy(module(x), y).backward()
                optimizer.step()
                if step in snapshots:
                    logits, labels = logits_of(module, chosen, "train")
                    nll = float(F.cross_entropy(logits, labels))
                    if math.isfinite(nll):
                        numbers = held_out_numbers(*logits_of(module, task))
                        found.append((nll, numbers, (rate, decay, step)))
    module.load_state_dict(start)
    _, numbers, point = min(found, key=lambda row: row[0])
    gradients = len(GRID_RATES[kind]) * len(GRID_DECAYS) * last * size
    return {**numbers, "point": point, "grid_gradients": gradients}


def _endless(task: DataBundle, size: int) -> Any:
    loader = task.loader("train", size, shuffle=True, seed=0)
    while True:
        yield from loader


def mirrored_probe(module: nn.Module, task: DataBundle) -> dict[str, float]:
    """Return a probe's numbers on features averaged over a picture and its mirror image."""
    head = head_prefix(module)
    clean = dataclasses.replace(task, train=task.train.without_augmentation())

    def features(split: str) -> tuple[Tensor, Tensor]:
        loader = list(clean.loader(split, 256))
        plain, labels = head_inputs(module, head, loader)
        flipped, _ = head_inputs(module, head, [(x.flip(3), y) for x, y in loader])
        return (plain + flipped) / 2, labels

    inputs, labels = features("train")
    probe = fit_probe(inputs, labels.long(), task.num_classes)
    inputs, labels = features("test")
    logits = probe.confidence * (inputs.double() @ probe.weight.T + probe.bias)
    return held_out_numbers(logits, labels.long())


def measure(
    name: str, draw: int, data_dir: Path, out: Path, *, quick: bool = False
) -> dict[str, Any]:
    """Return every method's numbers for one choice of training images."""
    cell = CELLS[name]
    source = SOURCES[cell.source]
    law = source_of(cell.source, data_dir, out, quick=quick)
    task, chosen = task_of(cell, draw, data_dir)
    checkpoint = law if isinstance(law, str) else None
    module = _network(source.model, task, checkpoint)
    given: dict[str, Any] = {} if checkpoint else {"source": law}
    began = time.process_time()
    baselines = "quick" if quick else "all"
    whole = transfer(task, module, baselines=baselines, seed=draw, **given, **QUIET)
    rows = {row["method"]: row for row in whole.leaderboard()}
    told = whole.results["fit"]
    about = {key: told[key] for key in ("budget", "confidence", "feature_noise", "notes")}
    about |= {"gradients": told["num_gradients"], "seconds": time.process_time() - began}
    about["ece_chance"] = ece_chance(whole, task)
    if not checkpoint:
        if not quick:
            found = transfer(
                task, module, head_prior="isotropic", baselines="none", seed=draw, **given, **QUIET
            )
            rows["isotropic head"] = next(r for r in found.leaderboard() if r["method"] == WHOLE)
        head = f"{head_prefix(module)}."
        body = law.marginal(name for name in law.layout.names if not name.startswith(head))
        initialize_(module, body)
    if source.kind == "photographs":
        rows["probe, mirrored"] = mirrored_probe(module, task)
    began = time.process_time()
    rows[GRID] = grid(module, task, chosen, source.kind, quick=quick)
    about["grid_gradients"] = rows[GRID]["grid_gradients"]
    about["grid_seconds"] = time.process_time() - began
    methods = {n: {k: row[k] for k in (*SHOWN, "brier") if k in row} for n, row in rows.items()}
    return {"cell": name, "draw": draw, "n": len(task.test), "methods": methods, **about}


def ece_chance(found: Transfer, task: DataBundle) -> float:
    """Return the ECE on the test images that a calibrated model exceeds once in twenty."""
    loader = task.loader("test", 256)
    probs = predict(found.module, found.posterior, loader, Categorical(), progress=False).mean_probs
    labels = torch.cat([y for _, y in loader])
    return CalibrationBins.of(probs.amax(1).numpy(), (probs.argmax(1) == labels).numpy()).chance


def interval(values: Sequence[float]) -> str:
    """Return mean and half width of the 95 % t interval; the value alone of one."""
    mean, num = float(np.mean(values)), len(values)
    if num < 2:
        return f"{mean:+.3f}"
    half = stats.t.ppf(0.975, num - 1) * np.std(values, ddof=1) / math.sqrt(num)
    return f"{mean:+.3f} ± {half:.3f}"


def tables(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of means, one of paired differences, and the pooled ones."""
    known = dict.fromkeys(method for row in rows for method in row["methods"])
    names = [*(m for m in FIRST if m in known), *(m for m in known if m not in FIRST)]
    others = [name for name in names if name != WHOLE]
    means, differences = [], []
    pooled: dict[str, list[float]] = {}
    for name in CELLS:
        of = [row for row in rows if row["cell"] == name]
        if not of:
            continue
        cells = [f"{name} ({len(of)})"]
        for method in names:
            values = [
                [r["methods"][method][k] for r in of if method in r["methods"]] for k in SHOWN
            ]
            cells.append(" / ".join(f"{np.mean(v):.3f}" for v in values) if values[0] else "")
        means.append(cells)
        cells = [cells[0]]
        for method in others:
            pairs = [
                r["methods"][WHOLE]["nll"] - r["methods"][method]["nll"]
                for r in of
                if method in r["methods"]
            ]
            cells.append(interval(pairs) if pairs else "")
            if pairs:
                pooled.setdefault(method, []).append(float(np.mean(pairs)))
        differences.append(cells)
    differences.append(["mean over cells", *(interval(pooled[m]) for m in others)])
    bars = [bar for name in CELLS if (bar := held_against([r for r in rows if r["cell"] == name]))]
    titles = ["cell", "best baseline", "NLL", "accuracy", "ECE", "chance", "image gradients"]
    return (
        "NLL / accuracy / ECE, mean over draws (their number):\n\n"
        f"{_bench.table(['cell, images a class', *names], means)}\n\n"
        "NLL of `transfer` minus another's, paired, 95 % t over draws:\n\n"
        f"{_bench.table(['cell', *others], differences)}\n\n"
        "`transfer` minus the baseline of the best mean NLL, 95 % t; its ECE, and what a "
        "calibrated model exceeds once in twenty; its gradients / the grid's:\n\n"
        f"{_bench.table(titles, bars)}\n"
    )


def held_against(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return how `transfer` stands against the best baseline of a cell; nothing of no rows."""
    if not rows:
        return []
    baselines = [name for name in rows[0]["methods"] if name not in FIRST[:4]]
    best = min(baselines, key=lambda name: np.mean([r["methods"][name]["nll"] for r in rows]))
    pairs = [(row["methods"][WHOLE], row["methods"][best]) for row in rows]
    gains = (interval([one[key] - other[key] for one, other in pairs]) for key in SHOWN[:2])
    ece = f"{np.mean([one['ece'] for one, _ in pairs]):.3f}"
    chance = [row["ece_chance"] for row in rows if "ece_chance" in row]
    spent = (np.mean([row[key] for row in rows]) for key in ("gradients", "grid_gradients"))
    told = [f"{np.mean(chance):.3f}" if chance else "", " / ".join(f"{n:,.0f}" for n in spent)]
    return [f"{rows[0]['cell']} ({len(rows)})", best, *gains, ece, *told]


def finished(path: Path) -> list[dict[str, Any]]:
    """Return what was measured."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def main(argv: Sequence[str] | None = None) -> None:
    options = _bench.parser(__doc__)
    options.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS))
    options.add_argument("--draws", type=int, default=6)
    options.add_argument("--first", type=int, default=0, help="seed of the first draw")
    options.add_argument("--data-dir", help="folder of the .npz files and checkpoints")
    options.add_argument("--out", type=Path, help="folder of the results (build/transfer-rule)")
    options.add_argument("--table", action="store_true", help="only print what was measured")
    arguments = options.parse_args(argv)
    cells = arguments.cells[:1] if arguments.quick else arguments.cells
    files = [f"{CELLS[name].target}.npz" for name in cells if CELLS[name].target != "digits"]
    data_dir = _bench.data_folder(arguments.data_dir, files)
    _bench.start(arguments, "`transfer`")
    draws = range(arguments.first, arguments.first + (1 if arguments.quick else arguments.draws))
    with tempfile.TemporaryDirectory() as temporary:
        out = arguments.out or Path(temporary if arguments.quick else "build/transfer-rule")
        out.mkdir(parents=True, exist_ok=True)
        path = out / "results.jsonl"
        for draw, name in itertools.product(draws, () if arguments.table else cells):
            lock = FileLock(out / f"{name}, draw {draw}.lock", timeout=0)
            with contextlib.suppress(Timeout), lock:  # else another process is at it
                known = {(row["cell"], row["draw"]) for row in finished(path)}
                if (name, draw) not in known:
                    row = measure(name, draw, data_dir, out, quick=arguments.quick)
                    with FileLock(f"{path}.lock"), path.open("a") as file:
                        file.write(json.dumps(row) + "\n")
        rows = [row for row in finished(path) if row["cell"] in cells]
    print(tables(rows) if rows else "nothing was measured yet", flush=True)


if __name__ == "__main__":
    main()
