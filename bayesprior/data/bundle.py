"""`DataBundle`: the splits of one data set and how to load them."""

import dataclasses
import functools
import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader, Subset, TensorDataset, default_collate

from bayesprior.data.batch_sampler import EpochBatchSampler, EpochIndices
from bayesprior.data.datasets import (
    ArrayDataset,
    LabeledDataset,
    LazyDataset,
    known_targets,
    read_targets,
)
from bayesprior.data.masks import are_masks
from bayesprior.errors import ConfigError, DataError, nearest_name
from bayesprior.inference.generators import fold_seed
from bayesprior.tasks.protocols import tensors_of

__all__ = ["HINT", "SPLITS", "DataBundle", "as_examples"]

SPLITS = ("train", "validation", "test")
HINT = (
    "from_arrays('name', (x, y), (x_test, y_test)) takes arrays and tables, get_data('folder') "
    "pictures, DataBundle('name', train, test) data sets with data[i] -> (input, target)"
)
"""The constructors, for messages."""
_WIDE = 16
"""Rows of fewer numbers may be equal by chance."""


def as_examples(data: Any, collate_fn: Callable[[list[Any]], Any] | None = None) -> LabeledDataset:
    """Return any map-style data set as one of ours.

    Raises
    ------
    DataError
        If it is none; names the function that makes one of what it is.
    """
    if isinstance(data, DataLoader):
        if data.collate_fn is not default_collate:
            collate_fn = collate_fn or data.collate_fn
        data = data.dataset
    if isinstance(data, LabeledDataset) and collate_fn is None:
        return data
    if isinstance(data, LazyDataset):
        return dataclasses.replace(data, collate_fn=collate_fn)
    arrays = Tensor | np.ndarray
    pair = isinstance(data, tuple) and any(isinstance(part, arrays) for part in data)
    no_rows = isinstance(data, arrays | str | bytes | Mapping) or hasattr(data, "iloc")
    if pair or no_rows or not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
        stream = hasattr(data, "__iter__") and not hasattr(data, "__len__")
        hint = "an iterable one has no N to weigh the prior against: list it first; "
        raise DataError(
            f"a split must be a data set with a length and data[i], got {type(data).__name__}; "
            f"{hint if stream else ''}{HINT}"
        )
    return LazyDataset(data, known_targets(data), collate_fn=collate_fn)


def _text(name: Any) -> str:
    """Write out the bytes in a file's name that are no UTF-8: files and pages take text alone."""
    return str(name).encode(errors="backslashreplace").decode()


def _names(names: Any) -> tuple[str, ...]:
    """Return class names as text: of a sequence, an array, or a mapping from or to the index."""
    if isinstance(names, Mapping):
        if all(isinstance(value, int) for value in names.values()):
            names = {index: name for name, index in names.items()}
        if sorted(names) != list(range(len(names))):
            raise DataError(f"class_names must number the classes 0, 1, ..., got {dict(names)}")
        names = [names[index] for index in range(len(names))]
    if isinstance(names, str | bytes) or np.ndim(names) != 1:
        raise DataError(f"class_names must be a list with one name a class, got {names!r}")
    out = tuple(n.decode(errors="replace") if isinstance(n, bytes) else _text(n) for n in names)
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
        Names of the C classes, of labels (N,), of several labels an example (N, C), each 0 or 1,
        or of masks (N, H, W), as a sequence or a mapping from the index; empty for a task without
        classes. Held as a tuple.
    columns
        Names of a table's input columns, where they are known.
    collate_fn
        Makes a batch of a list of examples, such as one that pads texts.

    Raises
    ------
    DataError
        If a split is no data set or is empty, a label is outside 0..C-1 (of several, 0 or 1), or
        two splits share examples.

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
    columns: tuple[str, ...] = ()
    collate_fn: dataclasses.InitVar[Callable[[list[Any]], Any] | None] = None

    def __post_init__(self, collate_fn: Callable[[list[Any]], Any] | None) -> None:
        object.__setattr__(self, "name", _text(self.name))
        object.__setattr__(self, "class_names", _names(self.class_names))
        for name in SPLITS:
            if name != "train" and getattr(self, name) is None:
                continue
            data = as_examples(getattr(self, name), collate_fn)
            object.__setattr__(self, name, data)
            if len(data) == 0:
                raise DataError(f"the {name} split of {self.name!r} is empty")
            if self.class_names and data.targets is not None:
                self._check_labels(name, data.targets)
        for (one, a), (other, b) in itertools.combinations(self.splits.items(), 2):
            if _shared(a, b):
                raise DataError(
                    f"the {one} and {other} splits of {self.name!r} are the same data; "
                    "use split_validation() to take validation examples out of training"
                )
        known = self.class_names and self.train.targets is not None
        if known and (absent := (self.class_counts == 0).nonzero().flatten().tolist()):
            names = ", ".join(self.class_names[c] for c in absent[:5])
            more = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
            of = f"{len(absent)} of its {self.num_classes} classes: {names}{more}"
            warnings.warn(f"{self.name!r} has no training example of {of}", stacklevel=3)

    def _check_labels(self, split: str, labels: Tensor) -> None:
        what = f"the {split} labels of {self.name!r}"
        if labels.is_floating_point() or (labels.ndim == 2 and labels.shape[1] != self.num_classes):
            came = f"{labels.dtype} of shape {tuple(labels.shape)}"
            several = f"(N, {self.num_classes}), each 0 or 1, for several labels an example"
            raise DataError(f"{what} must be integers of shape (N,), or {several}; got {came}")
        if labels.ndim == 2:
            if (odd := labels[(labels != 0) & (labels != 1)]).numel():
                raise DataError(
                    f"{what} must be 0 or 1 each, several an example; got {int(odd[0])}"
                )
            return
        low, high, last = int(labels.min()), int(labels.max()), self.num_classes - 1
        # Pixels of masks that are to be ignored are marked 255 or below 0.
        if labels.ndim == 1 and (low < 0 or high > last):
            span = f"{low} to {high}, outside 0..{last}"
            raise DataError(f"{what} run from {span}; list every class in class_names")

    @property
    def splits(self) -> dict[str, Any]:
        """The splits that there are, by name."""
        found = {name: getattr(self, name) for name in SPLITS}
        return {name: data for name, data in found.items() if data is not None}

    @property
    def num_data(self) -> int:
        """Number of training examples N, the weight of the likelihood."""
        return len(self.train)

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return len(self.class_names)

    @property
    def num_numbers(self) -> int:
        """Numbers P of a target (N, P); 0 of classes, and without targets."""
        known = self.train.targets
        is_real = known is not None and known.is_floating_point() and known.ndim == 2
        return known.shape[1] if is_real else 0

    @functools.cached_property
    def class_counts(self) -> Int[Tensor, " C"]:
        """Training examples (of masks: pixels) per class; of several labels, those that have it."""
        if (labels := read_targets(self.train)).ndim == 2:
            return labels.long().sum(0)
        labels = labels.flatten().long()
        labels = labels[(labels >= 0) & (labels < self.num_classes)]
        return torch.bincount(labels, minlength=self.num_classes)

    @functools.cached_property
    def _some_targets(self) -> Any:
        """The training targets, or the first of them; None without any."""
        if self.train.targets is not None:
            return self.train.targets
        batch = self.train.without_augmentation().__getitems__(EpochIndices([0]))
        return batch[1] if isinstance(batch, tuple) and len(batch) > 1 else None

    @property
    def has_masks(self) -> bool:
        """Whether a target is a mask: a label for each pixel."""
        return are_masks(self._some_targets)

    @property
    def has_several_labels(self) -> bool:
        """Whether a target is a row (C,) of labels, each 0 or 1: any number of them an example."""
        found = self._some_targets
        is_row = isinstance(found, Tensor) and found.ndim == 2
        return is_row and not found.is_floating_point()

    @functools.cached_property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input as the network sees it, such as (C, H, W)."""
        return tuple(next(tensors_of(self.peek(1)), torch.empty(0)).shape[1:])

    @property
    def evaluated(self) -> Any:
        """Examples as they are evaluated: the test split, or the training one, not augmented."""
        return self.train.without_augmentation() if self.test is None else self.test

    def peek(self, num: int) -> Any:
        """Return a batch of the first examples, as for evaluation; no random number is drawn."""
        data = self.evaluated
        return data.__getitems__(EpochIndices(range(min(num, len(data)))))

    def split(self, name: str) -> LabeledDataset:
        """Return a split by name.

        Raises
        ------
        ConfigError
            If the name is none of train, validation, test.
        DataError
            If the bundle has no validation split.
        """
        if name in self.splits:
            return self.splits[name]
        if name not in SPLITS:
            raise ConfigError(f"no split {name!r}; use one of {SPLITS}{nearest_name(name, SPLITS)}")
        hint = "; make one with split_validation()" if name == "validation" else ""
        raise DataError(f"{self.name!r} has no {name} split{hint}")

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
            data,
            batch_sampler=sampler,
            collate_fn=_finished,
            num_workers=num_workers,
            # torch draws a seed for the workers; from its own generator, not from the global one.
            generator=torch.Generator().manual_seed(fold_seed(seed)),
        )


def _finished(batch: Any) -> Any:
    """Pass on a batch: our data sets answer with whole ones."""
    return batch


def _shared(one: LabeledDataset, other: LabeledDataset) -> bool:
    """Whether two splits have rows of the same data in common, or one lies in the other."""
    (x, rows), (y, others) = _origin(one), _origin(other)
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        same = x is y or (x.dtype == y.dtype and torch.equal(x, y))
        if not same and x.shape[1:] == y.shape[1:] and x[0].numel() >= _WIDE:
            x, y = (
                (all_ if isinstance(own, range) else all_[list(own)]).flatten(1)
                for all_, own in ((x, rows), (y, others))
            )
            return _lies_in(x, y) or _lies_in(y, x)
    else:
        same = type(x) is type(y) and x == y
    return same and not set(rows).isdisjoint(others)


def _lies_in(x: Tensor, y: Tensor) -> bool:
    """Whether rows of one, 20 of them, are all found in the other, once each."""
    some = slice(None, None, max(x.shape[1] // 64, 1))
    few, narrow = y[:: max(len(y) // 20, 1)], x[:, some]
    places = ((narrow == row[some]).all(1).nonzero()[:, 0] for row in few)
    found = (int((x[near] == row).all(1).sum()) for near, row in zip(places, few, strict=True))
    return len(y) > 2 and all(count == 1 for count in found)


def _origin(data: Any) -> tuple[Any, Sequence[int]]:
    """Return what tells the data set under all subsets without reading it, and the rows of it.

    That is its tensor, its names of files, or which object it is.
    """
    source, rows = getattr(data, "source", data), getattr(data, "rows", None)
    rows = range(len(data)) if rows is None else rows.tolist()
    while isinstance(source, Subset):
        rows, source = [source.indices[row] for row in rows], source.dataset
    if isinstance(source, TensorDataset):
        return source.tensors[0], rows
    told = source.inputs if isinstance(source, ArrayDataset) else getattr(source, "samples", None)
    return told if isinstance(told, Tensor | list | tuple) else id(source), rows
