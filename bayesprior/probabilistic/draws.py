"""Draws of a Pyro model's sites: collected chain by chain, in memory or on disk, and read back."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from bayesprior.inference.collectors.draws import DrawWriter
from bayesprior.inference.collectors.memory import DrawsInMemory
from bayesprior.inference.posteriors import StoredDraws
from bayesprior.inference.protocols import StepEvent
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
        self.potential, self._run_dir = potential, run_dir
        self._width = potential.num_chains or 1
        networks = [site for site in potential.sites.values() if site.layout is not None]
        others = [site for site in potential.sites.values() if site.layout is None]
        self._parts = [_Part(s.name if len(networks) > 1 else "", [s]) for s in networks]
        if others:
            self._parts.append(_Part("sites" if networks else "", others))
        self._chains: list[list[Any]] = []  # of each a DrawWriter or DrawsInMemory for every part

    def begin(self) -> None:
        """Start the next chain, or all of them where they are vectorized."""
        for chain in range(len(self._chains), len(self._chains) + self._width):
            self._chains.append(
                [DrawsInMemory(chain=chain) for _ in self._parts]
                if self._run_dir is None
                else [DrawWriter(Path(self._run_dir) / p.folder, chain) for p in self._parts]
            )

    def update(self, event: StepEvent) -> None:
        """Keep one draw of each chain."""
        values = {name: value.cpu() for name, value in self.potential.values().items()}
        alone = self.potential.num_chains is None
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
        in_memory = self._run_dir is None
        return [min(len(c) if in_memory else c.next_index for c in own) for own in self._chains]

    def read(self, chain: int) -> Iterator[dict[str, Tensor]]:
        """Yield the constrained values by site name, on the CPU, of every draw of a chain."""
        stored = [self._read(part, [chain]).draws() for part in range(len(self._parts))]
        for draws in zip(*stored, strict=False):  # an interruption may fall between two files
            parts = [p.values.unflatten(d.weights) for p, d in zip(self._parts, draws, strict=True)]
            yield {name: value for part in parts for name, value in part.items()}

    def posterior(self, site: LatentSite, chains: Sequence[int]) -> StoredDraws | DrawsInMemory:
        """Return the draws of a network; on disk they stay there."""
        return self._read([part.sites for part in self._parts].index([site]), chains)

    def _read(self, part: int, chains: Sequence[int]) -> StoredDraws | DrawsInMemory:
        kept = [self._chains[chain][part] for chain in chains]
        if self._run_dir is not None:
            return StoredDraws([writer.folder for writer in kept])
        return DrawsInMemory(
            replace(draw, chain=number) for number, own in enumerate(kept) for draw in own.draws()
        )

    @property
    def _present(self) -> list[list[Any]]:
        return self._chains[-self._width :]


class _Part:
    """Sites whose draws lie together: one network, or all that are none."""

    def __init__(self, folder: str, sites: list[LatentSite]) -> None:
        shapes = tuple(tuple(site.transform(site.start).shape) for site in sites)
        self.folder, self.sites = folder, sites
        self.values = ParameterLayout(tuple(site.name for site in sites), shapes)

    def event(self, event: StepEvent, values: Mapping[str, Tensor]) -> StepEvent:
        """Return a step as the collector of one chain's part sees it."""
        flat = self.values.flatten_tensors(values[site.name] for site in self.sites)
        own = {"layout": self.sites[0].layout or self.values, "read": lambda: flat}
        return _PartEvent(**{**vars(event), **own}, statistics=self.sites[0].buffers)


@dataclass(frozen=True)
class _PartEvent(StepEvent):
    statistics: Mapping[str, Tensor] = field(kw_only=True)

    def buffers(self) -> dict[str, Tensor]:
        return dict(self.statistics)
