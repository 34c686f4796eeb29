"""torchvision's data sets with their usual transforms.

Those that torchvision holds in memory (CIFAR, MNIST) stay there; pictures are read one by one,
masks with them. Nothing is downloaded unless ``download=True``.
"""

import contextlib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from bayesprior.data.arrays import from_arrays, reason
from bayesprior.data.bundle import DataBundle
from bayesprior.data.folders import photographs
from bayesprior.data.transforms import PUBLISHED, CropFlip, Normalization
from bayesprior.errors import ConfigError, DataError, nearest_name

__all__ = ["from_torchvision"]

_AUGMENTED = {"MNIST": CropFlip(padding=2, flip=False), "FashionMNIST": CropFlip(padding=2)}
_TITLES = {"FashionMNIST": "fashion_mnist", "OxfordIIITPet": "oxford_pets"}
# What the option that selects a split may be called, and its values, best first.
_NAMES = {"train": ("train", "trainval"), "test": ("test", "val"), "validation": ("val", "valid")}
_OPTIONS: dict[str, dict[str, tuple[Any, ...]]] = {
    "train": {"train": (True,), "test": (False,)},
    "split": _NAMES,
    "image_set": _NAMES,
}


def from_torchvision(
    name: str,
    root: str | Path,
    *,
    download: bool = False,
    size: int | None = None,
    normalize: Normalization = "published",
    augment: bool | None = None,
    splits: Mapping[str, Mapping[str, Any]] | None = None,
) -> DataBundle:
    """Return one of torchvision's data sets: images with labels, or with masks.

    Parameters
    ----------
    name
        Of the class in ``torchvision.datasets``, such as ``"CIFAR10"`` or ``"VOCSegmentation"``.
    root
        Folder that holds the files, as that class wants it.
    download
        Fetch what is missing.
    size
        Side of the images in pixels. Photographs are resized to 8/7 of it and cropped (224 by
        default), images in memory keep their size by default.
    normalize
        ``(mean, std)``, ``"train"``, ``"imagenet"``, None, or the published values: the set's own
        where we know them, else ImageNet's for photographs and ``"train"``.
    augment
        Train on shifted or cropped images, mirrored where that keeps their meaning; by default for
        all but MNIST's kind.
    splits
        Options of the class for ``"train"``, ``"test"`` and perhaps ``"validation"``; by default
        what its ``train=``, ``split=`` or ``image_set=`` offers.

    Raises
    ------
    DataError
        If the files are not there, or the download fails.
    ConfigError
        If there is no such data set.
    """
    from torchvision import datasets

    known = datasets.__all__
    if name not in known:
        raise ConfigError(f"torchvision has no data set {name!r}{nearest_name(name, known)}")
    make = getattr(datasets, name)
    title = _TITLES.get(name, name.lower())
    open_split = partial(_open, title, root, make, download)
    if splits is None:
        found = _open_splits(make, open_split)
    else:
        found = {split: open_split(**options) for split, options in splits.items()}
    train = found["train"]
    names = tuple(getattr(train, "classes", ()))
    in_memory = hasattr(train, "data") and hasattr(train, "targets")
    if normalize == "published":
        normalize = name if name in PUBLISHED else "train" if in_memory else "imagenet"
    if in_memory:
        augmentation = _AUGMENTED.get(name, CropFlip())
        wanted = name not in _AUGMENTED if augment is None else augment
        pairs: dict[str, Any] = {split: (d.data, d.targets) for split, d in found.items()}
        return from_arrays(
            title,
            **pairs,
            class_names=names or None,
            size=size,
            normalize=normalize,
            augment=augmentation if wanted else None,
        )
    data: dict[str, Any] = {
        split: photographs(d, size or 224, normalize, augment is not False and split == "train")
        for split, d in found.items()
    }
    return DataBundle(title, **data, class_names=names)


def _open_splits(make: Any, open_split: Callable[..., Any]) -> dict[str, Any]:
    """Open the splits that a class offers, each once."""
    parameters = inspect.signature(make).parameters
    option = next((name for name in _OPTIONS if name in parameters), None)
    if option is None:
        raise ConfigError(f"{make.__name__} has no splits that we know; give splits=")
    found: dict[Any, tuple[str, Any]] = {}
    for split, values in _OPTIONS[option].items():
        for value in values:
            if value not in found and split not in {taken for taken, _ in found.values()}:
                with contextlib.suppress(LookupError):
                    found[value] = split, open_split(**{option: value})
    return dict(found.values())


def _open(name: str, root: str | Path, make: Any, download: bool, **split: Any) -> Any:
    """Load one split with torchvision; a missing or broken copy becomes one clear line."""
    if "download" in inspect.signature(make).parameters:
        split["download"] = download
    try:
        return make(root=str(Path(root).expanduser()), **split)
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        if "Valid values are" in str(error):
            raise LookupError(str(error)) from None
        if download:
            raise DataError(f"{name} cannot be downloaded to {root}: {reason(error)}") from error
        raise DataError(
            f"{name} is not in {root} or is incomplete ({reason(error)}); "
            "pass the root folder that holds it, or download=True"
        ) from error


cifar10 = partial(from_torchvision, "CIFAR10")
"""CIFAR-10: 50,000 + 10,000 color images of 32 x 32; ``root`` holds ``cifar-10-batches-py``."""
cifar100 = partial(from_torchvision, "CIFAR100")
"""CIFAR-100: the same of 100 classes; ``root`` holds ``cifar-100-python``."""
mnist = partial(from_torchvision, "MNIST")
"""MNIST: 60,000 + 10,000 gray digits of 28 x 28; ``root`` holds ``MNIST/raw``."""
fashion_mnist = partial(from_torchvision, "FashionMNIST")
"""Fashion-MNIST: gray images of clothing, as MNIST; ``root`` holds ``FashionMNIST/raw``."""
flowers102 = partial(from_torchvision, "Flowers102")
"""Oxford Flowers-102: 1,020 + 1,020 + 6,149 photographs; ``root`` holds ``flowers-102``."""
oxford_pets = partial(from_torchvision, "OxfordIIITPet")
"""Oxford-IIIT Pets: 3,680 + 3,669 photographs, 37 breeds; ``root`` holds ``oxford-iiit-pet``."""
