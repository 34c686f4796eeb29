"""The closed-form part of a Pyro potential: its sites with a constant weight distribution."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bayesprior.errors import ConfigError
from bayesprior.inference.protocols import WeightDistribution
from bayesprior.probabilistic.sites import LatentSite
from bayesprior.weights.layout import ParameterLayout

__all__ = ["SitePrior", "closed_form"]


def closed_form(layout: ParameterLayout, sites: Iterable[LatentSite]) -> WeightDistribution | None:
    """Return the law of the parameters that belong to constant distributions, None without any.

    That of a network alone, without chains, is its own: no step copies its weights.
    """
    parts = [site for site in sites if site.distribution is not None]
    if len(parts) == 1 and parts[0].distribution.layout == layout:
        law: WeightDistribution = parts[0].distribution
        return law
    return SitePrior(layout, parts) if parts else None


class SitePrior:
    """A `WeightDistribution` over all latents of a potential that knows some sites only.

    Elsewhere mean, score and precision are zero and the maps are the identity: those sites' log
    densities are in the loss. ``layout`` is the potential's, where several chains stack every
    parameter; ``sites`` have a constant weight distribution.
    """

    buffers: dict[str, Tensor] = {}  # the statistics of networks are buffers of the potential

    def __init__(self, layout: ParameterLayout, sites: Sequence[LatentSite]) -> None:
        self.layout, self._sites = layout, list(sites)

    @property
    def loc(self) -> Float[Tensor, " D"]:
        """Means of the closed-form sites."""
        return self._written(lambda law, part: law.loc.expand_as(part))

    def score(
        self, value: Float[Tensor, " D"], *, out: Tensor | None = None
    ) -> Float[Tensor, " D"]:
        """Gradient of the log density, written to ``out`` where given."""
        score = self.score_and_log_prob(value)[0]
        return score if out is None else out.copy_(score)

    def score_and_log_prob(
        self, value: Float[Tensor, " D"]
    ) -> tuple[Float[Tensor, " D"], Float[Tensor, ""]]:
        """Return the score and the float64 log density, summed over sites and chains."""
        totals = []

        def score(law: Any, part: Tensor) -> Tensor:
            scores, log_probs = law.score_and_log_prob(part)
            totals.append(log_probs.sum())
            return scores

        return self._written(score, value), torch.stack(totals).sum()

    def max_precision(self) -> Float[Tensor, " D"]:
        """Bound of the curvature that the closed-form sites add to each latent."""
        return self._written(lambda law, part: law.max_precision().expand_as(part))

    def gradient_in_z(self, gradient: Float[Tensor, " D"]) -> Float[Tensor, " D"]:
        """Return R^T g: a gradient with respect to the values as one to the z of `color`."""
        return self._written(lambda law, part: law.gradient_in_z(part), gradient, gradient.clone())

    def color(self, z: Float[Tensor, " D"]) -> Float[Tensor, " D"]:
        """Return ``loc`` + R z: values of standard normal coordinates."""
        return self._written(lambda law, part: law.color(part), z, z.clone())

    def whiten(self, value: Float[Tensor, " D"]) -> Float[Tensor, " D"]:
        """Inverse of `color`."""
        return self._written(lambda law, part: law.whiten(part), value, value.clone())

    def to(
        self, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ) -> "SitePrior":
        """Return the same elsewhere or in another type."""
        laws = (site.distribution.to(device=device, dtype=dtype) for site in self._sites)
        moved = zip(self._sites, laws, strict=True)
        return SitePrior(self.layout, [replace(site, distribution=law) for site, law in moved])

    def save(self, path: str | Path) -> None:
        """Refuse, with `ConfigError`: this is an inside of one potential."""
        raise ConfigError("a potential's prior has no file; save the distributions of its sites")

    @torch.no_grad()
    def _written(
        self,
        of: Callable[[Any, Tensor], Tensor],
        value: Tensor | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """Write what ``of`` makes of each site's weights, (D,) or (C, D), into ``out`` or zeros."""
        if value is None:
            value = self._sites[0].distribution.loc.new_zeros(self.layout.dim)
        out = torch.zeros_like(value) if out is None else out
        read, written = self.layout.unflatten(value), self.layout.unflatten(out)
        for site in self._sites:
            for name, piece in site.split(of(site.distribution, site.join(read))).items():
                written[name].copy_(piece)
        return out
