import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bayesprior.errors import ConfigError, DataError
from bayesprior.tasks.objectives import Objective, two_view


def alignment(left, right):
    return ((left - right) ** 2).sum(1).mean()


@pytest.mark.parametrize("labeled", [False, True])
def test_two_view_takes_both_kinds_of_batches(labeled):
    module = nn.Linear(3, 2)
    views = (torch.randn(4, 3), torch.randn(4, 3))
    batch = (views, torch.zeros(4)) if labeled else views
    loss, extras = two_view(alignment)(module, batch)
    torch.testing.assert_close(loss, alignment(module(views[0]), module(views[1])))
    loss.backward()
    assert module.weight.grad.any()
    assert set(extras) == {"embedding_std"}


def test_two_view_makes_one_forward_pass():
    module = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
    views = torch.randn(4, 3), torch.randn(4, 3)
    two_view(alignment)(module, views)
    assert module[0].num_batches_tracked == 1
    torch.testing.assert_close(module[0].running_mean, 0.1 * torch.cat(views).mean(0))


def test_embedding_std_tells_collapse_from_health():
    loss_fn = two_view(alignment)
    _, collapsed = loss_fn(nn.Identity(), (torch.ones(64, 8), torch.ones(64, 8)))
    _, healthy = loss_fn(nn.Identity(), (torch.randn(64, 8), torch.randn(64, 8)))
    assert collapsed["embedding_std"] < 1e-6
    assert 0.9 < healthy["embedding_std"] <= 1.0


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((torch.zeros(2, 3), torch.zeros(2)), "is this a labeled batch"),
        ((torch.zeros(2, 3),), r"\(view1, view2\)"),
        (((torch.zeros(2, 3),) * 3, torch.zeros(2)), r"\(view1, view2\)"),
        ((), r"\(view1, view2\)"),
    ],
)
def test_two_view_refuses_other_batches(batch, message):
    with pytest.raises(DataError, match=message):
        two_view(alignment)(nn.Linear(3, 2), batch)


def test_two_view_refuses_a_loss_per_example():
    views = torch.zeros(2, 3), torch.zeros(2, 3)
    with pytest.raises(ConfigError, match=r"scalar .* got shape \(2, 3\)"):
        two_view(lambda a, b: (a - b) ** 2)(nn.Identity(), views)


def test_nt_xent_of_lightly():
    loss_module = pytest.importorskip("lightly.loss").NTXentLoss(temperature=0.5)
    z1, z2 = torch.randn(5, 4), torch.randn(5, 4)
    loss, _ = two_view(loss_module)(nn.Identity(), (z1, z2))
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    similarity = (z @ z.T / 0.5).masked_fill(torch.eye(10, dtype=torch.bool), -math.inf)
    partner = torch.arange(10).roll(5)
    torch.testing.assert_close(loss, F.cross_entropy(similarity, partner))


class Bank(nn.Module):
    """A criterion with a weight and a memory of its own."""

    def __init__(self):
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(()))
        self.register_buffer("memory", torch.zeros(2))

    def forward(self, left, right):
        self.memory += left.detach().mean(0)
        return alignment(left, right) * self.temperature


def test_what_a_criterion_owns_is_the_objectives():
    network, views = nn.Linear(3, 2), (torch.randn(4, 3), torch.randn(4, 3))
    objective = two_view(Bank())
    assert isinstance(objective, Objective)
    loss, extras = objective(network, (views, torch.zeros(4)))
    expected, same = two_view(alignment)(network, views)
    assert torch.equal(loss, expected)
    assert extras == same
    loss.backward()
    assert objective.criterion.temperature.grad is not None
    again = two_view(Bank())
    again.load_state_dict(objective.state_dict())
    assert torch.equal(again.criterion.memory, network(views[0]).mean(0))
    assert "network" not in objective._modules  # the loop's, not the loss's
