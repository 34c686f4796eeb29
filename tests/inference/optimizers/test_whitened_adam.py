"""Adam in whitened units, against torch's Adam on the coordinates themselves."""

import copy

import pytest
import torch
from torch import nn

from bayesprior.errors import ConfigError
from bayesprior.inference.optimizers.whitened_adam import WhitenedAdam
from bayesprior.inference.prior_term import PriorTerm
from bayesprior.weights.blocks import Block
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout
from bayesprior.weights.lowrank import LowRankCovariance
from bayesprior.weights.rows import RowCovariance

N = 20


@pytest.fixture
def net():
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2, bias=False)).double()


def law_of(net):
    """Low rank on the backbone, rows on the head."""
    layout = ParameterLayout.from_module(net)
    body = LowRankCovariance(torch.rand(15).double() + 0.1, torch.randn(2, 15).double())
    tril = torch.randn(3, 3).double().tril(-1) + torch.eye(3)
    blocks = [
        Block(("0.weight", "0.bias"), body),
        Block(("2.weight",), RowCovariance(tril, 2), new=True),
    ]
    law = GaussianWeights.from_blocks(layout, layout.flatten(net), blocks)
    return law.rescale(rms_std=0.3, select="0.bias")


def potential(net, x, y):
    return nn.functional.cross_entropy(net(x), y)


def test_steps_are_those_of_adam_on_the_coordinates(net):
    law = law_of(net)
    x, y = torch.randn(N, 4).double(), torch.arange(N) % 2
    term = PriorTerm(net, law, N)
    optimizer = WhitenedAdam(net, law, lr=0.05, head_lr=0.2)
    twin = copy.deepcopy(net)
    z = [torch.zeros(15).double().requires_grad_(), torch.zeros(6).double().requires_grad_()]
    groups = [{"params": [z[0]], "lr": 0.05}, {"params": [z[1]], "lr": 0.2}]
    oracle = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-10)
    for _ in range(12):
        net.zero_grad()
        potential(net, x, y).backward()
        term.add_to_grad()
        optimizer.step()
        joined = torch.cat(z)
        weights = law.layout.unflatten(law.color(joined))
        outputs = torch.func.functional_call(twin, weights, (x,))
        loss = nn.functional.cross_entropy(outputs, y) + joined.square().sum() / (2 * N)
        oracle.zero_grad()
        loss.backward()
        oracle.step()
        torch.testing.assert_close(law.layout.flatten(net), law.color(torch.cat(z)).detach())


def test_a_step_is_lr_standard_deviations_whatever_the_gradient(net):
    layout = ParameterLayout.from_module(net)
    units = GaussianWeights.point(layout, layout.flatten(net), std=0.01)
    optimizer = WhitenedAdam(net, units, lr=0.5)
    for p in net.parameters():
        p.grad = 10.0 ** torch.randint(-3, 4, p.shape).double()
    optimizer.step()
    moved = units.loc - layout.flatten(net)
    torch.testing.assert_close(moved, torch.full_like(moved, 0.005), rtol=1e-5, atol=0)


def test_it_resumes_from_its_state(net):
    law, x, y = law_of(net), torch.randn(N, 4).double(), torch.arange(N) % 2

    def run(module, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            potential(module, x, y).backward()
            optimizer.step()

    other = copy.deepcopy(net)
    whole = WhitenedAdam(net, law, lr=0.1)
    run(net, whole, 7)
    first = WhitenedAdam(other, law, lr=0.1)
    run(other, first, 3)
    second = WhitenedAdam(other, law, lr=0.1)
    second.load_state_dict(first.state_dict())
    run(other, second, 4)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("values", [{"lr": 0.0}, {"lr": 1.0, "betas": (1.0, 0.9)}])
def test_impossible_values_are_refused(net, values):
    with pytest.raises(ConfigError, match="lr must be positive|betas"):
        WhitenedAdam(net, law_of(net), **values)
