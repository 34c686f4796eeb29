"""Masks of new pictures: a label, and an uncertainty, for each pixel, as files."""

import csv
import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bayesprior.errors import ConfigError, DataError
from bayesprior.recipes.calls import recipe
from bayesprior.recipes.new_data import listed
from bayesprior.recipes.new_inputs import NewInputs
from bayesprior.recipes.options import NewDataOptions
from bayesprior.recipes.predicting import averaged
from bayesprior.recipes.saved import FitRun, load_run
from bayesprior.report.map_plots import class_colors
from bayesprior.storage import atomic_path
from bayesprior.tasks.protocols import inputs_forward

__all__ = ["NewMasks", "predict_masks"]

TABLE = "masks.csv"


@dataclass(frozen=True, eq=False)
class NewMasks:
    """What a run says of N new pictures, pixel by pixel.

    Attributes
    ----------
    folder
        Holds for every picture NAME its mask ``NAME.png`` (a palette picture: the labels are its
        values), ``NAME.entropy.png`` (gray, white is log C nats), and a row of ``masks.csv``.
    rows
        ``file``, ``mask``, mean ``entropy`` in nats, and the share of each class.
    unreadable
        File -> reason, of the pictures that could not be read.
    """

    folder: Path
    rows: tuple[dict[str, Any], ...]
    unreadable: dict[str, str] = field(default_factory=dict)


class NewMasksCall(NewDataOptions, kw_only=False):
    """Arguments of `predict_masks`."""

    run: str | Path | FitRun
    """Folder of a fit of masks, or what `bayesprior.load_run` made of it."""
    new: Sequence[str | Path]
    """Folders of pictures (searched through), picture files, or .npz files with ``x``."""
    _: KW_ONLY
    out: str | Path
    """Folder to write: a new or empty one, or one of an earlier call, whose files are replaced."""


@recipe(NewMasksCall)
def predict_masks(call: NewMasksCall) -> NewMasks:
    """Predict the masks of new pictures with a finished run, each of its picture's size.

    Returns
    -------
    NewMasks
        Pictures that cannot be read are named in ``unreadable``, the others are predicted.

    Raises
    ------
    ConfigError
        If the run is not finished or has no masks, there is nothing to predict, or ``out`` holds
        something else.
    DataError
        If not one picture can be read.
    """
    fit = call.run if isinstance(call.run, FitRun) else load_run(call.run, trust=call.trust)
    if not fit.data.has_masks:
        raise ConfigError(f"{fit.data.name!r} has one label a picture, no masks: use predict_new")
    folder = _folder(call.out)
    new = [call.new] if isinstance(call.new, str | Path) else call.new
    source = NewInputs([Path(path).expanduser() for path in new], fit.data, call.batch_size)
    names, taken = fit.data.class_names, set[str]()
    rows: list[dict[str, Any]] = []
    for batch in source:
        found = averaged(fit, [batch], call, inputs_forward, keep_maps=True)
        assert found.mean_probs is not None, "the maps were kept"
        for probs, entropy in zip(found.mean_probs, found.predictive_entropy, strict=True):
            file, size = source.files[len(rows)], source.sizes[len(rows)]
            labels = _grown(probs, size).argmax(0).to(torch.uint8).numpy()
            name = _name(file, taken)
            folder.mkdir(parents=True, exist_ok=True)
            _write(folder / name, labels, _grown(entropy[None], size)[0].numpy(), len(names))
            shares = np.bincount(labels.ravel(), minlength=len(names)) / labels.size
            told = {"file": file, "mask": f"{name}.png", "entropy": float(entropy.mean())}
            rows.append(told | dict(zip(_columns(names), map(float, shares), strict=True)))
    if not rows:
        raise DataError(f"nothing could be read: {listed(source.unreadable)}")
    with atomic_path(folder / TABLE) as temporary, temporary.open("w", encoding="utf-8") as out:
        writer = csv.DictWriter(out, rows[0], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            cells = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()}
            writer.writerow(cells)
    return NewMasks(folder, tuple(rows), source.unreadable)


def _folder(out: str | Path) -> Path:
    folder = Path(out).expanduser()
    if folder.suffix.lower() in (".csv", ".png") or (folder.exists() and not folder.is_dir()):
        raise ConfigError(f"out must be a folder: this run predicts a mask each, got {str(out)!r}")
    if folder.exists() and any(folder.iterdir()) and not (folder / TABLE).is_file():
        raise ConfigError(
            f"out is {folder}, which holds something else; choose another; nothing was overwritten"
        )
    return folder


def _columns(names: Sequence[str]) -> list[str]:
    own = ("file", "mask", "entropy")
    return [f"share({name})" if name in own else name for name in names]


def _name(file: str, taken: set[str]) -> str:
    """Return a name of its own for a picture's files: of rows of an archive with their number."""
    path, _, row = file.removesuffix("]").rpartition("[") if file.endswith("]") else (file, "", "")
    stem = Path(path).stem + (f"-{int(row):04}" if row else "")
    name, number = stem, 1
    while name in taken:
        number += 1
        name = f"{stem}-{number}"
    taken.add(name)
    return name


def _grown(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """Bring maps (C, H, W) to a picture's size."""
    if tuple(maps.shape[1:]) == size:
        return maps
    return F.interpolate(maps[None].float(), size, mode="bilinear", antialias=True)[0]


def _write(path: Path, labels: np.ndarray, entropy: np.ndarray, num_classes: int) -> None:
    from PIL import Image

    mask = Image.fromarray(labels).convert("P")
    mask.putpalette((class_colors(num_classes)[:-1] * 255).astype(np.uint8).tobytes())
    mask.save(path.with_name(f"{path.name}.png"))
    white = np.clip(entropy / math.log(max(num_classes, 2)) * 255, 0, 255)
    Image.fromarray(white.round().astype(np.uint8)).save(path.with_name(f"{path.name}.entropy.png"))
