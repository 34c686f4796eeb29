"""Where data enter: each rule at every public entry, by a table."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from recipes_cases import QUIET, Net, blobs
from torch import nn
from torch.utils.data import TensorDataset

import bayesprior as bp
from bayesprior.data import ArrayDataset, DataBundle, as_bundle, from_npz, image_folder
from bayesprior.errors import ConfigError, DataError
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


X, Y = np.arange(128.0).reshape(8, 16) / 50, np.arange(8) % 2
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
    for part in ((X[3:7], Y[3:7]), (X[[6, 1, 4]], Y[[6, 1, 4]])):  # forgotten to be taken out
        for splits in (((X, Y), part), (part, (X, Y))):
            with pytest.raises(DataError, match="are the same data"):
                SPLIT_ENTRIES[entry](*splits)
    assert len(SPLIT_ENTRIES[entry]((X[:5], Y[:5]), (X[5:], Y[5:])).test) == 3


def law_of(module, std=0.1):
    layout = bp.ParameterLayout.from_module(module)
    return bp.GaussianWeights.point(layout, layout.flatten(module), std)


FEW = {**QUIET, "num_steps": 2}
TINY = {**QUIET, "num_draws": 1, "chains": 1, "burn_in": 1, "thin": 1}
RECIPES = {
    "fit_source": lambda net, data, _: bp.fit_source(net, data, **FEW),
    "fit_map": lambda net, data, _: bp.fit_map(net, law_of(net), data, **FEW),
    "fit_swag": lambda net, data, _: bp.fit_swag(net, law_of(net), data, **FEW),
    "sample": lambda net, data, _: bp.sample(net, law_of(net), data, **TINY),
    "transfer": lambda net, data, out: bp.transfer(data, net, out=out, **QUIET),
}


def one_step(net, data, _):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    loss = bp.supervised(Categorical())
    many = {"num_data": data.num_data, "progress": False}
    bp.train(net, loss, data.loader("train", 60), optimizer, constant(), 1, **many)


def predicted(net, data, split, **options):
    point = bp.PointPosterior.from_module(net)
    return bp.predict(net, point, data.loader(split, 60), Categorical(), **options)


def chain(net, data, _):
    model = bp.BayesianNetwork(net, law_of(net), Categorical(), num_data=data.num_data)
    mcmc = bp.StochasticGradientMCMC(bp.SGLD, lr=1e-3)
    mcmc.run(model, data.loader("train", 60), num_samples=1, progress=False)


def proba(net, data, _):
    inputs = torch.stack([data.train[i][0] for i in range(8)])
    bp.fit_map(net, law_of(net), blobs(2), **FEW).predict_proba(inputs)


READERS = RECIPES | {
    "train": one_step,
    "predict": lambda net, data, _: predicted(net, data, "train"),
    "reestimate": lambda net, data, _: predicted(
        net, data, "test", batch_norm="reestimate", bn_loader=data.loader("train", 60)
    ),
    "StochasticGradientMCMC": chain,
    "predict_proba": proba,
}


@pytest.mark.filterwarnings("ignore:Encountered NaN:UserWarning")  # Pyro's, where it validates
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("entry", READERS)
def test_inputs_that_are_not_finite_are_blamed_on_nothing_else(entry, value, tmp_path):
    data = blobs(2)
    inputs = torch.stack([data.train[i][0] for i in range(len(data.train))])
    inputs[3, ..., 0] = value
    train = ArrayDataset(inputs, data.train.targets)
    broken = DataBundle("broken", train, data.test, class_names=("a", "b"))
    with pytest.raises(DataError, match="NaN") as caught:
        READERS[entry](Net(2), broken, tmp_path / "run")
    assert " lr" not in str(caught.value)
    assert "\n" not in str(caught.value)


SHAPES = {name: call for name, call in RECIPES.items() if name != "transfer"} | {
    "make_prior": lambda net, data, _: bp.make_prior(law_of(net), net, data=data),
    "report": lambda net, data, out: bp.report(
        net, bp.PointPosterior.from_module(net), data, out=out
    ),
}


@pytest.mark.parametrize("entry", SHAPES)
def test_a_network_of_other_classes_is_refused_before_any_work(entry, tmp_path):
    with pytest.raises(
        ConfigError, match="5 outputs, 'blobs' has 2 classes; build it with num_cla"
    ):
        SHAPES[entry](Net(5), blobs(2), tmp_path / "out")
    assert not (tmp_path / "out").exists()


NAMES = {
    "bytes": ([b"cat", b"dog"], CLASSES),
    "array of bytes": (np.array([b"cat", b"dog"]), CLASSES),
    "mapping by index": ({1: "dog", 0: "cat"}, CLASSES),
    "mapping to the index": ({"dog": 1, "cat": 0}, CLASSES),
    "twice": (["cat", "cat"], "cat more than once"),
    "letters": ("ab", "one name a class"),
    "gap": ({0: "cat", 2: "dog"}, "must number the classes"),
}


def from_file(names, folder):
    if isinstance(names, dict):
        pytest.skip("arrays have no mappings")
    np.savez(folder / "set.npz", x=X.reshape(8, 4, 4) / 3, y=Y, class_names=names)
    return from_npz(folder / "set.npz")


NAME_ENTRIES = {
    "from_arrays": lambda names, _: bp.from_arrays("t", (X, Y), class_names=names),
    "DataBundle": lambda names, _: DataBundle("t", ArrayDataset(X, Y), class_names=names),
    "as_bundle": lambda names, _: as_bundle(ArrayDataset(X, Y), class_names=names),
    "npz": from_file,
}


@pytest.mark.parametrize("entry", NAME_ENTRIES)
@pytest.mark.parametrize("kind", NAMES)
def test_names_of_classes(kind, entry, tmp_path):
    names, expected = NAMES[kind]
    if isinstance(expected, str):
        with pytest.raises(DataError, match=expected):
            NAME_ENTRIES[entry](names, tmp_path)
    else:
        assert NAME_ENTRIES[entry](names, tmp_path).class_names == expected


def attached(optimizer, module, law):
    bp.attach_prior(optimizer, module, law, num_data=8)
    module(torch.zeros(1, 2, dtype=torch.long)).sum().mul(0).backward()
    optimizer.step()


def trained(optimizer, module, law):
    def loss(network, batch):
        return network(batch).sum() * 0, {}

    batches = [torch.zeros(1, 2, dtype=torch.long)]
    many = {"num_data": 8, "prior": law, "progress": False}
    bp.train(module, loss, batches, optimizer, constant(), 1, **many)


@pytest.mark.parametrize("entry", [attached, trained])
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: torch.optim.SGD(p, lr=1e-3), ""),
        (lambda p: torch.optim.SGD(p, lr=1e-3, maximize=True), ""),
        (lambda p: torch.optim.Adam(p, lr=1e-3, maximize=True), ""),
        (lambda p: torch.optim.SGD(p, lr=1e-3, weight_decay=0.1), "is a second prior"),
        (lambda p: torch.optim.AdamW(p, lr=1e-3), "is a second prior"),
        (
            lambda p: torch.optim.SGD([q.detach().clone() for q in p], lr=1e-3),
            "holds none of the param",
        ),
    ],
)
def test_the_prior_attracts_under_any_optimizer_or_says_why_not(entry, make, said, recwarn):
    torch.manual_seed(0)
    module = nn.Embedding(3, 2)
    law = law_of(module)
    with torch.no_grad():
        module.weight += 1
    optimizer = make([*module.parameters()])
    if "holds none" in said:
        with pytest.raises(ConfigError, match=said):
            entry(optimizer, module, law)
        return
    entry(optimizer, module, law)
    moved = module.weight.detach().flatten() - law.mean
    assert (moved.abs() < 1).all()
    assert [said in str(w.message) for w in recwarn] == [True] * bool(said)


@pytest.mark.parametrize("entry", [attached, trained])
def test_a_padding_row_is_warned_of(entry):
    module = nn.Embedding(3, 2, padding_idx=0)
    with pytest.warns(UserWarning, match="padding row"):
        entry(torch.optim.SGD(module.parameters(), lr=1e-3), module, law_of(module))
