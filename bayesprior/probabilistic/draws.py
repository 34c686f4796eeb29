"""Draws of a Pyro model's sites: collected chain by chain, in memory or on disk, and read back."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bayesprior.inference.collectors import DrawsInMemory, DrawWriter, Watching
from bayesprior.inference.posteriors import StoredDraws
from bayesprior.probabilistic.potential import PyroPotential, put
from bayesprior.probabilistic.sites import LatentSite
from bayesprior.weights.layout import ParameterLayout

__all__ = ["SiteDraws"]


class SiteDraws:
    """The constrained values of all sites, chain by chain, in memory (on the CPU) or on disk.

    ``run_dir`` holds the weights of the model's network under their own names, with its BatchNorm
    statistics (several networks: ``run_dir/<site>``). What else is random, a width or a noise
    level, is in ``run_dir/sites`` under the names of the sites. A model without a network has its
    sites in ``run_dir`` itself. `StoredDraws` reads each. None keeps draws in memory.
    """

    def __init__(self, potential: PyroPotential, run_dir: str | Path | None = None) -> None:
        self.potential, self._run_dir = potential, run_dir
        networks = [site for site in potential.sites.values() if site.layout is not None]
        others = [site for site in potential.sites.values() if site.layout is None]
        # What lies together: each network, and all that are none.
        self._parts = [(s.name if len(networks) > 1 else "", [s]) for s in networks]
        if others:
            self._parts.append(("sites" if networks else "", others))
        self._chains: list[list[Any]] = []  # of each a DrawWriter or DrawsInMemory for every part

    def begin(self) -> list[Watching]:
        """Start the next chain, or all that are vectorized; return what collects their draws."""
        watching = []
        for index in range(self.potential.num_chains or 1):
            chain = len(self._chains)
            self._chains.append([])
            for folder, sites in self._parts:
                collector = (
                    DrawsInMemory(chain=chain)
                    if self._run_dir is None
                    else DrawWriter(Path(self._run_dir) / folder, chain)
                )
                self._chains[chain].append(collector)
                statistics = nn.Module()
                for name, buffer in sites[0].buffers.items():
                    put(statistics, name, buffer)
                values = functools.partial(self._values, sites, index)
                layout = sites[0].layout or _values_layout(sites)
                watching.append(Watching(collector, module=statistics, map=values, layout=layout))
        return watching

    def _values(self, sites: list[LatentSite], index: int, weights: Tensor) -> Tensor:
        """Return one chain's constrained values of some sites in one vector."""
        parameters = self.potential.layout.unflatten(weights)
        if self.potential.num_chains is not None:
            parameters = {name: tensor[index] for name, tensor in parameters.items()}
        return torch.cat([site.transform(site.join(parameters)).flatten() for site in sites])

    @property
    def lengths(self) -> list[int]:
        """How many draws each chain has so far."""
        in_memory = self._run_dir is None
        return [min(len(c) if in_memory else c.next_index for c in own) for own in self._chains]

    def read(self, chain: int) -> Iterator[dict[str, Tensor]]:
        """Yield the constrained values by site name, on the CPU, of every draw of a chain."""
        stored = [self._read(part, [chain]).draws() for part in range(len(self._parts))]
        layouts = [_values_layout(sites) for _, sites in self._parts]
        for draws in zip(*stored, strict=False):  # an interruption may fall between two files
            parts = [own.unflatten(d.weights) for own, d in zip(layouts, draws, strict=True)]
            yield {name: value for part in parts for name, value in part.items()}

    def posterior(self, site: LatentSite, chains: Sequence[int]) -> StoredDraws | DrawsInMemory:
        """Return the draws of a network; on disk they stay there."""
        return self._read([sites for _, sites in self._parts].index([site]), chains)

    def _read(self, part: int, chains: Sequence[int]) -> StoredDraws | DrawsInMemory:
        kept = [self._chains[chain][part] for chain in chains]
        if self._run_dir is not None:
            return StoredDraws([writer.folder for writer in kept])
        return DrawsInMemory(
            replace(draw, chain=number) for number, own in enumerate(kept) for draw in own.draws()
        )


def _values_layout(sites: list[LatentSite]) -> ParameterLayout:
    shapes = tuple(tuple(site.transform(site.start).shape) for site in sites)
    return ParameterLayout(tuple(site.name for site in sites), shapes)
