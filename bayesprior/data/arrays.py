"""Images and labels from arrays in memory or a plain `.npz` file."""

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
from bayesprior.errors import ConfigError, DataError, nearest_name

__all__ = ["from_arrays", "from_npz", "reason"]

Augment = str | Callable[[Tensor, Tensor], Tensor] | None
Split = tuple[Any, Any]

_KNOWN = {"x", "y", "class_names"} | {
    f"{a}_{split}" for a in "xy" for split in ("train", "test", "val")
}


def reason(error: Exception) -> str:
    """Return the first line of another library's message."""
    return (str(error) or type(error).__name__).splitlines()[0]


def from_arrays(
    name: str,
    train: Split,
    test: Split,
    validation: Split | None = None,
    *,
    class_names: Sequence[str] | None = None,
    classes: Sequence[int | str] | None = None,
    size: int | None = None,
    normalize: str | Statistics | None = "train",
    augment: Augment = None,
) -> DataBundle:
    """Make a classification task of arrays of images and labels.

    Parameters
    ----------
    name
        Shown in reports.
    train, test, validation
        Pairs ``(images, labels)``. Images are uint8, or floats in [0, 1], of shape N x H x W or
        N x H x W x C with C = 1, 3 or 4; labels are integers of shape (N,).
    class_names
        One name a class; by default the labels 0..max as text.
    classes
        Keep these classes (names or indices), relabeled 0, 1, ...; all by default.
    size
        Resize to this side in pixels, batch by batch.
    normalize
        ``"train"`` (channel statistics of the training images), ``"imagenet"`` for torchvision's
        pretrained networks, ``(mean, std)``, or None.
    augment
        For training: ``"crop"``, ``"crop-flip"`` or a callable as in `ArrayDataset`.

    Raises
    ------
    DataError
        If an array has a wrong shape or type, lengths differ, a label is out of range, or pixels
        are NaN, infinite or outside [0, 1].
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
    """
    if isinstance(augment, str):
        if augment not in AUGMENTATIONS:
            raise ConfigError(
                f"no augmentation {augment!r}; use one of {', '.join(AUGMENTATIONS)}"
                + nearest_name(augment, AUGMENTATIONS)
            )
        augment = AUGMENTATIONS[augment]
    splits = {"train": train, "test": test} | ({"val": validation} if validation else {})
    data = {
        key: ArrayDataset(_images(f"x_{key}", x), _labels(f"y_{key}", y, len(x)))
        for key, (x, y) in splits.items()
    }
    if class_names is None:
        class_names = [str(c) for c in range(1 + max(int(d.targets.max()) for d in data.values()))]
    bundle = DataBundle(name, data["train"], data["test"], data.get("val"), tuple(class_names))
    if classes is not None:
        bundle = select_classes(bundle, classes)
    mean, std = normalization(normalize, bundle.train.inputs)  # type: ignore[attr-defined]
    pixels = PixelTransform(mean, std, size)

    def prepare(split: Any, **changes: Any) -> Any:
        return split and dataclasses.replace(split, transform=pixels, **changes)

    return dataclasses.replace(
        bundle,
        train=prepare(bundle.train, augment=augment),
        test=prepare(bundle.test),
        validation=prepare(bundle.validation),
    )


def _images(key: str, images: Any) -> Tensor:
    """Check images and return them as (N, C, H, W)."""
    images = np.asarray(images)
    shape = images.shape
    if len(shape) not in (3, 4) or 0 in shape:
        raise DataError(f"{key} has shape {shape}; images must be N x H x W or N x H x W x C")
    if len(shape) == 3:
        images = images[..., None]
    elif shape[-1] not in (1, 3, 4):
        channels_first = shape[1] in (1, 3, 4)
        hint = "; move the channels last, numpy.moveaxis(x, 1, -1)" if channels_first else ""
        raise DataError(f"{key} has shape {shape}; the last axis must be 1, 3 or 4 channels{hint}")
    if images.dtype != np.uint8:
        if not np.issubdtype(images.dtype, np.floating):
            raise DataError(f"{key} has dtype {images.dtype}; store uint8 or floats in [0, 1]")
        if not np.isfinite(images).all():
            count = int((~np.isfinite(images)).sum())
            raise DataError(f"{key} has {count} NaN or infinite pixels; remove or repair them")
        if images.min() < 0 or images.max() > 1:
            raise DataError(
                f"{key} has float pixels from {images.min():g} to {images.max():g}; "
                "scale them to [0, 1] or store uint8"
            )
        images = images.astype(np.float32, copy=False)
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, -1, 1)))


def _labels(key: str, labels: Any, num_images: int) -> Tensor:
    """Check labels and return them as int64."""
    labels = np.asarray(labels)
    if labels.ndim != 1 or len(labels) != num_images:
        raise DataError(
            f"{key} has shape {labels.shape} but there are {num_images} images; "
            "store one label per image"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"{key} has dtype {labels.dtype}; store class indices as integers")
    if labels.min() < 0:
        raise DataError(f"{key} has the label {labels.min()}; class indices start at 0")
    return torch.from_numpy(labels.astype(np.int64))


def from_npz(
    path: str | Path,
    *,
    classes: Sequence[int | str] | None = None,
    size: int | None = None,
    normalize: str | Statistics | None = "train",
    augment: Augment = None,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> DataBundle:
    """Read a classification task from an `.npz` file; nothing in it is unpickled.

    Parameters
    ----------
    path
        Holds ``x_train, y_train, x_test, y_test`` (perhaps ``x_val, y_val``), or ``x, y`` which
        are then split; ``class_names`` is optional. Shapes and types as in `from_arrays`.
    classes, size, normalize, augment
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

    Warns
    -----
    UserWarning
        If classes have no training example.

    Examples
    --------
    >>> import tempfile
    >>> images, labels = np.zeros((20, 8, 8), np.uint8), np.arange(20) % 2
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(Path(folder) / "toy.npz", x=images, y=labels)
    ...     bundle = from_npz(Path(folder) / "toy.npz")
    >>> bundle.name, bundle.num_data, len(bundle.test), bundle.class_names
    ('toy', 16, 4, ('0', '1'))
    """
    if not 0 < test_fraction < 1:
        raise ConfigError(f"test_fraction must be in (0, 1), got {test_fraction}")
    path = Path(path)
    arrays = _read(path)
    try:
        if "x_train" not in arrays:
            labels = _labels("y", arrays["y"], len(_images("x", arrays["x"])))
            parts = stratified_split(labels, round(test_fraction * len(labels)), seed)
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
            class_names=[str(n) for n in arrays["class_names"]]
            if "class_names" in arrays
            else None,
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
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
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
