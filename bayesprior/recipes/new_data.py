"""Predictions for new data: pictures and arrays that nobody has labeled."""

import csv
import io
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bayesprior.data import ArrayDataset, DataBundle, LazyDataset
from bayesprior.diagnostics.uncertainty import entropy
from bayesprior.errors import ConfigError, DataError
from bayesprior.recipes.predicting import averaged
from bayesprior.recipes.saved import FitRun, load_run
from bayesprior.storage import atomic_path
from bayesprior.tasks.protocols import inputs_forward

__all__ = ["NewPredictions", "Threshold", "check_out", "fitted_threshold", "predict_new"]

PICTURES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")
"""Endings of the files that are taken from a folder; a file that is named itself may have any."""

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_DEEP = ("I", "F")  # modes of more than 8 bits a channel, which a conversion would cut off


class Threshold(NamedTuple):
    """Which answers to abstain from, fitted on examples with labels.

    Attributes
    ----------
    confidence
        Least largest probability that is answered.
    num_data
        Examples it was fitted on.
    num_kept
        Those of them that are answered.
    num_errors
        Those of the answers that are wrong.
    """

    confidence: float
    num_data: int
    num_kept: int
    num_errors: int


@dataclass(frozen=True, eq=False)
class NewPredictions:
    """What a run says of N new inputs.

    Attributes
    ----------
    files
        Where each came from: a picture's file, or an archive and the row in it.
    class_names
        Of the C classes.
    probs
        (N, C), average of the class probabilities over draws.
    threshold
        For abstaining; None if the run has no validation data to fit it on.
    unreadable
        File -> reason, of the pictures that could not be read.
    """

    files: tuple[str, ...]
    class_names: tuple[str, ...]
    probs: np.ndarray
    threshold: Threshold | None
    unreadable: dict[str, str] = field(default_factory=dict)

    @property
    def columns(self) -> list[str]:
        """Names of a row's entries: file, class, one probability a class, entropy, abstain."""
        own = ("file", "class", "entropy", "abstain")
        probabilities = [f"p({name})" if name in own else name for name in self.class_names]
        return ["file", "class", *probabilities, "entropy", "abstain"]

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield one row an input; ``abstain`` is None where there is no threshold."""
        least = None if self.threshold is None else self.threshold.confidence
        for file, probs, nats in zip(self.files, self.probs, entropy(self.probs), strict=True):
            values = [
                file,
                self.class_names[int(probs.argmax())],
                *map(float, probs),
                float(nats),
                None if least is None else bool(probs.max() < least),
            ]
            yield dict(zip(self.columns, values, strict=True))

    def csv(self) -> str:
        """Return the rows as comma-separated values with a header."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        for row in self.rows():
            writer.writerow(map(_cell, row.values()))
        return text.getvalue()

    def write(self, path: str | Path) -> None:
        """Write the rows to a .csv file, atomically; replaces only a file of the same kind.

        Raises
        ------
        ConfigError
            If there is a file that is none of ours.
        StorageError
            If it cannot be written.
        """
        path = Path(path).expanduser()
        check_out(path)
        with atomic_path(path) as temporary:
            temporary.write_text(self.csv(), encoding="utf-8", errors="surrogateescape")


def check_out(path: str | Path) -> None:
    """Refuse a file that is not ours to replace.

    Raises
    ------
    ConfigError
        If it has another ending than .csv, or holds something else.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() != ".csv":
        raise ConfigError(f"out must be a .csv file, got {str(path)!r}")
    if path.is_dir():
        raise ConfigError(f"out is a folder: {path}")
    if path.exists():
        with path.open(encoding="utf-8", errors="replace") as file:
            if not file.readline().startswith("file,class,"):
                raise ConfigError(
                    f"out is {path}, which holds something else; choose another; nothing was "
                    "overwritten"
                )


def predict_new(
    run: str | Path | FitRun,
    new: Sequence[str | Path],
    *,
    risk: float = 0.05,
    num_draws: int | None = None,
    batch_size: int = 256,
    batch_norm: str = "draw",
    seed: int = 0,
    device: str = "auto",
    progress: bool = True,
    trust: bool = False,
) -> NewPredictions:
    """Predict pictures and arrays with a finished run, through its own transform.

    Parameters
    ----------
    run
        Folder of a fit, or what `bayesprior.load_run` made of it.
    new
        Folders of pictures (searched through), picture files, or .npz files with ``x``.
    risk
        Largest share of errors among the answers that are not abstained from, see
        `fitted_threshold`.
    num_draws, batch_size, batch_norm, seed, device, progress
        As in `bayesprior.predict`.
    trust
        Import what the run's folder names by an import path.

    Returns
    -------
    NewPredictions
        Pictures that cannot be read are named in ``unreadable``, the others are predicted.

    Raises
    ------
    ConfigError
        If the run is not finished or has no classes, or there is nothing to predict.
    DataError
        If not one input can be read.
    """
    fit = run if isinstance(run, FitRun) else load_run(run, trust=trust)
    if not fit.data.class_names:
        raise ConfigError(f"{fit.data.name!r} has no classes, of which new data could be")
    source = _Inputs([Path(path).expanduser() for path in new], fit.data, batch_size)
    options: dict[str, Any] = {
        "num_draws": num_draws,
        "batch_size": batch_size,
        "batch_norm": batch_norm,
        "seed": seed,
        "device": device,
        "progress": progress,
    }
    threshold = None
    if fit.data.validation is not None:
        known = averaged(fit, fit.data.loader("validation", batch_size), **options)
        threshold = fitted_threshold(_array(known.mean_probs), _array(known.targets), risk)
    try:
        found = averaged(fit, source, forward=inputs_forward, **options)
    except DataError:
        if source.files:
            raise
        raise DataError(f"nothing could be read: {_listed(source.unreadable)}") from None
    names = fit.data.class_names
    probs = _array(found.mean_probs)
    return NewPredictions(tuple(source.files), names, probs, threshold, source.unreadable)


def _array(found: Tensor | None) -> np.ndarray:
    if found is None or found.ndim > 2:
        raise ConfigError("the run does not predict one class an input, as this table needs")
    return found.numpy()


def fitted_threshold(probs: np.ndarray, targets: np.ndarray, risk: float) -> Threshold:
    """Return the least confidence at which at most a share ``risk`` of the answers is wrong.

    Confidence is the largest probability; equal ones are answered or abstained from together.
    The share is the one on these examples: on few of them it is a rough guide to others.

    Parameters
    ----------
    probs
        (N, C).
    targets
        (N,) labels.
    risk
        In [0, 1].

    References
    ----------
    Y. Geifman and R. El-Yaniv, Selective classification for deep neural networks,
    arXiv:1705.08500

    Examples
    --------
    >>> probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4]])
    >>> fitted_threshold(probs, np.array([0, 0, 1]), risk=0.1)
    Threshold(confidence=0.8, num_data=3, num_kept=2, num_errors=0)
    """
    confidence = probs.max(1)
    order = np.argsort(-confidence, kind="stable")
    levels = confidence[order]
    errors = np.cumsum((probs.argmax(1) != targets)[order])
    ends = np.append(levels[1:] != levels[:-1], True)
    good = np.flatnonzero(ends & (errors <= risk * np.arange(1, len(levels) + 1) + 1e-9))
    if not good.size:
        return Threshold(float("inf"), len(levels), 0, 0)
    last = int(good[-1])
    return Threshold(float(levels[last]), len(levels), last + 1, int(errors[last]))


class _Inputs:
    """Batches of new inputs, read anew at every pass, unreadable ones left out."""

    def __init__(self, paths: Sequence[Path], task: DataBundle, batch_size: int) -> None:
        self._task, self._batch_size = task, batch_size
        self._paths = [file for path in paths for file in _files(path)]
        if not self._paths:
            raise ConfigError("nothing to predict; name folders, pictures or .npz files")
        self.files: list[str] = []
        self.unreadable: dict[str, str] = {}

    def __iter__(self) -> Iterator[Tensor]:
        self.files = []
        waiting: list[Tensor] = []
        for file, example in self._examples():
            self.files.append(file)
            waiting.append(example)
            if len(waiting) == self._batch_size:
                yield self._batch(waiting)
                waiting = []
        if waiting:
            yield self._batch(waiting)

    def _batch(self, examples: list[Tensor]) -> Tensor:
        return self._task.test.finish(torch.stack(examples))

    def _examples(self) -> Iterator[tuple[str, Tensor]]:
        for path in self._paths:
            try:
                if path.suffix.lower() == ".npz":
                    for row, example in enumerate(_arrays(path, self._task)):
                        yield f"{path}[{row}]", example
                else:
                    yield str(path), _picture(path, self._task)
            except DataError as error:
                self.unreadable[str(path)] = str(error)


def _files(path: Path) -> list[Path]:
    """Return a folder's pictures, or the file itself."""
    if not path.is_dir():
        if not path.exists():
            raise ConfigError(f"there is no file or folder {str(path)!r}")
        return [path]
    found = [
        Path(folder) / name
        for folder, _, names in os.walk(path)
        for name in names
        if name.lower().endswith(PICTURES) and not name.startswith(".")
    ]
    if not found:
        raise ConfigError(f"the folder {str(path)!r} holds no pictures ({' '.join(PICTURES)})")
    return sorted(found)


def _picture(path: Path, task: DataBundle) -> Tensor:
    """Read a picture as the run's own data set does, before its transform."""
    from PIL import Image

    if not path.is_file():  # a pipe would wait for ever
        raise DataError("is no file")
    try:
        with Image.open(path) as image:
            image.load()
            return _prepared(image, task)
    except DataError:
        raise
    except Exception as error:  # decoders raise what they like
        raise DataError(f"is no readable picture ({_reason(error)})") from None


def _prepared(image: Any, task: DataBundle) -> Tensor:
    if image.mode.split(";")[0] in _DEEP:
        raise DataError(f"has more than 8 bits a channel (mode {image.mode}); convert it")
    if isinstance(task.test, LazyDataset) and task.test.crop is not None:
        found: Tensor = task.test.crop(image.convert("RGB"))
        return found
    raw = task.test.raw(0)
    mode = _MODES.get(len(raw)) if isinstance(raw, Tensor) and raw.ndim == 3 else None
    if mode is None or not isinstance(task.test, ArrayDataset):
        raise DataError(f"is a picture, and {task.name!r} has none; give an .npz file with x")
    pixels = np.asarray(image.convert(mode))
    example = torch.from_numpy(pixels.copy()).reshape(*pixels.shape[:2], len(raw)).permute(2, 0, 1)
    return _fitting(example if raw.dtype == torch.uint8 else example / 255, task)


def _fitting(example: Tensor, task: DataBundle) -> Tensor:
    """Refuse another shape than the run's inputs have, unless its transform resizes."""
    raw = task.test.raw(0)
    resizes = getattr(getattr(task.test, "transform", None), "size", None) is not None
    if example.shape != raw.shape and not (resizes and len(example) == len(raw)):
        raise DataError(
            f"has the shape {tuple(example.shape)}, the run's inputs have {tuple(raw.shape)}; "
            "bring it to that, or fit with --data_options.size"
        )
    return example


def _arrays(path: Path, task: DataBundle) -> Iterator[Tensor]:
    """Yield the rows of an archive's ``x``."""
    from PIL import Image

    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            array = np.asarray(archive["x"])
    except KeyError:
        held = ", ".join(archive.files) or "nothing"
        raise DataError(f"lacks the array x (it holds {held})") from None
    except (OSError, EOFError, ValueError, IndexError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"cannot be read ({_reason(error)})") from None
    if array.ndim < 2 or array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
        raise DataError(
            f"its x has shape {array.shape} and type {array.dtype}; store uint8 or floats, one "
            "input a row"
        )
    if not np.isfinite(array).all():
        raise DataError("its x holds NaN or infinite values")
    if isinstance(task.test, LazyDataset):
        if array.dtype != np.uint8:
            raise DataError(f"its x has type {array.dtype}; store pictures as uint8")
        yield from (_prepared(Image.fromarray(row.squeeze()), task) for row in array)
        return
    raw = task.test.raw(0)
    if raw.ndim == 3:
        array = array[..., None] if array.ndim == 3 else array
        array = np.moveaxis(array, -1, 1)
        if raw.dtype != torch.uint8 and array.dtype == np.uint8:
            array = array / np.float32(255)
        elif raw.dtype == torch.uint8 and array.dtype != np.uint8:
            if array.min() < 0 or array.max() > 1:
                raise DataError("its x has float pixels outside [0, 1]; store uint8")
            array = np.round(array * 255).astype(np.uint8)
    for row in array:
        example = torch.from_numpy(np.ascontiguousarray(row))
        yield _fitting(example if raw.dtype == torch.uint8 else example.to(raw.dtype), task)


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _listed(unreadable: dict[str, str]) -> str:
    """Return files and reasons in one line; the first few."""
    parts = [f"{file} {reason}" for file, reason in list(unreadable.items())[:5]]
    more = f"; and {len(unreadable) - 5} more" if len(unreadable) > 5 else ""
    return "; ".join(parts) + more


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else value
