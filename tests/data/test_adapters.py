import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, WeightedRandomSampler

from bayesprior.data.adapters import as_bundle, check_fit, forward_for
from bayesprior.data.arrays import digits
from bayesprior.data.bundle import DataBundle
from bayesprior.data.datasets import ArrayDataset
from bayesprior.errors import ConfigError, DataError
from bayesprior.tasks.protocols import (
    dictionary_forward,
    inputs_forward,
    keyword_forward,
    pair_forward,
)

SET = TensorDataset(torch.rand(6, 3), torch.arange(6) % 2)


def double(examples):
    inputs, labels = zip(*examples, strict=True)
    return torch.stack(inputs) * 2, torch.tensor(labels)


def test_a_bundle_stays_and_a_data_set_or_loader_becomes_one():
    bundle = digits()
    assert as_bundle(bundle) is bundle
    assert as_bundle(SET).num_data == 6
    loader = DataLoader(SET, batch_size=4, shuffle=True, collate_fn=double)
    bundle = as_bundle(loader, test=TensorDataset(torch.rand(2, 3), torch.tensor([0, 1])))
    assert (bundle.num_data, bundle.name, len(bundle.test)) == (6, "TensorDataset", 2)
    ((inputs, _),) = bundle.loader("train", 6)
    assert torch.equal(inputs, 2 * SET.tensors[0])


class Rows:
    """What of a Hugging Face data set is used: columns by name, rows that are dictionaries."""

    column_names = ["image", "label"]

    class Label:
        names = ["cat", "dog"]

    features = {"image": None, "label": Label()}

    def __init__(self, num):
        self.images = torch.rand(num, 3)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, key):
        if key == "label":
            return [i % 2 for i in range(len(self))]
        return {"image": self.images[key], "label": key % 2}


def test_splits_of_hugging_face():
    held = {"train": Rows(6), "test": Rows(2)}
    bundle = as_bundle(held)
    assert bundle.class_names == ("cat", "dog")
    assert bundle.train.targets.tolist() == [0, 1, 0, 1, 0, 1]
    (batch,) = bundle.loader("train", 6)
    assert set(batch) == {"image", "label"}
    pairs = as_bundle(held, columns=("image", "label"))
    ((inputs, labels),) = pairs.loader("train", 6)
    assert torch.equal(inputs, held["train"].images)
    assert torch.equal(labels, batch["label"])
    with pytest.raises(DataError, match="a mapping of splits needs 'train', got dev"):
        as_bundle({"dev": Rows(3)})


class Stream(IterableDataset):
    def __iter__(self):
        return iter(SET)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ((np.zeros((3, 2)), np.zeros(3)), r"from_arrays\('name', \(x, y\)"),
        ("data.csv", r"got str; from_arrays"),
        (DataLoader(Stream()), "has no N to weigh the prior against"),
        (DataLoader(SET, sampler=WeightedRandomSampler([1.0] * 6, 6)), "by WeightedRandomSampler"),
        (None, "must be a data set"),
    ],
)
def test_wrong_things_are_told_what_takes_them(value, message):
    with pytest.raises(DataError, match=message) as caught:
        as_bundle(value)
    assert "\n" not in str(caught.value)


def images(channels=3, classes=4):
    pixels = torch.rand(8, channels, 8, 8)
    labels = torch.arange(8) % classes
    names = tuple("abcdefgh"[:classes])
    return DataBundle("pictures", ArrayDataset(pixels, labels), class_names=names)


class Net(nn.Sequential):
    def __init__(self, outputs):
        super().__init__(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Dropout(), nn.Linear(4, outputs),
        )  # fmt: skip


def test_data_without_targets_say_what_gives_them_some():
    bundle = as_bundle(list(torch.rand(4, 3, 8, 8)))
    with pytest.raises(DataError, match="has no targets; .* every class of pictures a folder"):
        check_fit(Net(4), bundle)
    check_fit(Net(4), bundle, inputs_forward)


def test_a_network_that_fits_is_left_as_it_is():
    net, data = Net(4), images()
    net[1].eval()
    before = {n: t.clone() for n, t in net.state_dict().items()}
    state = torch.get_rng_state()
    check_fit(net, data)
    assert torch.equal(torch.get_rng_state(), state)
    assert net.training
    assert not net[1].training
    assert all(torch.equal(before[n], t) for n, t in net.state_dict().items())


@pytest.mark.parametrize(
    ("net", "bundle", "message"),
    [
        (Net(50), images(), r"gives 50 outputs, 'pictures' has 4 classes; .*replace_head"),
        (Net(4), images(channels=4), "its first layer takes 3 channels, the data have 4"),
        (nn.Sequential(nn.Flatten(), nn.Linear(9, 4)), images(), "first layer takes 9 numbers"),
        (nn.Sequential(nn.MaxPool2d(9), Net(4)), images(), "does not take .* Output size is"),
        (Net(4).double(), images(), "weights are torch.float64, the inputs torch.float32"),
    ],
)
def test_a_network_that_does_not_fit(net, bundle, message):
    with pytest.raises(ConfigError, match=message) as caught:
        check_fit(net, bundle)
    assert "\n" not in str(caught.value)


def test_other_forwards():
    class Out(nn.Module):
        def __init__(self, outputs):
            super().__init__()
            self.conv = nn.Conv2d(3, outputs, 1)

        def forward(self, x):
            return {"out": self.conv(x)}

    masks = DataBundle(
        "masks",
        ArrayDataset(torch.rand(4, 3, 5, 5), torch.zeros(4, 5, 5).long()),
        class_names=("sky",),
    )
    check_fit(Out(1), masks, dictionary_forward())
    with pytest.raises(ConfigError, match="gives 2 outputs, 'masks' has 1 classes"):
        check_fit(Out(2), masks, dictionary_forward())
    masks.train.targets[0, 0] = 1
    both = DataBundle("masks", masks.train, class_names=("sky", "road"))
    check_fit(Out(1), both, dictionary_forward())
    for net, message in (
        (nn.Conv2d(3, 1, 3), "gives maps of 3 x 3, the masks of 'masks' are 5 x 5"),
        (Net(1), r"outputs of shape \(1,\), 'masks' has masks: take one .* lraspp"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_fit(net, both)
    check_fit(nn.Linear(3, 7), DataBundle("new", ArrayDataset(torch.rand(4, 3))), inputs_forward)

    class Keywords(nn.Linear):
        def forward(self, image):
            return super().forward(image)

    rows = [{"image": torch.rand(3), "labels": i % 2} for i in range(4)]
    check_fit(Keywords(3, 2), DataBundle("rows", rows, class_names=("a", "b")), keyword_forward())


def test_dictionaries_ask_for_keywords_where_nothing_else_is_given():
    rows = [{"inputs": torch.randn(3), "target": i % 2} for i in range(4)]
    pairs = [(row["inputs"], row["target"]) for row in rows]
    assert forward_for(as_bundle(rows)) == keyword_forward("target")
    assert forward_for(as_bundle(pairs)) is pair_forward
    own = keyword_forward("y", "out")
    assert forward_for(as_bundle(rows), own) is own
