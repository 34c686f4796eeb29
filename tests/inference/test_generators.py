import numpy as np
import pytest
import torch

from bayesprior.inference.generators import fold_seed, generator, seeded, split_mix


def test_split_mix_equals_the_published_generator():
    # The first outputs of SplitMix64 with seed 1234567, as in Vigna's reference implementation.
    gamma = 0x9E3779B97F4A7C15
    states = [(1234567 + k * gamma) % 2**64 for k in range(5)]
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert [split_mix(state) for state in states] == expected
    assert split_mix(np.array(states, dtype=np.uint64)).tolist() == expected


def test_folded_seeds_of_runs_and_chains_do_not_overlap():
    seeds = [fold_seed(seed, chain) for seed in range(20) for chain in range(20)]
    assert len(set(seeds)) == 400


def test_any_kind_of_integer_and_words_are_parts():
    assert fold_seed(np.int64(3), -1) == fold_seed(3, -1) == fold_seed(3, 2**64 - 1)
    assert fold_seed("noise", 3) != fold_seed("order", 3)
    assert type(fold_seed(np.int64(3))) is int


def test_a_generator_is_a_function_of_its_parts_and_not_the_global_one():
    one, same, other = (
        torch.randn(100, generator=generator("cpu", "noise", seed)) for seed in (1, 1, 2)
    )
    torch.manual_seed(1)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(one, torch.randn(100))


def test_seeded_puts_the_global_state_back_and_initializes_no_gpu(monkeypatch):
    def refuse(*_):
        raise AssertionError("CUDA was touched")

    for name in ("init", "_lazy_init", "manual_seed_all", "manual_seed"):
        monkeypatch.setattr(torch.cuda, name, refuse)
    before = torch.get_rng_state()
    with seeded(5):
        first = torch.rand(3)
    with seeded(5, [torch.device("cpu"), "cpu"]):
        assert torch.equal(torch.rand(3), first)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.gpu
def test_seeded_covers_the_gpus_that_are_named():
    torch.cuda.manual_seed(1)
    before = torch.cuda.get_rng_state()
    with seeded(5, ["cuda:0"]):
        first = torch.rand(3, device="cuda")
    with seeded(5, ["cuda:0"]):
        assert torch.equal(torch.rand(3, device="cuda"), first)
    assert torch.equal(torch.cuda.get_rng_state(), before)
