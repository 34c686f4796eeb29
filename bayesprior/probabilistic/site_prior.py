"""The closed-form part of a Pyro potential: its sites with a constant weight distribution."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bayesprior.errors import ConfigError
from bayesprior.weights.layout import ParameterLayout

__all__ = ["SitePrior"]


class SitePrior:
    """A `WeightDistribution` over all latents of a potential that knows some sites only.

    Elsewhere the score and the precision are zero: those sites' log densities are in the loss.

    Parameters
    ----------
    layout
        The potential's layout. Several chains stack every parameter.
    parts
        The distribution of each closed-form site, with the names of its weights in ``layout``.
    """

    def __init__(self, layout: ParameterLayout, parts: Sequence[tuple[Any, Sequence[str]]]) -> None:
        self.layout = layout
        self._parts = [
            (distribution, _merged([layout.slice(name) for name in names], distribution.layout.dim))
            for distribution, names in parts
        ]
        # The usual case, one chain of one site, needs no D-long copies.
        first, where = self._parts[0]
        self._only = first if where == [slice(0, layout.dim)] else None

    @property
    def buffers(self) -> dict[str, Tensor]:
        """None: the statistics of networks are buffers of the potential."""
        return {}

    @property
    def loc(self) -> Float[Tensor, " D"]:
        """Means of the closed-form sites, zero elsewhere."""
        return self._filled(lambda distribution: distribution.loc)

    def score(
        self, value: Float[Tensor, " D"], *, out: Tensor | None = None
    ) -> Float[Tensor, " D"]:
        """Gradient of the log density, written to ``out`` where given."""
        if self._only is not None:
            return self._only.score(value, out=out)
        score = self.score_and_log_prob(value)[0]
        return score if out is None else out.copy_(score)

    @torch.no_grad()
    def score_and_log_prob(
        self, value: Float[Tensor, " D"]
    ) -> tuple[Float[Tensor, " D"], Float[Tensor, ""]]:
        """Return the score and the float64 log density, summed over sites and chains."""
        if self._only is not None:
            return self._only.score_and_log_prob(value)
        score = torch.zeros_like(value)
        total = torch.zeros((), dtype=torch.float64, device=value.device)
        for distribution, where in self._parts:
            scores, log_probs = distribution.score_and_log_prob(
                _read(value, where, distribution.layout.dim)
            )
            _write(score, where, scores)
            total += log_probs.sum()
        return score, total

    @torch.no_grad()
    def max_precision(self) -> Float[Tensor, " D"]:
        """Bound of the curvature that the closed-form sites add to each latent."""
        return self._filled(lambda distribution: distribution.max_precision())

    def covariance_product(self, value: Float[Tensor, " D"]) -> Float[Tensor, " D"]:
        """Multiply by the covariance; the identity on other sites, as for `color`, `whiten`."""
        return self._mapped("covariance_product", value)

    def color(self, z: Float[Tensor, " D"]) -> Float[Tensor, " D"]:
        """Return ``loc`` + R z: values of standard normal coordinates."""
        return self._mapped("color", z)

    def whiten(self, value: Float[Tensor, " D"]) -> Float[Tensor, " D"]:
        """Inverse of `color`."""
        return self._mapped("whiten", value)

    def to(
        self, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ) -> "SitePrior":
        """Return the same elsewhere or in another type."""
        new = copy.copy(self)
        new._parts = [(law.to(device=device, dtype=dtype), where) for law, where in self._parts]
        new._only = None if self._only is None else new._parts[0][0]
        return new

    def save(self, path: str | Path) -> None:
        """Refuse: this is an inside of one potential.

        Raises
        ------
        ConfigError
            Always; says what to save.
        """
        raise ConfigError("a potential's prior has no file; save the distributions of its sites")

    def _filled(self, of: Callable[[Any], Tensor]) -> Tensor:
        out = self._parts[0][0].loc.new_zeros(self.layout.dim)
        for distribution, where in self._parts:
            chains = _read(out, where, distribution.layout.dim).shape[:-1]
            _write(out, where, of(distribution).expand(*chains, -1))
        return out

    @torch.no_grad()
    def _mapped(self, method: str, value: Tensor) -> Tensor:
        out = value.clone()
        for distribution, where in self._parts:
            part = _read(value, where, distribution.layout.dim)
            _write(out, where, getattr(distribution, method)(part))
        return out


def _merged(slices: list[slice], dim: int) -> list[slice]:
    """Join neighbors, so that one chain of a network in its own order is a single view."""
    if sum(where.stop - where.start for where in slices) != dim:  # several chains
        return slices
    out = slices[:1]
    for where in slices[1:]:
        if where.start == out[-1].stop:
            out[-1] = slice(out[-1].start, where.stop)
        else:
            out.append(where)
    return out


def _read(value: Tensor, where: list[slice], dim: int) -> Tensor:
    """Return a site's weights in its own order, (D,), or (C, D) for C chains."""
    count = sum(s.stop - s.start for s in where) // max(dim, 1)
    if len(where) == 1:
        part = value[where[0]]
        return part if part.shape[0] == dim else part.view(count, dim)
    if count == 1:
        return torch.cat([value[s] for s in where])
    return torch.cat([value[s].view(count, -1) for s in where], -1)


def _write(out: Tensor, where: list[slice], part: Tensor) -> None:
    """Put a site's weights, as `_read` gives them, back to their places."""
    count = part.shape[0] if part.dim() == 2 else 1
    sizes = [(s.stop - s.start) // count for s in where]
    for place, piece in zip(where, part.split(sizes, -1), strict=True):
        out[place] = piece.reshape(-1)
