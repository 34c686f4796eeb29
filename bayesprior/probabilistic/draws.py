"""Draws of a Pyro model's sites, chain by chain: kept in memory or on disk, and read back."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from bayesprior.errors import ConfigError
from bayesprior.inference.collectors.draws import DrawWriter
from bayesprior.inference.posteriors import StoredDraws, stored_draw_paths
from bayesprior.inference.protocols import Draw, StepEvent
from bayesprior.probabilistic.potential import PyroPotential
from bayesprior.probabilistic.structure import LatentSite
from bayesprior.storage import chain_dir
from bayesprior.weights.layout import ParameterLayout

__all__ = ["ChainDraws", "DrawFiles", "DrawKeeper", "NetworkDraws", "SiteDraw"]

Values = dict[str, Tensor]
"""Constrained values of one draw, on the CPU, by site name."""


class ChainDraws(Protocol):
    """The draws of one chain."""

    @property
    def num_samples(self) -> int:
        """How many there are; more while the chain runs."""

    def read(self, count: int | None = None) -> Iterator[tuple[int, Values]]:
        """Yield index and values of ``count`` draws, spread evenly; of all by default."""


class DrawKeeper:
    """A collector that keeps the values of all sites in memory.

    Parameters
    ----------
    potential
        What is sampled; vectorized chains are told apart.
    """

    def __init__(self, potential: PyroPotential) -> None:
        self._potential = potential
        self.kept: list[Values] = []

    @property
    def chains(self) -> list[ChainDraws]:
        """The chains that it sees."""
        count = self._potential.num_chains
        return [_InMemory(self, chain) for chain in ([None] if count is None else range(count))]

    def update(self, event: StepEvent) -> None:
        """Keep the present values."""
        values = self._potential.values()
        self.kept.append({name: value.to("cpu") for name, value in values.items()})

    def state_dict(self) -> dict[str, Any]:
        """Return the draws so far."""
        return {"kept": self.kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.kept = list(state["kept"])


@dataclass(frozen=True)
class _InMemory:
    keeper: DrawKeeper
    chain: int | None

    @property
    def num_samples(self) -> int:
        return len(self.keeper.kept)

    def read(self, count: int | None = None) -> Iterator[tuple[int, Values]]:
        stored = self.num_samples
        count = stored if count is None else count
        for index in ((j + 1) * stored // count - 1 for j in range(count)):
            values = self.keeper.kept[index]
            if self.chain is not None:
                values = {name: value[self.chain] for name, value in values.items()}
            yield index, values


class DrawFiles:
    """A collector that writes each draw of each chain to disk, where `StoredDraws` reads it.

    ``run_dir`` holds the weights of the model's network under their own names, with its
    BatchNorm statistics; what else is random (a width, a noise level) is beside it, in
    ``run_dir/sites``, under the names of the sites and in constrained space. A model without a
    network has its sites in ``run_dir`` itself.

    Parameters
    ----------
    run_dir
        The run's folder.
    potential
        What is sampled.
    chain
        Number of the chain; vectorized ones are numbered from it.
    """

    def __init__(self, run_dir: str | Path, potential: PyroPotential, chain: int) -> None:
        self._potential = potential
        count = potential.num_chains
        self._numbers = [chain] if count is None else list(range(chain, chain + count))
        self._folders = _folders(Path(run_dir), potential.sites.values())
        self._writers = [
            [DrawWriter(folder.root, number) for folder in self._folders]
            for number in self._numbers
        ]

    @property
    def chains(self) -> list[ChainDraws]:
        """The chains that it sees."""
        return [_OnDisk(self._folders, number) for number in self._numbers]

    def update(self, event: StepEvent) -> None:
        """Write one draw of each chain."""
        values = self._potential.values()
        for place, writers in enumerate(self._writers):
            own = values
            if self._potential.num_chains is not None:
                own = {name: value[place] for name, value in values.items()}
            for folder, writer in zip(self._folders, writers, strict=True):
                flat = torch.cat([own[site.name].reshape(-1) for site in folder.sites])
                writer.update(
                    _DrawEvent(
                        event.step,
                        event.phase,
                        event.module,
                        folder.layout,
                        event.stats,
                        flat=flat,
                        statistics=folder.buffers,
                    )
                )

    def state_dict(self) -> dict[str, Any]:
        """Return the numbers of draws written."""
        return {"writers": [[w.state_dict() for w in writers] for writers in self._writers]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the draws that `state_dict` knew; later ones are deleted."""
        for writers, states in zip(self._writers, state["writers"], strict=True):
            for writer, own in zip(writers, states, strict=True):
                writer.load_state_dict(own)


@dataclass(frozen=True, kw_only=True)
class _Folder:
    """Which sites lie in a folder, and under which names."""

    root: Path
    sites: Sequence[LatentSite]
    layout: ParameterLayout

    @property
    def buffers(self) -> dict[str, Tensor]:
        return {key: value for site in self.sites for key, value in (site.buffers or {}).items()}

    def split(self, flat: Tensor) -> Values:
        views = self.layout.unflatten(flat)
        return {site.name: site.join(views) for site in self.sites}


def _folders(run_dir: Path, sites: Iterable[LatentSite]) -> list[_Folder]:
    sites = list(sites)
    networks = [site for site in sites if site.distribution is not None]
    others = [site for site in sites if site.distribution is None]
    places = [(run_dir, networks), (run_dir / "sites", others)] if networks else [(run_dir, others)]
    return [_Folder(root=r, sites=s, layout=_constrained_layout(s)) for r, s in places if s]


def _constrained_layout(sites: Iterable[LatentSite]) -> ParameterLayout:
    names: list[str] = []
    shapes: list[tuple[int, ...]] = []
    for site in sites:
        names += site.layout.names
        if site.distribution is not None:
            shapes += site.layout.shapes
        else:
            shapes.append(tuple(site.transform(site.start).shape))
    return ParameterLayout(tuple(names), tuple(shapes))


@dataclass(frozen=True)
class _DrawEvent(StepEvent):
    """A step as one chain's folder sees it."""

    flat: Tensor = field(kw_only=True)
    statistics: Mapping[str, Tensor] = field(kw_only=True)

    def weights(self) -> Tensor:
        return self.flat

    def buffers(self) -> dict[str, Tensor]:
        return dict(self.statistics)


@dataclass(frozen=True)
class _OnDisk:
    folders: Sequence[_Folder]
    chain: int

    @property
    def num_samples(self) -> int:
        places = [chain_dir(folder.root, self.chain) for folder in self.folders]
        return min(len(stored_draw_paths(place)) for place in places)

    def read(self, count: int | None = None) -> Iterator[tuple[int, Values]]:
        stored = [StoredDraws([chain_dir(f.root, self.chain)]).draws(count) for f in self.folders]
        for draws in zip(*stored, strict=False):
            values: Values = {}
            for folder, draw in zip(self.folders, draws, strict=True):
                values |= folder.split(draw.weights)
            yield draws[0].index, values


@dataclass(frozen=True)
class SiteDraw(Draw):
    """A draw of a network's weights, with what else was drawn with it.

    Attributes
    ----------
    sites
        Constrained values of the model's other sites by name, such as widths and noise.
    """

    sites: Mapping[str, Tensor] = field(default_factory=dict)


class NetworkDraws:
    """The draws of one network as a `Posterior` of it, for `bayesprior.predict`.

    Parameters
    ----------
    site
        The network's site.
    chains
        Chains of equal length.

    Attributes
    ----------
    layout
        Of the network's weights, under the names that its distribution gives them.
    num_chains, num_draws
        How many chains, and how many draws in each.
    """

    def __init__(self, site: LatentSite, chains: Sequence[ChainDraws]) -> None:
        self._name, self._chains = site.name, chains
        self.layout: ParameterLayout = site.distribution.layout
        prefix = site.layout.names[0].removesuffix(self.layout.names[0])
        stored = site.buffers or {}
        self._buffers = {key.removeprefix(prefix): value for key, value in stored.items()}
        self.num_chains, self.num_draws = len(chains), chains[0].num_samples

    def draws(self, num_draws: int | None = None, seed: int = 0) -> Iterator[SiteDraw]:
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
        for number, chain in enumerate(self._chains):
            for index, values in chain.read(wanted // self.num_chains):
                others = {name: v for name, v in values.items() if name != self._name}
                yield SiteDraw(number, index, values[self._name], self._buffers, sites=others)
