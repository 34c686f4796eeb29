"""Trees on disk: netCDF, written whole or not at all."""

import contextlib
import gc
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xarray as xr

from bayesprior.errors import ConfigError, DataError
from bayesprior.storage import atomic_path, check_size, digest_until

__all__ = ["load_tree", "save_tree"]

_MARK = b"bayesprior sha256 "  # and the digest of all before it, behind what HDF5 reads


def save_tree(tree: xr.DataTree, path: str | Path) -> None:
    """Write a tree to ``*.nc`` (netCDF through h5netcdf), and its checksum behind it.

    Raises
    ------
    ConfigError
        If the path does not end so.
    StorageError
        If it cannot be written; an older file stays.
    """
    path = Path(path).expanduser()
    if path.suffix != ".nc":
        raise ConfigError(f"a tree is written to a path that ends in .nc, not {path}")
    with atomic_path(path) as temporary:
        # A full disk makes HDF5 print page upon page: ask for the room before.
        temporary.write_bytes(bytes(2**16 + sum(group.nbytes for group in tree.subtree)))
        tree.to_netcdf(temporary, engine="h5netcdf")
        with temporary.open("r+b") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
            file.write(_MARK + digest)


def load_tree(path: str | Path) -> xr.DataTree:
    """Read a tree that `save_tree` wrote, into memory.

    Raises
    ------
    DataError
        If there is no such file or it is no DataTree.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise DataError(f"{path} does not exist; write it with the report first")
    with _quiet_finalizers():
        try:
            _check_sum(path)
            check_size(_claimed(path), path)
            with xr.open_datatree(path, engine="h5netcdf") as tree:
                return tree.load()
        except Exception as error:  # a damaged file makes its readers raise anything
            told = str(error) or type(error).__name__
    raise DataError(f"{path} is no readable DataTree: {told}")


def _check_sum(path: Path) -> None:
    """Raise `DataError` of a file that is not as it was written; HDF5 can hang on one.

    One that somebody else wrote has no checksum.
    """
    end = max(path.stat().st_size - len(_MARK) - hashlib.sha256().digest_size, 0)
    with path.open("rb") as file:
        file.seek(end)
        mark, digest = file.read(len(_MARK)), file.read()
    if mark == _MARK and digest_until(path, end) != digest:
        raise DataError("it is damaged: its checksum is another")


def _claimed(path: Path) -> int:
    """Return the bytes of all arrays: xarray reads coordinates when it opens the file."""
    import h5py

    sizes: list[int] = []

    def add(_: str, found: Any) -> None:
        sizes.append(getattr(found, "nbytes", 0))

    with h5py.File(path) as file:
        file.visititems(add)
    return sum(sizes)


@contextlib.contextmanager
def _quiet_finalizers() -> Iterator[None]:
    """Do not print what h5netcdf's half-opened files raise when they are collected."""
    before, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        yield
    finally:
        gc.collect(1)
        sys.unraisablehook = before
