import pytest
import torch
from torch import nn

from bayesprior.errors import ConfigError, LayoutMismatchError
from bayesprior.inference.collectors import DrawsInMemory
from bayesprior.inference.protocols import Collector, Draw, Phase, Posterior, StepEvent
from bayesprior.testing import check_collector
from bayesprior.weights.layout import ParameterLayout

LAYOUT = ParameterLayout(("a",), ((2,),))
OTHER = ParameterLayout(("b",), ((3,),))


def draw(chain, index, layout=None, **more):
    size = (layout or LAYOUT).dim
    return Draw(chain, index, torch.full((size,), 10.0 * chain + index), layout=layout, **more)


def event(module, step=1):
    layout = ParameterLayout.from_module(module)
    return StepEvent(step, Phase(1.0, 1.0, True), module, layout)


def test_contract():
    def weights(collector):
        return torch.stack([d.weights for d in collector.draws()])

    check_collector(DrawsInMemory, result=weights)


def test_given_draws_are_a_posterior():
    posterior = DrawsInMemory([draw(1, 0), draw(0, 0), draw(0, 1), draw(0, 2)], LAYOUT)
    assert isinstance(posterior, Posterior)
    assert [(d.chain, d.index) for d in posterior.draws()] == [(0, 0), (0, 1), (0, 2), (1, 0)]
    assert (len(posterior), posterior.num_chains, posterior.num_draws) == (4, 2, 1)
    assert [(d.chain, d.index) for d in posterior.draws(2)] == [(0, 2), (1, 0)]
    assert len(list(posterior.draws(99))) == 4
    assert repr(posterior) == "DrawsInMemory(num_chains=2, num_draws=1, dim=2)"
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        list(posterior.draws(0))


def test_layouts():
    assert DrawsInMemory([draw(0, 0, OTHER)]).layout == OTHER
    assert DrawsInMemory((), LAYOUT).layout == LAYOUT
    with pytest.raises(ConfigError, match="no draws in memory and no layout"):
        _ = DrawsInMemory().layout
    with pytest.raises(LayoutMismatchError, match="draw 3 of chain 1 has no layout"):
        DrawsInMemory([draw(1, 3)])
    with pytest.raises(LayoutMismatchError, match="D = 3"):
        DrawsInMemory([draw(0, 0)], OTHER)


def test_it_collects_weights_and_statistics():
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    collector = DrawsInMemory(chain=3)
    assert isinstance(collector, Collector)
    rows = []
    for step in range(3):
        module(torch.randn(4, 2))
        rows.append((module[1].running_mean.clone(), collector.update(event(module, step))))
        nn.init.normal_(module[0].weight)
    found = list(collector.draws())
    assert [(d.chain, d.index) for d in found] == [(3, 0), (3, 1), (3, 2)]
    assert not torch.equal(found[0].weights, found[1].weights)
    for kept, (mean, _) in zip(found, rows, strict=True):
        assert torch.equal(kept.buffers["1.running_mean"], mean)
        assert kept.layout == collector.layout == ParameterLayout.from_module(module)


def test_everything_a_draw_knows_survives_a_resume():
    whole = DrawsInMemory(
        [draw(0, 0, weight=0.2, confidence=3.0), draw(1, 0, OTHER, buffers={"n": torch.ones(1)})],
        LAYOUT,
    )
    again = DrawsInMemory()
    again.load_state_dict(whole.state_dict())
    assert again.layout == LAYOUT
    first, second = again.draws()
    assert (first.weight, first.confidence, first.layout) == (0.2, 3.0, LAYOUT)
    assert second.layout == OTHER
    assert torch.equal(second.buffers["n"], torch.ones(1))
