"""The closed-form part of a Pyro potential: its sites with a constant weight distribution."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bayesprior.errors import ConfigError
from bayesprior.probabilistic.sites import LatentSite
from bayesprior.weights.layout import ParameterLayout

__all__ = ["SitePrior"]


class SitePrior:
    """A `WeightDistribution` over all latents of a potential that knows some sites only.

    Elsewhere the score and the precision are zero: those sites' log densities are in the loss.

    Parameters
    ----------
    layout
        The potential's layout. Several chains stack every parameter.
    sites
        Those with a constant weight distribution.
    """

    def __init__(self, layout: ParameterLayout, sites: Sequence[LatentSite]) -> None:
        self.layout, self._sites = layout, list(sites)

    @property
    def _only(self) -> Any:
        """The distribution of one chain of one site: the usual case needs no D-long copies."""
        law = self._sites[0].distribution
        same = self.layout.dim == law.layout.dim
        return law if same and list(self.layout.names) == self._sites[0].names else None

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
        if (only := self._only) is not None:
            return only.score(value, out=out)
        score = self.score_and_log_prob(value)[0]
        return score if out is None else out.copy_(score)

    @torch.no_grad()
    def score_and_log_prob(
        self, value: Float[Tensor, " D"]
    ) -> tuple[Float[Tensor, " D"], Float[Tensor, ""]]:
        """Return the score and the float64 log density, summed over sites and chains."""
        if (only := self._only) is not None:
            return only.score_and_log_prob(value)
        score = torch.zeros_like(value)
        total = torch.zeros((), dtype=torch.float64, device=value.device)
        for site, part in self._parts(value):
            scores, log_probs = site.distribution.score_and_log_prob(part)
            self._write(score, site, scores)
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
        moved = [
            replace(site, distribution=site.distribution.to(device=device, dtype=dtype))
            for site in self._sites
        ]
        return SitePrior(self.layout, moved)

    def save(self, path: str | Path) -> None:
        """Refuse: this is an inside of one potential.

        Raises
        ------
        ConfigError
            Always; says what to save.
        """
        raise ConfigError("a potential's prior has no file; save the distributions of its sites")

    def _filled(self, of: Callable[[Any], Tensor]) -> Tensor:
        out = self._sites[0].distribution.loc.new_zeros(self.layout.dim)
        for site, part in self._parts(out):
            self._write(out, site, of(site.distribution).expand_as(part))
        return out

    @torch.no_grad()
    def _mapped(self, method: str, value: Tensor) -> Tensor:
        out = value.clone()
        for site, part in self._parts(value):
            self._write(out, site, getattr(site.distribution, method)(part))
        return out

    def _parts(self, value: Tensor) -> Iterator[tuple[LatentSite, Tensor]]:
        """Yield each site's weights in its own order, (D,), or (C, D) for C chains."""
        views = self.layout.unflatten(value)
        for site in self._sites:
            yield site, site.join(views)

    def _write(self, out: Tensor, site: LatentSite, part: Tensor) -> None:
        views = self.layout.unflatten(out)
        for name, piece in site.split(part).items():
            views[name].copy_(piece)
