import copy

import pytest
import torch
from torch import nn

from bayesprior.errors import ConfigError
from bayesprior.inference.collectors import SWAG, DrawWriter, Watching
from bayesprior.inference.posteriors import StoredDraws
from bayesprior.inference.protocols import Phase, StepEvent
from bayesprior.testing import check_collector
from bayesprior.weights.layout import ParameterLayout


class Pair(nn.Module):
    """A trained network and its frozen momentum copy."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
        self.momentum = copy.deepcopy(self.net).requires_grad_(False)


def show(collector, pair, num=4):
    """Move both differently; returns the momentum network's trajectory."""
    layout = ParameterLayout.from_module(pair)
    path = []
    for step in range(num):
        for p in pair.parameters():
            p.data.normal_()
        event = StepEvent(step + 1, Phase(1.0, 1.0, True), pair, layout)
        collector.update(event)
        path.append(torch.cat([p.flatten() for p in pair.momentum.parameters()]))
    return torch.stack(path)


def test_a_frozen_network_is_collected_under_its_own_names():
    pair, swag = Pair(), SWAG(rank=2)
    path = show(Watching(swag, module=pair.momentum), pair)
    law = swag.posterior()
    assert law.layout.names == ("0.weight", "0.bias", "1.weight", "1.bias")
    torch.testing.assert_close(law.loc, path.mean(0))
    assert "1.running_mean" in law.buffers


def test_a_selection_of_frozen_weights():
    pair, swag = Pair(), SWAG(rank=2)
    path = show(Watching(swag, select="momentum.0.*"), pair)
    law = swag.posterior()
    assert law.layout.names == ("momentum.0.weight", "momentum.0.bias")
    torch.testing.assert_close(law.loc, path.mean(0)[:8])


def test_a_map_of_the_trained_weights_in_memory_and_on_disk(tmp_path):
    pair = Pair()
    layout = ParameterLayout(("w",), ((2,),))
    seen, stored = SWAG(rank=2), DrawWriter(tmp_path)

    def change(weights):
        return weights[:2] * 10

    trained = []

    class Both:
        def update(self, event):
            trained.append(event.weights()[:2] * 10)
            for collector in (seen, stored):
                Watching(collector, map=change, layout=layout).update(event)

    show(Both(), pair)
    torch.testing.assert_close(seen.posterior().loc, torch.stack(trained).mean(0))
    draws = list(StoredDraws(tmp_path).draws())
    assert StoredDraws(tmp_path).layout == layout
    torch.testing.assert_close(torch.stack([d.weights for d in draws]), torch.stack(trained))


def test_the_contract_of_collectors():
    check_collector(
        lambda: Watching(SWAG(rank=3), select="weight"),
        result=lambda watching: watching.collector.posterior().variance,
    )


def test_impossible_arguments_are_refused():
    with pytest.raises(ConfigError, match="leave out select="):
        Watching(SWAG(), select="a", map=torch.neg)
    with pytest.raises(ConfigError, match="say what to watch"):
        Watching(SWAG())
