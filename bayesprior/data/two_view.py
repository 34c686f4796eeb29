"""Random views of every image, for self-supervised losses."""

import dataclasses
from collections.abc import Callable
from typing import Any

from torch import Tensor

from bayesprior.data.bundle import DataBundle
from bayesprior.data.datasets import ArrayDataset, LazyDataset

__all__ = ["simclr_view", "two_views"]


def simclr_view(size: int, *, blur: bool = False) -> Callable[[Any], Tensor]:
    """Return SimCLR's augmentation: crop, mirror, color jitter, gray, perhaps blur.

    Parameters
    ----------
    size
        Side of the square view in pixels.
    blur
        Blur every other view (kernel of a tenth of the size); off for small images, as published.

    Returns
    -------
    Callable
        Maps a PIL image or a uint8 tensor (C, H, W) to a uint8 tensor (C, size, size).

    References
    ----------
    Chen et al., A Simple Framework for Contrastive Learning, arXiv:2002.05709, appendix A.
    """
    from torchvision.transforms import v2

    jitter = v2.ColorJitter(0.4, 0.4, 0.4, 0.1)  # strength 0.5, for small images
    kernel = max(size // 10 | 1, 3)
    return v2.Compose(
        [
            v2.ToImage(),
            v2.RandomResizedCrop(size, scale=(0.2, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([jitter], p=0.8),
            v2.RandomGrayscale(p=0.2),
            *([v2.RandomApply([v2.GaussianBlur(kernel)], p=0.5)] if blur else []),
            v2.ToPureTensor(),
        ]
    )


@dataclasses.dataclass(frozen=True)
class _Views:
    """Two views of an image by one map, or all that a map with several results gives."""

    view: Callable[[Any], Any]

    def __call__(self, image: Any) -> tuple[Tensor, ...]:
        first = self.view(image)
        return (first, self.view(image)) if isinstance(first, Tensor) else tuple(first)


def two_views(
    bundle: DataBundle, size: int | None = None, view: Callable[[Any], Any] | None = None
) -> DataBundle:
    """Return the bundle with random views of every training image; the rest stays.

    Parameters
    ----------
    bundle
        A task of images.
    size
        Side of the views; that of the test images by default.
    view
        The augmentation of one image, `simclr_view` by default. One that returns several tensors,
        as lightly's transforms do, gives all the views at once.

    Examples
    --------
    >>> import torch
    >>> from bayesprior.data import digits
    >>> loader = two_views(digits()).loader("train", batch_size=4)
    >>> (first, second), labels = next(iter(loader))
    >>> first.shape == second.shape, torch.equal(first, second)
    (True, False)
    """
    train, views = bundle.train, _Views(view or simclr_view(size or bundle.input_shape[-1]))
    if isinstance(train, ArrayDataset):
        train = LazyDataset(train.inputs, train.targets, transform=train.transform)
    return dataclasses.replace(bundle, train=dataclasses.replace(train, augment=views))
