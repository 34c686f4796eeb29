"""Masks of street scenes: a learned prior against fine-tuning, on other drives than the source's.

    python benchmarks/segmentation.py [--out FOLDER] [--quick]

CamVid's frames are of three drives. The largest is the source; of the two others, one of them at
dusk, a few early frames train, later ones choose, and the last ones test: neighbors in time look
alike and must not be on both sides. All is kept in ``--out``: a second run goes on.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import _bench
import numpy as np

from bayesprior.recipes import StudyResult, fit_source, study
from bayesprior.recipes.named import load_data, load_model
from bayesprior.recipes.options import DataOptions, ModelOptions
from bayesprior.recipes.runs import read_results

MODEL = "lraspp_mobilenet_v3_large"
SOURCE = "0016E5"  # the drive; its own frames in the file's validation split are its test images
BASELINE = "fine-tuning"
SHOWN = ("mean_iou", "accuracy", "nll")
PARTS = (0.4, 0.6)  # of a target drive: before the first train, after the second test
SOURCE_FIT = {"num_steps": 600, "batch_size": 8, "num_snapshots": 20, "rank": 19}
STUDY = {"num_data": [10], "budget": 80, "batch_size": 10, "seeds": 4, "selection_seeds": 1}
GRID = {"lr": [0.01, 0.03, 0.1], "rms_std": [0.3, 3.0, 30.0]}
QUICK_SOURCE = {"num_steps": 3, "batch_size": 4, "num_snapshots": 3, "rank": 2}
QUICK_STUDY = {"num_data": [4], "budget": 4, "batch_size": 4, "seeds": 2, "selection_seeds": 1}
QUICK_GRID = {"lr": [0.03], "rms_std": [1.0]}
QUIET: Mapping[str, Any] = {"progress": False, "device": "cpu"}


def camvid(data_dir: Path) -> Mapping[str, np.ndarray]:
    """Return CamVid's frames at 48 x 64, their names, and its classes."""
    with np.load(data_dir / "camvid.npz") as arrays:
        whole = dict(arrays)
    return {k: v[:, ::2, ::2] if k[:2] in ("x_", "y_") else v for k, v in whole.items()}


def painted() -> Mapping[str, np.ndarray]:
    """Return noise in the form of `camvid`, for a quick run without any file."""
    rng, made = np.random.default_rng(0), {}
    for split, drives in (("train", (SOURCE, "a", "b")), ("val", (SOURCE,))):
        names = [f"{drive}_{i:02}" for drive in drives for i in range(10)]
        made[f"x_{split}"] = rng.integers(0, 256, (len(names), 32, 32, 3), dtype=np.uint8)
        made[f"y_{split}"] = made[f"x_{split}"][..., 0] // 128
        made[f"frame_{split}"] = np.array(names)
    return made | {"class_names": np.array(["dark", "bright"])}


def write_tasks(arrays: Mapping[str, np.ndarray], out: Path) -> dict[str, int]:
    """Write source and target as files, and return how many frames each split has."""
    drives = np.array([str(name).split("_")[0] for name in arrays["frame_train"]])
    order = np.argsort(arrays["frame_train"], kind="stable")
    rows: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for drive in sorted({*drives} - {SOURCE}):
        frames = order[drives[order] == drive]
        cuts = [round(share * len(frames)) for share in PARTS]
        for split, part in zip(rows, np.split(frames, cuts), strict=True):
            rows[split] += part.tolist()
    of_source = drives == SOURCE
    source = {f"{a}_train": arrays[f"{a}_train"][of_source] for a in "xy"}
    source |= {f"{a}_test": arrays[f"{a}_val"] for a in "xy"}
    target = {f"{a}_{s}": arrays[f"{a}_train"][kept] for a in "xy" for s, kept in rows.items()}
    for name, task in (("source", source), ("target", target)):
        if not (out / f"{name}.npz").is_file():
            np.savez_compressed(out / f"{name}.npz", class_names=arrays["class_names"], **task)
    return {"source": int(of_source.sum()), **{split: len(kept) for split, kept in rows.items()}}


def methods(*, quick: bool = False) -> dict[str, Any]:
    """Return methods with equally many configurations, each of which could stop at four steps."""
    described: dict[str, dict[str, Any]] = {
        BASELINE: {"start": "source", "prior": {"shape": "zero"}},
        "from scratch": {"start": "random", "prior": {"shape": "zero"}},
        "isotropic prior": {"prior": {"shape": "isotropic"}},
        "learned prior": {},
    }
    for method in described.values():
        method["prior"] = {"head_std": 1.0, **method.get("prior", {})}
        grid = QUICK_GRID if quick else GRID
        method |= {"grid": dict(grid), "snapshots": 4, "batch_norm": "train"}
    return described


def compare(out: Path, *, quick: bool = False) -> StudyResult:
    """Fit the source and run the study of its priors."""
    images = {"normalize": "imagenet", "augment": "crop-flip"}
    data = load_data(DataOptions(data=str(out / "source.npz"), data_options=images))
    module, head = load_model(ModelOptions(model=MODEL), data, seed=0)
    fit = {"head": head, "checkpoint_every": 100, **(QUICK_SOURCE if quick else SOURCE_FIT)}
    fit_source(module, data, out=out / "source", **fit, **QUIET)
    return study(
        data=str(out / "target.npz"),
        data_options=images,
        model=MODEL,
        source=str(out / "source" / "source.safetensors"),
        out=str(out / "study"),
        methods=methods(quick=quick),
        baseline=BASELINE,
        **(QUICK_STUDY if quick else STUDY),
        **QUIET,
    )


def section(found: StudyResult) -> str:
    """Return the table and what it says, in Markdown."""
    comparison = found.comparisons[0]
    rows = []
    for row in comparison.rows:
        of_method = {d.metric: d for d in comparison.differences if d.method == row["method"]}
        told = [_bench.difference(of_method.get(metric)) for metric in ("mean_iou", "nll")]
        rows.append([row["method"], *_bench.means(row, SHOWN), row["selected"], *told])
    against = [f"{metric} - {BASELINE}" for metric in ("mIoU", "NLL")]
    header = ["method", "mIoU", "accuracy", "NLL", "selected", *against]
    said = "\n".join(f"* {sentence}" for sentence in comparison.sentences)
    return f"{_bench.table(header, rows)}\n\n{said}\n"


def main(argv: Sequence[str] | None = None) -> None:
    options = _bench.parser(__doc__)
    options.add_argument("--data-dir", help="folder of camvid.npz")
    options.add_argument("--out", type=Path, help="folder of source and study")
    arguments = options.parse_args(argv)
    if arguments.quick:
        arrays = painted()
    else:
        arrays = camvid(_bench.data_folder(arguments.data_dir, ["camvid.npz"]))
    with _bench.folder(arguments, "segmentation") as out:
        _bench.start(arguments, "Masks: other drives than the source's")
        counts = write_tasks(arrays, out)
        found = compare(out, quick=arguments.quick)
        print(f"{MODEL}; frames: {', '.join(f'{n} {split}' for split, n in counts.items())}.\n")
        print(section(found), flush=True)
        numbers = read_results(out / "source")["fit-source"]
        print(f"Source: {numbers['effective_rank']:.1f} effective directions.")


if __name__ == "__main__":
    main()
