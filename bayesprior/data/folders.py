"""Pictures in folders, one folder per class."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bayesprior.data.adapters import SPLITS
from bayesprior.data.arrays import reason
from bayesprior.data.bundle import DataBundle
from bayesprior.data.datasets import LazyDataset
from bayesprior.data.subsets import stratified_split
from bayesprior.data.transforms import IMAGENET, PixelTransform, Statistics
from bayesprior.errors import ConfigError, DataError

__all__ = ["PictureFiles", "image_folder", "photographs", "read_picture"]


def read_picture(path: str | Path) -> Any:
    """Read a picture as a camera meant it, turned upright by its EXIF entry.

    Returns
    -------
    PIL.Image.Image or Tensor
        RGB of 8 bits; of 16 bits a float tensor (3, H, W) in [0, 1].

    Raises
    ------
    DataError
        If the file cannot be read, or its pixels have no known range.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file)
            if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
                values = torch.from_numpy(np.array(picture).astype(np.float32)) / 65535
                if picture.mode == "F" or values.min() < 0 or values.max() > 1:
                    raise DataError(f"{path}: pixels of mode {picture.mode} have no known range")
                return values.expand(3, -1, -1)
            return picture.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} cannot be read as a picture ({reason(error)})") from None


class PictureFiles:
    """Files of pictures with their labels.

    Attributes
    ----------
    samples
        ``(path, label)`` each.
    """

    def __init__(self, samples: Sequence[tuple[str, int]]) -> None:
        self.samples = tuple(samples)

    def __len__(self) -> int:
        """Return N."""
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """Return a picture and its label."""
        path, label = self.samples[index]
        return read_picture(path), label


def photographs(
    source: Any,
    targets: Any = None,
    size: int = 224,
    normalize: Statistics = IMAGENET,
    augment: bool = False,
) -> LazyDataset:
    """Return pictures of any size as a data set of squares.

    They are resized to 8/7 of ``size`` and a square is cut out: the middle, or, with ``augment``,
    any, half of them mirrored. Masks go the same way as their image.

    Parameters
    ----------
    source
        Gives ``source[i] -> (PIL image, target)``, such as a data set of torchvision's.
    targets
        All targets, in place of those of the rows.
    size
        Side of the squares in pixels.
    normalize
        ``(mean, std)``; ImageNet's by default.
    augment
        Whether they are for training.

    Raises
    ------
    ConfigError
        If the size is below 1.
    """
    from torchvision.transforms import v2
    from torchvision.tv_tensors import Image

    if size < 1:
        raise ConfigError(f"size must be at least 1 pixel, got {size}")
    resize = v2.Resize(round(size * 256 / 224), antialias=True)
    scaled = v2.ToDtype({Image: torch.float32, "others": None}, scale=True)
    end = (v2.ToImage(), scaled, v2.ToPureTensor())
    random = (v2.RandomCrop(size), v2.RandomHorizontalFlip())
    return LazyDataset(
        source,
        targets,
        crop=v2.Compose([resize, v2.CenterCrop(size), *end]),
        augment=v2.Compose([resize, *random, *end]) if augment else None,
        transform=PixelTransform(*normalize),
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
        Holds folders named train, test and perhaps val (or training, testing, valid, validation,
        in any case) with the class folders in each, or the class folders themselves, which are
        then split. With training and validation only, validation is the test split. Hidden
        folders and files are ignored.
    size
        Side of the square crop in pixels; pictures are first resized to 8/7 of it.
    normalize
        ``(mean, std)``; ImageNet's by default.
    augment
        Train on random instead of central crops, half of them mirrored.
    test_fraction, seed
        Size and choice of the test split where the folders give none.

    Raises
    ------
    DataError
        If the folders hold no images or one class only, or the splits have different classes.

    Warns
    -----
    UserWarning
        If a folder beside the splits is not used.
    """
    root = Path(root).expanduser()
    if not 0 < test_fraction < 1:
        raise ConfigError(f"test_fraction must be in (0, 1), got {test_fraction}")
    splits, others = _split_folders(root)
    if not splits:
        names, source = _pictures(root)
        labels = torch.tensor([label for _, label in source.samples])
        rest, part = stratified_split(labels, round(test_fraction * len(source)), seed)
        everything = photographs(source, labels, size, normalize, augment)
        train, test = everything.subset(rest), everything.subset(part).without_augmentation()
        return DataBundle(root.name, train, test, class_names=names)
    if others:
        warnings.warn(
            f"{root}: {', '.join(others)} are no splits and are not used", UserWarning, stacklevel=2
        )
    if "train" not in splits:
        raise DataError(f"{root} has a folder {splits.popitem()[1].name} but none for training")
    if "test" not in splits:
        if "validation" not in splits:
            raise DataError(f"{root} has a folder {splits['train'].name} but neither test nor val")
        splits["test"] = splits.pop("validation")
    found = {split: _pictures(folder) for split, folder in splits.items()}
    names = found["train"][0]
    data = {}
    for split, (own, source) in found.items():
        if own != names:
            odd = sorted(set(names).symmetric_difference(own))
            raise DataError(
                f"{root}: the class folders of train and {split} differ ({', '.join(odd[:5])}); "
                "every split needs a folder for every class"
            )
        labels = torch.tensor([label for _, label in source.samples])
        data[split] = photographs(source, labels, size, normalize, augment and split == "train")
    return DataBundle(root.name, data["train"], data["test"], data.get("validation"), names)


def _folders(root: Path) -> list[Path]:
    """Return the folders inside that people made: not hidden, not those of archives."""
    if not root.is_dir():
        raise DataError(f"{root}: there is no such folder; it holds no class folders with images")
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith((".", "__")))


def _split_folders(root: Path) -> tuple[dict[str, Path], list[str]]:
    """Return the folders of the splits, and the names of those that are none."""
    splits: dict[str, Path] = {}
    others = []
    for folder in _folders(root):
        split = next((s for s, names in SPLITS.items() if folder.name.lower() in names), None)
        if split is None:
            others.append(folder.name)
        elif split in splits:
            raise DataError(f"{root} has {splits[split].name} and {folder.name}; keep one of them")
        else:
            splits[split] = folder
    return splits, others


def _pictures(root: Path) -> tuple[tuple[str, ...], PictureFiles]:
    """Return the class names and the files of one split."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    classes, samples = _folders(root), []
    for label, folder in enumerate(classes):
        files = sorted(
            os.path.join(place, name)
            for place, _, names in os.walk(folder, followlinks=True)
            for name in names
            if not any(part.startswith(".") for part in Path(place, name).relative_to(folder).parts)
            and name.lower().endswith(IMG_EXTENSIONS)
            and os.path.isfile(os.path.join(place, name))
        )
        if not files:
            raise DataError(f"{root}: the class folder {folder.name} holds no images; remove it")
        samples += [(file, label) for file in files]
    if not classes:
        raise DataError(f"{root} holds no class folders with images")
    if len(classes) == 1:
        deeper = len(_folders(classes[0])) > 1
        hint = f"did you mean {classes[0]}?" if deeper else "give every class a folder"
        raise DataError(f"{root} holds one class only, {classes[0].name}; {hint}")
    return tuple(folder.name for folder in classes), PictureFiles(samples)
