"""What callbacks of every trainer share, under a trainer made here: a loop with three hooks."""

import pickle

import pytest
import torch
from torch import nn

import bayesprior as bp
from bayesprior.integrations.collecting import Collection


class Callback:
    """A library's own class of callbacks."""


class Collect(Collection):
    @staticmethod
    def _library():
        return Callback


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(3, 2), nn.Linear(2, 1)

    def forward(self, x):
        return self.head(self.body(x))


def fit(collect, steps=12, first=1, model=None, repeat=1):
    """Train by SGD; the trainer tells each number of steps ``repeat`` times."""
    model = model or Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
    collect._begin(model, [optimizer])
    seen = {}
    for step in range(first, first + steps):
        optimizer.zero_grad()
        (model(x) - 1).square().mean().backward()
        optimizer.step()
        for _ in range(repeat):
            collect._after_step(model, step)
        seen[step] = bp.ParameterLayout.from_module(model.body).flatten(model.body)
    hooks = len(optimizer._optimizer_step_pre_hooks)
    collect._end()
    assert not optimizer._optimizer_step_pre_hooks
    return model, seen, hooks


def law(model, std=0.5):
    layout = bp.ParameterLayout.from_module(model)
    return bp.GaussianWeights.point(layout, torch.zeros(layout.dim), std=std)


@pytest.mark.parametrize("repeat", [1, 3])
def test_snapshots_are_taken_when_due(repeat):
    """After ``start``, every ``every`` steps; a number that is told again does not count."""
    collect = Collect(rank=2, start=4, every=3, network="body")
    assert isinstance(collect, Callback)
    _, seen, _ = fit(collect, repeat=repeat)
    expected = torch.stack([seen[7], seen[10]])
    found = collect.posterior(provenance={"note": "mine"})
    assert collect.swag.count == 2
    assert found.layout.names == ("weight", "bias")
    torch.testing.assert_close(found.loc, expected.mean(0))
    assert found.provenance["role"] == "source posterior"
    assert found.provenance["note"] == "mine"


def test_a_state_goes_on_where_it_was():
    whole, first, second = (Collect(rank=3, start=2, every=2) for _ in range(3))
    fit(whole)
    model, *_ = fit(first, steps=5)
    second.load_state_dict(first.state_dict())
    fit(second, steps=7, first=6, model=model)
    assert second.swag.count == whole.swag.count == 5
    torch.testing.assert_close(second.posterior().loc, whole.posterior().loc)


def test_the_prior_is_with_the_optimizer_during_training_only():
    prior = law(Model(), std=0.2)
    model, _, hooks = fit(Collect(prior=prior, num_data=8))
    free, _, none = fit(Collect())
    assert (hooks, none) == (1, 0)
    norms = [prior.layout.flatten(net).norm() for net in (model, free)]
    assert norms[0] < norms[1]


def test_what_cannot_work_is_told():
    model = Model()
    prior, optimizer = law(model), torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(bp.ConfigError, match="a prior needs num_data"):
        Collect(prior=prior)
    for wrong in ({"every": 0}, {"start": -1}):
        with pytest.raises(bp.ConfigError, match="start must be at least 0 and every at least 1"):
            Collect(**wrong)
    with pytest.raises(bp.ConfigError, match="no part 'bodi'; did you mean 'body'.*body, head"):
        Collect(every=1, network="bodi")._after_step(model, 1)
    with pytest.raises(bp.ConfigError, match="one optimizer, and the trainer has 2"):
        Collect(prior=prior, num_data=3)._begin(model, [optimizer] * 2)


def test_a_callback_is_pickled_by_the_class_that_a_module_holds():
    collect = Collect(rank=2, every=1, network="body")
    collect._after_step(Model(), 1)
    again = pickle.loads(pickle.dumps(collect))
    assert isinstance(again, Collect)
    assert isinstance(again, Callback)
    assert (again.swag.count, again.every, again.network) == (1, 1, "body")
