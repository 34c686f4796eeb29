"""From a flat list of draws to ArviZ's (chain, draw, ...) arrays."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Shaped

from bayesprior.errors import DataError

__all__ = ["ChainGrid"]


@dataclass(frozen=True)
class ChainGrid:
    """Which flat draw stands at which (chain, draw).

    Attributes
    ----------
    index
        Positions in the flat list, shape (chain, draw).
    chains
        The chains' numbers, shape (chain,).
    dropped
        Draws left out so that all chains are equally long (the last ones of longer chains).
    """

    index: Int[np.ndarray, "chain draw"]
    chains: Int[np.ndarray, " chain"]
    dropped: int

    @classmethod
    def of(cls, chain: Int[np.ndarray, "..."], draw: Int[np.ndarray, "..."]) -> "ChainGrid":
        """Make the grid of S draws from their chain and draw numbers (any order).

        Raises
        ------
        DataError
            If there is no draw, the lengths differ, or a (chain, draw) occurs twice.

        Examples
        --------
        >>> grid = ChainGrid.of(np.array([1, 0, 0, 1]), np.array([0, 1, 0, 1]))
        >>> grid.arrange(np.array([10.0, 1.0, 0.0, 11.0]))
        array([[ 0.,  1.],
               [10., 11.]])
        """
        if not chain.size or chain.shape != draw.shape:
            raise DataError(
                f"cannot arrange draws: {chain.size} chain numbers, {draw.size} draw numbers"
            )
        if len({*zip(chain.tolist(), draw.tolist(), strict=True)}) < chain.size:
            raise DataError("the same (chain, draw) occurs twice among the draws")
        order = np.lexsort([draw, chain])
        chains, counts = np.unique(chain, return_counts=True)
        length = int(np.min(counts))
        rows = [part[:length] for part in np.split(order, counts.cumsum()[:-1])]
        return cls(np.stack(rows), chains, int(chain.size - length * len(chains)))

    @property
    def shape(self) -> tuple[int, int]:
        """Number of chains and draws per chain."""
        return self.index.shape

    def arrange(self, values: Shaped[np.ndarray, "S *v"]) -> Shaped[np.ndarray, "chain draw *v"]:
        """Bring flat values (S, ...) into the shape (chain, draw, ...)."""
        return np.asarray(values)[self.index]
