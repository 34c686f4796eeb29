import itertools

import pytest
import torch

from bayesprior.data.bundle import DataBundle
from bayesprior.data.datasets import ArrayDataset
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
            DataBundle("toy", dataset([0, 1, 2]), test, validation, NAMES)
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
