"""`DataBundle`: the splits of one data set and how to load them."""

import dataclasses
import functools
import warnings
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from bayesprior.data.batch_sampler import EpochBatchSampler
from bayesprior.data.datasets import LabeledDataset
from bayesprior.errors import ConfigError, DataError, nearest_name

__all__ = ["DataBundle", "collate"]


def collate(examples: Any) -> Any:
    """Pass a finished batch (a tuple) through; collate a list of examples as torch does."""
    return examples if isinstance(examples, tuple) else default_collate(examples)


@dataclasses.dataclass(frozen=True, eq=False)
class DataBundle:
    """Training, validation and test examples of one task.

    Parameters
    ----------
    name
        Shown in reports.
    train, test
        The examples to condition on and those to judge by.
    validation
        For choosing hyper-parameters; never the test examples. None until there is one, see
        `split_validation`.
    class_names
        Names of the C classes; empty for a task without classes.

    Raises
    ------
    DataError
        If the training or test split is empty, a label is outside 0..C-1, or two splits are the
        same data.

    Warns
    -----
    UserWarning
        If classes have no training example.
    """

    name: str
    train: LabeledDataset
    test: LabeledDataset
    validation: LabeledDataset | None = None
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        splits = self._splits()
        for split, data in splits.items():
            if len(data) == 0:
                raise DataError(f"the {split} split of {self.name!r} is empty")
            if self.class_names:
                self._check_labels(split, data.targets)
        for one, other in (("train", "test"), ("train", "validation"), ("validation", "test")):
            if other in splits and one in splits and _same(splits[one], splits[other]):
                raise DataError(
                    f"the {one} and {other} splits of {self.name!r} are the same data; "
                    "use split_validation() to take validation examples out of training"
                )
        if self.class_names and (absent := (self.class_counts == 0).nonzero().flatten().tolist()):
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
        if labels.ndim != 1 or labels.is_floating_point():
            raise DataError(
                f"the {split} labels of {self.name!r} must be integers of shape (N,), got "
                f"{labels.dtype} of shape {tuple(labels.shape)}"
            )
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= self.num_classes:
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
        """Training examples per class."""
        return torch.bincount(self.train.targets, minlength=self.num_classes)

    @functools.cached_property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input as the network sees it, such as (C, H, W)."""
        return tuple(self.test[0][0].shape)

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
        """Return a loader of ``(inputs, targets)`` batches.

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
            collate_fn=collate,
            num_workers=num_workers,
            # torch draws a seed for the workers; from its own generator, not from the global one.
            generator=torch.Generator().manual_seed(seed),
        )


def _same(one: LabeledDataset, other: LabeledDataset) -> bool:
    """Whether two splits are one object or share their storage."""
    if one is other:
        return True
    a, b = getattr(one, "inputs", None), getattr(other, "inputs", None)
    if a is None or b is None or a.shape != b.shape:
        return False
    return a.data_ptr() == b.data_ptr()
