"""Files: safetensors written atomically, checked on the way in; names inside a run folder."""

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bayesprior.errors import PriorFileError, StorageError

__all__ = [
    "CHECKPOINT",
    "CONFIG",
    "ERROR_LOG",
    "HUB",
    "LOCK",
    "MAP",
    "PRIOR",
    "REPORT_JSON",
    "REPORT_MARKDOWN",
    "REPORT_PAGE",
    "REPORT_TREE",
    "RESULTS",
    "SESSION",
    "SOURCE",
    "SWAG",
    "TRACE",
    "atomic_path",
    "chain_dir",
    "check_size",
    "digest_until",
    "draw_path",
    "last_checkpoint",
    "load_tensors",
    "predictive_path",
    "read_header",
    "remove_leftovers",
    "save_tensors",
    "write_text",
]

CONFIG = "config.yaml"
RESULTS = "results.json"
ERROR_LOG = "error.log"
CHECKPOINT = "checkpoint.pt"
TRACE = "trace.csv"
SOURCE = "source.safetensors"
PRIOR = "prior.safetensors"
MAP = "map.safetensors"
SWAG = "swag.safetensors"
HUB = "gaussian.safetensors"
"""In a repository of the Hugging Face hub."""
REPORT_TREE = "report.nc"
REPORT_PAGE = "report.html"
REPORT_MARKDOWN = "report.md"
REPORT_JSON = "report.json"
LOCK = ".lock"
"""Held by the process that works in a folder."""
SESSION = ".session"
"""When the session of an unfinished run began, and what earlier ones took."""
_OF_A_NETWORK = "; weights of a network are loaded with --weights, or importers.from_state_dict"


def chain_dir(run_dir: str | Path, chain: int) -> Path:
    """Return the folder of one chain inside a run folder."""
    return Path(run_dir).expanduser() / f"chain-{chain:02d}"


def draw_path(folder: str | Path, index: int) -> Path:
    """Return the file of one stored draw inside a chain's folder."""
    return Path(folder).expanduser() / f"draw-{index:04d}.safetensors"


def last_checkpoint(run_dir: str | Path) -> Path | None:
    """Return the newest checkpoint of a run folder, its chains' included; None without any."""
    folder = Path(run_dir).expanduser()
    found = [*folder.glob(CHECKPOINT), *folder.glob(f"chain-*/{CHECKPOINT}")]
    return max(found, key=lambda path: (path.stat().st_mtime, path), default=None)


def predictive_path(run_dir: str | Path, split: str) -> Path:
    """Return the file of a split's predictions inside a run folder."""
    return Path(run_dir).expanduser() / f"predictive-{split}.nc"


def check_size(size: int, path: str | Path) -> None:
    """Raise `ValueError` if a file claims to hold more than it, or the machine's memory, can."""
    most = 2**20 + 1032 * Path(path).stat().st_size  # deflate's best ratio
    names = getattr(os, "sysconf_names", {})  # not every system tells
    if {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= names.keys():
        most = min(most, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    if size > most:
        raise ValueError(f"it claims to hold {size / 1e9:.3g} GB, more than it or the memory can")


def remove_leftovers(folder: str | Path) -> None:
    """Remove the temporary files that killed writers of `atomic_path` left in a run's folder.

    Only names that `atomic_path` gives to artefacts go; call it where no writer can be at work.
    """
    folder = Path(folder)
    for place in (folder, *folder.glob("chain-*")):
        for path in place.glob(".*"):
            if _LEFTOVER.fullmatch(path.name) and path.is_file():
                path.unlink(missing_ok=True)


# What tempfile.mkstemp makes of a name: ".config.yaml.k3v_0x1a".
_LEFTOVER = re.compile(
    r"\.(\w[\w.-]*\.(yaml|json|pt|csv|safetensors|nc|html|md|log)|\.session)\.[a-z0-9_]{8}"
)


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` and rename it there when the block succeeds.

    Whatever fails inside (a full disk, a kill), the file that was at ``path`` stays as it was.

    Raises
    ------
    StorageError
        If the operating system refuses the write; the message says that the old file survives.
    """
    path = Path(path).expanduser()
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes files private
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        if isinstance(error, StorageError):
            raise
        kept = "; the file that was there is unchanged" if path.is_file() else ""
        raise StorageError(f"could not write {path}: {error}{kept}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a file of text atomically, as `atomic_path` does; what is no UTF-8 is written out."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def digest_until(path: Path, end: int, then: bytes = b"") -> bytes:
    """Return the SHA-256 of a file's first bytes and of others: of what precedes its checksum."""
    found, left = hashlib.sha256(), end
    with path.open("rb") as file:
        while left > 0 and (part := file.read(min(left, 2**20))):
            found.update(part)
            left -= len(part)
    found.update(then)
    return found.digest()


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _parts(name: str, tensor: Tensor, *, by_row: bool) -> list[str]:
    return [_checksum({name: part}) for part in (tensor if by_row else [tensor])]


def save_tensors(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    header: Mapping[str, str],
    *,
    by_row: Collection[str] = (),
) -> None:
    """Write tensors and a header of strings to a safetensors file, atomically.

    Parameters
    ----------
    path
        Where; missing folders are made.
    tensors
        Any devices; written from the CPU, each contiguous and on its own.
    header
        Strings only; ``header["format"]`` names format and version, such as
        ``"bayesprior.draw/1"``. A SHA-256 of the tensors is added as ``checksum``.
    by_row
        Tensors of which the first rows can be read alone; ``parts`` then has a SHA-256 of each
        row, and of every other tensor.

    Raises
    ------
    StorageError
        If the file cannot be written; an older one stays.
    """
    seen: set[int] = set()
    plain: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        if tensor.untyped_storage().data_ptr() in seen:  # safetensors refuses shared memory
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        plain[name] = tensor
    header = {**header, "checksum": _checksum(plain)}
    if by_row:
        parts = {n: _parts(n, tensor, by_row=n in by_row) for n, tensor in plain.items()}
        header["parts"] = json.dumps(parts)
    with atomic_path(path) as temporary:
        save_file(plain, temporary, metadata=header)


def read_header(path: str | Path, *, format: str | None) -> dict[str, str]:
    """Read the header of a file without its tensors; of any safetensors file for a format of None.

    Raises
    ------
    PriorFileError
        If the file is missing, is no safetensors file or is of another format or version.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        names = ", ".join(sorted(p.name for p in path.glob("*.safetensors"))) or "none"
        raise PriorFileError(f"{path} is a folder; give a .safetensors file in it: {names}")
    if not path.is_file():
        raise PriorFileError(f"no such file: {path}")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        hint = ""
        with contextlib.suppress(OSError), path.open("rb") as stream:
            if stream.read(2) in (b"PK", b"\x80\x02"):  # torch's archives, and its old pickles
                hint = _OF_A_NETWORK
        raise PriorFileError(
            f"{path} is no readable safetensors file (truncated or foreign?): {error}{hint}"
        ) from error
    found = header.get("format", "")
    if format is not None and found != format:
        name, _, version = format.partition("/")
        if found.partition("/")[0] == name:
            raise PriorFileError(
                f"{path} has format {found!r}; this version of bayesprior reads {version!r} only: "
                "upgrade bayesprior or write the file again"
            )
        raise PriorFileError(
            f"{path} is a safetensors file but not a {name!r} file (its format is {found!r})"
            + ("" if found.startswith("bayesprior.") else _OF_A_NETWORK)
        )
    return header


def _is_whole(
    tensors: Mapping[str, Tensor], header: Mapping[str, str], first: Mapping[str, int]
) -> bool:
    if not first:
        return header.get("checksum") == _checksum(tensors)
    try:
        known = json.loads(header["parts"])
        found = {n: _parts(n, tensor, by_row=n in first) for n, tensor in tensors.items()}
        return all(parts == known[n][: len(parts)] for n, parts in found.items())
    except (KeyError, ValueError, TypeError):
        return False


def load_tensors(
    path: str | Path,
    *,
    format: str,
    device: str | torch.device = "cpu",
    verify: bool = True,
    first: Mapping[str, int] | None = None,
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read what `save_tensors` wrote.

    Parameters
    ----------
    path, format
        The file and the format it must have.
    device
        Where the tensors go.
    verify
        Compare the stored checksum (reads every byte once).
    first
        How many rows of some tensors to read, of a file that was written with ``by_row``; the
        others are not read, and what is read is compared with its own checksums.

    Returns
    -------
    tensors, header

    Raises
    ------
    PriorFileError
        If the file is missing, truncated, corrupt, foreign or of another version.
    """
    path = Path(path).expanduser()
    header = read_header(path, format=format)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {
                name: file.get_slice(name)[: first[name]]
                if first and name in first
                else file.get_tensor(name)
                for name in file.keys()  # noqa: SIM118
            }
    except (SafetensorError, OSError) as error:
        raise PriorFileError(f"{path} is truncated or corrupt: {error}") from error
    if any(tensor.is_complex() for tensor in tensors.values()):
        raise PriorFileError(f"{path} holds complex numbers, which no weights are")
    if verify and not _is_whole(tensors, header, first or {}):
        raise PriorFileError(f"{path} is corrupt: its tensors do not match its checksum")
    return {name: tensor.to(device) for name, tensor in tensors.items()}, header
