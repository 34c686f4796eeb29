"""SWAG: moments and deviations of a trajectory, ending in a `GaussianWeights`."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from bayesprior.errors import ConfigError, LayoutMismatchError, checked
from bayesprior.inference.protocols import StepEvent
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout

__all__ = ["SWAG"]

_TILE = 1 << 16  # weights that stay in the cache from one operation to the next


class _Moments(NamedTuple):
    """Of the differences to the first snapshot."""

    origin: Tensor  # (D,), the first snapshot
    mean: Tensor  # (D,)
    squares: Tensor  # (D,), sum of squared deviations from the mean
    ring: Tensor  # (K, D), the last K differences

    def row(self, count: int) -> Tensor:
        """Return where snapshot number ``count`` belongs."""
        return self.ring[count % len(self.ring)] if len(self.ring) else torch.empty_like(self.mean)


class SWAG:
    r"""Fits :math:`N(m, \frac12 \mathrm{diag}(s^2) + \frac12 \Delta\Delta^T / c)` to snapshots.

    m and s^2 are the mean and the unbiased variance of all n snapshots. The columns of Delta are
    the last K snapshots less m, and c = K (n - 1) / n makes both halves' expectations those of
    the snapshots' own covariance when they are independent; with K = n it is the published n - 1.

    Parameters
    ----------
    rank
        K, the number of snapshots kept for the factor.
    diagonal_only
        Keep none: covariance diag(s^2), without the halves (the published SWAG-Diagonal).
    var_floor
        Smallest variance as a share of the mean variance: weights that never moved (dead units)
        would make the law singular. Recorded in the provenance.

    Raises
    ------
    ConfigError
        If ``rank`` is below 1 or ``var_floor`` is not positive.

    Notes
    -----
    Memory (K + 3) D. It collects what the engine trains; `Watching` shows it other weights, such as
    those of a frozen momentum network. All moments are of differences to the first snapshot and
    by Welford's update, so float32 keeps about six digits of the variance even where the
    snapshots agree in four; E[x^2] - E[x]^2 then loses nearly half of the weights. Deviations are
    from the final mean, not from the running mean of their time, whose first is identically zero.

    References
    ----------
    Maddox et al., A Simple Baseline for Bayesian Uncertainty in Deep Learning, arXiv:1902.02476,
    equation 1. Welford (1962), doi:10.1080/00401706.1962.10490022.

    Examples
    --------
    >>> layout = ParameterLayout(("w",), ((2,),))
    >>> swag = SWAG(rank=2)
    >>> swag.update_weights(torch.tensor([1.0, 0.0]), layout)
    >>> swag.update_weights(torch.tensor([3.0, 1.0]), layout)
    >>> swag.posterior().covariance_matrix
    tensor([[2.0000, 0.5000],
            [0.5000, 0.5000]])
    """

    @checked(rank="integer", var_floor="number")
    def __init__(
        self, *, rank: int = 20, diagonal_only: bool = False, var_floor: float = 1e-6
    ) -> None:
        if rank < 1 and not diagonal_only:
            raise ConfigError(f"rank must be at least 1 (or diagonal_only=True), got {rank}")
        if not 0 < var_floor < 1:
            raise ConfigError(f"var_floor must be in (0, 1), got {var_floor}")
        self.rank = 0 if diagonal_only else rank
        self.diagonal_only = diagonal_only
        self.var_floor = var_floor
        self.count = 0
        self._layout: ParameterLayout | None = None
        self._moments: _Moments | None = None
        self._buffers: dict[str, Tensor] = {}

    def update(self, event: StepEvent) -> None:
        """Take in the weights after a collected step, and the module's buffers at that time."""
        self._buffers = event.buffers()
        moments = self._prepare(event.layout, next(event.module.parameters()))
        self._take_in(event.weights(out=moments.row(self.count)), moments)

    @torch.no_grad()
    def update_weights(self, weights: Float[Tensor, " D"], layout: ParameterLayout) -> None:
        """Take in one snapshot, for instance from a list of checkpoints.

        Raises
        ------
        LayoutMismatchError
            If the layout is not the first snapshot's.
        """
        layout.check_dim(weights)
        moments = self._prepare(layout, weights)
        self._take_in(moments.row(self.count).copy_(weights), moments)

    def _prepare(self, layout: ParameterLayout, like: Tensor) -> _Moments:
        """Allocate once, in float32 or better; follow the weights to their device."""
        if self._layout is None:
            self._layout = layout
        elif layout != self._layout:
            what = self._layout.compare(layout).describe()
            raise LayoutMismatchError(f"the snapshots' layout changed while collecting: {what}")
        moments = self._moments
        if moments is None:
            kind = torch.promote_types(like.dtype, torch.float32)
            vectors = (like.new_zeros(layout.dim, dtype=kind) for _ in range(3))
            moments = _Moments._make(
                [*vectors, like.new_empty((self.rank, layout.dim), dtype=kind)]
            )
        elif moments.mean.device != like.device:  # a resumed run's state comes from the CPU
            moments = _Moments(*(tensor.to(like.device) for tensor in moments))
        self._moments = moments
        return moments

    @torch.no_grad()
    def _take_in(self, row: Tensor, moments: _Moments) -> None:
        """Update the moments by the snapshot in ``row``; leaves its difference to the origin."""
        if self.count == 0:
            moments.origin.copy_(row)
        self.count += 1
        pieces = (tensor.split(_TILE) for tensor in (row, *moments[:3]))
        for part, origin, mean, squares in zip(*pieces, strict=True):
            step = part.sub_(origin) - mean
            mean.add_(step, alpha=1 / self.count)
            squares.addcmul_(step, step, value=(self.count - 1) / self.count)

    @torch.no_grad()
    def posterior(
        self,
        *,
        buffers: Mapping[str, Tensor] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> GaussianWeights:
        """Return the law; its factor's columns are sorted by variance, null ones dropped.

        Parameters
        ----------
        buffers
            BatchNorm statistics to go with the mean; None takes those of the last snapshot.
        provenance
            Joined by ``swag``: snapshots, rank, effective rank, drift share and floor.

        Raises
        ------
        ConfigError
            If fewer than 2 snapshots were collected, fewer than ``rank``, none ever differed, or
            one holds NaN.
        """
        if self.count < 2 or self._moments is None or self._layout is None:
            raise ConfigError(
                f"SWAG needs at least 2 snapshots and has {self.count}; does the schedule collect?"
            )
        if self.rank > self.count:
            raise ConfigError(
                f"rank = {self.rank} is larger than the {self.count} snapshots collected; collect "
                "more or lower the rank"
            )
        origin, mean, squares, ring = self._moments
        variance = squares / (self.count - 1)
        mean_variance = variance.mean(dtype=torch.float64).item()
        if not math.isfinite(mean_variance):
            raise ConfigError("a snapshot holds NaN or infinite weights")
        if mean_variance == 0:
            raise ConfigError("all snapshots are equal; is the learning rate 0 while collecting?")
        share = 1.0 if self.diagonal_only else 0.5
        floor = self.var_floor * mean_variance
        floored = (variance < floor).mean(dtype=torch.float64).item()
        variance = variance.clamp_min_(floor).mul_(share)
        divisor = max(self.rank, 1) * (self.count - 1) / self.count
        rows, shares = _principal_rows(ring, mean, share / divisor, self.rank == self.count)
        swag = {
            "num_snapshots": self.count,
            "rank": len(rows),
            "effective_rank": 1 / float(shares.square().sum()) if len(rows) else 0.0,
            "drift_share": float(shares[0]) if len(rows) else 0.0,
            "var_floor": floor,
            "floored_share": floored,
        }
        return GaussianWeights(
            self._layout,
            origin + mean,
            variance,
            rows.T,
            buffers=self._buffers if buffers is None else buffers,
            provenance={**(provenance or {}), "swag": swag},
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what the next update needs; no row that is not filled yet."""
        moments = self._moments
        return {
            "count": self.count,
            "rank": self.rank,
            "layout": self._layout.to_json() if self._layout is not None else None,
            "moments": moments and (*moments[:3], moments.ring[: self.count]),
            "buffers": self._buffers,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`, on copies.

        Raises
        ------
        ConfigError
            If the state was collected with another rank.
        """
        if state["rank"] != self.rank:
            raise ConfigError(
                f"the saved SWAG state has rank {state['rank']}, this run asks for {self.rank}"
            )
        self.count, self._buffers = state["count"], dict(state["buffers"])
        self._layout = self._moments = None
        if state["layout"] is not None:
            self._layout = ParameterLayout.from_json(state["layout"])
            *vectors, filled = state["moments"]
            ring = filled.new_empty((self.rank, self._layout.dim))
            ring[: len(filled)] = filled
            self._moments = _Moments._make([*(vector.clone() for vector in vectors), ring])


def _principal_rows(
    ring: Tensor, mean: Tensor, factor: float, centered: bool
) -> tuple[Tensor, Tensor]:
    """Return W^T (R, D) with W W^T = factor (X - m)^T (X - m), rows by falling variance.

    With them goes each row's share of the whole, shape (R,).
    """
    gram = ring.new_zeros((len(ring), len(ring)), dtype=torch.float64)
    for rows, center in zip(ring.split(_TILE, 1), mean.split(_TILE), strict=True):
        wide = rows.double() - center.double()
        gram += wide @ wide.T
    values, vectors = (tensor.flip(-1) for tensor in torch.linalg.eigh(gram))
    # K deviations from their own mean span at most K - 1 directions.
    kept = values[: max(len(ring) - centered, 0)] > values.sum() * 1e-12
    values = values[: int(kept.sum())]
    basis = math.sqrt(factor) * vectors[:, : len(values)].T.to(ring.dtype)
    out = ring.new_empty((len(basis), len(mean)))
    pieces = (ring.split(_TILE, 1), mean.split(_TILE), out.split(_TILE, 1))
    for rows, center, part in zip(*pieces, strict=True):
        torch.mm(basis, rows - center, out=part)
    return out, values / values.sum()
