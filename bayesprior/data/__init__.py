"""Data sets as `DataBundle`s: splits, few-shot subsets, loaders, views.

torchvision, scikit-learn, matplotlib and Pillow are imported by the functions that need them.
"""

from bayesprior.data.arrays import from_arrays, from_npz
from bayesprior.data.batch_sampler import EpochBatchSampler
from bayesprior.data.bundle import DataBundle
from bayesprior.data.catalog import get_data
from bayesprior.data.datasets import ArrayDataset, LabeledDataset, LazyDataset
from bayesprior.data.glyphs import digits, glyphs
from bayesprior.data.subsets import few_shot, select_classes, split_validation, stratified_split
from bayesprior.data.torchvision_sets import (
    cifar10,
    cifar100,
    fashion_mnist,
    flowers102,
    image_folder,
    mnist,
    oxford_pets,
)
from bayesprior.data.transforms import CropFlip, PixelTransform
from bayesprior.data.two_view import TwoViewDataset, simclr_view, two_views

__all__ = [
    "ArrayDataset",
    "CropFlip",
    "DataBundle",
    "EpochBatchSampler",
    "LabeledDataset",
    "LazyDataset",
    "PixelTransform",
    "TwoViewDataset",
    "cifar10",
    "cifar100",
    "digits",
    "fashion_mnist",
    "few_shot",
    "flowers102",
    "from_arrays",
    "from_npz",
    "get_data",
    "glyphs",
    "image_folder",
    "mnist",
    "oxford_pets",
    "select_classes",
    "simclr_view",
    "split_validation",
    "stratified_split",
    "two_views",
]
