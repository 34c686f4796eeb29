"""Random views of every image, for self-supervised losses."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bayesprior.data.bundle import DataBundle
from bayesprior.data.datasets import ArrayDataset, LazyDataset
from bayesprior.errors import DataError, MissingDependencyError

__all__ = ["AUGMENTATIONS", "LightlyViews", "augmentations", "simclr_view", "two_views"]

AUGMENTATIONS: dict[str, dict[str, Any]] = {
    # A mirrored letter is another letter, and one channel has no colors.
    "gray": {
        "min_scale": 0.3,
        "cj_strength": 0.5,
        "cj_sat": 0.0,
        "cj_hue": 0.0,
        "random_gray_scale": 0.0,
        "gaussian_blur": 0.0,
        "hf_prob": 0.0,
        "rr_prob": 0.5,
        "rr_degrees": 10.0,
    },
    # SimCLR's for CIFAR (appendix B.9): weaker colors, no blur.
    "small": {"min_scale": 0.2, "cj_strength": 0.5, "gaussian_blur": 0.0},
    "photographs": {},
}
"""Settings of lightly's views, beside the defaults, for a kind of image."""

# The transforms that lightly has for photographs; other kinds go by SimCLR's.
_PUBLISHED = {
    "simclr": "SimCLRTransform",
    "moco": "MoCoV2Transform",
    "byol": "BYOLTransform",
    "vicreg": "VICRegTransform",
    "barlow_twins": "BYOLTransform",
}
_LARGEST_SMALL = 64  # pixels


def _shape_of(bundle: DataBundle) -> int | tuple[int, int]:
    """Return the side of square images, else their height and width."""
    height, width = bundle.input_shape[-2:]
    return width if height == width else (height, width)


def simclr_view(size: int | tuple[int, int], *, blur: bool = False) -> Callable[[Any], Tensor]:
    """Return SimCLR's augmentation: crop, mirror, color jitter, gray, perhaps blur.

    Parameters
    ----------
    size
        Side of the square view in pixels, or height and width.
    blur
        Blur every other view (kernel of a tenth of the size); off for small images, as published.

    Returns
    -------
    Callable
        Maps a PIL image or a uint8 tensor (C, H, W) to a uint8 tensor of that size.

    References
    ----------
    Chen et al., A Simple Framework for Contrastive Learning, arXiv:2002.05709, appendix A.
    """
    from torchvision.transforms import v2

    jitter = v2.ColorJitter(0.4, 0.4, 0.4, 0.1)  # strength 0.5, for small images
    side = size if isinstance(size, int) else min(size)
    kernel = max(side // 10 | 1, 3)
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
    bundle: DataBundle,
    size: int | tuple[int, int] | None = None,
    view: Callable[[Any], Any] | None = None,
) -> DataBundle:
    """Return the bundle with random views of every training image; the rest stays.

    Parameters
    ----------
    bundle
        A task of images.
    size
        Side of the views, or height and width; those of the test images by default.
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
    train, views = bundle.train, _Views(view or simclr_view(size or _shape_of(bundle)))
    if isinstance(train, ArrayDataset):
        train = LazyDataset(train.inputs, train.targets, transform=train.transform)
    return dataclasses.replace(bundle, train=dataclasses.replace(train, augment=views))


@dataclasses.dataclass(frozen=True)
class LightlyViews:
    """Two views of an image by a transform of lightly's.

    Parameters
    ----------
    transform
        Name in ``lightly.transforms``.
    size
        Side of the views, or height and width.
    settings
        Further arguments of the transform.

    Raises
    ------
    MissingDependencyError
        If lightly is not installed.
    """

    transform: str
    size: int | tuple[int, int]
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self._views is not None  # refused at once if it cannot be made

    @functools.cached_property
    def _views(self) -> Any:
        try:
            from lightly import transforms
            from lightly.transforms import byol_transform
        except ImportError as error:
            raise MissingDependencyError(
                f"{self.transform} needs lightly: pip install 'bayesprior[ssl]' ({error})"
            ) from None
        every = {"input_size": self.size, "normalize": None, **self.settings}
        if self.transform == "BYOLTransform":
            return transforms.BYOLTransform(
                byol_transform.BYOLView1Transform(**every),
                byol_transform.BYOLView2Transform(**every),
            )
        return getattr(transforms, self.transform)(**every)

    def __call__(self, image: Any) -> tuple[Tensor, ...]:
        """Return the views, float tensors in [0, 1]."""
        from torchvision.transforms.v2 import functional

        if isinstance(image, Tensor):
            image = functional.to_pil_image(image)
        state = np.random.get_state()  # noqa: NPY002  (lightly draws from it)
        np.random.seed(int(torch.randint(2**31, ())))  # noqa: NPY002
        try:
            return tuple(view.as_subclass(Tensor) for view in self._views(image))
        finally:
            np.random.set_state(state)  # noqa: NPY002


def augmentations(bundle: DataBundle, objective: str, kind: str | None = None) -> LightlyViews:
    """Return the random views of an objective for a task's images; of `two_views`, the ``view``.

    Parameters
    ----------
    bundle
        A task of images.
    objective
        A key of `bayesprior.tasks.objectives.METHODS`.
    kind
        A key of `AUGMENTATIONS`; by default what the images are: of one channel, of at most 64
        pixels, or photographs.

    Raises
    ------
    DataError
        If these are no images of one or three channels.
    MissingDependencyError
        If lightly is not installed.
    """
    raw, shape = bundle.train.raw(0), bundle.input_shape
    channels = raw.shape[0] if isinstance(raw, Tensor) else 3
    if len(shape) != 3 or channels not in (1, 3):
        raise DataError(
            f"objective {objective!r} makes views of images of 1 or 3 channels; {bundle.name!r} "
            f"has inputs of shape {tuple(getattr(raw, 'shape', shape))}"
        )
    if kind is None:
        colored = "small" if max(shape[1:]) <= _LARGEST_SMALL else "photographs"
        kind = "gray" if channels == 1 else colored
    name = _PUBLISHED[objective] if kind == "photographs" else "SimCLRTransform"
    return LightlyViews(name, _shape_of(bundle), AUGMENTATIONS[kind])
