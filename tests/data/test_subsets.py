import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bayesprior.data.bundle import DataBundle
from bayesprior.data.datasets import ArrayDataset
from bayesprior.data.subsets import few_shot, select_classes, split_off, split_validation
from bayesprior.errors import ConfigError, DataError

pytestmark = pytest.mark.filterwarnings("ignore:.*has no training example")


def bundle(counts, **options):
    """Inputs are example numbers, so that subsets can be told apart."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    train = ArrayDataset(torch.arange(len(labels)).float()[:, None], labels, **options)
    test = ArrayDataset(-1 - torch.arange(len(counts)).float()[:, None], torch.arange(len(counts)))
    return DataBundle("toy", train, test, class_names=tuple("abcdefghij"[: len(counts)]))


def members(data):
    return set(data.inputs.flatten().tolist())


counts = st.lists(st.integers(1, 12), min_size=2, max_size=6)


@given(counts=counts, data=st.data(), seed=st.integers(0, 3))
def test_few_shot_is_balanced_and_nested(counts, data, seed):
    pool = bundle(counts)
    large = data.draw(st.integers(1, sum(counts)))
    small = data.draw(st.integers(1, large))
    one, two = (few_shot(pool, num_data=n, seed=seed) for n in (small, large))
    assert members(one.train) <= members(two.train) <= members(pool.train)
    assert len(members(one.train)) == small
    # As equal as possible: a class may lag behind the largest by more than one only if used up.
    got = one.class_counts
    assert all(n >= got.max() - 1 or n == c for n, c in zip(got, counts, strict=True))
    assert torch.equal(one.train.targets, pool.train.targets[one.train.inputs.flatten().long()])


def test_few_shot_depends_on_the_seed_only():
    pool = bundle([30, 30])
    chosen = [members(few_shot(pool, num_data=10, seed=s).train) for s in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]


def test_per_class_is_the_balanced_total():
    pool = bundle([9, 5, 7])
    assert few_shot(pool, per_class=5).class_counts.tolist() == [5, 5, 5]
    by_total = few_shot(pool, num_data=12, seed=4)
    assert members(few_shot(pool, per_class=4, seed=4).train) == members(by_total.train)


def test_remainder_and_examples_are_drawn_uniformly():
    pool, runs = bundle([4, 4, 4]), 600
    picks = torch.zeros(12)
    for seed in range(runs):
        picks[few_shot(pool, num_data=1, seed=seed).train.inputs.long().flatten()] += 1
    assert stats.chisquare(picks).pvalue > 1e-7


def test_few_shot_leaves_the_other_splits_alone():
    pool = split_validation(bundle([10, 10]), num=4)
    few = few_shot(pool, num_data=4)
    assert few.validation is pool.validation
    assert few.test is pool.test
    assert not members(few.train) & members(few.validation)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_data": 9}, DataError, "num_data = 9 is more than the 8 training examples of 'toy'"),
        ({"per_class": 4}, DataError, "per_class = 4 is more than the 3 .* of class 'b'"),
        ({"num_data": 0}, ConfigError, "num_data must be a whole number of at least 1, got 0"),
        ({"per_class": -1}, ConfigError, "per_class must be .* at least 1"),
        ({}, ConfigError, "exactly one"),
        ({"num_data": 2, "per_class": 1}, ConfigError, "exactly one"),
    ],
)
def test_few_shot_refuses(options, error, message):
    with pytest.raises(error, match=message):
        few_shot(bundle([5, 3]), **options)


@pytest.mark.filterwarnings("default")
def test_few_shot_warns_of_classes_left_out():
    with pytest.warns(UserWarning, match="no training example of 1 of its 3 classes"):
        few_shot(bundle([4, 4, 4]), num_data=2)


@given(counts=counts, data=st.data(), seed=st.integers(0, 3))
def test_splits_keep_the_shares_of_the_classes(counts, data, seed):
    num = data.draw(st.integers(1, sum(counts) - 1))
    whole = bundle(counts)
    split = split_off(whole, "validation", num, seed)
    rest, part = members(split.train), members(split.validation)
    assert rest | part == members(whole.train)
    assert (len(rest), len(part)) == (sum(counts) - num, num)
    got = torch.bincount(split.validation.targets, minlength=len(counts))
    # Rounding of the shares; where all classes tie at one half, the total decides, within one.
    assert all(
        abs(n - c * num / sum(counts)) <= 1 for n, c in zip(got.tolist(), counts, strict=True)
    )


@given(counts=counts, share=st.floats(0.05, 0.95), seed=st.integers(0, 3))
def test_a_test_split_leaves_every_class_an_example(counts, share, seed):
    whole = dataclasses.replace(bundle(counts), test=None)
    spare = sum(counts) - sum(c > 0 for c in counts)
    num = min(round(share * sum(counts)), spare)
    split = split_off(whole, "test", share, seed)
    assert (0 if split.test is None else len(split.test)) == num
    left = torch.bincount(split.train.targets, minlength=len(counts)).tolist()
    assert all((n > 0) == (c > 0) for n, c in zip(left, counts, strict=True))


def test_validation_is_disjoint_from_training_and_plain():
    def augment(inputs, numbers):
        return inputs + numbers[:, :1]

    whole = bundle([20, 10], augment=augment)
    split = split_validation(whole, fraction=0.2, seed=5)
    assert len(split.validation) == 6
    assert not members(split.train) & members(split.validation)
    assert members(split.train) | members(split.validation) == members(whole.train)
    assert split.test is whole.test
    assert split.train.augment is augment
    assert split.validation.augment is None
    assert torch.bincount(split.validation.targets).tolist() == [4, 2]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"fraction": 1.5}, ConfigError, r"fraction must be in \(0, 1\)"),
        ({"fraction": 1}, ConfigError, r"fraction must be in \(0, 1\)"),
        ({"fraction": 0}, ConfigError, r"fraction must be in \(0, 1\)"),
        ({"num": 8}, DataError, "cannot split 8 of 8 examples off"),
        ({"fraction": 0.01}, DataError, "cannot split 0 of 8"),
        ({}, ConfigError, "exactly one of fraction and num"),
    ],
)
def test_split_validation_refuses(options, error, message):
    with pytest.raises(error, match=message):
        split_validation(bundle([5, 3]), **options)


def test_an_existing_validation_split_is_kept():
    with pytest.raises(ConfigError, match="already has 2 validation examples"):
        split_validation(split_validation(bundle([5, 3]), num=2), num=2)


def test_regression_data_split_without_classes():
    data = DataBundle(
        "line",
        ArrayDataset(torch.randn(10, 1), torch.randn(10)),
        ArrayDataset(torch.randn(2, 1), torch.randn(2)),
    )
    assert len(split_validation(data, num=3).validation) == 3
    with pytest.raises(DataError, match="needs a classification task"):
        few_shot(data, per_class=2)
    one, two = (few_shot(data, num_data=n, seed=1).train for n in (2, 5))
    assert members(one) < members(two)


def test_select_classes_relabels_every_split():
    pool = split_validation(bundle([6, 6, 6, 6]), num=4)
    part = select_classes(pool, ["d", 1])
    assert part.class_names == ("d", "b")
    for split in ("train", "validation", "test"):
        before, after = pool.split(split), part.split(split)
        old = dict(zip(before.inputs.flatten().tolist(), before.targets.tolist(), strict=True))
        for example, label in zip(after.inputs.flatten().tolist(), after.targets, strict=True):
            assert old[example] == {0: 3, 1: 1}[int(label)]
        assert len(after) == sum(label in (1, 3) for label in old.values())


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["a", "z"], r"no class 'z'; its classes are 0\.\.1"),
        ([0, 9], r"no class 9; its classes are 0\.\.1"),
        ([1, 1], "each once"),
        ([0], "at least two"),
    ],
)
def test_select_classes_refuses(classes, message):
    with pytest.raises(ConfigError, match=message):
        select_classes(bundle([3, 3]), classes)
