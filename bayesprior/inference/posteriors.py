"""Posteriors that are weights in files: one point, or the stored draws of several chains."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bayesprior.errors import ConfigError, LayoutMismatchError, PriorFileError
from bayesprior.inference.protocols import Draw
from bayesprior.storage import chain_dir, draw_path, load_tensors, read_header, save_tensors
from bayesprior.weights.layout import ParameterLayout

__all__ = ["PointPosterior", "StoredDraws", "save_draw", "stored_draw_paths", "stored_step"]

_POINT = "bayesprior.point/1"
_DRAW = "bayesprior.draw/1"
_BUFFER = "buffer."


@dataclass(frozen=True, eq=False)
class PointPosterior:
    """All mass on one vector of weights: a MAP estimate, or any trained network.

    Parameters
    ----------
    layout
        Names of the D weights.
    weights
        Shape (D,).
    buffers
        BatchNorm statistics that belong to the weights, by name.
    provenance
        Where the weights come from; JSON primitives, kept in the file.

    Raises
    ------
    LayoutMismatchError
        If the weights do not have length D.
    ConfigError
        If they hold NaN or infinite values.

    Examples
    --------
    >>> posterior = PointPosterior.from_module(nn.Linear(3, 2))
    >>> [(draw.chain, draw.index, draw.weights.shape) for draw in posterior.draws()]
    [(0, 0, torch.Size([8]))]
    """

    layout: ParameterLayout
    weights: Float[Tensor, " D"]
    buffers: Mapping[str, Tensor] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.layout.check_dim(self.weights)
        if not bool(self.weights.isfinite().all()):
            raise ConfigError("the weights of a point posterior hold NaN or infinite values")

    @classmethod
    def from_module(
        cls,
        module: nn.Module,
        layout: ParameterLayout | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> "PointPosterior":
        """Copy a module's trainable parameters (or those of a layout) and its buffers."""
        layout = ParameterLayout.from_module(module) if layout is None else layout
        buffers = {name: buffer.detach().clone() for name, buffer in module.named_buffers()}
        return cls(layout, layout.flatten(module), buffers, provenance or {})

    def draws(self, num_draws: int | None = None, seed: int = 0) -> Iterator[Draw]:
        """Yield the one draw.

        Raises
        ------
        ConfigError
            If more than one (or none) is asked for.
        """
        if num_draws not in (None, 1):
            raise ConfigError(
                f"a point posterior has 1 draw, num_draws = {num_draws} was asked; leave it out"
            )
        yield Draw(chain=0, index=0, weights=self.weights, buffers=self.buffers)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file atomically.

        Raises
        ------
        StorageError
            If it cannot be written; an older file stays.
        """
        extra = {"provenance": json.dumps(dict(self.provenance))}
        _write(path, _POINT, self.layout, self.weights, self.buffers, extra)

    @classmethod
    def load(cls, path: str | Path, *, device: str | torch.device = "cpu") -> "PointPosterior":
        """Read what `save` wrote.

        Raises
        ------
        PriorFileError
            If the file is missing, truncated, corrupt, foreign or of another version.
        """
        layout, weights, buffers, header = _read(path, _POINT, device)
        try:
            provenance = json.loads(header["provenance"])
        except (KeyError, ValueError) as error:
            raise PriorFileError(f"{path} is corrupt: its provenance is missing or off") from error
        return cls(layout, weights, buffers, provenance)


class StoredDraws:
    """The draws that chains left on disk, read one at a time.

    Parameters
    ----------
    folders
        A run folder with ``chain-00``, ``chain-01``, ... or the chains' folders themselves
        (chains are then numbered in the order given). Each chain holds ``draw-0000.safetensors``,
        ``draw-0001.safetensors``, ...; all hold equally many.

    Attributes
    ----------
    layout
        Names of the D weights.
    num_chains, num_draws
        How many chains, and how many draws in each.

    Raises
    ------
    PriorFileError
        If there are no draws, one is missing, or the chains differ in length or layout.
    """

    def __init__(self, folders: str | Path | Sequence[str | Path]) -> None:
        if isinstance(folders, str | Path):
            folders = _chain_dirs(Path(folders))
        chains = [Path(folder) for folder in folders]
        if not chains:
            raise PriorFileError("no chain folders were given")
        self._paths = [stored_draw_paths(folder) for folder in chains]
        lengths = {str(f): len(paths) for f, paths in zip(chains, self._paths, strict=True)}
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"{n} in {name}" for name, n in lengths.items())
            raise PriorFileError(
                f"the chains hold unequal numbers of draws ({found}); resume the unfinished ones"
            )
        if not lengths[str(chains[0])]:
            raise PriorFileError(f"no stored draws in {chains[0]}")
        self.num_chains = len(chains)
        self.num_draws = len(self._paths[0])
        self.layout = _layout(self._paths[0][0], read_header(self._paths[0][0], format=_DRAW))

    def __repr__(self) -> str:
        return (
            f"StoredDraws(num_chains={self.num_chains}, num_draws={self.num_draws}, "
            f"dim={self.layout.dim})"
        )

    def draws(self, num_draws: int | None = None, seed: int = 0) -> Iterator[Draw]:
        """Yield draws, chain by chain.

        Parameters
        ----------
        num_draws
            How many in all chains together; None means all. Fewer than stored are spread evenly
            over each chain, its last draw always among them.
        seed
            Not used: thinning leaves no choice.

        Raises
        ------
        ConfigError
            If more are asked for than are stored, or a number that the chains cannot share.
        PriorFileError
            If a file is corrupt or of another layout.
        """
        stored = self.num_chains * self.num_draws
        num_draws = stored if num_draws is None else num_draws
        if not 0 < num_draws <= stored or num_draws % self.num_chains:
            raise ConfigError(
                f"num_draws = {num_draws} must be a multiple of the {self.num_chains} chains, "
                f"from {self.num_chains} to the {stored} stored draws"
            )
        kept = num_draws // self.num_chains
        for chain, paths in enumerate(self._paths):
            for j in range(kept):
                index = (j + 1) * self.num_draws // kept - 1
                layout, weights, buffers, _ = _read(paths[index], _DRAW)
                if layout != self.layout:
                    raise PriorFileError(
                        f"{paths[index]} belongs to another network: "
                        + layout.compare(self.layout).describe()
                    )
                yield Draw(chain, index, weights, buffers)


def stored_draw_paths(folder: str | Path) -> list[Path]:
    """Return a chain's draw files in order, possibly none.

    Raises
    ------
    PriorFileError
        If one is missing in between.
    """
    found = set(Path(folder).glob("draw-*.safetensors"))
    paths = [draw_path(folder, index) for index in range(len(found))]
    for path in paths:
        if path not in found:
            raise PriorFileError(f"{path} is missing; the chain has {len(found)} draws")
    return paths


def save_draw(
    folder: str | Path, layout: ParameterLayout, draw: Draw, *, step: int | None = None
) -> None:
    """Write one draw into its chain's folder, atomically; `StoredDraws` reads it.

    Parameters
    ----------
    folder
        The chain's folder; the draw's index gives the file its name.
    layout
        Names of the weights.
    draw
        Weights and the BatchNorm statistics that belong to them.
    step
        Completed steps of the run, for the record.

    Raises
    ------
    StorageError
        If the file cannot be written.
    """
    extra = {"chain": str(draw.chain), "index": str(draw.index), "step": str(step)}
    path = draw_path(folder, draw.index)
    _write(path, _DRAW, layout, draw.weights, draw.buffers, extra)


def stored_step(path: str | Path) -> int | None:
    """Return how many steps the run had made at a stored draw; None if that is not on record.

    Raises
    ------
    PriorFileError
        If the file is missing or is no stored draw.
    """
    step = read_header(path, format=_DRAW).get("step", "")
    return int(step) if step.isdigit() else None


def _chain_dirs(run_dir: Path) -> list[Path]:
    if not run_dir.is_dir():
        raise PriorFileError(f"no such run folder: {run_dir}")
    found = {p for p in run_dir.iterdir() if re.fullmatch(r"chain-\d+", p.name)}
    if not found:
        raise PriorFileError(f"no chain-00, chain-01, ... in the run folder {run_dir}")
    for chain in range(len(found)):
        if chain_dir(run_dir, chain) not in found:
            raise PriorFileError(f"{chain_dir(run_dir, chain)} is missing")
    return [chain_dir(run_dir, chain) for chain in range(len(found))]


def _write(
    path: str | Path,
    format: str,
    layout: ParameterLayout,
    weights: Tensor,
    buffers: Mapping[str, Tensor],
    extra: Mapping[str, str],
) -> None:
    header = {"format": format, "layout": layout.to_json(), "digest": layout.digest(), **extra}
    prefixed = {_BUFFER + name: buffer for name, buffer in buffers.items()}
    save_tensors(path, {"weights": weights, **prefixed}, header)


def _read(
    path: str | Path, format: str, device: str | torch.device = "cpu"
) -> tuple[ParameterLayout, Tensor, dict[str, Tensor], dict[str, str]]:
    tensors, header = load_tensors(path, format=format, device=device)
    layout = _layout(path, header)
    weights = tensors.pop("weights", None)
    if weights is None:
        raise PriorFileError(f"{path} is corrupt: it holds no weights")
    try:
        layout.check_dim(weights)
    except LayoutMismatchError as error:
        raise PriorFileError(f"{path} is corrupt: {error}") from error
    buffers = {name.removeprefix(_BUFFER): tensor for name, tensor in tensors.items()}
    return layout, weights, buffers, header


def _layout(path: str | Path, header: Mapping[str, str]) -> ParameterLayout:
    try:
        layout = ParameterLayout.from_json(header["layout"])
    except (KeyError, ValueError, TypeError) as error:
        raise PriorFileError(f"{path} is corrupt: its layout is missing or off") from error
    if header.get("digest") != layout.digest():
        raise PriorFileError(f"{path} is corrupt: its layout does not match its digest")
    return layout
