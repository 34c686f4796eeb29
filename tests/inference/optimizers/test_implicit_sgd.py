import copy
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning_fabric import Fabric
from torch import nn

from bayesprior.errors import ConfigError
from bayesprior.inference.optimizers.implicit_sgd import ImplicitPriorSGD

NUM_DATA, DIM, RANK = 30, 8, 3


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def prior_parts(rms_std, seed=0):
    """d, V and the dense precision diag(1/d) - V V^T of a prior of a given width."""
    diag = randn(DIM, seed=seed + 1).abs() + 0.2
    factor = randn(DIM, RANK, seed=seed + 2)
    covariance = torch.diag(diag) + factor @ factor.T
    rescale = rms_std**2 * DIM / torch.trace(covariance)
    diag, covariance = diag * rescale, covariance * rescale
    precision = torch.linalg.inv(covariance)
    values, vectors = torch.linalg.eigh(torch.diag(1 / diag) - precision)
    return diag, vectors * values.clamp_min(0).sqrt(), precision


class Regression:
    """Unit-variance linear regression under a low-rank prior; everything known."""

    def __init__(self, rms_std):
        self.diag, self.v, self.prior_precision = prior_parts(rms_std)
        self.loc = randn(DIM, seed=4)
        design = randn(NUM_DATA, DIM, seed=5)
        targets = design @ randn(DIM, seed=6) + randn(NUM_DATA, seed=7)
        self.gram, self.moment = design.T @ design, design.T @ targets
        self.mode = torch.linalg.solve(
            self.gram + self.prior_precision, self.moment + self.prior_precision @ self.loc
        )

    def data_grad(self, w):
        return (self.gram @ w - self.moment) / NUM_DATA

    def grad(self, w):
        return self.data_grad(w) + self.prior_precision @ (w - self.loc) / NUM_DATA


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
class TestAgainstKnownAnswers:
    def test_without_a_precision_it_is_torch_sgd(self, momentum, nesterov):
        def train(make):
            torch.manual_seed(0)
            net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
            optimizer = make(net.parameters(), lr=0.1, momentum=momentum, nesterov=nesterov)
            for _ in range(10):
                optimizer.zero_grad()
                net(torch.randn(8, 5)).square().mean().backward()
                optimizer.step()
            return torch.cat([p.detach().flatten() for p in net.parameters()])

        assert torch.equal(train(ImplicitPriorSGD), train(torch.optim.SGD))

    @pytest.mark.parametrize("rms_std", [1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0])
    def test_it_reaches_the_mode_under_a_prior_of_any_width(self, rms_std, momentum, nesterov):
        problem = Regression(rms_std)
        lr = 1 / float(torch.linalg.eigvalsh(problem.gram / NUM_DATA).max())
        w = problem.loc.clone().requires_grad_()
        optimizer = ImplicitPriorSGD([w], lr=lr, momentum=momentum, nesterov=nesterov)
        optimizer.set_prior_precision({w: 1 / (NUM_DATA * problem.diag)})
        for _ in range(600):
            w.grad = problem.grad(w.detach())
            optimizer.step()
        torch.testing.assert_close(w.detach(), problem.mode, rtol=1e-7, atol=1e-7 * rms_std)


def test_it_is_the_implicit_step_of_the_prior():
    """r_new = (r - lr (mu m + g - V V^T r / N)) / (1 + lr / (N d)), m_new = (r - r_new) / lr."""
    problem, lr, mu = Regression(0.05), 0.3, 0.8
    w = (problem.loc + 0.1).requires_grad_()
    optimizer = ImplicitPriorSGD([w], lr=lr, momentum=mu)
    optimizer.set_prior_precision({w: 1 / (NUM_DATA * problem.diag)})
    r, buffer = w.detach() - problem.loc, torch.zeros(DIM, dtype=torch.float64)
    for _ in range(40):
        w.grad = problem.grad(w.detach())
        optimizer.step()
        explicit = mu * buffer + problem.data_grad(problem.loc + r)
        explicit = explicit - problem.v @ (problem.v.T @ r) / NUM_DATA
        new = (r - lr * explicit) / (1 + lr / (NUM_DATA * problem.diag))
        r, buffer = new, (r - new) / lr
        torch.testing.assert_close(w.detach(), problem.loc + r)
        torch.testing.assert_close(optimizer.state[w]["momentum_buffer"], buffer)


PERCENT = st.integers(1, 99).map(lambda n: n / 100)


@given(st.floats(-4, 1), st.just(0.0) | PERCENT, PERCENT, st.booleans(), st.integers(0, 50))
def test_no_prior_lowers_the_largest_stable_step(log10_std, momentum, share, nesterov, seed):
    """The spectral radius of the exact linear map, for steps below the limit without a prior."""
    nesterov = nesterov and momentum > 0
    diag, _, precision = prior_parts(10**log10_std, seed)
    jacobian = randn(DIM, DIM, seed=seed + 3)
    data = jacobian @ jacobian.T / DIM
    limit = 2 * (1 + momentum) / (1 + 2 * momentum) if nesterov else 2 * (1 + momentum)
    lr = share * limit / float(torch.linalg.eigvalsh(data).max())
    hessian = data + precision / NUM_DATA
    basis = torch.eye(2 * DIM, dtype=torch.float64)
    w = basis[:, :DIM].clone().requires_grad_()
    optimizer = ImplicitPriorSGD([w], lr=lr, momentum=momentum, nesterov=nesterov)
    optimizer.set_prior_precision({w: (1 / (NUM_DATA * diag)).expand(2 * DIM, DIM)})
    optimizer.state[w]["momentum_buffer"] = basis[:, DIM:].clone()
    w.grad = w.detach() @ hessian
    optimizer.step()
    state = torch.cat([w.detach(), optimizer.state[w]["momentum_buffer"]], 1)
    radius = torch.linalg.eigvals(state).abs().max()
    assert radius < 1 + 1e-12


def test_a_step_of_size_zero_stands_still():
    w = torch.ones(3, requires_grad=True)
    optimizer = ImplicitPriorSGD([w], lr=0.1)
    optimizer.set_prior_precision({w: torch.full((3,), 5.0)})
    optimizer.param_groups[0]["lr"] = 0.0
    w.grad = torch.ones(3)
    optimizer.step()
    assert torch.equal(w.detach(), torch.ones(3))
    assert torch.equal(optimizer.state[w]["momentum_buffer"], torch.ones(3))


def test_parameters_without_a_precision_are_stepped_explicitly():
    covered, bare, idle = (torch.ones(2, requires_grad=True) for _ in range(3))
    optimizer = ImplicitPriorSGD([covered, bare, idle], lr=0.5, momentum=0.0)
    optimizer.set_prior_precision({covered: torch.tensor([2.0, 0.0])})
    covered.grad = bare.grad = torch.ones(2)
    optimizer.step()
    assert covered.tolist() == [0.75, 0.5]
    assert bare.tolist() == [0.5, 0.5]
    assert idle.tolist() == [1.0, 1.0]


def test_the_closure_is_evaluated_with_gradients():
    w = torch.ones(2, requires_grad=True)
    optimizer = ImplicitPriorSGD([w], lr=0.5, momentum=0.0)

    def closure():
        optimizer.zero_grad()
        loss = w.square().sum() / 2
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 1.0
    assert w.tolist() == [0.5, 0.5]


def test_the_precision_is_not_saved_and_the_momentum_is():
    w = torch.ones(3, requires_grad=True)
    optimizer = ImplicitPriorSGD([w], lr=0.1)
    optimizer.set_prior_precision({w: torch.full((3,), 5.0)})
    w.grad = torch.ones(3)
    optimizer.step()
    state = optimizer.state_dict()
    assert set(state["state"][0]) == {"momentum_buffer"}
    assert set(state["param_groups"][0]) == {"lr", "momentum", "nesterov", "params"}
    # Loading keeps the prior that the new run has set; a bare copy has none.
    before = w.detach().clone()
    optimizer.load_state_dict(copy.deepcopy(state))
    optimizer.step()
    assert torch.allclose(before - w, torch.full((3,), 0.1 * (0.9 / 1.5 + 1) / 1.5))
    copy.deepcopy(optimizer).step()


def test_fabrics_wrapper_passes_the_precision_on():
    module = nn.Linear(1, 1, bias=False)
    nn.init.ones_(module.weight)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fabric = Fabric(accelerator="cpu", devices=1)
        optimizer = ImplicitPriorSGD(module.parameters(), lr=0.5, momentum=0.0)
        module, wrapped = fabric.setup(module, optimizer)
    wrapped.set_prior_precision({module.weight: torch.full((1, 1), 2.0)})
    module(torch.ones(1, 1)).sum().backward()
    wrapped.step()
    assert module.weight.item() == 0.75


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.ones(2), r"of shape \(3,\) must have that shape.*got shape \(2,\)"),
        (torch.tensor([1.0, -1.0, 0.0]), "no negative or infinite entries"),
        (torch.tensor([1.0, float("inf"), 0.0]), "no negative or infinite entries"),
    ],
)
def test_an_impossible_precision_is_refused(values, message):
    w = torch.ones(3, requires_grad=True)
    with pytest.raises(ConfigError, match=message):
        ImplicitPriorSGD([w], lr=0.1).set_prior_precision({w: values})


def test_a_precision_of_a_foreign_parameter_is_refused():
    w, other = (torch.ones(3, requires_grad=True) for _ in range(2))
    with pytest.raises(ConfigError, match="does not hold"):
        ImplicitPriorSGD([w], lr=0.1).set_prior_precision({other: torch.ones(3)})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr": 0.0}, "lr must be positive and finite, got 0.0"),
        ({"lr": 0.1, "momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ({"lr": 0.1, "momentum": 0.0, "nesterov": True}, "needs momentum > 0"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        ImplicitPriorSGD([torch.ones(3, requires_grad=True)], **arguments)


def test_an_option_that_would_be_ignored_is_refused():
    group = {"params": [torch.ones(3, requires_grad=True)], "weight_decay": 0.05}
    with pytest.raises(ConfigError, match="weight_decay = 0.05.*the prior takes its place"):
        ImplicitPriorSGD([group], lr=0.1)
