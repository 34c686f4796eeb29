"""`GaussianWeights` as an object: its class, draws by seed, copies, types and devices."""

import copy
import pickle

import pyro.distributions as dist
import pytest
import torch
from dense import LAYOUT, SHAPES, make_case

D = LAYOUT.dim


@pytest.fixture(params=SHAPES)
def case(request):
    return make_case(request.param)


@pytest.fixture
def value():
    return 2 * torch.randn(3, 4, D, dtype=torch.float64)


def test_is_a_pyro_distribution(case):
    law = case.law
    assert isinstance(law, dist.LowRankMultivariateNormal)
    assert (law.batch_shape, law.event_shape, law.dim) == ((), (D,), D)
    assert law.has_rsample
    assert repr(law).startswith(f"GaussianWeights(dim={D}, shared_dim={law.shared_dim}")


def test_draws_repeat_by_seed_and_leave_the_global_generator_alone():
    law = make_case("head", buffers={"bn": torch.ones(2)}).law
    state = torch.get_rng_state()
    first, again, other = (list(law.draws(3, seed=seed)) for seed in (5, 5, 6))
    assert torch.equal(state, torch.get_rng_state())
    assert [(d.chain, d.index) for d in first] == [(0, 0), (0, 1), (0, 2)]
    assert all(torch.equal(a.weights, b.weights) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0].weights, first[1].weights)
    assert not torch.equal(first[0].weights, other[0].weights)
    assert first[0].buffers["bn"] is law.buffers["bn"]
    assert (first[0].layout, first[0].confidence) == (law.layout, 1.0)
    assert len(list(law.draws())) == 30


def test_draws_carry_the_learned_confidence():
    law = make_case("head", statistics={"confidence": torch.tensor(0.5)}).law
    assert next(law.rescale(rms_std=0.1).draws()).confidence == 0.5


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, "pickle"])
def test_copies_are_equal(case, value, copied):
    case.law.log_prob(value)  # fills the caches
    if copied == "pickle":
        twin = pickle.loads(pickle.dumps(case.law))
    else:
        twin = copied(case.law)
    assert torch.equal(twin.log_prob(value), case.law.log_prob(value))
    assert twin.layout == case.law.layout


def test_to_another_type(case, value):
    narrow = make_case("head", buffers={"bn": torch.ones(2)}).law.to(dtype=torch.float32)
    assert narrow.loc.dtype == narrow.cov_diag.dtype == narrow.cov_factor.dtype == torch.float32
    assert narrow.buffers["bn"].dtype == torch.float32
    moved = case.law.to("cpu")
    assert torch.equal(moved.log_prob(value), case.law.log_prob(value))


@pytest.mark.gpu
def test_on_a_gpu(case, value):
    law = case.law.to("cuda").rescale(cov_scale=torch.tensor(0.5, device="cuda"))
    here = case.law.rescale(cov_scale=0.5)
    torch.testing.assert_close(law.log_prob(value.cuda()).cpu(), here.log_prob(value))
    torch.testing.assert_close(law.score(value.cuda()).cpu(), here.score(value))
    assert law.sample((2,)).is_cuda
