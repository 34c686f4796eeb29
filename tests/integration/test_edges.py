"""Where data enter: each rule at every public entry, by a table."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import TensorDataset

import bayesprior as bp
from bayesprior.data import ArrayDataset, DataBundle, as_bundle, image_folder
from bayesprior.errors import DataError
from bayesprior.inference.batch_norm import reestimate_
from bayesprior.inference.schedules import constant
from bayesprior.recipes.named import load_data
from bayesprior.recipes.options import DataOptions
from bayesprior.tasks.likelihoods import Categorical

# What lies in a folder -> classes and sizes of the splits, or a part of the refusal.
CLASSES = ("cat", "dog")
LAYOUTS = {
    "class folders": (["cat/", "dog/"], (CLASSES, (5, 1))),
    "splits": (["train/cat", "train/dog", "test/cat", "test/dog"], (CLASSES, (6, 6))),
    "capitals": (["Training/cat", "Training/dog", "TESTING/cat", "TESTING/dog"], (CLASSES, (6, 6))),
    "valid": (["train/cat", "train/dog", "valid/cat", "valid/dog"], (CLASSES, (6, 6))),
    "three": (
        [f"{split}/{name}" for split in ("train", "Val", "test") for name in CLASSES],
        (CLASSES, (6, 6, 6)),
    ),
    "hidden": (["cat", "dog", ".ipynb_checkpoints", "__MACOSX"], (CLASSES, (5, 1))),
    "one too high": (["flowers/rose", "flowers/tulip"], "did you mean .*flowers"),
    "one class": (["cat"], "one class only"),
    "train alone": (["train/cat", "train/dog"], "neither test nor val"),
    "two names of one split": (["train/cat", "training/cat", "test/cat"], "keep one of them"),
    "other classes": (["train/cat", "train/dog", "test/cat", "test/fox"], "differ"),
    "nothing": ([], "holds no class folders"),
}
FOLDER_ENTRIES = {
    "image_folder": lambda root: image_folder(root, size=8),
    "get_data": lambda root: bp.get_data(root, size=8),
    "command line": lambda root: load_data(DataOptions(data=str(root), data_options={"size": 8})),
}


@pytest.mark.parametrize("entry", FOLDER_ENTRIES)
@pytest.mark.parametrize("name", LAYOUTS)
def test_what_a_folder_is(name, entry, tmp_path):
    folders, expected = LAYOUTS[name]
    root = tmp_path / "set"
    root.mkdir()
    for number, folder in enumerate(folders):
        (root / folder).mkdir(parents=True)
        for i in range(3):
            pixels = np.full((8, 8, 3), 20 * number + i, np.uint8)
            Image.fromarray(pixels).save(root / folder / f"{i}.png")
    if isinstance(expected, str):
        with pytest.raises(DataError, match=expected):
            FOLDER_ENTRIES[entry](root)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bundle = FOLDER_ENTRIES[entry](root)
    names, sizes = expected
    found = {split: len(data) for split, data in bundle.splits.items()}
    assert bundle.class_names == names
    assert tuple(found.values()) == sizes


def of_predict(module, inputs, labels, size):
    loader = [(inputs[i : i + size], labels[i : i + size]) for i in range(0, len(inputs), size)]
    layout = bp.ParameterLayout.from_module(module)
    law = bp.GaussianWeights.point(layout, layout.flatten(module), 0.1)
    found = bp.predict(module, law, loader, Categorical(), num_draws=2)
    return torch.tensor([found.metrics[name] for name in ("nll", "accuracy", "brier", "ece")])


def of_training(module, inputs, labels, size):
    """One step of all the data, accumulated over batches of a size."""
    loader = [(inputs[i : i + size], labels[i : i + size]) for i in range(0, len(inputs), size)]
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    many = {"num_data": len(inputs), "accumulate": len(loader), "progress": False}
    bp.train(module, bp.supervised(Categorical()), loader, optimizer, constant(), 1, **many)
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def of_statistics(module, inputs, labels, size):
    loader = [(inputs[i : i + size], labels[i : i + size]) for i in range(0, len(inputs), size)]
    norm = nn.Sequential(nn.BatchNorm1d(3, dtype=torch.float64), module)
    reestimate_(norm, loader)
    return norm[0].running_mean


@pytest.mark.parametrize("entry", [of_predict, of_training, of_statistics])
def test_a_last_smaller_batch_counts_by_its_examples(entry):
    torch.manual_seed(0)
    inputs, labels = torch.randn(11, 3, dtype=torch.float64), torch.arange(11) % 2
    results = []
    for size in (11, 10, 6, 4, 3, 2):
        torch.manual_seed(1)
        module = nn.Linear(3, 2, dtype=torch.float64)
        # a last batch of one has no variance, and is left out of averages of statistics
        if entry is of_statistics and 11 % size == 1:
            with pytest.warns(UserWarning, match="last batch of one example is skipped"):
                found = entry(module, inputs, labels, size)
            torch.testing.assert_close(found, inputs[:-1].mean(0))
        else:
            results.append(entry(module, inputs, labels, size))
    for found in results[1:]:
        torch.testing.assert_close(found, results[0])


X, Y = np.arange(48.0).reshape(8, 6) / 50, np.arange(8) % 2
SPLIT_ENTRIES = {
    "from_arrays": lambda a, b: bp.from_arrays("t", a, b),
    "DataBundle": lambda a, b: DataBundle("t", ArrayDataset(*a), ArrayDataset(*b)),
    "TensorDataset": lambda a, b: DataBundle(
        "t", *(TensorDataset(*map(torch.tensor, pair)) for pair in (a, b))
    ),
    "as_bundle": lambda a, b: as_bundle(ArrayDataset(*a), test=ArrayDataset(*b)),
    "a mapping": lambda a, b: as_bundle({"train": ArrayDataset(*a), "test": ArrayDataset(*b)}),
}


@pytest.mark.parametrize("entry", SPLIT_ENTRIES)
def test_splits_of_equal_values_are_a_leak(entry):
    with pytest.raises(DataError, match="train and test splits of .* are the same data"):
        SPLIT_ENTRIES[entry]((X, Y), (X.copy(), Y.copy()))
    assert len(SPLIT_ENTRIES[entry]((X[:5], Y[:5]), (X[5:], Y[5:])).test) == 3
