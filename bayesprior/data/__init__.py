"""Data sets as `DataBundle`s: splits, few-shot subsets, loaders, views.

torchvision, scikit-learn and Pillow are imported by the functions that need them.
"""

from typing import Any

from bayesprior.data.adapters import as_bundle, check_fit
from bayesprior.data.arrays import digits, from_arrays, from_npz
from bayesprior.data.bundle import DataBundle
from bayesprior.data.catalog import DATA, get_data
from bayesprior.data.datasets import ArrayDataset, LazyDataset
from bayesprior.data.folders import image_folder, photographs
from bayesprior.data.subsets import few_shot, select_classes, split_validation
from bayesprior.data.tables import from_csv
from bayesprior.data.torchvision_sets import from_torchvision
from bayesprior.data.transforms import CropFlip, PixelTransform
from bayesprior.data.two_view import two_views
from bayesprior.registry import resolve

__all__ = [
    "ArrayDataset",
    "CropFlip",
    "DataBundle",
    "LazyDataset",
    "PixelTransform",
    "as_bundle",
    "check_fit",
    "digits",
    "few_shot",
    "from_arrays",
    "from_csv",
    "from_npz",
    "from_torchvision",
    "get_data",
    "image_folder",
    "photographs",
    "select_classes",
    "split_validation",
    "two_views",
]


def __getattr__(name: str) -> Any:
    """Find the other data sets of the catalog, such as ``cifar10`` and ``glyphs``."""
    if name in DATA:
        return resolve("data set", name, DATA)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
