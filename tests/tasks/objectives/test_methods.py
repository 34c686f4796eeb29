"""Each objective is lightly's: the same loss on a fixed batch, and its memory in checkpoints."""

import copy
import sys

import pytest
import torch
from lightly import loss as losses
from torch import nn

from bayesprior.errors import ConfigError, MissingDependencyError
from bayesprior.inference.protocols import Phase, StepEvent
from bayesprior.tasks.objectives import METHODS, self_supervised
from bayesprior.tasks.objectives.methods import head_features
from bayesprior.weights.layout import ParameterLayout


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
        self.head = nn.Linear(6, 3)

    def forward(self, images):
        return self.head(self.body(images).mean((2, 3)))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def views():
    torch.manual_seed(1)
    return torch.randn(2, 8, 1, 5, 5)


def made(name, net, **options):
    torch.manual_seed(2)
    return self_supervised(name, net, torch.zeros(2, 1, 5, 5), head="head", **options)


def moved(net, objective):
    """A step of the optimizer: the network goes elsewhere, and the copy a little after it."""
    with torch.no_grad():
        for parameter in [*net.parameters(), *objective.projector.parameters()]:
            parameter.add_(0.1)
    phase = Phase(1.0, 1.0, False)
    objective.after_step(StepEvent(1, phase, net, ParameterLayout.from_module(net)))


def by_lightly(name, net, objective, first, second):
    """The published loss, written as in lightly's own examples."""
    z, features = objective.projector, lambda x, network=net: network.body(x).mean((2, 3))
    if name in ("moco", "byol"):

        def keys(x):
            return objective.keys(features(x, objective.network)).detach()

    if name == "simclr":
        return losses.NTXentLoss(temperature=0.3)(z(features(first)), z(features(second)))
    if name == "vicreg":
        return losses.VICRegLoss()(z(features(first)), z(features(second)))
    if name == "barlow_twins":
        return losses.BarlowTwinsLoss()(z(features(first)), z(features(second)))
    if name == "moco":
        criterion = losses.NTXentLoss(temperature=0.3, memory_bank_size=(10, 128))
        criterion.memory_bank.bank.copy_(objective.criterion.memory_bank.bank)
        return criterion(z(features(first)), keys(second))
    predicted = [objective.predictor(z(features(view))) for view in (first, second)]
    criterion = losses.NegativeCosineSimilarity()
    return 0.5 * (criterion(predicted[0], keys(second)) + criterion(predicted[1], keys(first)))


@pytest.mark.parametrize("name", METHODS)
def test_the_loss_is_lightlys(name, net, views):
    options = {"temperature": 0.3} if name in ("simclr", "moco") else {}
    options |= {"queue": 10} if name == "moco" else {}
    objective = made(name, net, **options)
    if name in ("moco", "byol"):
        moved(net, objective)
    net.eval()
    objective.eval()
    expected = by_lightly(name, net, objective, *views)
    loss, scalars = objective(net, (tuple(views), torch.zeros(8)))
    torch.testing.assert_close(loss, expected)
    assert 0 <= scalars["embedding_std"] <= 1.1
    loss.backward()
    assert net.body[0].weight.grad.abs().sum() > 0
    assert net.head.weight.grad is None


@pytest.mark.parametrize("name", ["moco", "byol"])
def test_the_copy_follows_and_no_gradient_reaches_it(name, net, views):
    objective = made(name, net, ema=0.75)
    before = copy.deepcopy(objective.network.head.weight)
    moved(net, objective)
    torch.testing.assert_close(objective.network.head.weight, before + 0.1 / 4)
    objective(net, tuple(views))[0].backward()
    assert all(p.grad is None for p in objective.network.parameters())
    trained = {n.partition(".")[0] for n, p in objective.named_parameters() if p.requires_grad}
    assert trained == {"projector", "predictor"} & {n for n, _ in objective.named_children()}


def test_statistics_of_the_copy_stay_frozen_if_asked(net, views):
    kept = {}
    for frozen in (True, False):
        objective = made("byol", net, frozen=frozen).train()
        start = objective.network.body[1].running_mean.clone()
        objective(net, tuple(views))
        kept[frozen] = torch.equal(objective.network.body[1].running_mean, start)
    assert kept == {True: True, False: False}


def test_the_queue_is_in_checkpoints(net, views):
    objective = made("moco", net, queue=10)
    objective(net, tuple(views))
    again = made("moco", net, queue=10)
    again.load_state_dict(objective.state_dict())
    bank = again.criterion.memory_bank
    assert torch.equal(bank.bank, objective.criterion.memory_bank.bank)
    assert bank.bank_ptr.item() == 8
    losses = [one(net, tuple(views))[0] for one in (objective, again)]
    assert torch.equal(*losses)


def test_a_head_takes_one_row_an_example(net, views):
    assert head_features(net, "head", views[0]).shape == (8, 6)
    assert head_features(net, None, views[0]).shape == (8, 3)
    assert head_features(nn.Conv2d(1, 2, 3), None, views[0]).shape == (8, 2)
    with pytest.raises(ConfigError, match=r"head None must be given one row .*\(8, 1, 5, 5, 1\)"):
        head_features(nn.Unflatten(3, (5, 1)), None, views[0])
    with pytest.raises(ConfigError, match="no objective 'simlcr'.*did you mean 'simclr'"):
        made("simlcr", net)


def test_without_lightly_the_extra_is_named(net, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightly", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'bayesprior\[ssl\]'") as caught:
        made("simclr", net)
    assert "\n" not in str(caught.value)
