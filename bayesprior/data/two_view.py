"""Two random views of every image, for self-supervised losses."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from bayesprior.data.batch_sampler import scoped_seed
from bayesprior.data.bundle import DataBundle
from bayesprior.data.datasets import LabeledDataset, epoch_key
from bayesprior.inference.generators import fold_seed

__all__ = ["TwoViewDataset", "simclr_view", "two_views"]


@dataclasses.dataclass(frozen=True, eq=False)
class TwoViewDataset:
    """Yields ``((first view, second view), targets)`` batches of another data set's images.

    Parameters
    ----------
    dataset
        Gives the raw images and the final transform (scaling, normalization).
    view
        Random map of one raw image to a tensor, the same size for all. It draws from torch's
        generator, which is seeded by (seed, epoch, example, view) around the call.
    """

    dataset: LabeledDataset
    view: Callable[[Any], Tensor]

    @property
    def targets(self) -> Tensor:
        """Targets of the data set."""
        return self.dataset.targets

    def __len__(self) -> int:
        """Return N."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Return both views of one example and its target."""
        (first, second), targets = self.__getitems__([index])
        return (first[0], second[0]), targets[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Return a batch of pairs."""
        key = epoch_key(indices)
        views: tuple[list[Tensor], list[Tensor]] = ([], [])
        for index in indices:
            image = self.dataset.raw(index)
            for number, images in enumerate(views):
                with scoped_seed(fold_seed(key, index, number)):
                    images.append(self.view(image))
        first, second = (self.dataset.finish(torch.stack(images)) for images in views)
        return (first, second), self.targets[torch.as_tensor(indices)]

    def raw(self, index: int) -> Any:
        """Return one image of the data set as stored."""
        return self.dataset.raw(index)

    def finish(self, inputs: Tensor) -> Tensor:
        """Apply the data set's transform."""
        return self.dataset.finish(inputs)

    def subset(self, indices: Int[Tensor, " n"], targets: Tensor | None = None) -> "TwoViewDataset":
        """Return the examples at these indices, with new targets if given."""
        return dataclasses.replace(self, dataset=self.dataset.subset(indices, targets))

    def without_augmentation(self) -> LabeledDataset:
        """Return the single, plain images."""
        return self.dataset.without_augmentation()


def simclr_view(
    size: int, *, min_area: float = 0.2, color: float = 0.5, blur: bool = False
) -> Callable[[Any], Tensor]:
    """Return SimCLR's augmentation: crop, mirror, color jitter, gray, perhaps blur.

    Parameters
    ----------
    size
        Side of the square view in pixels.
    min_area
        Smallest area of a crop, as a share of the image.
    color
        Strength of the color jitter, applied with probability 0.8; 0.5 is usual for small images,
        1 for ImageNet.
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

    jitter = v2.ColorJitter(0.8 * color, 0.8 * color, 0.8 * color, 0.2 * color)
    kernel = max(size // 10 | 1, 3)
    return v2.Compose(
        [
            v2.ToImage(),
            v2.RandomResizedCrop(size, scale=(min_area, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([jitter], p=0.8),
            v2.RandomGrayscale(p=0.2),
            *([v2.RandomApply([v2.GaussianBlur(kernel)], p=0.5)] if blur else []),
            v2.ToPureTensor(),
        ]
    )


def two_views(
    bundle: DataBundle, size: int | None = None, view: Callable[[Any], Tensor] | None = None
) -> DataBundle:
    """Return the bundle with two random views of every training image; the rest stays.

    Parameters
    ----------
    bundle
        A task of images.
    size
        Side of the views; that of the test images by default.
    view
        The augmentation; `simclr_view` by default.

    Examples
    --------
    >>> from bayesprior.data import digits
    >>> loader = two_views(digits()).loader("train", batch_size=4)
    >>> (first, second), labels = next(iter(loader))
    >>> first.shape == second.shape, torch.equal(first, second)
    (True, False)
    """
    view = view or simclr_view(size or bundle.input_shape[-1])
    return dataclasses.replace(bundle, train=TwoViewDataset(bundle.train, view))
