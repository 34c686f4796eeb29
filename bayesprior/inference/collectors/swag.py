"""SWAG: moments and deviations of a trajectory, ending in a `GaussianWeights`."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bayesprior.errors import ConfigError
from bayesprior.gaussian import GaussianWeights
from bayesprior.inference.protocols import StepEvent
from bayesprior.layout import ParameterLayout

__all__ = ["SWAG"]


class SWAG:
    r"""Fits :math:`N(m, \frac12 \mathrm{diag}(s^2) + \frac12 \Delta\Delta^T / c)` to snapshots.

    m and s^2 are the mean and the unbiased variance of all n snapshots (Welford's update:
    E[x^2] - E[x]^2 loses nearly half of the coordinates in float32). The columns of Delta are
    the last K snapshots less m, and c = K (n - 1) / n makes the law's expected covariance that of
    independent snapshots; with K = n it is the published n - 1.

    Parameters
    ----------
    rank
        K, the number of snapshots kept for the factor.
    diagonal_only
        Keep none: covariance diag(s^2), without the halves.
    var_floor
        Smallest variance as a share of the mean variance: weights that never moved (dead units)
        would make the law singular. Recorded in the provenance.

    Raises
    ------
    ConfigError
        If ``rank`` is below 1 or ``var_floor`` is not positive.

    Notes
    -----
    Memory (K + 2) D. Deviations from the final mean, not from the running mean of their time:
    the latter make the first column identically zero and inflate early ones.

    References
    ----------
    Maddox et al., A Simple Baseline for Bayesian Uncertainty in Deep Learning, arXiv:1902.02476,
    equation 1. Welford (1962), doi:10.1080/00401706.1962.10490022.
    """

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
        self._mean: Tensor | None = None
        self._sum_squares: Tensor | None = None  # of deviations from the mean
        self._snapshots: Tensor | None = None  # (K, D), a ring

    def update(self, event: StepEvent) -> None:
        """Take in the weights after a collected step."""
        self.update_weights(event.weights(), event.layout)

    @torch.no_grad()
    def update_weights(self, weights: Float[Tensor, " D"], layout: ParameterLayout) -> None:
        """Take in one snapshot, for instance from a list of checkpoints."""
        if self._mean is None or self._sum_squares is None:
            layout.check_dim(weights)
            self._layout = layout
            self._mean = torch.zeros_like(weights)
            self._sum_squares = torch.zeros_like(weights)
            self._snapshots = weights.new_empty((self.rank, layout.dim))
        assert self._snapshots is not None
        if self._mean.device != weights.device:  # a resumed run's state comes from the CPU
            self._mean = self._mean.to(weights.device)
            self._sum_squares = self._sum_squares.to(weights.device)
            self._snapshots = self._snapshots.to(weights.device)
        if self.rank:
            self._snapshots[self.count % self.rank].copy_(weights)
        self.count += 1
        before = weights - self._mean
        self._mean.add_(before, alpha=1 / self.count)
        self._sum_squares.addcmul_(before, weights - self._mean)

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
            BatchNorm statistics to go with the mean.
        provenance
            Joined by ``swag``: snapshots, rank, effective rank, drift share and floor.

        Raises
        ------
        ConfigError
            If fewer than 2 snapshots were collected, fewer than ``rank``, or none ever differed.
        """
        if self.count < 2 or self._mean is None or self._sum_squares is None:
            raise ConfigError(
                f"SWAG needs at least 2 snapshots and has {self.count}; does the schedule collect?"
            )
        if self.rank > self.count:
            raise ConfigError(
                f"rank = {self.rank} is larger than the {self.count} snapshots collected; collect "
                "more or lower the rank"
            )
        assert self._layout is not None
        assert self._snapshots is not None
        variance = self._sum_squares / (self.count - 1)
        mean_variance = variance.mean(dtype=torch.float64).item()
        if not mean_variance > 0:
            raise ConfigError("all snapshots are equal; is the learning rate 0 while collecting?")
        share = 1.0 if self.diagonal_only else 0.5
        floor = self.var_floor * mean_variance
        floored = (variance < floor).double().mean().item()
        variance = variance.clamp_min_(floor).mul_(share)
        factor = None
        if self.rank:
            divisor = self.rank * (self.count - 1) / self.count
            factor = _principal_columns(
                self._snapshots, self._mean, math.sqrt(share / divisor), self.rank == self.count
            )
        law = GaussianWeights(self._layout, self._mean.clone(), variance, factor, buffers=buffers)
        law.provenance = dict(provenance or {}) | {
            "swag": {
                "num_snapshots": self.count,
                "rank": law.rank,
                "effective_rank": law.effective_rank,
                "drift_share": law.drift_share,
                "var_floor": floor,
                "floored_share": floored,
            }
        }
        return law

    def state_dict(self) -> dict[str, Any]:
        """Return what the next update needs."""
        return {
            "count": self.count,
            "rank": self.rank,
            "layout": self._layout.to_json() if self._layout is not None else None,
            "mean": self._mean,
            "sum_squares": self._sum_squares,
            "snapshots": self._snapshots,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`.

        Raises
        ------
        ConfigError
            If the state was collected with another rank.
        """
        if state["rank"] != self.rank:
            raise ConfigError(
                f"the saved SWAG state has rank {state['rank']}, this run asks for {self.rank}"
            )
        self.count = state["count"]
        if state["layout"] is not None:
            self._layout = ParameterLayout.from_json(state["layout"])
        self._mean, self._sum_squares = state["mean"], state["sum_squares"]
        self._snapshots = state["snapshots"]


def _principal_columns(snapshots: Tensor, mean: Tensor, factor: float, centered: bool) -> Tensor:
    """Return W (D, R) with W W^T = factor^2 (X - m)^T (X - m), columns by falling variance."""
    rows = (snapshots - mean).mul_(factor)
    gram = rows.new_zeros((len(rows), len(rows)), dtype=torch.float64)
    for part in rows.split(1 << 16, dim=1):
        wide = part.double()
        gram += wide @ wide.T
    values, vectors = torch.linalg.eigh(gram)
    # K deviations from their own mean span at most K - 1 directions.
    kept = values.flip(0)[: len(rows) - centered] > values[-1] * 1e-12
    directions = vectors.flip(1)[:, : int(kept.sum())].to(rows.dtype)
    return (directions.T @ rows).T
