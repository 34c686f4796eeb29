"""Pictures in folders, one folder per class."""

import contextlib
import filecmp
import itertools
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bayesprior.data.adapters import SPELLINGS
from bayesprior.data.arrays import reason
from bayesprior.data.bundle import DataBundle
from bayesprior.data.datasets import LazyDataset, known_targets
from bayesprior.data.subsets import split_off
from bayesprior.data.transforms import Normalization, PixelTransform, normalization
from bayesprior.errors import ConfigError, DataError

__all__ = [
    "PictureFiles",
    "image_folder",
    "in_pixels",
    "named_splits",
    "opened",
    "photographs",
    "read_picture",
]


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[Any]:
    """Open a picture; refuse an enormous one, which Pillow would warn of and then decode."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path) as picture:
            yield picture


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
    from PIL import ImageOps

    try:
        with opened(path) as file:
            picture = ImageOps.exif_transpose(file)
            if picture.mode != "F" and not picture.mode.startswith("I"):
                return picture.convert("RGB")
            values = torch.from_numpy(np.array(picture).astype(np.float32)) / 65535
    except Exception as error:  # decoders raise what they like
        raise DataError(f"{path} cannot be read as a picture ({reason(error)})") from None
    if picture.mode == "F" or values.min() < 0 or values.max() > 1:
        raise DataError(f"{path}: pixels of mode {picture.mode} have no known range")
    return values.expand(3, -1, -1)


class PictureFiles:
    """Files of pictures with their labels.

    Attributes
    ----------
    samples, targets
        ``(path, label)`` each; the labels. None where there are no classes.
    """

    def __init__(self, samples: Sequence[tuple[str, int | None]]) -> None:
        self.samples = tuple(samples)
        labels = [label for _, label in samples]
        self.targets = None if None in labels else labels

    def __len__(self) -> int:
        """Return N."""
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        """Return a picture and its label, or the picture alone."""
        path, label = self.samples[index]
        picture = read_picture(path)
        return picture if label is None else (picture, label)


def photographs(
    source: Any, size: int = 224, normalize: Normalization = "imagenet", augment: bool = False
) -> LazyDataset:
    """Return pictures of any size as a data set of squares.

    They are resized to 8/7 of ``size`` and a square is cut out: the middle, or, with ``augment``,
    any, half of them mirrored. Masks go the same way as their image.

    Parameters
    ----------
    source
        Gives ``source[i] -> (PIL image, target)``, such as a data set of torchvision's.
    size
        Side of the squares in pixels.
    normalize
        ``"imagenet"``, ``(mean, std)`` or None.
    augment
        Whether they are for training.

    Raises
    ------
    ConfigError
        If the size is below 1, or the normalization is unknown.
    """
    from torchvision.transforms import v2

    if size < 1:
        raise ConfigError(f"size must be at least 1 pixel, got {size}")
    resize, end = v2.Resize(round(size * 256 / 224), antialias=True), in_pixels()
    random = v2.Compose([resize, v2.RandomCrop(size), v2.RandomHorizontalFlip(), *end])
    return LazyDataset(
        source,
        known_targets(source),
        crop=v2.Compose([resize, v2.CenterCrop(size), *end]),
        augment=random if augment else None,
        transform=PixelTransform(*normalization(normalize)),
    )


def in_pixels() -> tuple[Any, ...]:
    """Return the last steps of a picture's transform: a float tensor in [0, 1], a mask as it is."""
    from torchvision.transforms import v2
    from torchvision.tv_tensors import Image

    scaled = v2.ToDtype({Image: torch.float32, "others": None}, scale=True)
    return v2.ToImage(), scaled, v2.ToPureTensor()


def image_folder(
    root: str | Path,
    *,
    size: int = 224,
    normalize: Normalization = "imagenet",
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
        folders and files are ignored. Pictures without any class folder are data without labels.
    size
        Side of the square crop in pixels; pictures are first resized to 8/7 of it.
    normalize
        ``"imagenet"``, ``(mean, std)`` or None.
    augment
        Train on random instead of central crops, half of them mirrored.
    test_fraction, seed
        Size and choice of the test split where the folders give none; a class keeps its only one.

    Raises
    ------
    DataError
        If the folders hold no images or one class only, or the splits have different classes or
        the same pictures.

    Warns
    -----
    UserWarning
        If a folder beside the splits is not used.
    """
    root = Path(root).expanduser()
    folders = named_splits(root)
    data: dict[str, Any] = {}
    sources: dict[str, PictureFiles] = {}
    names: tuple[str, ...] = ()
    for split, folder in (folders or {"train": root}).items():
        own, source = _pictures(folder)
        if odd := sorted(set(names or own).symmetric_difference(own)):
            raise DataError(
                f"{root}: the class folders of train and {split} differ ({', '.join(odd[:5])}); "
                "every split needs a folder for every class"
            )
        names = own
        sources[split] = source
        data[split] = photographs(source, size, normalize, augment and split == "train")
    for one, other in itertools.combinations(sources, 2):
        if _are_copies(sources[one], sources[other]):
            raise DataError(f"{root}: the pictures of {other} are those of {one}")
    bundle = DataBundle(root.name, **data, class_names=names)
    if folders or not names:
        return bundle
    return split_off(bundle, "test", float(test_fraction), seed)


def _are_copies(one: PictureFiles, other: PictureFiles) -> bool:
    """Whether files of one, 20 of them, all have a copy in the other."""
    by_size: dict[int, list[str]] = {}
    for path, _ in one.samples:
        by_size.setdefault(os.path.getsize(path), []).append(path)
    some = (path for path, _ in other.samples[:: max(len(other) // 20, 1)])
    alike = ((path, by_size.get(os.path.getsize(path), ())) for path in some)
    return all(any(filecmp.cmp(path, p, shallow=False) for p in near) for path, near in alike)


def _folders(root: Path) -> list[Path]:
    """Return the folders inside that people made: not hidden, not those of archives."""
    inside = root.iterdir() if root.is_dir() else ()
    return sorted(p for p in inside if p.is_dir() and not p.name.startswith((".", "__")))


def named_splits(root: Path) -> dict[str, Path]:
    """Return the folders of the splits, training first; nothing if they are those of classes."""
    found = _folders(root)
    named = {s: [f for f in found if f.name.lower() in names] for s, names in SPELLINGS.items()}
    for same in named.values():
        if len(same) > 1:
            raise DataError(f"{root} has {same[0].name} and {same[1].name}; keep one of them")
    splits = {split: same[0] for split, same in named.items() if same}
    if not splits:
        return {}
    if others := [folder.name for folder in found if folder not in splits.values()]:
        warnings.warn(f"{root}: {', '.join(others)} are no splits and are not used", stacklevel=3)
    if "train" not in splits:
        raise DataError(f"{root} has a folder {splits.popitem()[1].name} but none for training")
    if len(splits) == 1 and _folders(splits["train"]):
        raise DataError(f"{root} has a folder {splits['train'].name} but neither test nor val")
    if "test" not in splits and "validation" in splits:
        splits["test"] = splits.pop("validation")
    return splits


def _pictures(root: Path) -> tuple[tuple[str, ...], PictureFiles]:
    """Return the class names and the files of one split."""
    from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

    def is_picture(path: str) -> bool:
        parts = Path(path).relative_to(root).parts
        hidden = any(part.startswith(".") for part in parts)
        return path.lower().endswith(IMG_EXTENSIONS) and not hidden and Path(path).is_file()

    classes = _folders(root)
    if not classes:
        pictures = sorted(filter(is_picture, map(str, root.iterdir()))) if root.is_dir() else []
        if pictures:
            return (), PictureFiles([(path, None) for path in pictures])
        absent = "" if root.is_dir() else ": there is no such folder"
        raise DataError(f"{root} holds no class folders with images, nor pictures{absent}")
    if len(classes) == 1:
        deeper = len(_folders(classes[0])) > 1
        hint = f"did you mean {classes[0]}?" if deeper else "give every class a folder"
        raise DataError(f"{root} holds one class only, {classes[0].name}; {hint}")
    labels = {folder.name: label for label, folder in enumerate(classes)}
    samples = make_dataset(str(root), labels, is_valid_file=is_picture, allow_empty=True)
    found = Counter(label for _, label in samples)
    if empty := [name for name, label in labels.items() if not found[label]]:
        raise DataError(f"{root}: the class folder {empty[0]} holds no images; remove it")
    return tuple(labels), PictureFiles(samples)
