"""Pictures with their masks in folders."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bayesprior.data.arrays import reason
from bayesprior.data.bundle import DataBundle
from bayesprior.data.datasets import LazyDataset
from bayesprior.data.folders import in_pixels, named_splits, opened, read_picture
from bayesprior.data.masks import IGNORED, check_binary, checked_masks
from bayesprior.data.subsets import split_off
from bayesprior.data.transforms import Normalization, PixelTransform, normalization
from bayesprior.errors import ConfigError, DataError

__all__ = ["MaskFiles", "holds_masks", "mask_folder"]

IMAGES, MASKS, NAMES = "images", "masks", "classes.txt"
_LOOKED_AT = 16  # masks, before any work
_MODES = ("1", "L", "P", "I", "I;16")  # one number a pixel


def holds_masks(root: Path) -> bool:
    """Whether a folder, or one inside it, has the folders images and masks.

    Raises
    ------
    DataError
        If a folder of another name holds what must be the masks.
    """
    inside = [f for f in (root, *root.iterdir()) if (f / IMAGES).is_dir()]
    if any((f / MASKS).is_dir() for f in inside):
        return True
    for folder in inside:
        others = [f for f in folder.iterdir() if f.is_dir() and f.name != IMAGES]
        names = [sorted(p.stem for p in f.iterdir()) for f in (folder / IMAGES, *others)]
        if len(names) == 2 and names[0] == names[1] != []:
            raise DataError(
                f"{others[0]} holds pictures of the names in {IMAGES}; masks lie in a folder "
                f"{MASKS!r}: rename it"
            )
    return False


class MaskFiles:
    """Files of pictures with their masks.

    Attributes
    ----------
    root
        The folder that they lie in.
    samples
        ``(picture, mask)`` each.
    num_classes
        C; None while it is not known.
    """

    def __init__(
        self, root: Path, *, ignore_index: int, binary: bool, num_classes: int | None = None
    ) -> None:
        self.root, self.num_classes = root, num_classes
        self._ignore_index, self._binary = ignore_index, binary
        pictures, masks = _by_name(root / IMAGES), _by_name(root / MASKS)
        if alone := sorted(pictures.keys() ^ masks.keys()):
            has, lacks = (IMAGES, MASKS) if alone[0] in pictures else (MASKS, IMAGES)
            raise DataError(
                f"{root}: {has} has {alone[0]!r}, {lacks} has no file of this name"
                + (f" ({len(alone)} such)" if len(alone) > 1 else "")
            )
        if not pictures:
            raise DataError(f"{root / IMAGES} holds no pictures")
        self.samples = tuple((str(pictures[name]), str(masks[name])) for name in sorted(pictures))

    def __len__(self) -> int:
        """Return N."""
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, Tensor]:
        """Return a picture and its mask, uint8 (H, W)."""
        path, mask = self.samples[index]
        picture = read_picture(path)
        size = tuple(picture.shape[-2:]) if isinstance(picture, Tensor) else picture.size[::-1]
        return picture, torch.from_numpy(self.labels(mask, size))

    def labels(self, path: str, size: tuple[int, ...] | None = None) -> np.ndarray:
        """Read a mask of a size; None for any.

        Raises
        ------
        DataError
            If it cannot be read, has colors, another size, or a label out of range.
        """
        try:
            with opened(path) as picture:
                mode, labels = picture.mode, np.asarray(picture)
        except Exception as error:  # decoders raise what they like
            raise DataError(f"{path} cannot be read as a mask ({reason(error)})") from None
        if mode not in _MODES:
            raise DataError(
                f"{path} has colors (mode {mode}); a mask is a gray or palette picture, one label "
                "a pixel"
            )
        labels = labels > 0 if self._binary else labels
        size = labels.shape if size is None else size
        return checked_masks(path, labels, size, self.num_classes, self._ignore_index)


def mask_folder(
    root: str | Path,
    *,
    size: int | Sequence[int] = 224,
    normalize: Normalization = "imagenet",
    augment: bool = True,
    ignore_index: int = IGNORED,
    binary: bool = False,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> DataBundle:
    """Return a segmentation task from folders: pictures in images, masks of the same names.

    Parameters
    ----------
    root
        Holds ``images`` and ``masks``, which are then split, or the folders train, test and perhaps
        val with those two in each. ``classes.txt`` in it names the classes, one a line from label
        0 on; without it they are numbered. Masks are gray or palette pictures, one label a pixel.
    size
        Height and width that pictures are brought to (one number for both), masks with them;
        nothing is cut off.
    normalize
        ``"imagenet"``, ``(mean, std)`` or None.
    augment
        Train on pictures moved by up to an eighth, half of them mirrored, masks with them.
    ignore_index
        Label of pixels that do not count.
    binary
        Everything but 0 is class 1, as of masks in black and white.
    test_fraction, seed
        Size and choice of the test split where the folders give none.

    Raises
    ------
    DataError
        If a picture lacks its mask, or a mask is of another size, has colors, or a label out of
        range. Masks are read with their pictures; without ``classes.txt`` all of them first.
    ConfigError
        If the size is below 1, or the normalization is unknown.
    """
    root = Path(root).expanduser()
    side = (size, size) if isinstance(size, int) else tuple(size)
    if len(side) != 2 or min(side) < 1:
        raise ConfigError(
            f"size must be pixels, one number or height and width, got {size}; such as "
            'size=(48, 64), or --data_options.size "[48, 64]"'
        )
    folders = named_splits(root) or {"train": root}
    options: dict[str, Any] = {"ignore_index": ignore_index, "binary": binary}
    files = {split: MaskFiles(folder, **options) for split, folder in folders.items()}
    names = _names(root, files, binary)
    for split, found in files.items():
        found.num_classes = len(names)
        some = [found.labels(mask).ravel() for _, mask in found.samples[:_LOOKED_AT]]
        check_binary(str(folders[split] / MASKS), np.concatenate(some))
    data: dict[str, Any] = {
        split: _pictures(found, side, normalize, augment and split == "train")
        for split, found in files.items()
    }
    bundle = DataBundle(root.name, **data, class_names=names)
    return bundle if len(folders) > 1 else split_off(bundle, "test", float(test_fraction), seed)


def _names(root: Path, files: dict[str, MaskFiles], binary: bool) -> list[str]:
    path = root / NAMES
    if path.is_file():
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        return [name for name in names if name]
    if binary:
        return ["background", "foreground"]
    masks = [found.labels(mask) for found in files.values() for _, mask in found.samples]
    highest = max(int(mask[mask != IGNORED].max(initial=0)) for mask in masks)
    return [str(label) for label in range(max(highest, 1) + 1)]


def _by_name(folder: Path) -> dict[str, Path]:
    """Return the files of a folder by their names without endings."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_file() and not path.name.startswith("."):
            if path.stem in found:
                raise DataError(f"{folder} has {found[path.stem].name} and {path.name}; keep one")
            found[path.stem] = path
    return found


def _pictures(
    files: MaskFiles, side: tuple[int, ...], normalize: Normalization, augment: bool
) -> LazyDataset:
    from torchvision.transforms import v2
    from torchvision.tv_tensors import Mask

    resize, end = v2.Resize(list(side), antialias=True), in_pixels()
    margin, fill = [side[1] // 8, side[0] // 8], {Mask: IGNORED, "others": 0}
    moved = v2.RandomCrop(list(side), padding=margin, fill=fill)
    random = v2.Compose([resize, moved, v2.RandomHorizontalFlip(), *end])
    return LazyDataset(
        files,
        crop=v2.Compose([resize, *end]),
        augment=random if augment else None,
        transform=PixelTransform(*normalization(normalize)),
    )
