"""Transforms of whole batches of images: scaling, normalization, random crops and flips."""

import dataclasses

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from bayesprior.errors import ConfigError, nearest_name

__all__ = [
    "AUGMENTATIONS",
    "IMAGENET",
    "PUBLISHED",
    "CropFlip",
    "PixelTransform",
    "Standardization",
    "normalization",
]

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
Normalization = str | Statistics | None

IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Channel mean and standard deviation that torchvision's pretrained networks expect."""

PUBLISHED: dict[str, Statistics] = {
    "imagenet": IMAGENET,
    "CIFAR10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "CIFAR100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "MNIST": ((0.1307,), (0.3081,)),
    "FashionMNIST": ((0.2860,), (0.3530,)),
}
"""Channel mean and standard deviation of full training sets, as published with them."""


@dataclasses.dataclass(frozen=True)
class PixelTransform:
    """Make a batch of raw images ready for a network.

    uint8 becomes float32 in [0, 1], then the images are resized and normalized,
    ``(x - mean) / std`` per channel. One gray channel is repeated for a network of three. Tables
    (B, F) are normalized per column.

    Parameters
    ----------
    mean, std
        One number a channel; empty for no normalization.
    size
        Side of the square output in pixels (bilinear with anti-aliasing); None keeps the size.

    Examples
    --------
    >>> white = torch.full((2, 1, 4, 4), 255, dtype=torch.uint8)
    >>> PixelTransform((0.5,), (0.25,), size=2)(white).unique()
    tensor([2.])
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    size: int | None = None

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or any(s <= 0 for s in self.std):
            raise ConfigError(
                "normalization needs as many means as standard deviations, all of them positive; "
                f"got mean {self.mean} and std {self.std}"
            )
        if self.size is not None and (self.size != int(self.size) or self.size < 1):
            raise ConfigError(f"size must be whole and at least 1 pixel, got {self.size}")

    def __call__(self, images: Shaped[Tensor, "B C *size"]) -> Float[Tensor, "B C2 *size2"]:
        """Transform a batch."""
        pixels = images.float() / 255 if images.dtype == torch.uint8 else images.float()
        if self.size is not None and pixels.ndim == 4:
            pixels = F.interpolate(pixels, [self.size] * 2, mode="bilinear", antialias=True)
        if not self.mean:
            return pixels
        channels = pixels.shape[1]
        allowed = (1, len(self.mean)) if pixels.ndim == 4 else (len(self.mean),)
        if channels not in allowed:
            raise ConfigError(
                f"normalization is for {len(self.mean)} channels but the images have {channels}"
            )
        rest = [1] * (pixels.ndim - 2)
        mean, std = (pixels.new_tensor(v).view(1, -1, *rest) for v in (self.mean, self.std))
        return (pixels - mean) / std


@dataclasses.dataclass(frozen=True)
class CropFlip:
    """Shift every image by up to ``padding`` pixels and mirror half of them.

    A pure function of the images and of uniform random numbers.

    Parameters
    ----------
    padding
        Zero padding on each side of which a window of the old size is cut out.
    flip
        Whether to mirror left and right with probability 1/2.

    Examples
    --------
    >>> image = torch.arange(4.0).reshape(1, 1, 2, 2)
    >>> CropFlip(padding=0)(image, torch.tensor([[0.0, 0.0, 0.4]]))
    tensor([[[[1., 0.],
              [3., 2.]]]])
    """

    padding: int = 4
    flip: bool = True

    def __call__(
        self, images: Shaped[Tensor, "B C H W"], uniforms: Float[Tensor, "B U"]
    ) -> Shaped[Tensor, "B C H W"]:
        """Augment a batch; uses the first three numbers of each row."""
        height, width = images.shape[2:]
        top, left = (uniforms[:, :2] * (2 * self.padding + 1)).long().unbind(1)
        # A view of all windows; indexing copies whole windows, ten times faster than pixels.
        windows = F.pad(images, [self.padding] * 4).unfold(2, height, 1).unfold(3, width, 1)
        shifted = windows[torch.arange(len(images)), :, top, left]
        if not self.flip:
            return shifted
        return torch.where(uniforms[:, 2, None, None, None] < 0.5, shifted.flip(3), shifted)


AUGMENTATIONS = {"crop": CropFlip(flip=False), "crop-flip": CropFlip()}
"""In-memory augmentations by short name."""


class Standardization(PixelTransform):
    """Of a table, by mean and standard deviation of its training examples.

    Subsets of these have others: what is left for training decides.
    """

    def fitted(self, inputs: Float[Tensor, "N F"]) -> "Standardization":
        """Return it for other training examples."""
        return Standardization(*_statistics(inputs), self.size)


def _statistics(train_inputs: Tensor) -> Statistics:
    """Return mean and standard deviation a channel (pixels scaled to [0, 1]) or column."""
    axes, count = (0, *range(2, train_inputs.ndim)), train_inputs[:, 0].numel()

    def mean_of(center: Tensor | float, power: int) -> Tensor:
        parts = (PixelTransform()(part).double() for part in train_inputs.split(2048))
        sums = [(part - center).pow(power).sum(axes) for part in parts]
        return torch.stack(sums).sum(0) / count

    mean = mean_of(0.0, 1)
    std = mean_of(mean.view(-1, *[1] * (train_inputs.ndim - 2)), 2).sqrt()
    # A constant channel has nothing to normalize.
    std = torch.where(std > 1e-6, std, torch.ones_like(std))
    return tuple(mean.tolist()), tuple(std.tolist())


def normalization(
    choice: Normalization, train_inputs: Shaped[Tensor, "N C *size"] | None = None
) -> Statistics:
    """Return the means and standard deviations, a channel or column, that a choice stands for.

    Parameters
    ----------
    choice
        ``"train"`` (statistics of the training inputs, no labels involved), a name of `PUBLISHED`
        such as ``"imagenet"``, a pair ``(mean, std)`` of tuples, or None for none.
    train_inputs
        Raw images, uint8 or float, or a table (N, F); None where they are not in memory.

    Raises
    ------
    ConfigError
        If the name is unknown, or ``"train"`` of images that are not in memory.
    """
    if not isinstance(choice, str):
        return choice or ((), ())
    if choice == "train" and train_inputs is not None:
        return _statistics(train_inputs)
    if choice not in PUBLISHED:
        names = f"'train' (of arrays only), {', '.join(PUBLISHED)} or a pair (mean, std)"
        hint = nearest_name(choice, PUBLISHED)
        raise ConfigError(f"no normalization {choice!r} of these inputs; use {names}{hint}")
    return PUBLISHED[choice]
