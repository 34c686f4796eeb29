"""Images, tables and targets from arrays in memory or a plain `.npz` file."""

import dataclasses
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from bayesprior.data.bundle import DataBundle
from bayesprior.data.datasets import ArrayDataset
from bayesprior.data.masks import IGNORED, check_binary, checked_masks
from bayesprior.data.subsets import select_classes, split_off
from bayesprior.data.targets import (
    CLASSES,
    KINDS,
    LABELS,
    MASKS,
    check_numbers,
    checked_targets,
    num_classes,
)
from bayesprior.data.transforms import (
    AUGMENTATIONS,
    Normalization,
    PixelTransform,
    Standardization,
    normalization,
)
from bayesprior.errors import ConfigError, DataError, checked, nearest_name
from bayesprior.inference.generators import fold_seed
from bayesprior.storage import check_size

__all__ = ["digits", "from_arrays", "from_npz", "open_archive", "reason"]

Augment = str | Callable[[Tensor, Tensor], Tensor] | None

SUFFIXES = {"train": "_train", "test": "_test", "validation": "_val"}
"""Ends of the names of a split's arrays."""


def reason(error: Exception) -> str:
    """Return the first line of another library's message."""
    return (str(error) or type(error).__name__).splitlines()[0]


def open_archive(file: BinaryIO) -> Any:
    """Open an .npz archive; NumPy takes anything else for a pickle, and says how to run it."""
    if not zipfile.is_zipfile(file):
        raise zipfile.BadZipFile("it is no .npz archive, or it is cut short")
    check_size(sum(info.file_size for info in zipfile.ZipFile(file).infolist()), file.name)
    file.seek(0)
    return np.load(file, allow_pickle=False)


@checked(name="text")
def from_arrays(
    name: str,
    train: tuple[Any, Any],
    test: Any = None,
    validation: Any = None,
    *,
    kind: str | None = None,
    class_names: Any = None,
    columns: Sequence[str] = (),
    classes: Sequence[int | str] | None = None,
    size: int | None = None,
    normalize: Normalization = "train",
    augment: Augment = None,
    ignore_index: int = IGNORED,
    test_fraction: float | None = None,
    seed: int = 0,
) -> DataBundle:
    """Make a task of arrays: images or tables, with labels, masks or numbers to predict.

    Parameters
    ----------
    name
        Shown in reports.
    train, test, validation
        Pairs ``(inputs, targets)``; test and validation may be inputs alone, and the targets None.
        Images are uint8, uint16, or floats in [0, 1], of shape N x H x W or N x H x W x C with
        C = 1, 3 or 4, or a list of pictures; tables are numbers of shape (N, F) or data frames.
    kind
        ``"classification"`` (targets are integers of shape (N,)), ``"multilabel"`` (any number of
        C labels an example: 0 or 1 each, (N, C)), ``"segmentation"`` (a label for each pixel,
        N x H x W) or ``"regression"`` (numbers of shape (N,) or (N, K)); by default what the
        targets' type and shape say.
    class_names
        One name a class, or a mapping from the index; by default the labels 0..max as text.
    columns
        Names of a table's columns; by default a data frame's own.
    classes
        Keep these classes (names or indices), relabeled 0, 1, ...; all by default.
    size
        Resize images to this side in pixels, batch by batch.
    normalize
        ``"train"`` (statistics of the training inputs, a channel or column; of a table those of
        what is left for training, whenever that becomes less), ``"imagenet"`` for
        torchvision's pretrained networks, ``(mean, std)``, or None.
    augment
        For training: ``"crop"``, ``"crop-flip"`` or a callable as in `ArrayDataset`; masks go with
        their images.
    ignore_index
        Label of the pixels of masks that do not count.
    test_fraction, seed
        Size and choice of a test split that is taken out of ``train`` where there is no ``test``.

    Raises
    ------
    DataError
        If an array has a wrong shape or type, lengths differ, a label is out of range, or numbers
        are NaN, infinite or (of pixels) outside [0, 1].
    ConfigError
        If an option has no meaning.

    Warns
    -----
    UserWarning
        If classes have no training example.

    Examples
    --------
    >>> images, labels = np.zeros((6, 8, 8, 3), np.uint8), np.arange(6) % 2
    >>> from_arrays("toy", (images, labels), (images + 1, labels)).input_shape
    (3, 8, 8)
    >>> x = np.arange(12.0).reshape(6, 2)
    >>> from_arrays("line", (x[:4], x[:4, 0] / 3), (x[4:], x[4:, 0] / 3)).num_classes
    0
    """
    if isinstance(augment, str):
        if augment not in AUGMENTATIONS:
            raise ConfigError(
                f"no augmentation {augment!r}; use one of {', '.join(AUGMENTATIONS)}"
                + nearest_name(augment, AUGMENTATIONS)
            )
        augment = AUGMENTATIONS[augment]
    if kind not in (None, *KINDS):
        raise ConfigError(f"kind must be one of {', '.join(map(repr, KINDS))}, got {kind!r}")
    if test_fraction is not None and not 0 < test_fraction < 1:
        raise ConfigError(f"test_fraction must be in (0, 1), got {test_fraction}")
    if not isinstance(train, tuple | list) or len(train) != 2:
        raise DataError("train must be a pair (inputs, targets)")
    if kind is None and np.ndim(train[1]) == 3:
        kind = MASKS
    if kind is None and class_names is not None:
        kind = LABELS if np.ndim(train[1]) == 2 else CLASSES
    listed = isinstance(class_names, Mapping) or np.ndim(class_names) == 1
    known = len(class_names) if listed else None
    data: dict[str, Any] = {}
    for split, value in (("train", train), ("test", test), ("validation", validation)):
        if value is None:
            continue
        x, y = value if isinstance(value, tuple | list) and len(value) == 2 else (value, None)
        inputs = _inputs(f"x{SUFFIXES[split]}", x, size)
        if y is not None and kind == MASKS:
            size_of = (len(inputs), *inputs.shape[2:])
            y = checked_masks(f"y{SUFFIXES[split]}", y, size_of, known, ignore_index)
            check_binary(f"y{SUFFIXES[split]}", y)
        elif y is not None:
            y, kind = checked_targets(f"y{SUFFIXES[split]}", y, len(inputs), kind)
        data[split] = ArrayDataset(inputs, y)
    has_classes = kind in (CLASSES, LABELS, MASKS)
    if has_classes and class_names is None:
        class_names = range(num_classes([d.targets for d in data.values()], kind))
    names = class_names if has_classes else ()
    columns = columns if len(columns) else getattr(train[0], "columns", ())
    bundle = DataBundle(name, **data, class_names=names, columns=tuple(map(str, columns)))
    if test is None and test_fraction is not None and kind is not None:
        bundle = split_off(bundle, "test", float(test_fraction), seed)
    if classes is not None:
        bundle = select_classes(bundle, classes)
    is_table = normalize == "train" and bundle.train.inputs.ndim == 2
    make = Standardization if is_table else PixelTransform
    finish = make(*normalization(normalize, bundle.train.inputs), size)
    splits = {split: dataclasses.replace(d, transform=finish) for split, d in bundle.splits.items()}
    splits["train"] = dataclasses.replace(splits["train"], augment=augment)
    return dataclasses.replace(bundle, **splits)


def _inputs(key: str, inputs: Any, size: int | None) -> Tensor:
    """Check images or a table and return them as (N, C, H, W) or (N, F)."""
    try:
        inputs = np.asarray(inputs)
    except ValueError:
        inputs = _one_size(key, inputs, size)
    shape = inputs.shape
    if len(shape) not in (2, 3, 4) or 0 in shape:
        raise DataError(
            f"{key} has shape {shape}; images must be N x H x W or N x H x W x C, tables N x F"
        )
    check_numbers(key, inputs)
    if len(shape) == 2:
        return torch.from_numpy(inputs.astype(np.float32))
    images = inputs[..., None] if len(shape) == 3 else inputs
    if images.shape[-1] not in (1, 3, 4):
        channels_first = shape[1] in (1, 3, 4)
        hint = "; move the channels last, numpy.moveaxis(x, 1, -1)" if channels_first else ""
        raise DataError(f"{key} has shape {shape}; the last axis must be 1, 3 or 4 channels{hint}")
    if images.dtype == np.uint16:
        images = images / np.float32(65535)
    if images.dtype != np.uint8:
        low, high = images.min(), images.max()
        if images.dtype.kind != "f" or low < 0 or high > 1:
            raise DataError(
                f"{key} has {images.dtype} pixels from {low} to {high}; store uint8 or uint16, "
                "or floats scaled to [0, 1]"
            )
        images = images.astype(np.float32, copy=False)
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, -1, 1)))


def _one_size(key: str, pictures: Any, size: int | None) -> np.ndarray:
    """Resize pictures of different sizes, (H, W) or (H, W, C) each."""
    shapes = sorted({np.shape(picture) for picture in pictures})
    if size is None or len({len(shape) for shape in shapes}) > 1:
        some = ", ".join(map(str, shapes[:3]))
        raise DataError(f"{key} holds pictures of shapes {some}; resize them all with size=")
    resize = PixelTransform(size=size)
    images = [resize(_inputs(key, np.asarray(picture)[None], None)) for picture in pictures]
    return torch.cat(images).movedim(1, -1).numpy().clip(0, 1)


def from_npz(
    path: str | Path,
    *,
    kind: str | None = None,
    classes: Sequence[int | str] | None = None,
    size: int | None = None,
    normalize: Normalization = "train",
    augment: Augment = None,
    ignore_index: int = IGNORED,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> DataBundle:
    """Read a task from an `.npz` file; nothing in it is unpickled.

    Parameters
    ----------
    path
        Holds ``x_train, y_train, x_test, y_test`` (perhaps ``x_val, y_val``), or ``x, y`` which
        are then split; ``class_names`` is optional. ``x`` alone, or ``x_train`` with or without
        others, are data without labels. Shapes and types as in `from_arrays`.
    kind, classes, size, normalize, augment, ignore_index
        As in `from_arrays`.
    test_fraction
        Share of the test split where the file has only ``x`` and ``y``.
    seed
        Decides that split.

    Raises
    ------
    DataError
        If the file is missing, unreadable or corrupt, lacks an array, or its arrays are refused by
        `from_arrays`. The message names the file and the array.
    ConfigError
        If an option has no meaning.

    Examples
    --------
    >>> import tempfile
    >>> images, labels = np.zeros((20, 8, 8), np.uint8), np.arange(20) % 2
    >>> images[:, 0, 0] = np.arange(20)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(Path(folder) / "toy.npz", x=images, y=labels)
    ...     bundle = from_npz(Path(folder) / "toy.npz")
    >>> bundle.name, bundle.num_data, len(bundle.test), bundle.class_names
    ('toy', 16, 4, ('0', '1'))
    """
    path = Path(path).expanduser()
    arrays = _read(path)
    pairs: dict[str, Any] = {
        split: (arrays[f"x{suffix}"], arrays.get(f"y{suffix}"))
        for split, suffix in (("train", ""), *SUFFIXES.items())
        if f"x{suffix}" in arrays
    }
    try:
        return from_arrays(
            path.stem,
            **pairs,
            kind=kind,
            class_names=arrays.get("class_names"),
            classes=classes,
            size=size,
            normalize=normalize,
            augment=augment,
            ignore_index=ignore_index,
            test_fraction=test_fraction,
            seed=seed,
        )
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _read(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays that we know and check that the needed ones are there."""
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    known = {"class_names", *(a + suffix for a in "xy" for suffix in ("", *SUFFIXES.values()))}
    reading, arrays = "the archive", {}
    try:
        with path.open("rb") as file:
            archive = open_archive(file)
            present = sorted(archive.files)
            for reading in known.intersection(present):
                arrays[reading] = archive[reading]
    except Exception as error:  # a damaged archive makes its readers raise anything
        raise DataError(
            f"{path}: {reading} cannot be read ({reason(error)}); write the file with numpy.savez"
        ) from None
    needed = [""] if "x" in arrays and "x_train" not in arrays else ["_train", "_test"]
    needed += ["_val"] if {"x_val", "y_val"} & arrays.keys() else []
    labeled = any(key.startswith("y") for key in arrays)
    if not labeled and {"x", "x_train"} & arrays.keys():
        return arrays
    if missing := [a + suffix for suffix in needed for a in "xy" if a + suffix not in arrays]:
        raise DataError(
            f"{path}: lacks {', '.join(missing)}; store x_train, y_train, x_test, y_test, x, y, "
            f"or x without labels (it holds {', '.join(present) or 'nothing'})"
        )
    return arrays


def digits(*, num_validation: int = 400, num_test: int = 797, seed: int = 0) -> DataBundle:
    """Return scikit-learn's 1,797 real handwritten digits, split class by class.

    Parameters
    ----------
    num_validation, num_test
        Sizes of those splits; the rest (600) is the pool to draw few-shot training sets from.
    seed
        Decides the splits.

    Raises
    ------
    DataError
        If a split would be empty.

    References
    ----------
    Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
    Repository, 1998, doi:10.24432/C50P49.

    Examples
    --------
    >>> bundle = digits()
    >>> len(bundle.train), len(bundle.validation), len(bundle.test)
    (600, 400, 797)
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    everything = ArrayDataset(data.images[:, None] / 16, data.target)
    bundle = DataBundle("digits", everything, class_names=tuple("0123456789"))
    bundle = split_off(bundle, "test", num_test, fold_seed(seed, 0))
    return split_off(bundle, "validation", num_validation, fold_seed(seed, 1))
