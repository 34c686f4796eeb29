"""Data sets by name."""

from pathlib import Path
from typing import Any

from bayesprior.data.bundle import DataBundle
from bayesprior.data.mask_folders import holds_masks
from bayesprior.errors import ConfigError, DataError, checked, nearest_name
from bayesprior.registry import call

__all__ = ["DATA", "get_data"]

DATA = {
    "digits": "bayesprior.data.arrays:digits",
    "glyphs": "bayesprior.demo.glyphs:glyphs",
    "npz": "bayesprior.data.arrays:from_npz",
    "csv": "bayesprior.data.tables:from_csv",
    "image_folder": "bayesprior.data.folders:image_folder",
    "mask_folder": "bayesprior.data.mask_folders:mask_folder",
    "torchvision": "bayesprior.data.torchvision_sets:from_torchvision",
} | {
    name: f"bayesprior.data.torchvision_sets:{name}"
    for name in ("cifar10", "cifar100", "mnist", "fashion_mnist", "flowers102", "oxford_pets")
}
"""Short names; any function that returns a `DataBundle` works by its import path."""

_TABLES = (".parquet", ".xlsx", ".npy", ".json", ".h5", ".arrow")


def folder_kind(path: Path) -> str:
    """Return which of our functions reads a folder."""
    return "mask_folder" if holds_masks(path) else "image_folder"


@checked(name="path")
def get_data(name: str | Path, *, trusted: bool = True, **options: Any) -> DataBundle:
    """Return a data set by short name, import path, or the path of a folder or file.

    Parameters
    ----------
    name
        A key of `DATA`, ``"pkg.module:function"``, a folder of pictures as of `image_folder` (or
        `mask_folder`, if it has folders images and masks), or an ``.npz`` or ``.csv`` file.
    trusted
        Whether the user wrote the name; an import path out of a file is refused otherwise.
    **options
        Passed on, such as ``root=`` of torchvision's sets or ``path=`` of ``"npz"``.

    Raises
    ------
    ConfigError
        If the name or an option is unknown (the message has the nearest valid one), a required
        option is missing, or the function returns something else.
    DataError
        If the data are missing or malformed.

    Examples
    --------
    >>> get_data("digits", num_validation=200).num_data
    800
    """
    name = str(name)
    path = Path(name).expanduser()
    if name in DATA or (":" in name and not path.exists()):
        pass
    elif path.is_dir():
        name, options = folder_kind(path), {"root": path, **options}
    elif path.suffix in (".npz", ".csv", ".tsv"):
        if path.suffix != ".npz" and "target" not in options:
            raise ConfigError(
                f"data set 'csv' needs the option target, the column of {name} to predict: "
                "--data_options.target COLUMN"
            )
        name, options = "npz" if path.suffix == ".npz" else "csv", {"path": path, **options}
    elif path.suffix in _TABLES:
        raise DataError(
            f"{name}: such files are read by you, for example with pandas: then "
            "bp.from_arrays('name', (x, y), (x_test, y_test)), table.to_csv or numpy.savez(x=x, "
            "y=y) for a .csv or .npz file; pictures go by a folder with one folder per class"
        )
    elif len(path.parts) > 1 or path.suffix or name.endswith("/"):
        raise DataError(f"no folder or file {name!r}{nearest_name(path.name, _beside(path))}")
    elif name not in DATA:
        raise ConfigError(
            f"no data set or folder {name!r}; use a folder, one of {', '.join(DATA)}, or an "
            f"import path 'pkg.module:callable'{nearest_name(name, [*_beside(path), *DATA])}"
        )
    bundle = call("data set", name, DATA, options, trusted=trusted)
    if not isinstance(bundle, DataBundle):
        raise ConfigError(f"data set {name!r} gave {type(bundle).__name__}, not a DataBundle")
    return bundle


def _beside(path: Path) -> list[str]:
    """Return the names of what lies where a path that does not exist would."""
    return sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
