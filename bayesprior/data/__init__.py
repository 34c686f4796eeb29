"""Data sets as `DataBundle`s: splits, few-shot subsets, loaders, views.

torchvision, scikit-learn and Pillow are imported by the functions that need them.
"""

from typing import Any

from bayesprior.data.adapters import as_bundle, check_fit
from bayesprior.data.arrays import digits, from_arrays, from_npz
from bayesprior.data.batch_sampler import EpochBatchSampler
from bayesprior.data.bundle import DataBundle
from bayesprior.data.catalog import DATA, get_data
from bayesprior.data.datasets import ArrayDataset, LabeledDataset, LazyDataset
from bayesprior.data.folders import image_folder, photographs
from bayesprior.data.subsets import few_shot, select_classes, split_validation, stratified_split
from bayesprior.data.torchvision_sets import (
    cifar10,
    cifar100,
    fashion_mnist,
    flowers102,
    from_torchvision,
    mnist,
    oxford_pets,
)
from bayesprior.data.transforms import CropFlip, PixelTransform
from bayesprior.data.two_view import simclr_view, two_views
from bayesprior.registry import resolve

__all__ = [
    "ArrayDataset",
    "CropFlip",
    "DataBundle",
    "EpochBatchSampler",
    "LabeledDataset",
    "LazyDataset",
    "PixelTransform",
    "as_bundle",
    "check_fit",
    "cifar10",
    "cifar100",
    "digits",
    "fashion_mnist",
    "few_shot",
    "flowers102",
    "from_arrays",
    "from_npz",
    "from_torchvision",
    "get_data",
    "image_folder",
    "mnist",
    "oxford_pets",
    "photographs",
    "select_classes",
    "simclr_view",
    "split_validation",
    "stratified_split",
    "two_views",
]


def __getattr__(name: str) -> Any:
    """Find the demonstration's ``glyphs``, which live with it."""
    if name == "glyphs":
        return resolve("data set", name, DATA)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
