"""torchvision's data sets with their usual transforms.

The small ones (CIFAR, MNIST) are held in memory; those of photographs are read file by file.
Nothing is downloaded unless ``download=True``.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bayesprior.data.arrays import from_arrays, reason
from bayesprior.data.bundle import DataBundle
from bayesprior.data.datasets import LazyDataset
from bayesprior.data.subsets import stratified_split
from bayesprior.data.transforms import IMAGENET, CropFlip, PixelTransform, Statistics
from bayesprior.errors import DataError

__all__ = [
    "cifar10",
    "cifar100",
    "fashion_mnist",
    "flowers102",
    "image_folder",
    "mnist",
    "oxford_pets",
]

# Channel mean and standard deviation of the full training sets, as published with them.
_CIFAR10: Statistics = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
_CIFAR100: Statistics = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
_MNIST: Statistics = ((0.1307,), (0.3081,))
_FASHION: Statistics = ((0.2860,), (0.3530,))


def _open(
    name: str, root: str | Path, load: Callable[..., Any], download: bool, **split: Any
) -> Any:
    """Load one split with torchvision; a missing or broken copy becomes one clear line."""
    try:
        return load(root=str(root), download=download, **split)
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        if download:
            raise DataError(f"{name} cannot be downloaded to {root}: {reason(error)}") from error
        raise DataError(
            f"{name} is not in {root} or is incomplete ({reason(error)}); "
            "pass the root folder that holds it, or download=True"
        ) from error


def _in_memory(
    name: str,
    root: str | Path,
    load: Callable[..., Any],
    download: bool,
    size: int | None,
    normalize: str | Statistics | None,
    augment: CropFlip | None,
) -> DataBundle:
    train, test = (_open(name, root, load, download, train=part) for part in (True, False))
    return from_arrays(
        name,
        train=(train.data, train.targets),
        test=(test.data, test.targets),
        class_names=train.classes,
        size=size,
        normalize=normalize,
        augment=augment,
    )


def cifar10(
    root: str | Path,
    *,
    download: bool = False,
    size: int | None = None,
    normalize: str | Statistics | None = _CIFAR10,
    augment: bool = True,
) -> DataBundle:
    """Return CIFAR-10: 50,000 + 10,000 color images of 32 x 32, 10 classes.

    Parameters
    ----------
    root
        Folder that holds ``cifar-10-batches-py``.
    download
        Fetch what is missing.
    size
        Resize to this side in pixels; None keeps 32.
    normalize
        ``(mean, std)`` (published values by default), ``"train"``, ``"imagenet"`` or None.
    augment
        Train on shifts by up to 4 pixels and mirror images.

    Raises
    ------
    DataError
        If the files are not there, or the download fails.
    """
    from torchvision.datasets import CIFAR10

    augmentation = CropFlip() if augment else None
    return _in_memory("cifar10", root, CIFAR10, download, size, normalize, augmentation)


def cifar100(
    root: str | Path,
    *,
    download: bool = False,
    size: int | None = None,
    normalize: str | Statistics | None = _CIFAR100,
    augment: bool = True,
) -> DataBundle:
    """Return CIFAR-100: 50,000 + 10,000 color images of 32 x 32, 100 classes.

    Options and errors as in `cifar10`; ``root`` holds ``cifar-100-python``.
    """
    from torchvision.datasets import CIFAR100

    augmentation = CropFlip() if augment else None
    return _in_memory("cifar100", root, CIFAR100, download, size, normalize, augmentation)


def mnist(
    root: str | Path,
    *,
    download: bool = False,
    size: int | None = None,
    normalize: str | Statistics | None = _MNIST,
    augment: bool = False,
) -> DataBundle:
    """Return MNIST: 60,000 + 10,000 gray handwritten digits of 28 x 28.

    Options and errors as in `cifar10`; ``root`` holds ``MNIST/raw``, ``augment`` shifts only.
    """
    from torchvision.datasets import MNIST

    augmentation = CropFlip(padding=2, flip=False) if augment else None
    return _in_memory("mnist", root, MNIST, download, size, normalize, augmentation)


def fashion_mnist(
    root: str | Path,
    *,
    download: bool = False,
    size: int | None = None,
    normalize: str | Statistics | None = _FASHION,
    augment: bool = False,
) -> DataBundle:
    """Return Fashion-MNIST: 60,000 + 10,000 gray images of clothing of 28 x 28, 10 classes.

    Options and errors as in `cifar10`; ``root`` holds ``FashionMNIST/raw``, ``augment`` shifts by
    up to 2 pixels and mirrors.
    """
    from torchvision.datasets import FashionMNIST

    augmentation = CropFlip(padding=2) if augment else None
    return _in_memory("fashion_mnist", root, FashionMNIST, download, size, normalize, augmentation)


def _photographs(
    source: Any, targets: list[int] | Tensor, size: int, normalize: Statistics, augment: bool
) -> LazyDataset:
    """Resize photographs to 8/7 of ``size`` and cut a square: the middle, or any and mirrored."""
    from torchvision.transforms import v2

    resize, tensor = v2.Resize(round(size * 256 / 224)), v2.PILToTensor()
    crops = [v2.RandomCrop(size), v2.RandomHorizontalFlip()]
    return LazyDataset(
        source,
        torch.as_tensor(targets),
        crop=v2.Compose([resize, v2.CenterCrop(size), tensor]),
        augment=v2.Compose([resize, *crops, tensor]) if augment else None,
        transform=PixelTransform(*normalize),
    )


def flowers102(
    root: str | Path,
    *,
    download: bool = False,
    size: int = 224,
    normalize: Statistics = IMAGENET,
    augment: bool = True,
) -> DataBundle:
    """Return Oxford Flowers-102: 1,020 + 1,020 + 6,149 photographs, 102 classes, read from files.

    Parameters
    ----------
    root
        Folder that holds ``flowers-102``.
    download
        Fetch what is missing.
    size
        Side of the square crop in pixels; photographs are first resized to 8/7 of it.
    normalize
        ``(mean, std)``; ImageNet's by default.
    augment
        Train on random instead of central crops, half of them mirrored.

    Raises
    ------
    DataError
        If the files are not there, or the download fails.
    """
    from torchvision.datasets import Flowers102

    splits = {
        split: _open("flowers102", root, Flowers102, download, split=split)
        for split in ("train", "val", "test")
    }
    data = {
        split: _photographs(d, d._labels, size, normalize, augment and split == "train")
        for split, d in splits.items()
    }
    names = tuple(splits["train"].classes)
    return DataBundle("flowers102", data["train"], data["test"], data["val"], names)


def oxford_pets(
    root: str | Path,
    *,
    download: bool = False,
    size: int = 224,
    normalize: Statistics = IMAGENET,
    augment: bool = True,
) -> DataBundle:
    """Return Oxford-IIIT Pets: 3,680 + 3,669 photographs of 37 breeds, read from files.

    Options and errors as in `flowers102`; ``root`` holds ``oxford-iiit-pet``.
    """
    from torchvision.datasets import OxfordIIITPet

    train, test = (
        _open("oxford_pets", root, OxfordIIITPet, download, split=s) for s in ("trainval", "test")
    )
    return DataBundle(
        "oxford_pets",
        _photographs(train, train._labels, size, normalize, augment),
        _photographs(test, test._labels, size, normalize, augment=False),
        class_names=tuple(train.classes),
    )


def image_folder(
    root: str | Path,
    *,
    size: int = 224,
    normalize: Statistics = IMAGENET,
    augment: bool = True,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> DataBundle:
    """Return a data set from folders of image files, one folder per class.

    Parameters
    ----------
    root
        Holds ``train`` and ``test`` (and perhaps ``val``) with the class folders in each, or the
        class folders themselves, which are then split. With ``train`` and ``val`` only, ``val`` is
        the test split and there is no validation split.
    size, normalize, augment
        As in `flowers102`.
    test_fraction, seed
        Size and choice of the test split where the folders give none.

    Raises
    ------
    DataError
        If the folders hold no images, or the splits have different class folders.
    """
    root = Path(root)
    if not (root / "train").is_dir():
        source = _read_folder(root)
        rest, part = stratified_split(
            torch.tensor(source.targets), round(test_fraction * len(source)), seed
        )
        everything = _photographs(source, source.targets, size, normalize, augment)
        train, test = everything.subset(rest), everything.subset(part).without_augmentation()
        return DataBundle(root.name, train, test, class_names=tuple(source.classes))
    sources = {s: _read_folder(root / s) for s in ("train", "val", "test") if (root / s).is_dir()}
    if "test" not in sources:
        if "val" not in sources:
            raise DataError(f"{root} has a folder train but neither test nor val")
        sources["test"] = sources.pop("val")
    names = sources["train"].classes
    for split, source in sources.items():
        if source.classes != names:
            odd = sorted(set(names).symmetric_difference(source.classes))
            raise DataError(
                f"{root}: the class folders of train and {split} differ ({', '.join(odd[:5])}); "
                "every split needs a folder for every class"
            )
    data = {
        split: _photographs(source, source.targets, size, normalize, augment and split == "train")
        for split, source in sources.items()
    }
    return DataBundle(root.name, data["train"], data["test"], data.get("val"), tuple(names))


def _read_folder(folder: Path) -> Any:
    from torchvision.datasets import ImageFolder

    try:
        return ImageFolder(str(folder))
    except OSError as error:
        raise DataError(f"{folder} holds no class folders with images ({reason(error)})") from error
