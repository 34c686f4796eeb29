"""Draws of a Pyro model's latents: kept in memory, and read site by site."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from bayesprior.errors import ConfigError
from bayesprior.inference.posteriors import StoredDraws
from bayesprior.inference.protocols import Draw, StepEvent
from bayesprior.probabilistic.potential import PyroPotential
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout

__all__ = ["DrawKeeper", "SiteDraws"]


class DrawKeeper:
    """A collector that keeps one chain's draws in memory, on the CPU.

    Parameters
    ----------
    layout
        Of the weights.
    num_draws
        How many will come.
    chain
        Number of the chain.
    """

    def __init__(self, layout: ParameterLayout, num_draws: int, chain: int) -> None:
        self.layout, self.chain, self.num_draws = layout, chain, 0
        self._weights = torch.empty((num_draws, 0))

    def update(self, event: StepEvent) -> None:
        """Keep the weights."""
        weights = event.weights()
        if not self.num_draws:
            self._weights = weights.new_empty((len(self._weights), len(weights)), device="cpu")
        self._weights[self.num_draws] = weights
        self.num_draws += 1

    def state_dict(self) -> dict[str, Any]:
        """Return the draws so far."""
        return {"weights": self._weights[: self.num_draws]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        kept = state["weights"]
        self.num_draws = len(kept)
        self._weights = kept.new_empty((len(self._weights), *kept.shape[1:]))
        self._weights[: len(kept)] = kept

    def draws(self, num_draws: int | None = None, seed: int = 0) -> Iterator[Draw]:
        """Yield all draws."""
        for index in range(self.num_draws):
            yield Draw(self.chain, index, self._weights[index])


class SiteDraws:
    """The draws of one `GaussianWeights` site as a `Posterior` of its network.

    Parameters
    ----------
    potential
        The potential that was sampled.
    site
        Name of the site.
    kept
        Flat draws of all sites, one object a run of the sampler.

    Attributes
    ----------
    layout
        Of the network's weights.
    num_chains, num_draws
        How many chains, and how many draws in each.
    """

    def __init__(
        self, potential: PyroPotential, site: str, kept: Sequence[DrawKeeper | StoredDraws]
    ) -> None:
        self._potential, self._kept = potential, kept
        self._where = potential.layout.slice(site)
        law: GaussianWeights = potential.networks[site]
        self.layout, self._buffers = law.layout, law.buffers
        runs = sum(getattr(k, "num_chains", 1) for k in kept)
        self.num_chains = potential.num_chains or runs
        self.num_draws = kept[0].num_draws

    def draws(self, num_draws: int | None = None, seed: int = 0) -> Iterator[Draw]:
        """Yield draws; fewer than there are are spread evenly over each chain.

        Raises
        ------
        ConfigError
            If more are asked for than there are, or a number that the chains cannot share.
        """
        stored = self.num_chains * self.num_draws
        wanted = stored if num_draws is None else num_draws
        if not 0 < wanted <= stored or wanted % self.num_chains:
            raise ConfigError(
                f"num_draws = {wanted} must be a multiple of the {self.num_chains} chains, at "
                f"most the {stored} draws there are"
            )
        kept = wanted // self.num_chains
        indices = {(j + 1) * self.num_draws // kept - 1 for j in range(kept)}
        for run in self._kept:
            for draw in run.draws():
                if draw.index in indices:
                    yield from self._split(draw)

    def _split(self, draw: Draw) -> Iterator[Draw]:
        stacked = draw.weights[self._where].view(-1, self.layout.dim)
        for chain, weights in enumerate(stacked):
            yield Draw(draw.chain + chain, draw.index, weights, self._buffers)
