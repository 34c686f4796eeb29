"""`DataBundle`: the splits of one data set and how to load them."""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader, Subset, TensorDataset, default_collate

from bayesprior.data.batch_sampler import EpochBatchSampler, EpochIndices, fold_seed
from bayesprior.data.datasets import (
    ArrayDataset,
    LabeledDataset,
    LazyDataset,
    iter_tensors,
    known_targets,
    read_targets,
)
from bayesprior.errors import ConfigError, DataError, nearest_name

__all__ = ["DataBundle", "as_examples", "names_of_classes"]


def _finished(batch: Any) -> Any:
    """Pass on a batch: our data sets answer with whole ones."""
    return batch


def as_examples(data: Any, collate_fn: Callable[[list[Any]], Any] | None = None) -> LabeledDataset:
    """Return any map-style data set as one of ours.

    Raises
    ------
    DataError
        If it is none; names the function that makes one of what it is.
    """
    if isinstance(data, DataLoader):
        own = None if data.collate_fn is default_collate else data.collate_fn
        data, collate_fn = data.dataset, collate_fn or own
    if isinstance(data, ArrayDataset | LazyDataset):
        if collate_fn is None:
            return data
        if isinstance(data, LazyDataset):
            return dataclasses.replace(data, collate_fn=collate_fn)
        return LazyDataset(data, collate_fn=collate_fn)
    no_rows = str | bytes | Mapping | Tensor | np.ndarray
    if isinstance(data, no_rows) or hasattr(data, "iloc") or _is_pair_of_arrays(data):
        raise DataError(f"a split must be a data set, got {type(data).__name__}; {HINT}")
    if not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
        raise DataError(
            f"a split must be a data set with a length and data[i], got {type(data).__name__}; an "
            f"iterable one has no N to weigh the prior against: list it first. {HINT}"
        )
    if len(data) == 0:
        return LazyDataset(data, collate_fn=collate_fn)
    return LazyDataset(data, known_targets(data), collate_fn=collate_fn)


HINT = (
    "from_arrays('name', (x, y), (x_test, y_test)) takes arrays and tables, get_data('folder') "
    "pictures, DataBundle('name', train, test) data sets with data[i] -> (input, target)"
)
"""The constructors, for messages."""


def _is_pair_of_arrays(data: Any) -> bool:
    arrays = Tensor | np.ndarray
    return isinstance(data, tuple) and any(isinstance(part, arrays) for part in data)


def names_of_classes(names: Any) -> tuple[str, ...]:
    """Return class names as text: of a sequence, an array, or a mapping from or to the index.

    Raises
    ------
    DataError
        If they are one text, a mapping with gaps, or not all different.

    Examples
    --------
    >>> names_of_classes({1: "dog", 0: "cat"}), names_of_classes([b"cat", "dog"])
    (('cat', 'dog'), ('cat', 'dog'))
    """
    if isinstance(names, Mapping):
        if all(isinstance(value, int) for value in names.values()):
            names = {index: name for name, index in names.items()}
        if sorted(names) != list(range(len(names))):
            raise DataError(f"class_names must number the classes 0, 1, ..., got {dict(names)}")
        names = [names[index] for index in range(len(names))]
    if isinstance(names, str | bytes) or np.ndim(names) != 1:
        raise DataError(f"class_names must be a list with one name a class, got {names!r}")
    out = tuple(n.decode(errors="replace") if isinstance(n, bytes) else str(n) for n in names)
    if any("\0" in name for name in out):
        raise DataError("class_names must be text, got one with a NUL character")
    if twice := sorted({name for name in out if out.count(name) > 1}):
        raise DataError(f"class_names must differ, got {', '.join(twice)} more than once")
    return out


@dataclasses.dataclass(frozen=True, eq=False)
class DataBundle:
    """Training, validation and test examples of one task.

    Parameters
    ----------
    name
        Shown in reports.
    train, test
        The examples to condition on and those to judge by (None without any): an `ArrayDataset`
        or `LazyDataset`, or any data set with ``len(data)`` and ``data[i]``, which becomes a
        `LazyDataset`: ``(input, target)`` pairs, dictionaries as of Hugging Face, inputs alone.
    validation
        For choosing hyper-parameters; never the test examples. None until there is one, see
        `split_validation`.
    class_names
        Names of the C classes, of labels (N,) or masks (N, H, W), as a sequence or a mapping from
        the index; empty for a task without classes. Held as a tuple.
    collate_fn
        Makes a batch of a list of examples, such as one that pads texts.

    Raises
    ------
    DataError
        If a split is no data set or is empty, a label is outside 0..C-1, or two splits share
        examples.

    Warns
    -----
    UserWarning
        If classes have no training example.
    """

    name: str
    train: Any
    test: Any = None
    validation: Any = None
    class_names: Any = ()
    collate_fn: dataclasses.InitVar[Callable[[list[Any]], Any] | None] = None

    def __post_init__(self, collate_fn: Callable[[list[Any]], Any] | None) -> None:
        object.__setattr__(self, "class_names", names_of_classes(self.class_names))
        for split in ("train", "validation", "test"):
            if getattr(self, split) is None and split != "train":
                continue
            data = as_examples(getattr(self, split), collate_fn)
            object.__setattr__(self, split, data)
            if len(data) == 0:
                raise DataError(f"the {split} split of {self.name!r} is empty")
            if self.class_names and data.targets is not None:
                self._check_labels(split, data.targets)
        splits = self._splits()
        for one, other in (("train", "test"), ("train", "validation"), ("validation", "test")):
            if other in splits and one in splits and _shared(splits[one], splits[other]):
                raise DataError(
                    f"the {one} and {other} splits of {self.name!r} are the same data; "
                    "use split_validation() to take validation examples out of training"
                )
        known = self.class_names and self.train.targets is not None
        if known and (absent := (self.class_counts == 0).nonzero().flatten().tolist()):
            names = ", ".join(self.class_names[c] for c in absent[:5])
            more = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
            warnings.warn(
                f"{self.name!r} has no training example of {len(absent)} of its "
                f"{self.num_classes} classes: {names}{more}",
                UserWarning,
                stacklevel=3,
            )

    def _splits(self) -> dict[str, LabeledDataset]:
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        return {split: data for split, data in splits.items() if data is not None}

    def _check_labels(self, split: str, labels: Tensor) -> None:
        if labels.ndim == 2 or labels.is_floating_point():
            raise DataError(
                f"the {split} labels of {self.name!r} must be integers of shape (N,), got "
                f"{labels.dtype} of shape {tuple(labels.shape)}"
            )
        low, high = int(labels.min()), int(labels.max())
        ignored = labels.ndim > 1  # pixels to ignore are marked 255 or below 0
        if (low < 0 or high >= self.num_classes) and not ignored:
            raise DataError(
                f"the {split} labels of {self.name!r} run from {low} to {high}, outside "
                f"0..{self.num_classes - 1}; list every class in class_names"
            )

    @property
    def num_data(self) -> int:
        """Number of training examples N, the weight of the likelihood."""
        return len(self.train)

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return len(self.class_names)

    @functools.cached_property
    def class_counts(self) -> Int[Tensor, " C"]:
        """Training examples (of masks: pixels) per class."""
        labels = read_targets(self.train).flatten().long()
        labels = labels[(labels >= 0) & (labels < self.num_classes)]
        return torch.bincount(labels, minlength=self.num_classes)

    @functools.cached_property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input as the network sees it, such as (C, H, W)."""
        data = self.train.without_augmentation() if self.test is None else self.test
        return tuple(next(iter_tensors(data.__getitems__(EpochIndices([0])))).shape[1:])

    def split(self, name: str) -> LabeledDataset:
        """Return a split by name.

        Raises
        ------
        ConfigError
            If the name is none of train, validation, test.
        DataError
            If the bundle has no validation split.
        """
        splits = self._splits()
        if name in splits:
            return splits[name]
        if name == "test":
            raise DataError(f"{self.name!r} has no test split")
        if name == "validation":
            raise DataError(
                f"{self.name!r} has no validation split; make one with split_validation()"
            )
        known = ("train", "validation", "test")
        raise ConfigError(f"no split {name!r}; use one of {known}{nearest_name(name, known)}")

    def loader(
        self,
        split: str,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        *,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
    ) -> DataLoader[Any]:
        """Return a loader of batches, usually ``(inputs, targets)``.

        Its ``batch_sampler`` is an `EpochBatchSampler`: the order is a function of (seed, epoch),
        nothing is dropped, and the global random state is neither read nor advanced.

        Parameters
        ----------
        split
            ``"train"``, ``"validation"`` or ``"test"``.
        batch_size
            Examples per batch and rank; at least the size of the split means the full batch.
        shuffle
            Whether each epoch has its own order.
        seed
            Decides orders and augmentations.
        rank, world_size
            This process and the number of data-parallel processes.
        num_workers
            Processes that read examples; worth it for image files only.

        Examples
        --------
        >>> from bayesprior.data import digits
        >>> loader = digits().loader("train", batch_size=64, shuffle=True, seed=1)
        >>> images, labels = next(iter(loader))
        >>> images.shape, labels.shape
        (torch.Size([64, 1, 8, 8]), torch.Size([64]))
        """
        data = self.split(split)
        sampler = EpochBatchSampler(
            len(data), batch_size, shuffle=shuffle, seed=seed, rank=rank, world_size=world_size
        )
        return DataLoader(
            data,  # type: ignore[arg-type]
            batch_sampler=sampler,
            collate_fn=_finished,
            num_workers=num_workers,
            # torch draws a seed for the workers; from its own generator, not from the global one.
            generator=torch.Generator().manual_seed(fold_seed(seed)),
        )


def _shared(one: LabeledDataset, other: LabeledDataset) -> bool:
    """Whether two splits are the same data: one object, equal values, or common rows."""
    if one is other:
        return True
    if isinstance(one, ArrayDataset) and isinstance(other, ArrayDataset):
        a, b = one.inputs, other.inputs
        return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
    if not (isinstance(one, LazyDataset) and isinstance(other, LazyDataset)):
        return False
    (a, rows), (b, others) = _origin(one), _origin(other)
    if a is b:
        return not set(rows).isdisjoint(others)
    if isinstance(a, TensorDataset) and isinstance(b, TensorDataset):
        return a.tensors[0].shape == b.tensors[0].shape and torch.equal(a.tensors[0], b.tensors[0])
    files = getattr(a, "samples", None)
    return files is not None and files == getattr(b, "samples", ())


def _origin(data: LazyDataset) -> tuple[Any, list[int]]:
    """Return the data set under all subsets, and the rows of it."""
    rows = list(range(len(data))) if data.rows is None else data.rows.tolist()
    source = data.source
    while isinstance(source, Subset):
        rows, source = [source.indices[row] for row in rows], source.dataset
    return source, rows
