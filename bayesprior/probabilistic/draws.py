"""Draws of a Pyro model's sites: collected chain by chain, in memory or on disk, and read back."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bayesprior.inference.collectors.draws import DrawWriter
from bayesprior.inference.collectors.memory import DrawsInMemory
from bayesprior.inference.posteriors import StoredDraws, stored_draw_paths
from bayesprior.inference.protocols import Draw, Posterior, StepEvent
from bayesprior.probabilistic.potential import PyroPotential
from bayesprior.probabilistic.structure import LatentSite
from bayesprior.storage import chain_dir
from bayesprior.weights.layout import ParameterLayout

__all__ = ["SiteDraws", "SiteFiles"]

Values = dict[str, Tensor]
"""Constrained values of one draw, on the CPU, by site name."""


class SiteDraws:
    """A collector that keeps the values of all sites in memory, on the CPU.

    Parameters
    ----------
    potential
        What is sampled; each vectorized chain counts as one.
    """

    def __init__(self, potential: PyroPotential) -> None:
        self._potential = potential
        self._chains: list[list[Values]] = []

    def begin(self, chain: int) -> None:
        """Start a chain, or all of them where they are vectorized."""
        self._chains += [[] for _ in range(self._potential.num_chains or 1)]

    def update(self, event: StepEvent) -> None:
        """Keep the present values."""
        own = self._chains[-(self._potential.num_chains or 1) :]
        for chain, values in zip(own, _by_chain(self._potential), strict=True):
            chain.append(values)

    def state_dict(self) -> dict[str, Any]:
        """Return the draws so far."""
        return {"chains": self._chains}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self._chains = state["chains"]

    @property
    def lengths(self) -> list[int]:
        """How many draws each chain has so far."""
        return [len(chain) for chain in self._chains]

    def read(self, chain: int) -> Iterator[Values]:
        """Yield the values of every draw of a chain."""
        yield from self._chains[chain]

    def posterior(self, site: LatentSite, chains: Sequence[int]) -> Posterior:
        """Return the draws of a network."""
        return DrawsInMemory(
            Draw(number, index, values[site.name], site.buffers, site.layout)
            for number, chain in enumerate(chains)
            for index, values in enumerate(self._chains[chain])
        )


class SiteFiles:
    """A collector that writes each draw of each chain to disk, where `StoredDraws` reads it.

    ``run_dir`` holds the weights of the model's network under their own names, with its BatchNorm
    statistics (several networks: ``run_dir/<site>``). What else is random, a width or a noise
    level, is in ``run_dir/sites`` under the names of the sites, in constrained space. A model
    without a network has its sites in ``run_dir`` itself.

    Parameters
    ----------
    run_dir
        The run's folder.
    potential
        What is sampled; each vectorized chain counts as one.
    """

    def __init__(self, run_dir: str | Path, potential: PyroPotential) -> None:
        self._potential, root = potential, Path(run_dir)
        networks = [site for site in potential.sites.values() if site.layout is not None]
        others = [site for site in potential.sites.values() if site.layout is None]
        alone = len(networks) == 1
        self._folders = [_Folder(root if alone else root / s.name, [s]) for s in networks]
        if others:
            self._folders.append(_Folder(root / "sites" if networks else root, others))
        self._numbers: list[int] = []
        self._writers: list[list[DrawWriter]] = []

    def begin(self, chain: int) -> None:
        """Start a chain, or all of them where they are vectorized."""
        numbers = list(range(chain, chain + (self._potential.num_chains or 1)))
        self._numbers += numbers
        self._writers = [[DrawWriter(f.root, number) for f in self._folders] for number in numbers]

    def update(self, event: StepEvent) -> None:
        """Write one draw of each chain."""
        for writers, values in zip(self._writers, _by_chain(self._potential), strict=True):
            for folder, writer in zip(self._folders, writers, strict=True):
                flat = torch.cat([values[site.name].reshape(-1) for site in folder.sites])
                given = (event.step, event.phase, event.module, folder.layout, event.stats)
                writer.update(_DrawEvent(*given, flat=flat, statistics=folder.sites[0].buffers))

    def state_dict(self) -> dict[str, Any]:
        """Return the numbers of draws written."""
        return {"writers": [[w.state_dict() for w in writers] for writers in self._writers]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the draws that `state_dict` knew; later ones are deleted."""
        for writers, states in zip(self._writers, state["writers"], strict=True):
            for writer, own in zip(writers, states, strict=True):
                writer.load_state_dict(own)

    @property
    def lengths(self) -> list[int]:
        """How many draws each chain has so far."""
        return [
            min(len(stored_draw_paths(chain_dir(folder.root, n))) for folder in self._folders)
            for n in self._numbers
        ]

    def read(self, chain: int) -> Iterator[Values]:
        """Yield the values of every draw of a chain."""
        number = self._numbers[chain]
        stored = [StoredDraws([chain_dir(f.root, number)]).draws() for f in self._folders]
        for draws in zip(*stored, strict=False):
            parts = zip(self._folders, draws, strict=True)
            yield {name: v for f, draw in parts for name, v in f.split(draw.weights).items()}

    def posterior(self, site: LatentSite, chains: Sequence[int]) -> Posterior:
        """Return the draws of a network; they stay on disk."""
        (folder,) = (folder for folder in self._folders if folder.sites == [site])
        return StoredDraws([chain_dir(folder.root, self._numbers[chain]) for chain in chains])


@dataclass(frozen=True)
class _Folder:
    """Which sites lie in a folder: one network, or all that are none."""

    root: Path
    sites: list[LatentSite]

    @property
    def layout(self) -> ParameterLayout:
        if self.sites[0].layout is not None:
            return self.sites[0].layout
        shapes = [tuple(site.transform(site.start).shape) for site in self.sites]
        return ParameterLayout(tuple(site.name for site in self.sites), tuple(shapes))

    def split(self, flat: Tensor) -> Values:
        if self.sites[0].layout is not None:
            return {self.sites[0].name: flat}
        return self.layout.unflatten(flat)


@dataclass(frozen=True)
class _DrawEvent(StepEvent):
    """A step as one chain's folder sees it."""

    flat: Tensor = field(kw_only=True)
    statistics: Mapping[str, Tensor] = field(kw_only=True)

    def weights(self, *, out: Tensor | None = None) -> Tensor:
        return self.flat if out is None else out.copy_(self.flat)

    def buffers(self) -> dict[str, Tensor]:
        return dict(self.statistics)


def _by_chain(potential: PyroPotential) -> list[Values]:
    """Return copies of the present values, for each chain."""
    values = {name: value.to("cpu") for name, value in potential.values().items()}
    if potential.num_chains is None:
        return [values]
    chains = range(potential.num_chains)
    return [{name: value[chain] for name, value in values.items()} for chain in chains]
