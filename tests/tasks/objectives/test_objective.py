import copy
import io

import torch
from torch import nn

from bayesprior.tasks.objectives import Objective


class Momentum(Objective):
    """A queue, a projector and a frozen copy that follows the network."""

    def __init__(self, network):
        super().__init__(network)
        self.projector = nn.Linear(2, 2)
        self.momentum = copy.deepcopy(network).requires_grad_(False)
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def forward(self, batch):
        online = self.projector(self.network(batch))
        return (online - self.momentum(batch)).square().mean(), {}

    @torch.no_grad()
    def after_step(self, step):
        self.seen += 1
        for own, new in zip(self.momentum.parameters(), self.network.parameters(), strict=True):
            own.lerp_(new, 0.5)


def test_what_it_owns_is_trained_and_kept():
    network = nn.Linear(3, 2)
    objective = Momentum(network)
    optimizer = torch.optim.SGD([p for p in objective.parameters() if p.requires_grad], lr=0.1)
    before = copy.deepcopy(objective.state_dict())
    for step in (1, 2):
        loss, _ = objective(torch.randn(4, 3))
        loss.backward()
        optimizer.step()
        objective.after_step(step)
    assert all(not torch.equal(before[name], t) for name, t in objective.state_dict().items())
    file = io.BytesIO()
    torch.save(objective.state_dict(), file)
    file.seek(0)
    again = Momentum(nn.Linear(3, 2))
    again.load_state_dict(torch.load(file, weights_only=True))
    batch = torch.randn(4, 3)
    assert torch.equal(again(batch)[0], objective(batch)[0])
    assert again.seen == 2


def test_the_networks_names_are_its_own():
    network = nn.Linear(3, 2)
    objective = Momentum(network)
    assert objective.network is network
    assert [name for name, _ in objective.network.named_parameters()] == ["weight", "bias"]
    assert Objective(network).after_step(1) is None  # nothing follows a step by default
