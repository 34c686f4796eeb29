"""Trees on disk: netCDF or zarr, written whole or not at all."""

import tempfile
from pathlib import Path

import xarray as xr

from bayesprior.errors import ConfigError, DataError, StorageError
from bayesprior.storage import atomic_path

__all__ = ["load_tree", "save_tree"]


def save_tree(tree: xr.DataTree, path: str | Path) -> None:
    """Write a tree to ``*.nc`` (netCDF through h5netcdf) or ``*.zarr``.

    Raises
    ------
    ConfigError
        If the path ends in neither.
    StorageError
        If it cannot be written; an older file stays.
    """
    path = Path(path).expanduser()
    if path.suffix == ".nc":
        with atomic_path(path) as temporary:
            tree.to_netcdf(temporary, engine="h5netcdf")
    elif path.suffix == ".zarr":
        _save_zarr(tree, path)
    else:
        raise ConfigError(f"a tree is written to a path that ends in .nc or .zarr, not {path}")


def _save_zarr(tree: xr.DataTree, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as name:
            new, old = Path(name) / "new", Path(name) / "old"
            # format 2: the text types of format 3 have no specification yet
            tree.to_zarr(new, zarr_format=2)
            if path.exists():
                path.rename(old)
            new.rename(path)
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror}; free space or choose another "
            "folder (what was there stays)"
        ) from error


def load_tree(path: str | Path) -> xr.DataTree:
    """Read a tree that `save_tree` wrote, into memory.

    Raises
    ------
    DataError
        If there is no such file or it is no DataTree.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise DataError(f"{path} does not exist; write it with the report first")
    engine = "zarr" if path.suffix == ".zarr" else "h5netcdf"
    try:
        with xr.open_datatree(path, engine=engine) as tree:
            return tree.load()
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path} is no readable DataTree: {error}") from error
