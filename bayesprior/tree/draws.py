"""What ten million weights come down to: coordinates, distances and norms, streamed by draw."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bayesprior.errors import DataError
from bayesprior.inference.protocols import Draw
from bayesprior.weights.gaussian import GaussianWeights

__all__ = ["WeightStatistics", "weight_statistics"]


@dataclass(frozen=True)
class WeightStatistics:
    """Statistics of S draws relative to a prior; arrays have S as first axis.

    Attributes
    ----------
    chain, draw
        ArviZ's coordinates of each draw, shape (S,).
    values
        ``prior_coordinate`` (S, R), ``mahalanobis`` (S,), ``block_mahalanobis`` (S, B) and
        ``weight_norm`` (S, B).
    log_prior
        Log density in nats, shape (S,).
    mixture
        Each draw's share of all averages, shape (S,); they sum to 1.
    """

    chain: Int[np.ndarray, " S"]
    draw: Int[np.ndarray, " S"]
    values: dict[str, np.ndarray]
    log_prior: Float[np.ndarray, " S"]
    mixture: Float[np.ndarray, " S"]


@torch.no_grad()
def weight_statistics(prior: GaussianWeights, draws: Iterable[Draw]) -> WeightStatistics:
    """Reduce draws to what can be looked at, a few draws in memory at a time.

    Parameters
    ----------
    prior
        The law the draws are measured against.
    draws
        Draws of the same layout.

    Raises
    ------
    DataError
        If there is no draw or one holds NaN.

    Notes
    -----
    The distances per block need the marginal law of each block: about the prior's own memory
    again. Under the prior ``mahalanobis`` is chi-square(D), a block's chi-square(its size), and
    the coordinates are independent standard normals.
    """
    layout = prior.layout
    blocks = {name: prior.marginal([name]) for name in layout.names}
    labels: list[tuple[int, int, float]] = []
    parts: list[dict[str, Tensor]] = []
    for chunk in _chunks(draws, layout.dim):
        weights = torch.stack([draw.weights.to(prior.loc) for draw in chunk])
        for draw, finite in zip(chunk, weights.isfinite().all(1), strict=True):
            if not finite:
                raise DataError(
                    f"draw {draw.index} of chain {draw.chain} holds NaN or infinite weights; the "
                    "sampler diverged, lower its learning rate"
                )
        labels += [(draw.chain, draw.index, draw.weight) for draw in chunk]
        views = {name: v.flatten(1) for name, v in layout.unflatten(weights).items()}
        parts.append(
            {
                "prior_coordinate": prior.coordinates(weights),
                "mahalanobis": prior.mahalanobis(weights),
                "block_mahalanobis": torch.stack(
                    [blocks[n].mahalanobis(v) for n, v in views.items()], 1
                ),
                "weight_norm": torch.stack([v.double().norm(dim=1) for v in views.values()], 1),
            }
        )
    if not parts:
        raise DataError("there are no draws to describe")
    values = {
        name: torch.cat([part[name].double().cpu() for part in parts]).numpy() for name in parts[0]
    }
    chain, index, mixture = np.array(labels).T
    return WeightStatistics(
        chain.astype(int),
        index.astype(int),
        values,
        -0.5 * (values["mahalanobis"] + float(prior.log_normalizer())),
        mixture / mixture.sum(),
    )


def _chunks(draws: Iterable[Draw], dim: int) -> Iterator[list[Draw]]:
    """Several draws of a small network at a time, one of a large one."""
    draws, size = iter(draws), max(1, min(256, 2**22 // max(dim, 1)))
    while chunk := list(itertools.islice(draws, size)):
        yield chunk
