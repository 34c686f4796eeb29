"""Masks in memory: checked, and changed together with their images."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.nn import functional as F

from bayesprior.errors import DataError

__all__ = ["IGNORED", "are_masks", "augmented", "check_binary", "checked_masks", "resized"]

IGNORED = 255
"""Label of pixels that do not count, once masks are read."""


def are_masks(targets: Any) -> bool:
    """Whether targets are integers (N, H, W)."""
    return isinstance(targets, Tensor) and targets.ndim == 3 and not targets.is_floating_point()


def checked_masks(
    what: str,
    masks: Any,
    size: tuple[int, ...],
    num_classes: int | None = None,
    ignore_index: int = IGNORED,
) -> np.ndarray:
    """Return masks as uint8, pixels that do not count marked by 255.

    Parameters
    ----------
    what
        Names them in messages.
    masks
        Integers or booleans, shape (..., H, W).
    size
        That of the images: the shape that the masks must have.
    num_classes
        C, if it is known; labels are below it.
    ignore_index
        The label of pixels that do not count, such as 255, 0 or -1.

    Raises
    ------
    DataError
        If the masks are of another size, no integers, or hold a label out of range.

    Examples
    --------
    >>> checked_masks("y", np.array([[[-1, 0], [1, 1]]]), (1, 2, 2), ignore_index=-1)
    array([[[255,   0],
            [  1,   1]]], dtype=uint8)
    """
    masks = np.asarray(masks)
    if masks.dtype.kind not in "iub":
        raise DataError(f"{what} has dtype {masks.dtype}; store one whole number a pixel")
    if masks.shape != size:
        ours, theirs = (" x ".join(map(str, shape)) for shape in (masks.shape, size))
        raise DataError(f"{what} is {ours}, the images are {theirs}; give every pixel one label")
    found = np.unique(masks[masks != ignore_index]).astype(np.int64)
    low, high = (int(found[0]), int(found[-1])) if found.size else (0, 0)
    last = IGNORED - 1 if num_classes is None else num_classes - 1
    if low < 0 or high > last:
        raise DataError(
            f"{what} has the label {low if low < 0 else high}, classes are 0 to {last}; name every "
            "class, or mark what does not count by 255 (or by data_options.ignore_index)"
        )
    return np.where(masks == ignore_index, IGNORED, masks).astype(np.uint8)


def check_binary(what: str, masks: np.ndarray) -> None:
    """Raise `DataError` if all that counts in masks is class 0: black and white are no labels."""
    if (masks == 0).any() and (masks == IGNORED).any() and not (masks % IGNORED).any():
        raise DataError(
            f"{what} holds 0 and 255 alone, and 255 marks what does not count; a binary mask is "
            "stored as 0 and 1 (of pictures: --data_options.binary true)"
        )


def augmented(
    augment: Callable[[Tensor, Tensor], Tensor],
    images: Shaped[Tensor, "B C H W"],
    masks: Shaped[Tensor, "B H W"],
    uniforms: Tensor,
) -> tuple[Tensor, Tensor]:
    """Move images and masks alike: the augmentation is given the masks as one more channel.

    There they are 255 - label, so that what it fills with zeros does not count.
    """
    channel = (IGNORED - masks.to(torch.int16)).to(images.dtype)[:, None]
    moved = augment(torch.cat([images, channel], 1), uniforms)
    return moved[:, :-1], IGNORED - moved[:, -1].to(masks.dtype)


def resized(
    masks: Shaped[Tensor, "B H W"], size: tuple[int, ...] | torch.Size
) -> Shaped[Tensor, "B H2 W2"]:
    """Return masks of another size, each pixel the nearest one's label."""
    if masks.shape[1:] == size:
        return masks
    grown = F.interpolate(masks[:, None].float(), tuple(size), mode="nearest-exact")
    return grown[:, 0].to(masks.dtype)
