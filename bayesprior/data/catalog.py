"""Data sets by name."""

from typing import Any

from bayesprior.data.bundle import DataBundle
from bayesprior.errors import ConfigError
from bayesprior.registry import call

__all__ = ["DATA", "get_data"]

DATA = {
    "digits": "bayesprior.data.glyphs:digits",
    "glyphs": "bayesprior.data.glyphs:glyphs",
    "npz": "bayesprior.data.arrays:from_npz",
} | {
    name: f"bayesprior.data.torchvision_sets:{name}"
    for name in (
        "cifar10",
        "cifar100",
        "mnist",
        "fashion_mnist",
        "flowers102",
        "oxford_pets",
        "image_folder",
    )
}
"""Short names; any function that returns a `DataBundle` works by its import path."""


def get_data(name: str, **options: Any) -> DataBundle:
    """Return a data set by short name or import path.

    Parameters
    ----------
    name
        A key of `DATA`, or ``"pkg.module:function"``.
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
    bundle = call("data set", name, DATA, options)
    if not isinstance(bundle, DataBundle):
        raise ConfigError(f"data set {name!r} gave {type(bundle).__name__}, not a DataBundle")
    return bundle
