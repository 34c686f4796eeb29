"""New inputs, read as a run's own data set reads its examples: pictures, arrays and tables."""

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bayesprior.data import ArrayDataset, DataBundle, LazyDataset
from bayesprior.data.arrays import open_archive, reason
from bayesprior.data.folders import opened
from bayesprior.data.mask_folders import IMAGES, MASKS
from bayesprior.data.tables import read_columns
from bayesprior.errors import ConfigError, DataError

__all__ = ["NewInputs"]

Sized = tuple[Tensor, tuple[int, ...]]
PICTURES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")
"""Endings of the files that are taken from a folder; a file that is named itself may have any."""

TABLES = (".csv", ".tsv")
"""Endings of tables."""

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_DEEP = ("I", "F")  # modes of more than 8 bits a channel, which a conversion would cut off


class NewInputs:
    """Batches of new inputs, read anew at every pass, unreadable ones left out.

    Parameters
    ----------
    paths
        Folders of pictures, pictures, .npz files with ``x``, or tables with the run's columns.
    task
        Gives the transform and the shape.
    batch_size
        Inputs a batch.

    Attributes
    ----------
    files
        Of the inputs in the last pass, in order.
    sizes
        Height and width of each as it is stored.
    unreadable
        File -> reason.

    Raises
    ------
    ConfigError
        If there is nothing to read.
    """

    def __init__(self, paths: Sequence[Path], task: DataBundle, batch_size: int) -> None:
        self._task, self._batch_size = task, batch_size
        self._paths = [file for path in paths for file in _files(path)]
        if not self._paths:
            raise ConfigError("nothing to predict; name folders, pictures, tables or .npz files")
        self.files: list[str] = []
        self.sizes: list[tuple[int, ...]] = []
        self.unreadable: dict[str, str] = {}

    def __iter__(self) -> Iterator[Tensor]:
        self.files, self.sizes = [], []
        examples = self._examples()
        while batch := list(itertools.islice(examples, self._batch_size)):
            yield self._task.evaluated.finish(torch.stack(batch))

    def _examples(self) -> Iterator[Tensor]:
        for path in self._paths:
            has_rows = path.suffix.lower() in (".npz", *TABLES)
            read = _arrays(path, self._task) if has_rows else _picture(path, self._task)
            try:
                for row, (example, size) in enumerate(read):
                    self.sizes.append(size)
                    self.files.append(f"{path}[{row}]" if has_rows else str(path))
                    yield example
            except DataError as error:
                self.unreadable[str(path)] = str(error).removeprefix(f"{path}: ")


def _files(path: Path) -> list[Path]:
    """Return a folder's pictures, or the file itself."""
    if not path.exists():
        raise ConfigError(f"there is no file or folder {str(path)!r}")
    if not path.is_dir():
        return [path]
    if (path / IMAGES).is_dir() and (path / MASKS).is_dir():
        raise ConfigError(f"the folder {str(path)!r} holds masks, too; give {path / IMAGES}")
    found = [
        Path(folder) / name
        for folder, _, names in os.walk(path)
        for name in names
        if name.lower().endswith(PICTURES) and not name.startswith(".")
    ]
    if not found:
        raise ConfigError(f"the folder {str(path)!r} holds no pictures ({' '.join(PICTURES)})")
    return sorted(found)


def _picture(path: Path, task: DataBundle) -> Iterator[Sized]:
    """Yield one picture as the run's own data set reads it, before its transform."""
    if not path.is_file():  # a pipe would wait for ever
        raise DataError("is no file")
    try:
        with opened(path) as image:
            image.load()
            example, size = _prepared(image, task), (image.height, image.width)
    except DataError:
        raise
    except Exception as error:  # decoders raise what they like
        raise DataError(f"is no readable picture ({reason(error)})") from None
    yield example, size


def _prepared(image: Any, task: DataBundle) -> Tensor:
    if image.mode.split(";")[0] in _DEEP:
        raise DataError(f"has more than 8 bits a channel (mode {image.mode}); convert it")
    if isinstance(task.evaluated, LazyDataset) and task.evaluated.crop is not None:
        found: Tensor = task.evaluated.crop(image.convert("RGB"))
        return found
    raw = task.evaluated.raw(0)
    mode = _MODES.get(len(raw)) if isinstance(raw, Tensor) and raw.ndim == 3 else None
    if mode is None or not isinstance(task.evaluated, ArrayDataset):
        raise DataError(f"is a picture, and {task.name!r} has none; give an .npz file with x")
    pixels = np.atleast_3d(np.asarray(image.convert(mode)))
    example = torch.from_numpy(np.moveaxis(pixels, -1, 0).copy())
    return _fitting(example if raw.dtype == torch.uint8 else example / 255, task)


def _fitting(example: Tensor, task: DataBundle) -> Tensor:
    """Refuse another shape than the run's inputs have, unless its transform resizes."""
    raw = task.evaluated.raw(0)
    resizes = getattr(getattr(task.evaluated, "transform", None), "size", None) is not None
    if example.shape != raw.shape and not (resizes and len(example) == len(raw)):
        raise DataError(
            f"has the shape {tuple(example.shape)}, the run's inputs have {tuple(raw.shape)}; "
            "bring it to that, or fit with --data_options.size"
        )
    return example


def _arrays(path: Path, task: DataBundle) -> Iterator[Sized]:
    """Yield the rows of an archive's ``x``, or of a table."""
    from PIL import Image

    if path.suffix.lower() in TABLES:
        if not task.columns:
            raise DataError(f"is a table, and {task.name!r} is none; give an .npz file with x")
        array = read_columns(path, task.columns)
    else:
        array = _stored(path)
    if isinstance(task.evaluated, LazyDataset):
        if array.dtype != np.uint8:
            raise DataError(f"its x has type {array.dtype}; store pictures as uint8")
        for row in array:
            yield _prepared(Image.fromarray(row.squeeze()), task), row.shape[:2]
        return
    raw = task.evaluated.raw(0)
    if raw.ndim == 3:
        array = np.moveaxis(array[..., None] if array.ndim == 3 else array, -1, 1)
        if raw.dtype != torch.uint8 and array.dtype == np.uint8:
            array = array / np.float32(255)
        elif raw.dtype == torch.uint8 and array.dtype != np.uint8:
            if array.min() < 0 or array.max() > 1:
                raise DataError("its x has float pixels outside [0, 1]; store uint8")
            array = np.round(array * 255).astype(np.uint8)
    for row in array:
        example = torch.from_numpy(np.ascontiguousarray(row)).to(raw.dtype)
        yield _fitting(example, task), row.shape[-2:]


def _stored(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as file:
            archive = open_archive(file)
            array = np.asarray(archive["x"])
    except KeyError:
        held = ", ".join(archive.files) or "nothing"
        raise DataError(f"lacks the array x (it holds {held})") from None
    except Exception as error:  # a damaged archive makes its readers raise anything
        raise DataError(f"cannot be read ({reason(error)})") from None
    if array.ndim < 2 or array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
        raise DataError(
            f"its x has shape {array.shape} and type {array.dtype}; store uint8 or floats, one "
            "input a row"
        )
    if not np.isfinite(array).all():
        raise DataError("its x holds NaN or infinite values")
    return array
