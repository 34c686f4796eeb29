"""Read other people's files of tensors by their content; no code in them is run."""

import argparse
import json
import pathlib
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from bayesprior.errors import CheckpointError

__all__ = ["read_file", "why"]

_OLD_TORCH = b"\x80\x02\x8a\x0a"  # a pickle of torch's magic number, before it took to archives


def read_file(path: str | Path) -> Any:
    """Read a file of tensors by its content, whatever its suffix; no code in it is run.

    safetensors, what ``torch.save`` wrote (argparse's Namespace, paths and NumPy scalars beside
    the tensors are read as data), or the ``.index.json`` of a sharded checkpoint.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    CheckpointError
        If it is missing, truncated, foreign, or holds objects that would need code.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise CheckpointError(f"no such file: {path}")
    try:
        start = _start(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    try:
        if path.suffix == ".json":
            return _read_shards(path)
        parts = _parts(path)
        if any("/code/" in part.filename for part in parts):
            advice = "torch.save torch.jit.load(path).state_dict()"
            raise CheckpointError(f"{path} is a TorchScript program, not run: {advice}")
        if any(part.compress_type for part in parts):  # torch would take what they claim
            raise CheckpointError(f"{path} is no file of tensors: its parts are compressed")
        if _is_safetensors(start):
            return load_file(path)
        with warnings.catch_warnings(), torch.serialization.safe_globals(_harmless()):
            warnings.simplefilter("ignore", UserWarning)  # of pickle protocols
            return torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # a foreign byte stream makes the readers raise anything
        told = _needs_code(error) or _unreadable(path, start, error)
        raise CheckpointError(f"{path} is no readable file of tensors: {told}") from None


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(512)


def _parts(path: Path) -> list[zipfile.ZipInfo]:
    """Return the parts of an archive; of what is none, or lacks its end, nothing."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.infolist()
    except Exception:  # of a damaged one whatever its bytes lead to
        return []


def _is_safetensors(start: bytes) -> bool:
    """Whether there is a header of safetensors: its length in eight bytes, then JSON."""
    return start[8:9] == b"{"


def _unreadable(path: Path, start: bytes, error: Exception) -> str:
    """Say what a file is that no reader could read: their own words are of its bytes."""
    if not start:
        return "it is empty"
    if parts := _parts(path):
        if not any(part.filename.endswith("data.pkl") for part in parts):
            return "it is an archive that torch.save did not write"
        return f"it is damaged ({why(error)})"
    if _is_safetensors(start):
        return f"it is damaged or cut short ({why(error)})"
    if start.startswith((b"PK\x03\x04", _OLD_TORCH)):
        return "it is damaged or cut short"
    text = start.decode("utf-8", "ignore")  # the last character may be cut
    if len(text.encode()) > len(start) - 4 and not set(text) & _NO_TEXT:
        return "it is a text"
    return "neither safetensors nor torch.save wrote it"


_NO_TEXT = {chr(code) for code in range(32)} - set("\t\n\r\f")


def why(error: Exception) -> str:
    """Return one line of what torch says of a file, without its advice to run foreign code."""
    text = _plain(error)
    inner = re.search(r"WeightsUnpickler error:\s*(.+)", text)
    return _needs_code(error) or (inner[1] if inner else text).splitlines()[0].strip()


def _plain(error: Exception) -> str:
    return re.sub(r"\x1b\[[\d;]*m", "", str(error)) or type(error).__name__


def _needs_code(error: Exception) -> str:
    """Say which foreign object torch refused to make, if that is what it says."""
    text = _plain(error)
    if foreign := re.search(r"GLOBAL (\S+) was not an allowed", text):
        return (
            f"it holds a {foreign[1]} beside tensors, which would need code to read; if you trust "
            "the file, save its weights alone: torch.save(torch.load(path, weights_only=False)"
            "['state_dict'], 'weights.pth')"
        )
    blocked = re.search(r"unsupported GLOBAL (\S+)", text)
    return f"it calls {blocked[1]}" if blocked else ""


def _harmless() -> list[Any]:
    """Types that scripts store beside the weights and that are data, not code."""
    scalar = np.float64(0).__reduce__()[0]
    types = [type(np.dtype(code)) for code in "?bhilqBHILQefd"]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    paths = [pathlib.PosixPath, pathlib.PurePosixPath]
    return [*((scalar, name) for name in names), np.dtype, *types, argparse.Namespace, *paths]


def _read_shards(path: Path) -> dict[str, Tensor]:
    try:
        shards = sorted(set(json.loads(path.read_text())["weight_map"].values()))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(
            f"{path} is no readable file of tensors: it is no index of a checkpoint in shards"
        ) from None
    if any(Path(name).name != name for name in shards):
        raise CheckpointError(f"{path} points outside its folder; its shards must lie beside it")
    return {n: tensor for shard in shards for n, tensor in read_file(path.parent / shard).items()}
