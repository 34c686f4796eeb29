import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bayesprior.data.batch_sampler import EpochBatchSampler, uniforms
from bayesprior.errors import ConfigError
from bayesprior.inference.generators import fold_seed

sizes = st.integers(1, 40)


@given(num_data=sizes, batch_size=sizes, shuffle=st.booleans(), epoch=st.integers(0, 5))
def test_every_example_once_an_epoch(num_data, batch_size, shuffle, epoch):
    sampler = EpochBatchSampler(num_data, batch_size, shuffle=shuffle, seed=7)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert sorted(itertools.chain(*batches)) == list(range(num_data))
    assert len(batches) == len(sampler)
    assert {len(b) for b in batches[:-1]} <= {batch_size}


@given(num_data=sizes, batch_size=sizes, world_size=st.integers(1, 4), epoch=st.integers(0, 3))
def test_ranks_share_the_batches_of_one_big_rank(num_data, batch_size, world_size, epoch):
    ranks = [
        EpochBatchSampler(
            num_data, batch_size, shuffle=True, seed=1, rank=rank, world_size=world_size
        )
        for rank in range(world_size)
    ]
    whole = EpochBatchSampler(num_data, world_size * batch_size, shuffle=True, seed=1)
    for sampler in [*ranks, whole]:
        sampler.set_epoch(epoch)
    for batch, *slices in zip(whole, *ranks, strict=True):
        assert all(slices), "a rank without examples would hang the others"
        if len(batch) >= world_size:
            assert list(itertools.chain(*slices)) == batch
            assert max(map(len, slices)) - min(map(len, slices)) <= 1
        else:
            assert set(itertools.chain(*slices)) == set(batch)


def test_order_is_a_function_of_seed_and_epoch():
    def order(seed, epoch):
        sampler = EpochBatchSampler(100, 100, shuffle=True, seed=seed)
        sampler.set_epoch(epoch)
        (batch,) = sampler
        return batch

    orders = {(s, e): tuple(order(s, e)) for s in range(3) for e in range(3)}
    assert len(set(orders.values())) == 9
    assert tuple(order(2, 1)) == orders[2, 1]


def test_iterating_goes_on_to_the_next_epoch():
    sampler = EpochBatchSampler(20, 20, shuffle=True)
    plain = [next(iter(sampler)) for _ in range(3)]
    for epoch, batch in enumerate(plain):
        sampler.set_epoch(epoch)
        again = next(iter(sampler))
        assert (again, again.key) == (batch, batch.key)
    assert len({batch.key for batch in plain}) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_data": 0, "batch_size": 1}, "at least 1, got 0"),
        ({"num_data": 1, "batch_size": 0}, "at least 1"),
        ({"num_data": 1, "batch_size": 1, "rank": 2, "world_size": 2}, r"rank must be in 0\.\.1"),
    ],
)
def test_bad_numbers(arguments, message):
    with pytest.raises(ConfigError, match=message):
        EpochBatchSampler(**arguments)


def test_uniforms_are_uniform_and_independent(seed):
    rows = uniforms(seed, range(100_000), 3).double().numpy()
    assert rows.min() >= 0
    assert rows.max() < 1
    for column in rows.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-7
    # Correlation of neighboring columns, and of neighboring examples: N(0, 1 / N) if independent.
    pairs = [(rows[:, 0], rows[:, 1]), (rows[:, 1], rows[:, 2]), (rows[1:, 0], rows[:-1, 0])]
    for a, b in pairs:
        assert abs(np.corrcoef(a, b)[0, 1]) * len(a) ** 0.5 < 5.5


def test_uniforms_belong_to_the_example_not_to_the_batch():
    whole = uniforms(fold_seed(3, 1), [4, 9, 2], 8)
    assert torch.equal(uniforms(fold_seed(3, 1), [2, 4], 8), whole[[2, 0]])
    assert not torch.equal(uniforms(fold_seed(3, 2), [4, 9, 2], 8), whole)


def test_fold_seed_does_not_collide():
    seeds = {fold_seed(*parts) for parts in itertools.product(range(-10, 10), repeat=3)}
    assert len(seeds) == 20**3
    assert all(0 <= s < 2**64 for s in seeds)


def test_numbers_of_any_integer_type_and_size():
    plain = list(EpochBatchSampler(5, 2, shuffle=True, seed=3))
    assert (
        list(EpochBatchSampler(np.int64(5), np.int32(2), shuffle=True, seed=np.int64(3))) == plain
    )
    assert list(EpochBatchSampler(5, 10**21, world_size=2)) == [[0, 1]]
    assert fold_seed(np.int64(-1), 10**21) == fold_seed(-1, 10**21)
