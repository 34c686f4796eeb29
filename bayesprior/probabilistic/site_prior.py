"""The closed-form part of a Pyro potential: its sites that follow a constant `GaussianWeights`."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout

__all__ = ["SitePrior"]


class SitePrior:
    """A `WeightDistribution` over all latents of a potential that speaks of some sites only.

    Elsewhere the score and the precision are zero: those sites' log densities are in the loss.

    Parameters
    ----------
    layout
        The potential's layout. A site may be stacked: several chains of it.
    laws
        The law of each closed-form site, by its name in the layout.
    """

    def __init__(self, layout: ParameterLayout, laws: Mapping[str, GaussianWeights]) -> None:
        self.layout = layout
        self._sites = [(law, layout.slice(name)) for name, law in laws.items()]
        # The usual case, one chain of one site, needs no D-long copies.
        self._only = self._sites[0][0] if layout.dim == self._sites[0][0].dim else None

    @property
    def loc(self) -> Float[Tensor, " D"]:
        """Means of the closed-form sites, zero elsewhere."""
        like = self._sites[0][0].loc
        out = like.new_zeros(self.layout.dim)
        for law, where in self._sites:
            out[where].view(-1, law.dim)[:] = law.loc
        return out

    @torch.no_grad()
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
        for law, where in self._sites:
            scores, log_probs = law.score_and_log_prob(value[where].view(-1, law.dim))
            score[where] = scores.reshape(-1)
            total += log_probs.sum()
        return score, total

    @torch.no_grad()
    def log_prob(self, value: Float[Tensor, " D"]) -> Float[Tensor, ""]:
        """Log density in exact float64, summed over sites and chains."""
        terms = [
            law.log_prob(value[where].view(-1, law.dim), dtype=torch.float64).sum()
            for law, where in self._sites
        ]
        return torch.stack(terms).sum()

    @torch.no_grad()
    def max_precision(self) -> Float[Tensor, " D"]:
        """Bound of the curvature that the closed-form sites add to each latent."""
        out = self._sites[0][0].loc.new_zeros(self.layout.dim)
        for law, where in self._sites:
            out[where].view(-1, law.dim)[:] = law.max_precision()
        return out
