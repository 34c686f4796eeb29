"""What meets the interfaces, what does not, and what their two records hold."""

import math

import pytest
import torch
from torch import nn

from bayesprior.errors import ConfigError
from bayesprior.inference.collectors import SWAG, DrawsInMemory, DrawWriter, Watching
from bayesprior.inference.optimizers import SGLD, ImplicitPriorSGD
from bayesprior.inference.posteriors import PointPosterior
from bayesprior.inference.prior_term import PriorTerm
from bayesprior.inference.protocols import (
    Collector,
    Draw,
    Phase,
    Posterior,
    PriorShare,
    StepEvent,
    TakesPrior,
    WeightDistribution,
)
from bayesprior.inference.schedules import constant
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout

PHASE = Phase(lr_factor=1.0, temperature_factor=1.0, collect=True)


@pytest.fixture
def module():
    return nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1))


@pytest.fixture
def law(module):
    layout = ParameterLayout.from_module(module)
    return GaussianWeights.point(layout, layout.flatten(module), std=0.5)


class TestStepEvent:
    def test_weights_are_copies_in_the_order_of_the_layout(self, module):
        layout = ParameterLayout(("0.bias", "0.weight"), ((1,), (1, 2)))
        event = StepEvent(3, PHASE, module, layout)
        expected = torch.cat([module[0].bias, module[0].weight[0]]).detach()
        found, out = event.weights(), torch.empty(3)
        assert event.weights(out=out) is out
        with torch.no_grad():
            module[0].weight.zero_()
        assert torch.equal(found, expected)
        assert torch.equal(out, expected)

    def test_weights_may_be_read_elsewhere(self, module):
        layout, there = ParameterLayout(("z",), ((2,),)), torch.tensor([1.0, 2.0])
        event = StepEvent(1, PHASE, module, layout, read=lambda: there)
        out = torch.empty(2)
        assert torch.equal(event.weights(), there)
        assert event.weights(out=out) is out
        assert torch.equal(out, there)

    def test_buffers_are_copies(self, module):
        event = StepEvent(1, PHASE, module, ParameterLayout.from_module(module))
        found = event.buffers()
        assert set(found) == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
        module[1].running_mean.add_(1)
        assert torch.equal(found["1.running_mean"], torch.zeros(1))


class TestDraw:
    def test_defaults_count_alike(self):
        draw = Draw(1, 2, torch.zeros(3))
        assert (draw.weight, draw.confidence, draw.layout, dict(draw.buffers)) == (1, 1, None, {})

    @pytest.mark.parametrize("name", ["weight", "confidence"])
    @pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
    def test_factors_must_be_positive(self, name, value):
        with pytest.raises(ConfigError, match=f"the {name} of a draw must be positive and finite"):
            Draw(0, 0, torch.zeros(3), **{name: value})


def test_a_schedule_is_a_pure_function_of_the_step():
    schedule = constant(burn_in=1, thin=2)
    assert [schedule(step).collect for step in (2, 0, 2)] == [True, False, True]
    assert isinstance(schedule(0), Phase)


def test_what_we_ship_meets_the_protocols(module, law, tmp_path):
    swag = SWAG(rank=2)
    for collector in (swag, DrawWriter(tmp_path), DrawsInMemory(), Watching(swag, select="*")):
        assert isinstance(collector, Collector)
    for posterior in (law, PointPosterior.from_module(module), DrawsInMemory(layout=law.layout)):
        assert isinstance(posterior, Posterior)
    assert isinstance(law, WeightDistribution)
    assert isinstance(PriorTerm(module, law, 10), PriorShare)
    assert isinstance(ImplicitPriorSGD(module.parameters(), lr=0.1), TakesPrior)
    assert isinstance(SGLD(module.parameters(), lr=0.1, num_data=10), TakesPrior)


def test_what_lacks_a_method_does_not(module, law):
    assert not isinstance(law, Collector | PriorShare | TakesPrior)
    assert not isinstance(torch.optim.SGD(module.parameters(), lr=0.1), TakesPrior)
    assert not isinstance(torch.distributions.Normal(0.0, 1.0), WeightDistribution | Posterior)


LAW = (
    "layout loc buffers score score_and_log_prob max_precision color gradient_in_z whiten to save"
).split()


def test_every_attribute_of_a_law_is_needed():
    whole = dict.fromkeys(LAW, lambda *_: None)
    assert isinstance(type("Whole", (), whole)(), WeightDistribution)
    for name in LAW:
        part = {n: value for n, value in whole.items() if n != name}
        assert not isinstance(type("Part", (), part)(), WeightDistribution), name
