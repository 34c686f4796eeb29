import itertools

import numpy as np
import pytest
import torch
from torch.utils.data import Subset, TensorDataset

from bayesprior.data.bundle import DataBundle
from bayesprior.data.datasets import ArrayDataset
from bayesprior.data.folders import photographs
from bayesprior.data.subsets import few_shot
from bayesprior.errors import ConfigError, DataError

NAMES = ("ant", "bee", "cat")


def dataset(labels, start=0):
    inputs = torch.arange(start, start + len(labels)).float()[:, None]
    return ArrayDataset(inputs, torch.tensor(labels))


def noise(inputs, numbers):
    return inputs + numbers[:, :1]


def bundle(num_data=10, **options):
    train = dataset([i % 3 for i in range(num_data)])
    return DataBundle("toy", train, dataset([0, 1, 2], start=100), class_names=NAMES, **options)


def seen(loader):
    return [inputs.flatten().tolist() for inputs, _ in loader]


def test_numbers_of_a_bundle():
    data = bundle(num_data=7)
    assert (data.num_data, data.num_classes, data.input_shape) == (7, 3, (1,))
    assert data.class_counts.tolist() == [3, 2, 2]


def test_loader_gives_whole_batches_and_drops_nothing():
    data = bundle()
    assert seen(data.loader("train", 4)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert seen(data.loader("test", 1000)) == [[100, 101, 102]]


def test_loader_order_and_global_random_state():
    data, before = bundle(), torch.get_rng_state()
    loader = data.loader("train", 4, shuffle=True, seed=3)
    epochs = [seen(loader) for _ in range(3)]
    assert len(set(map(str, epochs))) == 3
    loader.batch_sampler.set_epoch(1)
    assert seen(loader) == epochs[1]
    assert seen(data.loader("train", 4, True, 3)) == epochs[0]
    assert torch.equal(torch.get_rng_state(), before)


def test_two_ranks_see_what_one_sees_augmentation_included():
    train = ArrayDataset(*(dataset([0, 1, 2] * 4).__getitems__(range(12))), augment=noise)
    data = DataBundle("toy", train, dataset([0]), class_names=NAMES)
    one = data.loader("train", 6, shuffle=True, seed=1)
    two = [data.loader("train", 3, shuffle=True, seed=1, rank=r, world_size=2) for r in range(2)]
    for whole, *parts in zip(seen(one), *map(seen, two), strict=True):
        assert list(itertools.chain(*parts)) == whole


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_workers_change_nothing():
    train = ArrayDataset(*(dataset([0, 1, 2] * 4).__getitems__(range(12))), augment=noise)
    data = DataBundle("toy", train, dataset([0]), class_names=NAMES)
    alone = data.loader("train", 5, shuffle=True, seed=1)
    helped = data.loader("train", 5, shuffle=True, seed=1, num_workers=1)
    assert seen(alone) == seen(helped)


def test_unknown_or_absent_split():
    with pytest.raises(DataError, match=r"no validation split; make one with split_validation\(\)"):
        bundle().loader("validation", 4)
    with pytest.raises(ConfigError, match="no split 'trian'.*did you mean 'train'"):
        bundle().split("trian")


def test_validation_is_never_the_test_data():
    test = dataset([0, 1, 2])
    again = ArrayDataset(test.inputs, test.targets, transform=torch.neg)
    for validation in (test, again):
        with pytest.raises(DataError, match="validation and test splits of 'toy' are the same"):
            DataBundle("toy", dataset([0, 1, 2], start=9), test, validation, NAMES)
    with pytest.raises(DataError, match="train and test splits"):
        DataBundle("toy", test, test, class_names=NAMES)


def test_classes_without_training_examples_are_announced():
    with pytest.warns(UserWarning, match="no training example of 2 of its 3 classes: ant, cat"):
        DataBundle("toy", dataset([1, 1]), dataset([0]), class_names=NAMES)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 3], r"train labels of 'toy' run from 0 to 3, outside 0\.\.2"),
        ([-1, 0], "run from -1 to 0"),
        ([0.0, 1.0], "must be integers"),
        ([], "train split of 'toy' is empty"),
    ],
)
def test_bad_labels(labels, message):
    with pytest.raises(DataError, match=message):
        DataBundle("toy", dataset(labels), dataset([0]), class_names=NAMES)


def test_a_task_without_classes():
    targets = torch.randn(5)
    data = DataBundle("line", ArrayDataset(torch.randn(5, 2), targets), dataset([0.5]))
    ((_, batch),) = data.loader("train", 5)
    assert torch.equal(batch, targets)
    assert data.num_classes == 0


PAIRS = [(torch.full((3,), float(i)), i % 3) for i in range(6)]


def test_any_map_style_data_set_is_taken():
    data = DataBundle("pairs", PAIRS, [(torch.ones(3) / 2, 0)], class_names=NAMES)
    ((inputs, labels),) = data.loader("train", 6)
    assert torch.equal(inputs, torch.stack([x for x, _ in PAIRS]))
    assert labels.tolist() == [0, 1, 2, 0, 1, 2]
    before = torch.get_rng_state()
    assert data.class_counts.tolist() == [2, 2, 2]
    assert (data.num_data, data.input_shape) == (6, (3,))
    assert torch.equal(torch.get_rng_state(), before)


class Noisy(torch.utils.data.Dataset):
    """Has a random transform of its own, as torchvision's sets have."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return torch.rand(2) + index, index % 3


def test_random_transforms_of_a_data_set_belong_to_seed_epoch_and_example():
    data, before = DataBundle("noisy", Noisy(), class_names=NAMES), torch.get_rng_state()

    def epoch(batch_size, number):
        loader = data.loader("train", batch_size, seed=1)
        loader.batch_sampler.set_epoch(number)
        return torch.cat([inputs for inputs, _ in loader])

    assert torch.equal(epoch(6, 0), epoch(4, 0))
    assert not torch.equal(epoch(6, 0), epoch(6, 1))
    assert torch.equal(torch.get_rng_state(), before)


def test_tables_of_double_precision_are_cast():
    x = np.linspace(0, 1, 12).reshape(4, 3)
    held = [ArrayDataset(x, x[:, :1]), TensorDataset(torch.tensor(x), torch.tensor(x[:, :1]))]
    held += [[(row, float(row[0])) for row in x], ArrayDataset(Frame(x), x[:, :1])]
    for train in held:
        ((inputs, targets),) = DataBundle("table", train).loader("train", 4)
        assert inputs.dtype == targets.dtype == torch.float32
        np.testing.assert_array_equal(inputs, x.astype(np.float32))


class Frame:
    """What of pandas is used: NumPy asks for the values."""

    def __init__(self, values):
        self.values = values
        self.iloc = None

    def __array__(self, dtype=None, copy=None):
        return self.values


def test_rows_that_are_dictionaries_and_a_collate_fn():
    rows = [{"text": "a" * (1 + i), "label": i % 2} for i in range(4)]
    plain = DataBundle("rows", rows, class_names=("x", "y"))
    (batch,) = plain.loader("train", 4)
    assert batch["label"].tolist() == [0, 1, 0, 1]
    assert plain.class_counts.tolist() == [2, 2]

    def pad(examples):
        width = max(len(e["text"]) for e in examples)
        ids = [[ord(c) for c in e["text"].ljust(width)] for e in examples]
        return {"ids": torch.tensor(ids), "labels": torch.tensor([e["label"] for e in examples])}

    (batch,) = DataBundle("rows", rows, collate_fn=pad).loader("train", 4)
    assert batch["ids"].shape == (4, 4)
    few = few_shot(plain, num_data=2)
    assert few.class_counts.tolist() == [1, 1]


def test_names_that_are_no_text_are_written_out():
    """Folders and files may be called anything; HDF5 and web pages take text alone."""
    x = torch.zeros(2, 3)
    data = ArrayDataset(x, torch.arange(2))
    bundle = DataBundle("caf\udce9", data, class_names=["d\udcf6g", "d\udce4g"])
    assert bundle.name == r"caf\udce9"
    assert bundle.class_names == (r"d\udcf6g", r"d\udce4g")


def test_masks_have_class_names():
    masks = torch.randint(0, 3, (4, 5, 5))
    masks[0, 0, 0] = 255
    data = DataBundle("masks", ArrayDataset(torch.rand(4, 3, 5, 5), masks), class_names=NAMES)
    assert data.class_counts.sum() == 99
    assert len(few_shot(data, num_data=2).train) == 2
    with pytest.raises(DataError, match="no class for each example"):
        few_shot(data, per_class=1)


def test_a_split_may_lack_targets_and_a_bundle_a_test_split():
    data = DataBundle("new", dataset([0, 1, 2]), ArrayDataset(torch.ones(2, 1)), class_names=NAMES)
    (batch,) = data.loader("test", 2)
    assert torch.equal(batch, torch.ones(2, 1))
    (batch,) = DataBundle("new", TensorDataset(torch.ones(2, 1))).loader("train", 2)
    assert torch.equal(batch, torch.ones(2, 1))
    with pytest.raises(DataError, match="'new' has no test split"):
        DataBundle("new", dataset([0, 1, 2])).loader("test", 2)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ((np.zeros((2, 2)), np.zeros(2)), r"got tuple; from_arrays\('name'"),
        (torch.zeros(3, 2), "got Tensor; from_arrays"),
        ("data/folder", r"got str; .*get_data\('folder'\)"),
        (iter(PAIRS), "must be a data set with a length"),
        (Frame(np.zeros((2, 2))), "got Frame; from_arrays"),
        ([], "train split of 't' is empty"),
    ],
)
def test_what_is_no_data_set_names_the_constructor(train, message):
    with pytest.raises(DataError, match=message) as caught:
        DataBundle("t", train)
    assert "\n" not in str(caught.value)


def test_common_rows_are_a_leak():
    source = TensorDataset(torch.rand(6, 2), torch.arange(6) % 3)
    train, test = Subset(source, [0, 1, 2, 3]), Subset(source, [3, 4])
    with pytest.raises(DataError, match="train and test splits of 't' are the same data"):
        DataBundle("t", train, test)
    assert len(DataBundle("t", Subset(source, [0, 1, 2]), test).test) == 2
    copy = TensorDataset(source.tensors[0].clone(), source.tensors[1])
    with pytest.raises(DataError, match="are the same data"):
        DataBundle("t", source, copy)
    # Two readers of the same data with rows of their own, as for different transforms.
    assert len(DataBundle("t", Subset(source, [0, 1, 2]), Subset(copy, [3, 4])).test) == 2


def test_pictures_that_cannot_be_stacked_are_explained():
    from PIL import Image

    rows = [(Image.new("RGB", (4, 4)), 0)] * 3
    with pytest.raises(DataError, match=r"examples of Image cannot be stacked .*photographs\(data"):
        next(iter(DataBundle("t", rows).loader("train", 3)))
    data = DataBundle("t", photographs(rows, size=8), photographs(rows[1:], size=8))
    ((inputs, labels),) = data.loader("train", 3)
    assert inputs.shape == (3, 3, 8, 8)
    assert labels.tolist() == [0, 0, 0]


def test_rows_of_several_lengths_ask_for_padding():
    rows = [{"ids": torch.ones(length), "labels": 0} for length in (2, 3)]
    with pytest.raises(DataError, match="of dict cannot be stacked .*collate_fn= that pads"):
        DataBundle("texts", rows).peek(2)
