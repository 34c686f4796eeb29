"""What holds for every row of the table of samplers, apart from the statistical battery."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from inference.optimizers.cases import SAMPLERS, hmc_case
from lightning_fabric import Fabric

from bayesprior.errors import CheckpointError, ConfigError
from bayesprior.inference.optimizers import SGHMC, SGLD
from bayesprior.testing import check_sampler

ALL = pytest.mark.parametrize("case", SAMPLERS, ids=lambda c: c.name)
ARGS = {"lr": 0.1, "num_data": 10, "temperature": 1.0, "seed": 3}


def steps(sampler, params, num):
    for _ in range(num):
        for p in params:
            p.grad = p.detach() - 1
        sampler.step()


@ALL
@pytest.mark.statistical
def test_contract(case, seed):
    check_sampler(
        case.make,
        variance_ratio=case.variance_ratio,
        make_at_zero=case.make_at_zero,
        seed=seed,
    )


@ALL
def test_the_recursion_is_what_the_code_does(case):
    lr, curvature, num_data = 0.3, 2.0, 5
    step, noise = case.recursion(lr * curvature)
    start = torch.eye(len(step), dtype=torch.float64)
    w = start[0].clone().requires_grad_()
    sampler = case.make([w], lr=lr, num_data=num_data, temperature=0.0, seed=0)
    if len(step) == 2:
        sampler.state[w]["velocity"] = start[1] / lr**0.5
    w.grad = curvature * w.detach()
    sampler.step()
    np.testing.assert_allclose(w.detach().numpy(), step[0], rtol=1e-12)

    # The same noise moves an identical chain at temperature T by G xi sqrt(lr T / N).
    moved = [torch.zeros(1000, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    for p, temperature in zip(moved, (1.0, 4.0), strict=True):
        sampler = case.make([p], lr=lr, num_data=num_data, temperature=temperature, seed=7)
        if len(step) == 2:
            sampler.state[p]["velocity"] = torch.zeros_like(p)
        p.grad = torch.zeros_like(p)
        sampler.step()
    torch.testing.assert_close(moved[1], 2 * moved[0])
    fresh = SGLD([torch.zeros(1000, dtype=torch.float64, requires_grad=True)], **ARGS | {"seed": 7})
    (xi,) = fresh.draw_noise(fresh.param_groups[0], fresh.param_groups[0]["params"])
    expected = xi * float(noise[0, 0]) * (lr / num_data) ** 0.5
    torch.testing.assert_close(moved[0].detach(), expected)


@ALL
def test_stability_limit_is_where_the_spectral_radius_crosses_one(case):
    sampler = case.make([torch.zeros(1, requires_grad=True)], **ARGS)
    for curvature in (0.5, 40.0):
        limit = sampler.stability_limit(curvature * case.width**2)
        assert case.spectral_radius(0.999 * limit * curvature) < 1
        assert case.spectral_radius(1.001 * limit * curvature) > 1
    assert sampler.stability_limit(0.0) == float("inf")


@ALL
def test_copies_continue_alike(case):
    params = [torch.zeros(30, requires_grad=True)]
    sampler = case.make(params, **ARGS)
    steps(sampler, params, 3)
    copies = [
        copy.deepcopy((params, sampler)),
        pickle.loads(pickle.dumps((params, sampler))),
    ]
    steps(sampler, params, 4)
    for other_params, other in copies:
        steps(case.prepared(other), other_params, 4)
        assert torch.equal(other_params[0], params[0])


@ALL
def test_a_group_does_not_change_the_noise_of_another(case):
    alone, first, second = (torch.zeros(30, requires_grad=True) for _ in range(3))
    steps(case.make([alone], **ARGS), [alone], 3)
    sampler = case.make([{"params": [first]}, {"params": [second]}], **ARGS)
    steps(sampler, [first, second], 3)
    assert torch.equal(first, alone)
    assert not torch.equal(first, second)


@pytest.mark.statistical
def test_noise_is_not_that_of_the_global_generator_seeded_alike(seed):
    w = torch.zeros(10_000, requires_grad=True)
    w.grad = torch.zeros_like(w)
    SGLD([w], **ARGS | {"seed": seed}).step()
    torch.manual_seed(seed)
    correlation = torch.corrcoef(torch.stack([w.detach(), torch.randn(10_000)]))[0, 1]
    # Asymptotically N(0, 1 / n) if independent; 4.9 leaves a false-alarm rate of 1e-6.
    assert correlation.abs() * 100 < 4.9


@ALL
def test_large_parameters_resume_and_copy_alike(case):
    """Above the size from which noise is computed ahead."""
    whole, part = (torch.zeros(300_000, requires_grad=True) for _ in range(2))
    steps(case.make([whole], **ARGS), [whole], 5)
    sampler = case.make([part], **ARGS)
    steps(sampler, [part], 2)
    state = copy.deepcopy(sampler.state_dict())
    sampler = case.make([part], **ARGS)
    sampler.load_state_dict(state)
    steps(sampler, [part], 3)
    assert torch.equal(part, whole)


def test_dtypes_in_one_group():
    params = [torch.zeros(5, dtype=d, requires_grad=True) for d in (torch.float32, torch.float64)]
    sampler = SGLD(params, **ARGS)
    steps(sampler, params, 2)
    assert len(sampler.param_groups[0]["noise_state"]) == 2
    assert all(s.dtype == torch.uint8 for s in sampler.param_groups[0]["noise_state"])


def test_a_state_of_another_kind_of_device_is_refused():
    w = torch.zeros(3, requires_grad=True)
    sampler = SGLD([w], **ARGS)
    state = sampler.state_dict()
    state["param_groups"][0]["noise_state"] = [torch.zeros(16, dtype=torch.uint8)]
    sampler.load_state_dict(state)
    with pytest.raises(CheckpointError, match="noise state does not fit a generator on cpu"):
        steps(sampler, [w], 1)


def test_a_bad_group_is_refused_and_not_added():
    sampler = SGLD([torch.zeros(3, requires_grad=True)], **ARGS)
    with pytest.raises(ConfigError, match="temperature must be at least 0"):
        sampler.add_param_group({"params": [torch.zeros(2, requires_grad=True)], "temperature": -1})
    assert len(sampler.param_groups) == 1


@pytest.mark.parametrize("case", [SAMPLERS[0], hmc_case(0.5)], ids=lambda c: c.name)
def test_under_fabric(case):
    """Its wrapper copies neither attributes nor methods; all must reach the sampler."""
    torch.manual_seed(0)
    module = torch.nn.Linear(4, 2)
    plain_module = copy.deepcopy(module)
    plain = case.make(plain_module.parameters(), **ARGS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fabric = Fabric(accelerator="cpu", devices=1)
        wrapped_module, wrapped = fabric.setup(module, case.make(module.parameters(), **ARGS))
    for _ in range(3):
        for m, optimizer in ((wrapped_module, wrapped), (plain_module, plain)):
            optimizer.zero_grad()
            m(torch.ones(1, 4)).square().sum().backward()
            optimizer.step()
    assert torch.equal(module.weight, plain_module.weight)
    assert wrapped.kinetic_temperature() == plain.kinetic_temperature()
    assert isinstance(wrapped, SGLD | SGHMC)


@ALL
@pytest.mark.parametrize("key", ["weight_decay", "temprature"])
def test_an_option_that_would_be_ignored_is_refused(case, key):
    params = [torch.zeros(3, requires_grad=True)]
    with pytest.raises(ConfigError, match=f"sets {key} = 0.05, which SG.* would ignore"):
        case.make([{"params": params, key: 0.05}], **ARGS)
    case.make([{"params": params, "weight_decay": 0.0, "name": "biases"}], **ARGS)


@ALL
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_16_bits_are_refused(case, dtype):
    params = [torch.zeros(3, dtype=dtype, requires_grad=True)]
    with pytest.raises(ConfigError, match=f"weights of {dtype} cannot be sampled"):
        case.make(params, **ARGS)
    cold = case.make(params, **ARGS | {"temperature": 0.0})
    cold.param_groups[0]["temperature"] = 1.0
    with pytest.raises(ConfigError, match="cannot be sampled"):
        steps(cold, params, 1)
