"""Which examples form which batch, and the random numbers that belong to each example.

Both are pure functions of (seed, epoch, example), so a resumed run, another number of workers or
another number of devices sees the same batches and the same augmentations.
"""

import dataclasses
import operator
from collections.abc import Iterator, Sequence
from typing import Any, SupportsIndex

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bayesprior.errors import ConfigError, check
from bayesprior.inference.generators import fold_seed, split_mix

__all__ = ["EpochBatchSampler", "EpochIndices", "uniforms"]


def uniforms(seed: int, indices: Sequence[int], num: int) -> Float[Tensor, "B {num}"]:
    """Return ``num`` numbers in [0, 1) per example: a pure function of (seed, example).

    Parameters
    ----------
    seed
        Usually `EpochIndices.key`.
    indices
        B example indices.
    num
        Numbers per example.

    Returns
    -------
    Float[Tensor, "B num"]
        float32, 24 random bits each.

    References
    ----------
    Steele, Lea and Flood, Fast splittable pseudorandom number generators, OOPSLA 2014,
    doi:10.1145/2660193.2660195.
    """
    rows = split_mix(np.asarray(indices, dtype=np.uint64) ^ seed)
    bits = split_mix(rows[:, None] + np.arange(num, dtype=np.uint64))
    return torch.from_numpy((bits >> 40).astype(np.float32) * np.float32(2**-24))


class EpochIndices(list[int]):
    """The example indices of one batch, with the key of the epoch's random numbers.

    Attributes
    ----------
    key
        Depends on (seed, epoch) only.
    """

    def __init__(self, indices: Sequence[int] = (), key: int = 0) -> None:
        super().__init__(indices)
        self.key = key


@dataclasses.dataclass(eq=False)
class EpochBatchSampler:
    """Batches of example indices whose order is a pure function of (seed, epoch).

    No example is ever dropped: the last batch of an epoch may be smaller, and a data set smaller
    than a batch is one batch. With W ranks each *global* batch has W B examples and is cut into W
    consecutive slices, so that W ranks with batch size B see what one rank with W B sees.

    Parameters
    ----------
    num_data
        Number of examples N.
    batch_size
        Examples per rank and batch, B. At least N means the full batch.
    shuffle
        Draw a new order each epoch; otherwise 0, 1, ..., N - 1.
    seed
        Decides the orders.
    rank, world_size
        This process and the number of data-parallel processes.

    Raises
    ------
    ConfigError
        If a number is out of range.

    Notes
    -----
    The slices of a global batch that W does not divide differ by one example; one with fewer than
    W examples is repeated cyclically so that no rank is left without. Iterating advances the epoch
    by one, so a plain loop gets a new order each time; `set_epoch` states it outright.

    Examples
    --------
    >>> sampler = EpochBatchSampler(num_data=5, batch_size=2)
    >>> list(sampler), len(sampler)
    ([[0, 1], [2, 3], [4]], 3)
    >>> ranks = [EpochBatchSampler(5, 2, rank=r, world_size=2) for r in range(2)]
    >>> [list(rank) for rank in ranks]
    [[[0, 1], [4]], [[2, 3], [4]]]
    """

    num_data: Any  # NumPy's integers will do
    batch_size: Any
    _: dataclasses.KW_ONLY
    shuffle: bool = False
    seed: SupportsIndex = 0
    rank: int = 0
    world_size: int = 1
    epoch: int = dataclasses.field(default=0, init=False)

    def __post_init__(self) -> None:
        for name in ("num_data", "batch_size", "world_size"):
            check(getattr(self, name), "count", name)
        if not 0 <= self.rank < self.world_size:
            raise ConfigError(f"rank must be in 0..{self.world_size - 1}, got {self.rank}")
        self.num_data = operator.index(self.num_data)
        self.batch_size = min(operator.index(self.batch_size), self.num_data)

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration that of ``epoch`` (0-based)."""
        self.epoch = epoch

    def order(self, epoch: int) -> Int[Tensor, " N"]:
        """Return the order of all examples in an epoch, equal on every rank."""
        if not self.shuffle:
            return torch.arange(self.num_data)
        generator = torch.Generator().manual_seed(fold_seed(self.seed, epoch))
        return torch.randperm(self.num_data, generator=generator)

    def __len__(self) -> int:
        """Batches per epoch, equal on every rank."""
        return -(-self.num_data // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[EpochIndices]:
        """Iterate over this rank's batches of the epoch and advance to the next one."""
        # A generator: torch's loader with workers makes an iterator too many and drops it unused.
        epoch, self.epoch = self.epoch, self.epoch + 1
        key = fold_seed(self.seed, epoch, 1)
        for batch in self.order(epoch).split(self.batch_size * self.world_size):
            yield EpochIndices(self._slice(batch.tolist()), key)

    def _slice(self, batch: list[int]) -> list[int]:
        if len(batch) < self.world_size:
            return [batch[self.rank % len(batch)]]
        bounds = [r * len(batch) // self.world_size for r in (self.rank, self.rank + 1)]
        return batch[slice(*bounds)]
