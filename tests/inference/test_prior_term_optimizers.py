"""The prior enters once, and at its own size, whatever the optimizer and the module are."""

import copy
import warnings

import pytest
import torch
from inference_linear import NUM_DATA, Problem, half_square
from torch import nn

from bayesprior.errors import ConfigError, LayoutMismatchError
from bayesprior.inference.engine import train
from bayesprior.inference.optimizers import SGLD, ImplicitPriorSGD
from bayesprior.inference.prior_term import PriorTerm, attach_prior
from bayesprior.inference.protocols import PriorShare, TakesPrior
from bayesprior.inference.schedules import constant
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout


def step_of(problem, optimizer, scaler=None):
    """One step on all data; returns by how much the weights moved."""
    before = problem.weights()
    loss = half_square(problem.module, next(iter(problem.loader())))[0]
    if scaler is None:
        loss.backward()
        optimizer.step()
    else:
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    optimizer.zero_grad()
    return problem.weights() - before


def total_gradient(problem):
    return problem.posterior_precision @ (problem.weights() - problem.posterior_mean) / NUM_DATA


def sgd(problem, **options):
    return torch.optim.SGD(problem.module.parameters(), lr=1e-3, **options)


@pytest.mark.parametrize("fused", [False, True])
def test_a_loss_scale_does_not_reach_the_prior(fused):
    problem = Problem()
    optimizer = sgd(problem, fused=fused)
    attach_prior(optimizer, problem.module, problem.prior, num_data=NUM_DATA)
    expected = -1e-3 * total_gradient(problem)
    scaler = torch.amp.GradScaler("cpu", init_scale=65536.0)
    torch.testing.assert_close(step_of(problem, optimizer, scaler), expected)


def test_attaching_again_replaces_the_prior():
    problem = Problem()
    optimizer = sgd(problem)
    attach_prior(optimizer, problem.module, problem.prior.rescale(rms_std=3.0), num_data=NUM_DATA)
    for _ in range(2):
        handle = attach_prior(optimizer, problem.module, problem.prior, num_data=NUM_DATA)
    expected = -1e-3 * total_gradient(problem)
    torch.testing.assert_close(step_of(problem, optimizer), expected)
    handle.remove()
    start = problem.weights()
    data = half_square(problem.module, next(iter(problem.loader())))[0]
    data.backward()
    gradient = torch.cat([p.grad.reshape(-1) for p in problem.module.parameters()])
    optimizer.step()
    torch.testing.assert_close(problem.weights() - start, -1e-3 * gradient)


def test_two_optimizers_over_one_module_add_it_once():
    problem = Problem()
    weight, bias = problem.module.weight, problem.module.bias
    optimizers = [torch.optim.SGD([p], lr=1e-3) for p in (weight, bias)]
    for optimizer in optimizers:
        attach_prior(optimizer, problem.module, problem.prior, num_data=NUM_DATA)
    expected = -1e-3 * total_gradient(problem)[:5]
    half_square(problem.module, next(iter(problem.loader())))[0].backward()
    outside = bias.grad.clone()
    before = problem.weights()
    optimizers[0].step()
    assert torch.equal(bias.grad, outside)  # nothing piles up
    moved = problem.weights()
    torch.testing.assert_close((moved - before)[:5], expected)
    prior = -problem.prior.score(moved)[5:] / NUM_DATA
    optimizers[1].step()
    torch.testing.assert_close((problem.weights() - moved)[5:], -1e-3 * (outside + prior))


def test_two_optimizers_reach_the_closed_form_map():
    problem = Problem()
    optimizers = [
        ImplicitPriorSGD([problem.module.weight], lr=0.3),
        torch.optim.Adam([problem.module.bias], lr=1e-3),
    ]
    for optimizer in optimizers:
        attach_prior(optimizer, problem.module, problem.prior, num_data=NUM_DATA)
    for _ in range(1500):
        half_square(problem.module, next(iter(problem.loader())))[0].backward()
        for optimizer in optimizers:
            optimizer.step()
        problem.module.zero_grad()
    torch.testing.assert_close(problem.weights(), problem.posterior_mean, rtol=1e-5, atol=1e-5)


def test_maximizing_a_log_likelihood_is_attracted_by_the_prior():
    down, up = Problem(), Problem()
    optimizer = sgd(down)
    attach_prior(optimizer, down.module, down.prior, num_data=NUM_DATA)
    step_of(down, optimizer)
    optimizer = sgd(up, maximize=True)
    attach_prior(optimizer, up.module, up.prior, num_data=NUM_DATA)
    (-half_square(up.module, next(iter(up.loader())))[0]).backward()
    optimizer.step()
    torch.testing.assert_close(up.weights(), down.weights())


def test_a_padding_row_that_the_prior_moves_is_warned_of():
    module = torch.nn.Embedding(3, 2, padding_idx=0)
    layout = ParameterLayout.from_module(module)
    law = GaussianWeights.point(layout, torch.ones(layout.dim), 0.1)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    with pytest.warns(UserWarning, match="has a padding row"):
        attach_prior(optimizer, module, law, num_data=10)
    module(torch.tensor([0, 1])).sum().backward()
    optimizer.step()
    assert (module.weight[0] > 0).all()


def test_a_padding_row_that_is_frozen_stays():
    module = torch.nn.Sequential(torch.nn.Embedding(3, 2, padding_idx=0), torch.nn.Linear(2, 1))
    module[0].requires_grad_(False)
    layout = ParameterLayout.from_module(module)
    law = GaussianWeights.point(layout, torch.ones(layout.dim), 0.1)
    attach_prior(torch.optim.SGD(module[1].parameters(), lr=0.1), module, law, num_data=10)


def test_an_optimizer_over_copies_is_refused():
    problem = Problem()
    optimizer = torch.optim.SGD(copy.deepcopy(problem.module).parameters(), lr=1e-3)
    with pytest.raises(ConfigError, match="holds none of the parameters that the prior covers"):
        attach_prior(optimizer, problem.module, problem.prior, num_data=NUM_DATA)


def test_weight_decay_beside_a_prior_is_warned_of():
    problem = Problem()
    optimizer = torch.optim.AdamW(problem.module.parameters(), lr=1e-3)
    with pytest.warns(UserWarning, match=r"weight_decay = 0.01 is a second prior"):
        attach_prior(optimizer, problem.module, problem.prior, num_data=NUM_DATA)


def test_one_num_data():
    problem = Problem()
    optimizer = SGLD(problem.module.parameters(), lr=1e-3, num_data=4)
    with pytest.raises(ConfigError, match=f"num_data = 4, the run {NUM_DATA}"):
        attach_prior(optimizer, problem.module, problem.prior, num_data=NUM_DATA)
    for prior in (problem.prior, None):
        with pytest.raises(ConfigError, match="num_data = 4"):
            train(
                problem.module,
                half_square,
                problem.loader(),
                optimizer,
                constant(),
                3,
                prior=prior,
                num_data=NUM_DATA,
                progress=False,
            )


class Prepared(torch.optim.Optimizer):
    """What accelerate's ``prepare`` makes: an Optimizer by name, the real one inside."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def step(self):
        self.optimizer.step()

    def zero_grad(self):
        self.optimizer.zero_grad()


def test_prepared_optimizers_are_looked_through():
    from lightning_fabric import Fabric

    for kind in ("accelerate", "fabric"):
        problem = Problem()
        module, optimizer = problem.module, sgd(problem)
        if kind == "fabric":
            module, wrapped = Fabric(accelerator="cpu", devices=1).setup(module, optimizer)
        else:
            wrapped = Prepared(optimizer)
        attach_prior(wrapped, module, problem.prior, num_data=NUM_DATA)
        expected = -1e-3 * total_gradient(problem)
        torch.testing.assert_close(step_of(problem, wrapped), expected)
        narrow = problem.prior.rescale(rms_std=1e-4)
        with pytest.raises(ConfigError, match="unstable under this prior"):
            attach_prior(wrapped, module, narrow, num_data=NUM_DATA)


def test_compiled_modules_are_looked_through():
    problem = Problem()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = torch.compile(problem.module, backend="eager")
        part = nn.Sequential(torch.compile(problem.module, backend="eager"))
    named = problem.prior.rename(lambda name: f"0.{name}")
    for module, prior in ((whole, problem.prior), (part, named), (nn.DataParallel(part), named)):
        term = PriorTerm(module, prior, NUM_DATA)
        assert all(
            a is b for a, b in zip(term.parameters, problem.module.parameters(), strict=True)
        )


def test_a_frozen_parameter_under_the_prior_is_refused_and_stays():
    problem = Problem()
    problem.module.weight.requires_grad_(False)
    optimizer = torch.optim.SGD([problem.module.bias], lr=1e-3)
    with pytest.raises(LayoutMismatchError, match=r"'weight' first.*prior.marginal\(names\)"):
        attach_prior(optimizer, problem.module, problem.prior, num_data=NUM_DATA)
    attach_prior(optimizer, problem.module, problem.prior.marginal(["bias"]), num_data=NUM_DATA)
    weight = problem.module.weight.clone()
    step_of(problem, optimizer)
    assert torch.equal(problem.module.weight, weight)


def test_what_a_prior_returns_is_not_written_to():
    class Caching:
        """Keeps its precision, as a prior from outside may."""

        def __init__(self, law):
            self.law, self.layout, self.loc = law, law.layout, law.loc
            self.precision = law.max_precision()

        def max_precision(self):
            return self.precision

        def __getattr__(self, name):
            return getattr(self.law, name)

    problem = Problem()
    prior = Caching(problem.prior)
    for _ in range(3):
        attach_prior(sgd(problem), problem.module, prior, num_data=NUM_DATA)
    assert torch.equal(prior.precision, problem.prior.max_precision())


class Recorder(torch.optim.SGD):
    """An optimizer from outside that wants to know the prior."""

    taken = ()

    def take_prior(self, prior):
        self.taken = (*self.taken, prior)


def test_an_optimizer_from_outside_takes_the_prior():
    problem = Problem(rms_std=1e-4)  # refused for plain SGD
    optimizer = Recorder(problem.module.parameters(), lr=1e-3)
    assert isinstance(optimizer, TakesPrior)
    handle = attach_prior(optimizer, problem.module, problem.prior, num_data=NUM_DATA)
    (share,) = optimizer.taken
    assert isinstance(share, PriorShare)
    flat = torch.cat([share.curvature()[p].flatten() for p in problem.module.parameters()])
    torch.testing.assert_close(flat, 1 / (NUM_DATA * problem.prior.cov_diag))
    handle.remove()
    assert optimizer.taken[-1] is None


def test_a_removed_prior_leaves_implicit_steps_explicit():
    attached, plain = Problem(), Problem()
    optimizer = ImplicitPriorSGD(attached.module.parameters(), lr=1e-3)
    attach_prior(optimizer, attached.module, attached.prior, num_data=NUM_DATA).remove()
    step_of(attached, optimizer)
    step_of(plain, ImplicitPriorSGD(plain.module.parameters(), lr=1e-3))
    assert torch.equal(attached.weights(), plain.weights())


def test_train_refuses_a_prior_beside_an_attached_one():
    problem = Problem()
    optimizer = sgd(problem)
    handle = attach_prior(optimizer, problem.module, problem.prior, num_data=NUM_DATA)
    arguments = (problem.module, half_square, problem.loader(), optimizer, constant(), 2)
    options = {"prior": problem.prior, "num_data": NUM_DATA, "progress": False}
    with pytest.raises(ConfigError, match="has a prior of these weights already"):
        train(*arguments, **options)
    handle.remove()
    train(*arguments, **options)


def test_groups_have_their_own_configurational_temperature():
    problem = Problem()
    groups = [
        {"params": [problem.module.weight], "name": "backbone"},
        {"params": [problem.module.bias], "maximize": True},
    ]
    optimizer = torch.optim.SGD(groups, lr=1e-3)
    term = PriorTerm(problem.module, problem.prior, NUM_DATA)
    term.prepare(optimizer)
    weights = problem.weights()
    stats = term.add_to_grad(diagnose=True)
    parts = -(weights - problem.prior.loc) * problem.prior.score(weights)
    name = "configurational_temperature"
    assert stats[f"{name}.backbone"] == pytest.approx(parts[:5].mean().item())
    assert stats[f"{name}.1"] == pytest.approx(parts[5:].mean().item())
    assert stats[name] == pytest.approx(parts.mean().item())


def test_sharded_parameters_are_refused(tmp_path):
    from torch import distributed
    from torch.distributed.fsdp import fully_shard

    problem = Problem()
    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fully_shard(problem.module, mesh=distributed.init_device_mesh("cpu", (1,)))
        optimizer = sgd(problem)
        with pytest.raises(ConfigError, match=r"sharded \(FSDP\)"):
            attach_prior(optimizer, problem.module, problem.prior, num_data=NUM_DATA)
    finally:
        distributed.destroy_process_group()
