"""Trees on disk: netCDF, written whole or not at all."""

from pathlib import Path

import xarray as xr

from bayesprior.errors import ConfigError, DataError
from bayesprior.storage import atomic_path, check_size

__all__ = ["load_tree", "save_tree"]


def save_tree(tree: xr.DataTree, path: str | Path) -> None:
    """Write a tree to ``*.nc`` (netCDF through h5netcdf).

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
        tree.to_netcdf(temporary, engine="h5netcdf")


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
    try:
        with xr.open_datatree(path, engine="h5netcdf") as tree:
            check_size(sum(group.nbytes for group in tree.subtree))
            return tree.load()
    except Exception as error:  # a damaged file makes its readers raise anything
        raise DataError(f"{path} is no readable DataTree: {error}") from error
