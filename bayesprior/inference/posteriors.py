"""Posteriors that are weights in files: one point, or the stored draws of several chains."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bayesprior.errors import ConfigError, PriorFileError, check, checked
from bayesprior.inference.bound import Bindable
from bayesprior.inference.protocols import Draw
from bayesprior.inference.wrappers import plain_module
from bayesprior.storage import chain_dir, draw_path, load_tensors, read_header, save_tensors
from bayesprior.weights.layout import ParameterLayout

__all__ = [
    "PointPosterior",
    "StoredDraws",
    "save_draw",
    "stored_draw_paths",
    "stored_step",
    "thinned",
]

_POINT = "bayesprior.point/1"
_DRAW = "bayesprior.draw/1"
_BUFFER = "buffer."


@dataclass(frozen=True, eq=False)
class PointPosterior(Bindable):
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
    confidence
        Factor on the logits, as of `bayesprior.inference.protocols.Draw`.

    Raises
    ------
    LayoutMismatchError
        If the weights do not have length D.
    ConfigError
        If they hold NaN or infinite values, or the confidence is not positive.

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
    confidence: float = 1.0

    def __post_init__(self) -> None:
        self.layout.check_dim(self.weights)
        self._draw()
        if not bool(self.weights.isfinite().all()):
            raise ConfigError("the weights of a point posterior hold NaN or infinite values")

    @classmethod
    @checked(module="network")
    def from_module(
        cls,
        module: nn.Module,
        layout: ParameterLayout | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> "PointPosterior":
        """Copy a module's trainable parameters (or those of a layout) and its buffers."""
        module = plain_module(module)
        layout = ParameterLayout.from_module(module) if layout is None else layout
        buffers = {name: buffer.detach().clone() for name, buffer in module.named_buffers()}
        return cls(layout, layout.flatten(module), buffers, provenance or {})

    def draws(self, num_draws: int | None = None, seed: int = 0) -> Iterator[Draw]:
        """Yield the one draw there is, however many are asked for.

        Raises
        ------
        ConfigError
            If ``num_draws`` is below 1.
        """
        thinned([1], num_draws)
        yield self._draw()

    def _draw(self) -> Draw:
        return Draw(0, 0, self.weights, self.buffers, self.layout, confidence=self.confidence)

    @checked(path="path")
    def save(self, path: str | Path) -> None:
        """Write a safetensors file atomically.

        Raises
        ------
        StorageError
            If it cannot be written; an older file stays.
        """
        extra = {"provenance": json.dumps(dict(self.provenance))}
        _write(path, _POINT, self.layout, self._draw(), extra)

    @classmethod
    @checked(path="path", device="device")
    def load(cls, path: str | Path, *, device: str | torch.device = "cpu") -> "PointPosterior":
        """Read what `save` wrote.

        Raises
        ------
        PriorFileError
            If the file is missing, truncated, corrupt, foreign or of another version.
        """
        draw, layout, header = _read(path, _POINT, device)
        try:
            provenance = json.loads(header["provenance"])
        except (KeyError, ValueError) as error:
            raise PriorFileError(f"{path} is corrupt: its provenance is missing or off") from error
        return cls(layout, draw.weights, draw.buffers, provenance, draw.confidence)


class StoredDraws(Bindable):
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
    average
        What `bayesprior.predict` averages over them: "probabilities" or "logits".

    Raises
    ------
    PriorFileError
        If there are no draws, one is missing, or the chains differ in length or layout.
    """

    def __init__(self, folders: str | Path | Sequence[str | Path]) -> None:
        if isinstance(folders, str | Path):
            folders = _chain_dirs(Path(folders).expanduser())
        check(folders, "paths", "folders")
        chains = [Path(folder).expanduser() for folder in folders]
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
        header = read_header(self._paths[0][0], format=_DRAW)
        self.layout = _layout(self._paths[0][0], header)
        self.average = header.get("average", "probabilities")
        self._verified: dict[Path, tuple[int, int]] = {}  # size and time of a file when it was

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
            How many in all chains together; None, or more than there are, means all. Fewer are
            spread over chains and time by `thinned`.
        seed
            Not used: thinning leaves no choice.

        Raises
        ------
        ConfigError
            If ``num_draws`` is below 1.
        PriorFileError
            If a file is corrupt or of another layout.

        Notes
        -----
        A file's checksum is compared when the file is first read, and again if it has changed
        since: further passes read the bytes only.
        """
        chosen = thinned([len(paths) for paths in self._paths], num_draws)
        for chain, (paths, indices) in enumerate(zip(self._paths, chosen, strict=True)):
            for index in indices:
                path = paths[index]
                state = path.stat() if path.is_file() else None
                seen = (state.st_size, state.st_mtime_ns) if state is not None else (0, 0)
                draw, layout, _ = _read(path, _DRAW, verify=self._verified.get(path) != seen)
                if layout != self.layout:
                    what = layout.compare(self.layout).describe()
                    raise PriorFileError(f"{path} belongs to another network: {what}")
                self._verified[path] = seen
                yield replace(draw, chain=chain, index=index)


def thinned(lengths: Sequence[int], num_draws: int | None) -> list[list[int]]:
    """Choose draws of several chains, spread evenly over chains and time.

    Parameters
    ----------
    lengths
        How many draws each chain has.
    num_draws
        How many are wanted of all chains together; None, or more than there are, takes all.

    Returns
    -------
    list of list of int
        Indices of the chosen draws of each chain, increasing, the chain's last among them. Chains
        get equally many where ``num_draws`` is a multiple of their number.

    Raises
    ------
    ConfigError
        If ``num_draws`` is below 1.

    Examples
    --------
    >>> thinned([4, 4], 4), thinned([4, 4], 3), thinned([1], 50)
    ([[1, 3], [1, 3]], [[3], [1, 3]], [[0]])
    """
    if num_draws is not None and num_draws < 1:
        raise ConfigError(f"num_draws must be at least 1, got {num_draws}")
    if num_draws is None or num_draws >= sum(lengths):
        return [list(range(length)) for length in lengths]
    chosen: list[list[int]] = []
    for done, length in enumerate(lengths):
        left = num_draws - sum(map(len, chosen))
        behind = sum(lengths[done + 1 :])
        share = left // (len(lengths) - done)
        kept = min(length, max(share, left - behind))  # a short chain's share goes to the others
        chosen.append([(j + 1) * length // kept - 1 for j in range(kept)])
    return chosen


def stored_draw_paths(folder: str | Path) -> list[Path]:
    """Return a chain's draw files in order, possibly none.

    Raises
    ------
    PriorFileError
        If one is missing in between.
    """
    found = set(Path(folder).glob("draw-*.safetensors"))
    return _without_gaps(found, lambda index: draw_path(folder, index))


def save_draw(
    folder: str | Path,
    layout: ParameterLayout,
    draw: Draw,
    *,
    step: int | None = None,
    average: str = "probabilities",
) -> None:
    """Write one draw into its chain's folder, atomically; `StoredDraws` reads it.

    Parameters
    ----------
    folder
        The chain's folder; the draw's index gives the file its name.
    layout
        Names of the weights.
    draw
        Weights, the BatchNorm statistics that belong to them, mixture weight and confidence.
    step
        Completed steps of the run, for the record.
    average
        What is averaged over the draws; the first one's counts.

    Raises
    ------
    StorageError
        If the file cannot be written.
    """
    extra = {"chain": str(draw.chain), "index": str(draw.index), "step": str(step)}
    if average != "probabilities":
        extra["average"] = average
    path = draw_path(folder, draw.index)
    _write(path, _DRAW, layout, draw, extra)


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
    return _without_gaps(found, lambda index: chain_dir(run_dir, index))


def _without_gaps(found: set[Path], path_of: Callable[[int], Path]) -> list[Path]:
    paths = [path_of(index) for index in range(len(found))]
    if missing := next((path for path in paths if path not in found), None):
        raise PriorFileError(f"{missing} is missing; there are {len(found)} beside it")
    return paths


def _write(
    path: str | Path, format: str, layout: ParameterLayout, draw: Draw, extra: Mapping[str, str]
) -> None:
    header = {"format": format, "layout": layout.to_json(), "digest": layout.digest(), **extra}
    header |= {name: repr(float(getattr(draw, name))) for name in ("weight", "confidence")}
    prefixed = {_BUFFER + name: buffer for name, buffer in draw.buffers.items()}
    save_tensors(path, {"weights": draw.weights, **prefixed}, header)


def _read(
    path: str | Path, format: str, device: str | torch.device = "cpu", verify: bool = True
) -> tuple[Draw, ParameterLayout, dict[str, str]]:
    tensors, header = load_tensors(path, format=format, device=device, verify=verify)
    layout = _layout(path, header)
    weights = tensors.pop("weights", None)
    if weights is None:
        raise PriorFileError(f"{path} is corrupt: it holds no weights")
    buffers = {name.removeprefix(_BUFFER): tensor for name, tensor in tensors.items()}
    try:
        layout.check_dim(weights)
        # Files of the first edition hold neither: such draws count alike.
        factors = {name: float(header.get(name, 1.0)) for name in ("weight", "confidence")}
        draw = Draw(0, 0, weights, buffers, layout, **factors)
    except ValueError as error:  # ours are ValueErrors too
        raise PriorFileError(f"{path} is corrupt: {error}") from error
    return draw, layout, header


def _layout(path: str | Path, header: Mapping[str, str]) -> ParameterLayout:
    try:
        layout = ParameterLayout.from_json(header["layout"])
    except (KeyError, ValueError, TypeError) as error:
        raise PriorFileError(f"{path} is corrupt: its layout is missing or off") from error
    if header.get("digest") != layout.digest():
        raise PriorFileError(f"{path} is corrupt: its layout does not match its digest")
    return layout
