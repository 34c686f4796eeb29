"""An objective that is a module is trained, moved, saved and resumed as part of the model."""

import copy

import pytest
import torch
from inference_linear import NUM_DATA, Problem
from torch import nn

from bayesprior.errors import CheckpointError, ConfigError
from bayesprior.inference.collectors import SWAG, Watching
from bayesprior.inference.engine import train
from bayesprior.inference.progress import read_trace
from bayesprior.inference.schedules import constant


class Momentum(nn.Module):
    """A toy of BYOL: a trained projector, a momentum copy, a queue of batch means."""

    def __init__(self, network):
        super().__init__()
        self.projector = nn.Linear(1, 1, dtype=torch.float64)
        self.copy = copy.deepcopy(network).requires_grad_(False)
        self.register_buffer("queue", torch.zeros(3, dtype=torch.float64))
        self.steps = []

    def forward(self, module, batch):
        inputs, targets = batch
        residual = self.projector(module(inputs)) - targets - 0.1 * self.copy(inputs)
        self.queue.copy_(torch.cat([self.queue[1:], targets.mean()[None]]))
        return 0.5 * residual.square().mean() + self.queue.mean() * residual.mean(), {}

    @torch.no_grad()
    def after_step(self, event):
        self.steps.append(event.step)
        for mine, theirs in zip(self.copy.parameters(), event.module.parameters(), strict=True):
            mine.lerp_(theirs, 0.2)


def run(folder=None, num_steps=11, stop=None, resume=False, seed=0, **options):
    torch.manual_seed(seed)
    problem = Problem()
    objective = Momentum(problem.module)
    parameters = [*problem.module.parameters(), *objective.projector.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.02, momentum=0.9)
    swag = SWAG(rank=2)

    def hook(event):
        if event.step == stop:
            raise InterruptedError

    train(
        problem.module,
        objective,
        problem.loader(8, shuffle=True),
        optimizer,
        constant(),
        num_steps,
        num_data=NUM_DATA,
        run_dir=folder,
        resume=resume,
        progress=False,
        checkpoint_every=4,
        log_every=5,
        collectors=[Watching(swag, module=objective.copy)],
        hooks=[hook],
        **options,
    )
    return problem, objective, swag


def test_it_resumes_bit_for_bit(tmp_path):
    whole = run()
    with pytest.raises(InterruptedError):
        run(tmp_path, stop=7)
    parts = run(tmp_path, resume=True, seed=5)
    for one, other in zip(whole[:2], parts[:2], strict=True):
        states = one.module.state_dict() if one is whole[0] else one.state_dict()
        others = other.module.state_dict() if other is parts[0] else other.state_dict()
        assert all(torch.equal(value, others[name]) for name, value in states.items())
    assert torch.equal(whole[2].posterior().loc, parts[2].posterior().loc)


def test_what_it_owns_moves_and_every_step_is_seen_but_not_logged(tmp_path):
    problem, objective, swag = run(tmp_path)
    start = Momentum(problem.module)
    torch.manual_seed(0)
    start = Momentum(Problem().module)
    assert not torch.equal(objective.projector.weight, start.projector.weight)
    assert not torch.equal(objective.copy.weight, start.copy.weight)
    assert objective.queue.all()
    assert objective.steps == list(range(1, 12))
    assert [row["step"] for row in read_trace(tmp_path / "trace.csv")] == [5, 10, 11]
    assert swag.posterior().layout.names == ("weight", "bias")


def test_a_prior_covers_the_model_alone():
    problem = Problem()
    without, _, _ = run(prior=None)
    with_prior, objective, _ = run(prior=problem.prior)
    assert not torch.equal(without.weights(), with_prior.weights())
    assert objective.projector.weight.isfinite().all()


def test_its_parameters_must_be_in_the_optimizer():
    problem = Problem()
    objective = Momentum(problem.module)
    optimizer = torch.optim.SGD(problem.module.parameters(), lr=0.02)
    with pytest.raises(ConfigError, match=r"'projector.weight' is in no group of the optimizer"):
        train(
            problem.module,
            objective,
            problem.loader(),
            optimizer,
            constant(),
            2,
            num_data=NUM_DATA,
            progress=False,
        )


class Adapted(nn.Module):
    """Large frozen base weights, a small adapter, and a momentum copy that moves though frozen."""

    def __init__(self, size=200):
        super().__init__()
        self.base = nn.Linear(5, size, dtype=torch.float64).requires_grad_(False)
        self.adapter = nn.Linear(size, 1, dtype=torch.float64)
        self.average = nn.Linear(size, 1, dtype=torch.float64).requires_grad_(False)

    def forward(self, inputs):
        with torch.no_grad():
            if self.training:
                for mine, theirs in zip(
                    self.average.parameters(), self.adapter.parameters(), strict=True
                ):
                    mine.data.lerp_(theirs, 0.1)
        hidden = self.base(inputs).tanh()
        return self.adapter(hidden) + 0.1 * self.average(hidden)


def adapt(folder, seed=0, stop=None, resume=False):
    torch.manual_seed(seed)
    problem, module = Problem(), Adapted()

    def loss(network, batch):
        return (network(batch[0]) - batch[1]).square().mean(), {}

    def hook(event):
        if event.step == stop:
            raise InterruptedError

    train(
        module,
        loss,
        problem.loader(8),
        torch.optim.Adam(module.adapter.parameters(), lr=1e-3),
        constant(),
        9,
        num_data=NUM_DATA,
        run_dir=folder,
        resume=resume,
        checkpoint_every=3,
        hooks=[hook],
        progress=False,
    )
    return module


def test_checkpoints_leave_unchanged_base_weights_out_and_resume_exactly(tmp_path):
    whole = adapt(None)
    with pytest.raises(InterruptedError):
        adapt(tmp_path, stop=5)
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert set(saved["model"]) == {
        f"{part}.{name}" for part in ("adapter", "average") for name in ("weight", "bias")
    }
    resumed = adapt(tmp_path, resume=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_other_base_weights_are_refused(tmp_path):
    with pytest.raises(InterruptedError):
        adapt(tmp_path, stop=5)
    with pytest.raises(CheckpointError, match=r"frozen parameter 'base.weight' is not the one"):
        adapt(tmp_path, seed=1, resume=True)
