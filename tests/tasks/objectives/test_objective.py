import copy
import io

import torch
from torch import nn

from bayesprior.inference.protocols import Phase, StepEvent
from bayesprior.tasks.objectives import Objective
from bayesprior.weights.layout import ParameterLayout


class Momentum(Objective):
    """A queue, a projector and a frozen copy that follows the network."""

    def __init__(self, network):
        super().__init__()
        self.projector = nn.Linear(2, 2)
        self.momentum = copy.deepcopy(network).requires_grad_(False)
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def forward(self, module, batch):
        return (self.projector(module(batch)) - self.momentum(batch)).square().mean(), {}

    @torch.no_grad()
    def after_step(self, event):
        self.seen += 1
        for own, new in zip(self.momentum.parameters(), event.module.parameters(), strict=True):
            own.lerp_(new, 0.5)


def test_what_it_owns_is_trained_and_kept():
    network = nn.Linear(3, 2)
    objective, layout = Momentum(network), ParameterLayout.from_module(network)
    owned = [*network.parameters(), *objective.projector.parameters()]
    optimizer = torch.optim.SGD(owned, lr=0.1)
    before = copy.deepcopy(objective.state_dict())
    for step in (1, 2):
        loss, _ = objective(network, torch.randn(4, 3))
        loss.backward()
        optimizer.step()
        objective.after_step(StepEvent(step, Phase(1.0, 1.0, False), network, layout))
    assert all(not torch.equal(before[name], t) for name, t in objective.state_dict().items())
    file = io.BytesIO()
    torch.save(objective.state_dict(), file)
    file.seek(0)
    again = Momentum(network)
    again.load_state_dict(torch.load(file, weights_only=True))
    batch = torch.randn(4, 3)
    assert torch.equal(again(network, batch)[0], objective(network, batch)[0])
    assert again.seen == 2


def test_nothing_follows_a_step_by_default():
    network = nn.Linear(3, 2)
    event = StepEvent(1, Phase(1.0, 1.0, False), network, ParameterLayout.from_module(network))
    assert Objective().after_step(event) is None
