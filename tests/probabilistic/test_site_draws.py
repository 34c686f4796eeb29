import torch
from torch import nn

from bayesprior.inference.protocols import Phase, StepEvent
from bayesprior.probabilistic.site_draws import DrawKeeper
from bayesprior.weights.layout import ParameterLayout


def test_what_was_kept_survives_a_resume():
    module = nn.Linear(2, 1)
    layout = ParameterLayout.from_module(module)

    def collect(keeper, count):
        for step in range(count):
            layout.load_(module, torch.full((3,), float(keeper.num_draws)))
            keeper.update(StepEvent(step + 1, Phase(1.0, 1.0, True), module, layout))

    whole, first, second = (DrawKeeper(layout, 5, chain=1) for _ in range(3))
    collect(whole, 5)
    collect(first, 2)
    second.load_state_dict(first.state_dict())
    collect(second, 3)
    for a, b in zip(whole.draws(), second.draws(), strict=True):
        assert (a.chain, a.index) == (b.chain, b.index)
        assert torch.equal(a.weights, b.weights)
    assert [int(d.weights[0]) for d in whole.draws()] == [0, 1, 2, 3, 4]
