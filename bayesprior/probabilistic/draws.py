"""Draws of a Pyro model's sites: collected chain by chain, in memory or on disk, and read back."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from bayesprior.inference.collectors.draws import DrawWriter
from bayesprior.inference.collectors.memory import DrawsInMemory
from bayesprior.inference.posteriors import StoredDraws
from bayesprior.inference.protocols import Posterior, StepEvent
from bayesprior.probabilistic.potential import PyroPotential
from bayesprior.probabilistic.sites import LatentSite
from bayesprior.weights.layout import ParameterLayout

__all__ = ["SiteDraws"]


class SiteDraws:
    """A collector of the values of all sites, chain by chain, in memory (on the CPU) or on disk.

    ``run_dir`` holds the weights of the model's network under their own names, with its BatchNorm
    statistics (several networks: ``run_dir/<site>``). What else is random, a width or a noise
    level, is in ``run_dir/sites`` under the names of the sites, in constrained space. A model
    without a network has its sites in ``run_dir`` itself. `StoredDraws` reads each.

    Parameters
    ----------
    potential
        What is sampled; each vectorized chain counts as one.
    run_dir
        The run's folder; None keeps draws in memory.
    """

    def __init__(self, potential: PyroPotential, run_dir: str | Path | None = None) -> None:
        self._potential, self._run_dir = potential, run_dir
        networks = [site for site in potential.sites.values() if site.layout is not None]
        others = [site for site in potential.sites.values() if site.layout is None]
        self._parts = [_Part(s.name if len(networks) > 1 else "", [s]) for s in networks]
        if others:
            self._parts.append(_Part("sites" if networks else "", others))
        self._chains: list[list[DrawWriter | DrawsInMemory]] = []

    def begin(self) -> None:
        """Start the next chain, or all of them where they are vectorized."""
        for chain in range(len(self._chains), len(self._chains) + self._width):
            if self._run_dir is None:
                self._chains.append([DrawsInMemory(chain=chain) for _ in self._parts])
            else:
                folders = [Path(self._run_dir) / part.folder for part in self._parts]
                self._chains.append([DrawWriter(folder, chain) for folder in folders])

    def update(self, event: StepEvent) -> None:
        """Keep one draw of each chain."""
        values = {name: value.cpu() for name, value in self._potential.values().items()}
        alone = self._potential.num_chains is None
        for chain, collectors in enumerate(self._present):
            own = {name: value if alone else value[chain] for name, value in values.items()}
            for part, collector in zip(self._parts, collectors, strict=True):
                collector.update(part.event(event, own))

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the present chains."""
        return {"chains": [[part.state_dict() for part in chain] for chain in self._present]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        for chain, states in zip(self._present, state["chains"], strict=True):
            for part, own in zip(chain, states, strict=True):
                part.load_state_dict(own)

    @property
    def lengths(self) -> list[int]:
        """How many draws each chain has so far."""
        return [
            min(c.next_index if isinstance(c, DrawWriter) else len(c) for c in chain)
            for chain in self._chains
        ]

    def read(self, chain: int) -> Iterator[dict[str, Tensor]]:
        """Yield the constrained values by site name, on the CPU, of every draw of a chain."""
        stored = [self._read([chain], part).draws() for part in range(len(self._parts))]
        for draws in zip(*stored, strict=False):  # an interruption may fall between two files
            parts = [p.values.unflatten(d.weights) for p, d in zip(self._parts, draws, strict=True)]
            yield {name: value for part in parts for name, value in part.items()}

    def posterior(self, site: LatentSite, chains: Sequence[int]) -> Posterior:
        """Return the draws of a network; on disk they stay there."""
        return self._read(chains, [part.sites for part in self._parts].index([site]))

    def _read(self, chains: Sequence[int], part: int) -> StoredDraws | DrawsInMemory:
        kept = [self._chains[chain][part] for chain in chains]
        if self._run_dir is not None:
            return StoredDraws([c.folder for c in kept if isinstance(c, DrawWriter)])
        return DrawsInMemory(
            replace(draw, chain=number)
            for number, collector in enumerate(kept)
            if isinstance(collector, DrawsInMemory)
            for draw in collector.draws()
        )

    @property
    def _width(self) -> int:
        return self._potential.num_chains or 1

    @property
    def _present(self) -> list[list[DrawWriter | DrawsInMemory]]:
        return self._chains[-self._width :]


class _Part:
    """Sites whose draws lie together: one network, or all that are none."""

    def __init__(self, folder: str, sites: list[LatentSite]) -> None:
        shapes = tuple(tuple(site.transform(site.start).shape) for site in sites)
        self.folder, self.sites = folder, sites
        self.values = ParameterLayout(tuple(site.name for site in sites), shapes)

    def event(self, event: StepEvent, values: Mapping[str, Tensor]) -> StepEvent:
        """Return a step as the collector of one chain's part sees it."""
        layout = self.sites[0].layout or self.values
        flat = self.values.flatten_tensors(values[site.name] for site in self.sites)
        given = (event.step, event.phase, event.module, layout, event.stats, lambda: flat)
        return _PartEvent(*given, statistics=self.sites[0].buffers)


@dataclass(frozen=True)
class _PartEvent(StepEvent):
    statistics: Mapping[str, Tensor] = field(kw_only=True)

    def buffers(self) -> dict[str, Tensor]:
        return dict(self.statistics)
