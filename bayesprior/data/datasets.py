"""The two kinds of data set: tensors in memory, and examples read one by one.

Both answer ``dataset.__getitems__(indices)`` with a finished batch, so a loader need not collate.
Any other map-style data set becomes the second kind when a `DataBundle` takes it.
"""

import dataclasses
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils._pytree import tree_map_only
from torch.utils.data import Dataset, Subset, TensorDataset, default_collate

from bayesprior.data.batch_sampler import EpochIndices, uniforms
from bayesprior.data.masks import are_masks, augmented, resized
from bayesprior.errors import DataError
from bayesprior.inference.generators import fold_seed, seeded

__all__ = [
    "NUM_UNIFORMS",
    "ArrayDataset",
    "LabeledDataset",
    "LazyDataset",
    "known_targets",
    "read_targets",
]

NUM_UNIFORMS = 8
"""Random numbers per example that an in-memory augmentation may use."""


def _epoch_key(indices: Sequence[int]) -> int:
    """Return the epoch's key, or one from torch's generator if the loader is not ours."""
    key = getattr(indices, "key", None)
    return int(torch.randint(2**62, ())) if key is None else key


def _single(tensor: Tensor) -> Tensor:
    """Turn double precision, which tables and Python numbers come in, to torch's default."""
    return tensor.to(torch.get_default_dtype()) if tensor.dtype == torch.float64 else tensor


def _tensor(values: Any) -> Tensor:
    """Return a tensor of a tensor, an array, a data frame or a list."""
    if not isinstance(values, Tensor):
        array = np.asarray(values)
        if array.dtype.kind not in "biuf":
            raise DataError(f"{array.dtype} data are no numbers; encode text and categories")
        values = torch.from_numpy(np.ascontiguousarray(array))
    return _single(values)


class LabeledDataset(Dataset[Any]):
    """What a `DataBundle` holds: N examples that come in whole batches."""

    targets: Any
    augment: Callable[..., Any] | None
    transform: Callable[[Tensor], Tensor] | None

    def __post_init__(self) -> None:
        if self.targets is None:
            return
        targets = _tensor(self.targets)
        if targets.ndim == 0 or len(self) != len(targets):
            raise DataError(
                f"{len(self)} inputs but targets of shape {tuple(targets.shape)}; "
                "a data set needs one target per input"
            )
        object.__setattr__(self, "targets", targets)

    def __len__(self) -> int:
        """Return N."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> Any:
        """Return one example and its target."""
        return tree_map_only(Tensor, lambda batch: batch[0], self.__getitems__([index]))

    def __getitems__(self, indices: Sequence[int]) -> Any:
        """Return a batch."""
        raise NotImplementedError

    def raw(self, index: int) -> Any:
        """Return one input as stored."""
        raise NotImplementedError

    def finish(self, inputs: Tensor) -> Tensor:
        """Apply the transform to a batch of raw (or cropped) inputs."""
        return inputs if self.transform is None else self.transform(inputs)

    def subset(self, indices: Int[Tensor, " n"], targets: Tensor | None = None) -> "LabeledDataset":
        """Return the examples at these indices, with new targets if given."""
        if targets is None and self.targets is not None:
            targets = self.targets[indices]
        return dataclasses.replace(self, targets=targets, **self._chosen(indices))  # type: ignore

    def _chosen(self, indices: Int[Tensor, " n"]) -> dict[str, Any]:
        raise NotImplementedError

    def without_augmentation(self) -> "LabeledDataset":
        """Return the same examples as they are for evaluation."""
        return dataclasses.replace(self, augment=None)  # type: ignore[type-var]


@dataclasses.dataclass(frozen=True, eq=False)
class ArrayDataset(LabeledDataset):
    """Examples in memory; a batch costs one indexing operation.

    Parameters
    ----------
    inputs
        Raw inputs, shape (N, ...): a tensor, an array or a data frame. Images are (N, C, H, W),
        best kept as uint8; float64 becomes torch's default type.
    targets
        Shape (N, ...); class labels are integers of shape (N,), masks integers (N, H, W), which
        go the same way as their images. Without targets a batch is its inputs alone.
    transform
        Deterministic map of a raw batch, such as `PixelTransform`.
    augment
        Random map ``(raw batch (B, ...), uniforms (B, NUM_UNIFORMS)) -> raw batch`` applied
        before ``transform``, such as `CropFlip`. It is a pure function: the uniform numbers
        belong to (seed, epoch, example). It is given a mask as one more channel.

    Raises
    ------
    DataError
        If inputs and targets differ in length or are no numbers.

    Examples
    --------
    >>> data = ArrayDataset(torch.arange(6.0).reshape(3, 2), torch.tensor([0, 1, 0]))
    >>> data.__getitems__([2, 0])
    (tensor([[4., 5.],
            [0., 1.]]), tensor([0, 0]))
    """

    inputs: Any
    targets: Any = None
    transform: Callable[[Tensor], Tensor] | None = None
    augment: Callable[[Tensor, Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", _tensor(self.inputs))
        super().__post_init__()

    def __len__(self) -> int:
        """Return N."""
        return len(self.inputs)

    def __getitems__(self, indices: Sequence[int]) -> Any:
        """Return a batch."""
        rows = torch.as_tensor(indices)
        inputs = self.inputs[rows]
        targets: Any = None if self.targets is None else self.targets[rows]
        dense = inputs.ndim == 4 and are_masks(targets)
        if self.augment is not None:
            numbers = uniforms(_epoch_key(indices), indices, NUM_UNIFORMS)
            if dense:
                inputs, targets = augmented(self.augment, inputs, targets, numbers)
            else:
                inputs = self.augment(inputs, numbers)
        inputs = self.finish(inputs)
        if dense:
            targets = resized(targets, inputs.shape[2:]).long()
        return inputs if targets is None else (inputs, targets)

    def raw(self, index: int) -> Tensor:
        """Return one input as stored."""
        raw: Tensor = self.inputs[index]
        return raw

    def _chosen(self, indices: Int[Tensor, " n"]) -> dict[str, Any]:
        return {"inputs": self.inputs[indices]}


@dataclasses.dataclass(frozen=True, eq=False)
class LazyDataset(LabeledDataset):
    """Examples read one by one: picture files, pairs of image and mask, rows of any data set.

    Random numbers drawn while an example is read are seeded by (seed, epoch, example).

    Parameters
    ----------
    source
        Anything with ``len(source)`` and ``source[i]``: ``(input, target, ...)``, a dictionary, or
        an input alone. A torchvision or Hugging Face data set is one.
    targets
        All targets, shape (N, ...), in place of those of the rows. None leaves them to the rows:
        they are read when needed.
    crop
        Deterministic map of one input to a tensor, the same size for all. Where the row's target
        is a mask (an image, or an integer tensor (H, W)), ``crop(image, mask) -> image, mask``,
        the mask a ``tv_tensors.Mask``, as transforms of ``torchvision.transforms.v2`` take it.
    augment
        Random map that takes the place of ``crop`` in training.
    transform
        Deterministic map of the stacked inputs, such as `PixelTransform`.
    rows
        Positions in ``source`` of the N examples; all of them by default.
    collate_fn
        Makes a batch of a list of examples; torch's ``default_collate`` by default.

    Raises
    ------
    DataError
        If there is not one target per example, or the examples of a batch cannot be stacked.
    """

    source: Any
    targets: Any = None
    crop: Callable[..., Any] | None = None
    augment: Callable[..., Any] | None = None
    transform: Callable[[Tensor], Tensor] | None = None
    rows: Tensor | None = None
    collate_fn: Callable[[list[Any]], Any] | None = None

    def __len__(self) -> int:
        """Return N."""
        return len(self.source if self.rows is None else self.rows)

    def __getitems__(self, indices: Sequence[int]) -> Any:
        """Return a batch."""
        # Without a crop the source may have a random transform of its own.
        key = _epoch_key(indices) if self.augment or self.crop is None else 0
        examples = []
        for index in indices:
            with seeded(fold_seed(key, index)):
                examples.append(self._example(int(index)))
        batch = _collated(examples, self.collate_fn)
        batch = dict(batch) if isinstance(batch, Mapping) else batch
        batch = tree_map_only(Tensor, _single, batch)
        if isinstance(batch, dict):
            return batch
        inputs, *rest = batch if isinstance(batch, tuple | list) else (batch,)
        inputs = tree_map_only(Tensor, self.finish, inputs)
        return (inputs, *rest) if rest else inputs

    def _example(self, index: int) -> Any:
        row = self._row(index)
        if isinstance(row, Mapping):
            return row if self.targets is None else {**row, label_key(row): self.targets[index]}
        change = self.augment or self.crop
        if change is None and self.targets is None:
            return row
        image, *rest = row if isinstance(row, tuple | list) else (row,)
        if self.targets is not None:
            rest = [self.targets[index]]
        elif rest and _is_mask(rest[0]):
            from torchvision.tv_tensors import Mask

            image, mask = change(image, Mask(rest[0]))  # type: ignore[misc]
            image = tree_map_only(Tensor, lambda part: part.as_subclass(Tensor), image)
            return image, mask.as_subclass(Tensor).long().reshape(mask.shape[-2:])
        return image if change is None else change(image), *rest

    def _row(self, index: int) -> Any:
        return self.source[index if self.rows is None else int(self.rows[index])]

    def raw(self, index: int) -> Any:
        """Return one input as read."""
        return _first(self._row(index))

    def _chosen(self, indices: Int[Tensor, " n"]) -> dict[str, Any]:
        return {"rows": indices if self.rows is None else self.rows[indices]}


def _first(row: Any) -> Any:
    return row[0] if isinstance(row, tuple | list) else row


def label_key(keys: Container[str]) -> str:
    """Return what the targets of rows that are dictionaries are called."""
    return next((key for key in ("labels", "label", "target") if key in keys), "labels")


def _is_mask(target: Any) -> bool:
    """Whether a row's target has pixels: a picture, or integers (H, W)."""
    if isinstance(target, Tensor):
        return target.ndim >= 2 and not target.is_floating_point()
    return hasattr(target, "getbands")


def _collated(examples: list[Any], collate_fn: Callable[[list[Any]], Any] | None) -> Any:
    if collate_fn is not None:
        return collate_fn(examples)
    try:
        return default_collate(examples)
    except (RuntimeError, TypeError) as error:
        inputs = [_first(example) for example in examples]
        shapes = sorted({tuple(image.shape) for image in inputs if isinstance(image, Tensor)})
        found = f"shapes {shapes}" if len(shapes) > 1 else type(inputs[0]).__name__
        told = "give the data set a transform to tensors of one size (of pictures: "
        told += "bayesprior.data.photographs(data, size=224)), or pass collate_fn="
        if isinstance(examples[0], Mapping):
            told = "pass a collate_fn= that pads them to one length"
        raise DataError(
            f"examples of {found} cannot be stacked to a batch "
            f"({str(error).splitlines()[0]}); {told}"
        ) from None


def known_targets(source: Any) -> Tensor | None:
    """Return the targets of a data set that tells them without reading its inputs, else None."""
    if isinstance(source, Subset):
        known = known_targets(source.dataset)
        return None if known is None else known[torch.as_tensor(source.indices, dtype=torch.long)]
    columns = getattr(source, "column_names", None)
    if isinstance(source, TensorDataset):
        found: Any = source.tensors[1] if len(source.tensors) == 2 else None
    elif getattr(source, "target_transform", None) is not None:
        return None
    elif isinstance(columns, list):  # a Hugging Face data set
        found = source[label_key(columns)] if label_key(columns) in columns else None
    else:
        told = (getattr(source, name, None) for name in ("targets", "labels", "_labels"))
        found = next((t for t in told if t is not None and not callable(t)), None)
    try:
        known = torch.as_tensor(np.asarray(found))
    except (TypeError, ValueError):
        return None
    return known if known.ndim and len(known) == len(source) else None


def read_targets(data: LabeledDataset) -> Tensor:
    """Return all targets of a split, reading every example if it does not know them.

    Raises
    ------
    DataError
        If its examples have none, or of several shapes.
    """
    if data.targets is not None:
        return data.targets
    found = []
    for index in range(len(data)):
        batch = data.__getitems__(EpochIndices([index]))  # no number of torch's generator
        if isinstance(batch, Mapping):
            batch = (None, batch.get(label_key(batch)))
        if not isinstance(batch, tuple) or not isinstance(batch[1], Tensor):
            raise DataError("these examples have no targets; this needs a labeled split")
        found.append(batch[1])
    if len({tuple(target.shape) for target in found}) > 1:
        raise DataError("the targets differ in shape; crop the examples to one size")
    return torch.cat(found)
