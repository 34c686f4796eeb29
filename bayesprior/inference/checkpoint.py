"""Exact resume: the position in the data, random states and the checkpoint file."""

import hashlib
import os
import random
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bayesprior.errors import CheckpointError, DataError
from bayesprior.inference.batch_norm import is_leftover
from bayesprior.storage import atomic_path, digest_until
from bayesprior.tasks.protocols import batch_size
from bayesprior.weights.tensor_files import why

__all__ = [
    "BatchStream",
    "all_finite",
    "fingerprint",
    "frozen_fingerprints",
    "load_checkpoint",
    "load_module_state",
    "random_states",
    "read_checkpoint",
    "restore_random",
    "save_checkpoint",
]

_VERSION = 3


def random_states() -> dict[str, Any]:
    """Return the states of torch's (CPU and CUDA) and Python's global generators."""
    version, internal, gauss = random.getstate()
    states: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": [version, list(internal), gauss],
    }
    if torch.cuda.is_initialized():  # asking is_available() costs half a millisecond an epoch
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def restore_random(states: dict[str, Any]) -> None:
    """Put back what `random_states` returned."""
    torch.set_rng_state(states["torch"])
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    if "cuda" in states:
        torch.cuda.set_rng_state_all(states["cuda"])


class BatchStream:
    """Batches without end, epoch after epoch, whose position can be saved and restored.

    The order of an epoch is reproduced from the random states at its start (or from
    ``set_epoch`` where a sampler has it), so any loader resumes exactly, augmentation included.

    Parameters
    ----------
    loader
        A DataLoader or any iterable that can be iterated again.
    skip_leftover
        Skip a last batch of one example, as BatchNorm in training mode demands.
    """

    def __init__(self, loader: Iterable[Any], *, skip_leftover: bool = False) -> None:
        self._loader = loader
        self._skip_leftover = skip_leftover
        self._largest = 0
        self._epoch = 0
        self._position = 0
        self._start: dict[str, Any] = {}
        self._iterator: Iterator[Any] | None = None

    def _generators(self) -> list[torch.Generator]:
        owners = (self._loader, getattr(self._loader, "sampler", None))
        found = [getattr(owner, "generator", None) for owner in owners]
        return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())

    def _begin(self) -> None:
        for name in ("batch_sampler", "sampler"):
            set_epoch = getattr(getattr(self._loader, name, None), "set_epoch", None)
            if set_epoch is not None:
                set_epoch(self._epoch)
        generators = [g.get_state() for g in self._generators()]
        self._start = {"random": random_states(), "generators": generators}
        self._iterator = iter(self._loader)
        self._position = 0

    def __next__(self) -> Any:
        if self._iterator is None:
            self._begin()
        try:
            batch = next(self._iterator)  # type: ignore[arg-type]
        except StopIteration:
            if self._position == 0:
                raise DataError(
                    "the loader yields no batch; is drop_last set with fewer data than a batch?"
                ) from None
            self._epoch += 1
            self._begin()
            return next(self)
        self._position += 1
        if self._skip_leftover:
            if is_leftover(batch, self._largest):
                return next(self)
            self._largest = max(self._largest, batch_size(batch))
        return batch

    @property
    def place(self) -> str:
        """Say in words which batch came last."""
        return f"batch {self._position - 1} of epoch {self._epoch}"

    def state_dict(self) -> dict[str, Any]:
        """Return the position and the random states at the epoch's start."""
        return {
            "epoch": self._epoch,
            "position": self._position,
            "largest": self._largest,
            "start": self._start,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position; global random states are left as at the epoch's start."""
        self._epoch, self._largest = state["epoch"], state["largest"]
        if not state["start"]:
            return
        restore_random(state["start"]["random"])
        for generator, saved in zip(self._generators(), state["start"]["generators"], strict=True):
            generator.set_state(saved)
        self._begin()
        for _ in range(state["position"]):
            next(self._iterator)  # type: ignore[arg-type]
        self._position = state["position"]


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and primitives with ``torch.save`` and a SHA-256 of the file, atomically."""
    with atomic_path(path) as temporary:
        with temporary.open("wb") as file:
            try:
                torch.save({"version": _VERSION, **state}, file)
            except RuntimeError as error:  # of a full disk torch says that a position is wrong
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise
        with temporary.open("rb+") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
            # The archive ends in the length of its comment, which torch leaves empty.
            file.seek(-2, os.SEEK_END)
            file.write(len(digest).to_bytes(2, "little") + digest)


def _is_whole(path: Path) -> bool:
    """Whether a file ends in the digest of what stands before it."""
    end = max(path.stat().st_size - 34, 0)
    with path.open("rb") as file:
        file.seek(end)
        return file.read() == b"\x20\0" + digest_until(path, end, b"\0\0")


def read_checkpoint(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    """Read a checkpoint with ``weights_only=True``, after its checksum.

    Parameters
    ----------
    path
        The file.
    mmap
        Leave the tensors in the file.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged or none of ours.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}")
    try:
        if not _is_whole(path):
            raise ValueError("it does not match its checksum: damaged, cut short or foreign")
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # a foreign byte stream makes the reader raise anything
        raise CheckpointError(f"{path} is no readable checkpoint: {why(error)}") from error
    if not (
        isinstance(state, dict)
        and state.get("version") == _VERSION
        and isinstance(state.get("run"), dict)
    ):
        raise CheckpointError(f"{path} is no checkpoint of this version of bayesprior")
    return state


def load_checkpoint(path: Path, *, expected: dict[str, Any]) -> dict[str, Any]:
    """Read a checkpoint and compare it with what the run expects.

    Raises
    ------
    CheckpointError
        If the file is missing or unreadable, or belongs to another run; the message names the
        first entry of ``expected`` that differs.
    """
    if not path.is_file():
        raise CheckpointError(f"nothing to resume: there is no checkpoint {path}")
    state = read_checkpoint(path)
    for name, value in expected.items():
        if state["run"].get(name) != value:
            raise CheckpointError(
                f"{path} belongs to another run: its {name} is {state['run'].get(name)!r}, this "
                f"run's is {value!r}; use another folder"
            )
    return state


def fingerprint(*tensors: Tensor) -> int:
    """Return the sum of tensors' bits read as integers: exact, so equal on every device."""
    kinds = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    flat = (t.detach().flatten().view(kinds.get(t.itemsize, torch.uint8)) for t in tensors)
    return sum(int(bits.sum(dtype=torch.int64)) for bits in flat)


def frozen_fingerprints(module: nn.Module) -> dict[str, int]:
    """Return by name a number that tells whether a frozen parameter has changed.

    Gigabytes of base weights below a small adapter so stay out of the checkpoints.
    """
    named = module.named_parameters()
    return {name: fingerprint(p) for name, p in named if not p.requires_grad}


def load_module_state(
    module: nn.Module, state: Mapping[str, Tensor], unchanged: Mapping[str, int]
) -> None:
    """Load a module's state that lacks the frozen parameters that are ``unchanged``.

    Raises
    ------
    CheckpointError
        If a name is missing or foreign, or a frozen parameter is another one.
    """
    here = frozen_fingerprints(module)
    if other := [name for name, value in unchanged.items() if here.get(name) != value]:
        raise CheckpointError(
            f"the frozen parameter {other[0]!r} is not the one that the run began with; load the "
            "same base weights before resuming"
        )
    if differing := module.state_dict().keys() ^ (state.keys() | unchanged.keys()):
        raise CheckpointError(
            f"the checkpoint and the module differ in {min(differing)!r}; resume with the module "
            "that the run began with"
        )
    module.load_state_dict(dict(state), strict=False)


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no tensor holds NaN or infinite values; one number for the host to wait for."""
    found = [torch.isfinite(t).all() for t in tensors]
    return not found or bool(torch.stack([f.to(found[0].device) for f in found]).all())
