"""Transforms of whole batches of images: scaling, normalization, random crops and flips."""

import dataclasses

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from bayesprior.errors import ConfigError, nearest_name

__all__ = ["AUGMENTATIONS", "IMAGENET", "CropFlip", "PixelTransform", "normalization"]

Statistics = tuple[tuple[float, ...], tuple[float, ...]]

IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Channel mean and standard deviation that torchvision's pretrained networks expect."""


@dataclasses.dataclass(frozen=True)
class PixelTransform:
    """Make a batch of raw images ready for a network.

    uint8 becomes float32 in [0, 1], then the images are resized and normalized,
    ``(x - mean) / std`` per channel. One gray channel is repeated for a network of three.

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
        if self.size is not None and self.size < 1:
            raise ConfigError(f"size must be at least 1 pixel, got {self.size}")

    def __call__(self, images: Shaped[Tensor, "B C H W"]) -> Float[Tensor, "B C2 H2 W2"]:
        """Transform a batch."""
        pixels = images.float() / 255 if images.dtype == torch.uint8 else images.float()
        if self.size is not None:
            shape = (self.size, self.size)
            pixels = F.interpolate(pixels, shape, mode="bilinear", antialias=True)
        if not self.mean:
            return pixels
        channels = pixels.shape[1]
        if channels not in (1, len(self.mean)):
            raise ConfigError(
                f"normalization is for {len(self.mean)} channels but the images have {channels}"
            )
        mean, std = (pixels.new_tensor(v).view(1, -1, 1, 1) for v in (self.mean, self.std))
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


def _pixel_statistics(train_images: Tensor) -> Statistics:
    """Return mean and standard deviation per channel over raw pixels scaled to [0, 1]."""
    total, square, count = torch.zeros(()), torch.zeros(()), 0
    for images in train_images.split(2048):
        pixels = PixelTransform()(images).double()
        total = total + pixels.sum((0, 2, 3))
        square = square + pixels.square().sum((0, 2, 3))
        count += pixels[:, 0].numel()
    mean = total / count
    std = (square / count - mean**2).clamp_min(0).sqrt()
    # A constant channel has nothing to normalize.
    std = torch.where(std > 1e-6, std, torch.ones_like(std))
    return tuple(mean.tolist()), tuple(std.tolist())


def normalization(
    choice: str | Statistics | None, train_images: Shaped[Tensor, "N C H W"]
) -> Statistics:
    """Return the channel means and standard deviations that a choice stands for.

    Parameters
    ----------
    choice
        ``"train"`` (statistics of the training images, no labels involved), ``"imagenet"``, a pair
        ``(mean, std)`` of tuples, or None for none.
    train_images
        Raw images, uint8 or float.

    Raises
    ------
    ConfigError
        If the name is unknown.
    """
    if choice is None:
        return (), ()
    if isinstance(choice, tuple):
        return choice
    if choice == "imagenet":
        return IMAGENET
    if choice == "train":
        return _pixel_statistics(train_images)
    raise ConfigError(
        f"no normalization {choice!r}; use 'train', 'imagenet' or (mean, std)"
        + nearest_name(choice, ("train", "imagenet"))
    )
