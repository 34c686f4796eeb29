"""Images, tables and targets from arrays in memory or a plain `.npz` file."""

import dataclasses
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bayesprior.data.bundle import DataBundle
from bayesprior.data.datasets import ArrayDataset
from bayesprior.data.subsets import select_classes, stratified_split
from bayesprior.data.transforms import AUGMENTATIONS, PixelTransform, Statistics, normalization
from bayesprior.errors import ConfigError, DataError, checked, nearest_name
from bayesprior.inference.generators import fold_seed

__all__ = ["digits", "from_arrays", "from_npz", "reason"]

CLASSES = "classification"

Augment = str | Callable[[Tensor, Tensor], Tensor] | None
Split = tuple[Any, Any]

_KNOWN = {"x", "y", "class_names"} | {
    f"{a}_{split}" for a in "xy" for split in ("train", "test", "val")
}


def reason(error: Exception) -> str:
    """Return the first line of another library's message."""
    return (str(error) or type(error).__name__).splitlines()[0]


@checked(name="text")
def from_arrays(
    name: str,
    train: Split,
    test: Any = None,
    validation: Any = None,
    *,
    kind: str | None = None,
    class_names: Any = None,
    classes: Sequence[int | str] | None = None,
    size: int | None = None,
    normalize: str | Statistics | None = "train",
    augment: Augment = None,
) -> DataBundle:
    """Make a task of arrays: images or tables, with class labels or numbers to predict.

    Parameters
    ----------
    name
        Shown in reports.
    train, test, validation
        Pairs ``(inputs, targets)``; test and validation may be inputs alone, without targets.
        Images are uint8, uint16, or floats in [0, 1], of shape N x H x W or N x H x W x C with
        C = 1, 3 or 4, or a list of pictures; tables are numbers of shape (N, F) or data frames.
    kind
        ``"classification"`` (targets are integers of shape (N,)) or ``"regression"`` (numbers of
        shape (N,) or (N, K)); by default what the targets' type says.
    class_names
        One name a class, or a mapping from the index; by default the labels 0..max as text.
    classes
        Keep these classes (names or indices), relabeled 0, 1, ...; all by default.
    size
        Resize images to this side in pixels, batch by batch.
    normalize
        ``"train"`` (statistics of the training inputs, a channel or column), ``"imagenet"`` for
        torchvision's pretrained networks, ``(mean, std)``, or None.
    augment
        For training: ``"crop"``, ``"crop-flip"`` or a callable as in `ArrayDataset`.

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
    >>> from_arrays("toy", (images, labels), (images[:2], labels[:2])).input_shape
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
    if kind not in (None, "classification", "regression"):
        raise ConfigError(f"kind must be 'classification' or 'regression', got {kind!r}")
    if not isinstance(train, tuple | list) or len(train) != 2:
        raise DataError("train must be a pair (inputs, targets)")
    inferred = None if class_names is None else CLASSES
    data = {}
    for key, split in (("train", train), ("test", test), ("val", validation)):
        if split is None:
            continue
        x, y = split if isinstance(split, tuple | list) and len(split) == 2 else (split, None)
        inputs = _inputs(f"x_{key}", x, size)
        if y is not None:
            y, kind = _targets(f"y_{key}", y, len(inputs), kind or inferred)
        data[key] = ArrayDataset(inputs, y)
    if kind == CLASSES:
        labels = [d.targets for d in data.values() if d.targets is not None]
        if class_names is None:
            class_names = [str(c) for c in range(1 + max(int(t.max()) for t in labels))]
    names = class_names if kind == CLASSES else ()
    bundle = DataBundle(name, data["train"], data.get("test"), data.get("val"), names)
    if classes is not None:
        bundle = select_classes(bundle, classes)
    mean, std = normalization(normalize, bundle.train.inputs)
    finish = PixelTransform(mean, std, size)

    def prepare(split: Any, **changes: Any) -> Any:
        return split and dataclasses.replace(split, transform=finish, **changes)

    return dataclasses.replace(
        bundle,
        train=prepare(bundle.train, augment=augment),
        test=prepare(bundle.test),
        validation=prepare(bundle.validation),
    )


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
    if inputs.dtype.kind not in "biuf":
        raise DataError(f"{key} has dtype {inputs.dtype}; encode text and categories as numbers")
    if inputs.dtype.kind == "f" and not np.isfinite(inputs).all():
        count = int((~np.isfinite(inputs)).sum())
        raise DataError(f"{key} has {count} NaN or infinite numbers; remove or repair them")
    if len(shape) == 2:
        return torch.from_numpy(inputs.astype(np.float32))
    if len(shape) == 3:
        inputs = inputs[..., None]
    elif shape[-1] not in (1, 3, 4):
        channels_first = shape[1] in (1, 3, 4)
        hint = "; move the channels last, numpy.moveaxis(x, 1, -1)" if channels_first else ""
        raise DataError(f"{key} has shape {shape}; the last axis must be 1, 3 or 4 channels{hint}")
    if inputs.dtype == np.uint16:
        inputs = inputs / np.float32(65535)
    elif inputs.dtype != np.uint8:
        if inputs.dtype.kind != "f":
            raise DataError(
                f"{key} has dtype {inputs.dtype}; store uint8, uint16 or floats in [0, 1]"
            )
        if inputs.min() < 0 or inputs.max() > 1:
            raise DataError(
                f"{key} has float pixels from {inputs.min():g} to {inputs.max():g}; "
                "scale them to [0, 1] or store uint8"
            )
        inputs = inputs.astype(np.float32, copy=False)
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(inputs, -1, 1)))


def _one_size(key: str, pictures: Any, size: int | None) -> np.ndarray:
    """Resize pictures of different sizes, (H, W) or (H, W, C) each."""
    shapes = sorted({np.shape(picture) for picture in pictures})
    if size is None or len({len(shape) for shape in shapes}) > 1:
        some = ", ".join(map(str, shapes[:3]))
        raise DataError(f"{key} holds pictures of shapes {some}; resize them all with size=")
    resize = PixelTransform(size=size)
    out = []
    for picture in pictures:
        image = _inputs(key, np.asarray(picture)[None], None)
        out.append(resize(image)[0].movedim(0, -1).numpy().clip(0, 1))
    return np.stack(out)


def _targets(key: str, targets: Any, num_inputs: int, kind: str | None) -> tuple[Tensor, str]:
    """Check targets and return them with their kind: labels as int64, numbers as float32."""
    targets = np.asarray(targets)
    whole = targets.dtype.kind in "iu"
    if targets.dtype.kind not in "iuf" or (kind == CLASSES and not whole):
        raise DataError(f"{key} has dtype {targets.dtype}; store class indices as integers")
    if kind is None and not whole and (targets == np.round(targets)).all():
        raise DataError(
            f"{key} has dtype {targets.dtype}; store class indices as integers, or say "
            "kind='regression'"
        )
    kind = kind or (CLASSES if whole else "regression")
    shapes = (1,) if kind == CLASSES else (1, 2)
    if targets.ndim not in shapes or len(targets) != num_inputs:
        raise DataError(
            f"{key} has shape {targets.shape} but there are {num_inputs} inputs; "
            f"store one {'label' if kind == CLASSES else 'row of numbers'} per input"
        )
    if kind != CLASSES:
        if not np.isfinite(targets).all():
            raise DataError(f"{key} has NaN or infinite numbers; remove or repair them")
        return torch.from_numpy(targets.astype(np.float32)), kind
    low, high = int(targets.min()), int(targets.max())
    if low < 0:
        raise DataError(f"{key} has the label {low}; class indices start at 0")
    if high >= max(10_000, 10 * num_inputs):
        raise DataError(
            f"{key} has the label {high} among {num_inputs} inputs; number the classes 0, 1, ..., "
            "for example by numpy.unique(y, return_inverse=True)[1]"
        )
    return torch.from_numpy(targets.astype(np.int64)), kind


def from_npz(
    path: str | Path,
    *,
    kind: str | None = None,
    classes: Sequence[int | str] | None = None,
    size: int | None = None,
    normalize: str | Statistics | None = "train",
    augment: Augment = None,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> DataBundle:
    """Read a task from an `.npz` file; nothing in it is unpickled.

    Parameters
    ----------
    path
        Holds ``x_train, y_train, x_test, y_test`` (perhaps ``x_val, y_val``), or ``x, y`` which
        are then split; ``class_names`` is optional. Shapes and types as in `from_arrays`.
    kind, classes, size, normalize, augment
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
    if not 0 < test_fraction < 1:
        raise ConfigError(f"test_fraction must be in (0, 1), got {test_fraction}")
    path = Path(path).expanduser()
    arrays = _read(path)
    try:
        if "x_train" not in arrays:
            inputs = _inputs("x", arrays["x"], size)
            labels, found = _targets("y", arrays["y"], len(inputs), kind)
            strata = labels if found == CLASSES else torch.zeros(len(labels)).long()
            parts = stratified_split(strata, round(test_fraction * len(labels)), seed)
            for key, rows in zip(("train", "test"), parts, strict=True):
                arrays[f"x_{key}"] = arrays["x"][rows.numpy()]
                arrays[f"y_{key}"] = arrays["y"][rows.numpy()]
        pairs = {
            key: (arrays[f"x_{key}"], arrays[f"y_{key}"])
            for key in ("train", "test", "val")
            if f"x_{key}" in arrays
        }
        return from_arrays(
            path.stem,
            pairs["train"],
            pairs["test"],
            pairs.get("val"),
            kind=kind,
            class_names=arrays.get("class_names"),
            classes=classes,
            size=size,
            normalize=normalize,
            augment=augment,
        )
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _read(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays that we know and check that the needed ones are there."""
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    reading = "the archive"
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            present = list(getattr(archive, "files", ()))
            arrays = {}
            for reading in sorted(_KNOWN.intersection(present)):
                arrays[reading] = archive[reading]
    except (
        *(OSError, EOFError, ValueError, MemoryError),
        *(zipfile.BadZipFile, zlib.error),
    ) as error:
        raise DataError(
            f"{path}: {reading} cannot be read ({reason(error)}); write the file with numpy.savez"
        ) from None
    suffixes = [""] if "x" in arrays and "x_train" not in arrays else ["_train", "_test"]
    suffixes += ["_val"] if {"x_val", "y_val"} & arrays.keys() else []
    missing = [f"{a}{suffix}" for suffix in suffixes for a in "xy" if f"{a}{suffix}" not in arrays]
    if missing:
        raise DataError(
            f"{path}: lacks {', '.join(missing)}; store x_train, y_train, x_test, y_test, or x, y "
            f"(it holds {', '.join(sorted(present)) or 'nothing'})"
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
    images = torch.from_numpy(data.images / 16).float()[:, None]
    labels = torch.from_numpy(data.target).long()
    everything = ArrayDataset(images, labels)
    rest, test = stratified_split(labels, num_test, fold_seed(seed, 0))
    pool, validation = stratified_split(labels[rest], num_validation, fold_seed(seed, 1))
    return DataBundle(
        "digits",
        train=everything.subset(rest[pool]),
        test=everything.subset(test),
        validation=everything.subset(rest[validation]),
        class_names=tuple("0123456789"),
    )
