"""The two kinds of data set: tensors in memory, and examples read one by one.

Both hold raw examples, an `augment` for training and a `transform` of whole batches, and answer
``dataset.__getitems__(indices)`` with a finished batch, so a loader need not collate.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from bayesprior.data.batch_sampler import scoped_seed, uniforms
from bayesprior.errors import DataError
from bayesprior.inference.generators import fold_seed

__all__ = ["NUM_UNIFORMS", "ArrayDataset", "LabeledDataset", "LazyDataset", "epoch_key"]

NUM_UNIFORMS = 8
"""Random numbers per example that an in-memory augmentation may use."""


@runtime_checkable
class LabeledDataset(Protocol):
    """What a `DataBundle` needs of a data set; `ArrayDataset` and `LazyDataset` are ours."""

    @property
    def targets(self) -> Tensor:
        """All targets, readable without reading the inputs; first axis N."""

    def __len__(self) -> int:
        """Return N."""

    def __getitem__(self, index: int) -> tuple[Any, Tensor]:
        """Return one example and its target."""

    def __getitems__(self, indices: Sequence[int]) -> tuple[Any, Tensor]:
        """Return a batch."""

    def raw(self, index: int) -> Any:
        """Return one input before augmentation, cropping and transform."""

    def finish(self, inputs: Tensor) -> Tensor:
        """Apply the transform to a batch of cropped inputs."""

    def subset(self, indices: Int[Tensor, " n"], targets: Tensor | None = None) -> "LabeledDataset":
        """Return the examples at these indices, with new targets if given."""

    def without_augmentation(self) -> "LabeledDataset":
        """Return the same examples as they are for evaluation."""


def epoch_key(indices: Sequence[int]) -> int:
    """Return the epoch's key, or one from torch's generator if the loader is not ours."""
    key = getattr(indices, "key", None)
    return int(torch.randint(2**62, ())) if key is None else key


def _check_lengths(num_inputs: int, targets: Tensor) -> None:
    if targets.ndim == 0 or num_inputs != len(targets):
        raise DataError(
            f"{num_inputs} inputs but targets of shape {tuple(targets.shape)}; "
            "a data set needs one target per input"
        )


@dataclasses.dataclass(frozen=True, eq=False)
class ArrayDataset:
    """Examples in memory; a batch costs one indexing operation.

    Parameters
    ----------
    inputs
        Raw inputs, shape (N, ...); images are (N, C, H, W), best kept as uint8.
    targets
        Shape (N, ...); class labels are integers of shape (N,).
    transform
        Deterministic map of a raw batch, such as `PixelTransform`.
    augment
        Random map ``(raw batch (B, ...), uniforms (B, NUM_UNIFORMS)) -> raw batch`` applied
        before ``transform``, such as `CropFlip`. It is a pure function: the uniform numbers
        belong to (seed, epoch, example).

    Raises
    ------
    DataError
        If inputs and targets differ in length.

    Examples
    --------
    >>> data = ArrayDataset(torch.arange(6.0).reshape(3, 2), torch.tensor([0, 1, 0]))
    >>> data.__getitems__([2, 0])
    (tensor([[4., 5.],
            [0., 1.]]), tensor([0, 0]))
    """

    inputs: Tensor
    targets: Tensor
    transform: Callable[[Tensor], Tensor] | None = None
    augment: Callable[[Tensor, Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        _check_lengths(len(self.inputs), self.targets)

    def __len__(self) -> int:
        """Return N."""
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return one example and its target."""
        inputs, targets = self.__getitems__([index])
        return inputs[0], targets[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return a batch."""
        rows = torch.as_tensor(indices)
        inputs = self.inputs[rows]
        if self.augment is not None:
            inputs = self.augment(inputs, uniforms(epoch_key(indices), indices, NUM_UNIFORMS))
        return self.finish(inputs), self.targets[rows]

    def raw(self, index: int) -> Tensor:
        """Return one input as stored."""
        return self.inputs[index]

    def finish(self, inputs: Tensor) -> Tensor:
        """Apply the transform to a batch of raw inputs."""
        return inputs if self.transform is None else self.transform(inputs)

    def subset(self, indices: Int[Tensor, " n"], targets: Tensor | None = None) -> "ArrayDataset":
        """Return the examples at these indices (copied), with new targets if given."""
        targets = self.targets[indices] if targets is None else targets
        return dataclasses.replace(self, inputs=self.inputs[indices], targets=targets)

    def without_augmentation(self) -> "ArrayDataset":
        """Return the same examples as they are for evaluation."""
        return dataclasses.replace(self, augment=None)


@dataclasses.dataclass(frozen=True, eq=False)
class LazyDataset:
    """Examples read one by one, usually image files.

    Parameters
    ----------
    source
        Anything with ``source[i] -> (image, ...)``, such as a torchvision data set.
    targets
        All targets, shape (N, ...).
    crop
        Deterministic map of one image to a tensor, the same size for all.
    augment
        Random map that takes the place of ``crop`` in training. It draws from torch's generator,
        which is seeded by (seed, epoch, example) around the call.
    transform
        Deterministic map of the stacked batch, such as `PixelTransform`.
    rows
        Positions in ``source`` of the N examples; all of them by default.

    Raises
    ------
    DataError
        If there is not one target per example, or the crops of a batch differ in shape.
    """

    source: Any
    targets: Tensor
    crop: Callable[[Any], Tensor]
    augment: Callable[[Any], Tensor] | None = None
    transform: Callable[[Tensor], Tensor] | None = None
    rows: Tensor | None = None

    def __post_init__(self) -> None:
        _check_lengths(len(self), self.targets)

    def __len__(self) -> int:
        """Return N."""
        return len(self.source if self.rows is None else self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return one example and its target."""
        inputs, targets = self.__getitems__([index])
        return inputs[0], targets[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return a batch."""
        targets = self.targets[torch.as_tensor(indices)]
        if self.augment is None:
            images = [self.crop(self.raw(index)) for index in indices]
        else:
            key, images = epoch_key(indices), []
            for index in indices:
                with scoped_seed(fold_seed(key, index)):
                    images.append(self.augment(self.raw(index)))
        shapes = {tuple(image.shape) for image in images}
        if len(shapes) > 1:
            raise DataError(f"a batch holds images of shapes {sorted(shapes)}; crop to one size")
        return self.finish(torch.stack(images)), targets

    def raw(self, index: int) -> Any:
        """Return one input as read."""
        return self.source[index if self.rows is None else int(self.rows[index])][0]

    def finish(self, inputs: Tensor) -> Tensor:
        """Apply the transform to a batch of cropped inputs."""
        return inputs if self.transform is None else self.transform(inputs)

    def subset(self, indices: Int[Tensor, " n"], targets: Tensor | None = None) -> "LazyDataset":
        """Return the examples at these indices, with new targets if given."""
        rows = indices if self.rows is None else self.rows[indices]
        targets = self.targets[indices] if targets is None else targets
        return dataclasses.replace(self, rows=rows, targets=targets)

    def without_augmentation(self) -> "LazyDataset":
        """Return the same examples as they are for evaluation."""
        return dataclasses.replace(self, augment=None)
