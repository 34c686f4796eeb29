"""A toy source and target: two-dimensional blobs, three classes and then two."""

import os
import signal

import torch
from torch import nn

from bayesprior.data import from_arrays
from bayesprior.inference import engine
from bayesprior.recipes import fit_source, make_prior

QUIET = {"device": "cpu", "progress": False}
SOURCE = {"rank": 3, "num_steps": 12, "num_snapshots": 4, "collect_every": 2, "batch_size": 32}
MAP = {"num_steps": 12, "lr": 0.05}
SWAG = {"num_steps": 6, "num_snapshots": 4, "collect_every": 2, "rank": 3}
SAMPLE = {"num_draws": 3, "chains": 2, "burn_in": 4, "thin": 2}
TINY = {
    "num_steps": 6,
    "num_snapshots": 3,
    "collect_every": 1,
    "rank": 2,
    "batch_size": 16,
    "lr": 0.01,
    "head": "head",
    "progress": False,
    "device": "cpu",
}


class Net(nn.Module):
    """A backbone with BatchNorm and a head."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Flatten(), nn.Linear(16, 12), nn.BatchNorm1d(12), nn.Tanh()
        )
        self.head = nn.Linear(12, num_classes)

    def forward(self, inputs):
        return self.head(self.backbone(inputs))


def blobs(num_classes: int, num_data: int = 120, seed: int = 0, noise: float = 0.5):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_data) % num_classes
    centers = torch.randn(num_classes, 4, 4, generator=generator)
    images = centers[labels] + noise * torch.randn(num_data, 4, 4, generator=generator)
    images = images.sub(images.min()).div(images.max() - images.min())
    half = num_data // 2
    images, names = images.numpy(), labels.numpy()
    return from_arrays(
        "blobs",
        (images[:half], names[:half]),
        (images[half:], names[half:]),
        class_names=tuple("abcdef"[:num_classes]),
    )


def source_and_target():
    """Return a fitted source, an untrained target network and the target's data."""
    torch.manual_seed(0)
    source = fit_source(
        Net(3),
        blobs(3),
        head="head",
        rank=4,
        num_steps=60,
        num_snapshots=8,
        collect_every=3,
        batch_size=32,
        device="cpu",
        progress=False,
    )
    return source, Net(2), blobs(2, num_data=40, seed=1)


def target_task():
    """Return a prior made of a source, an untrained target network's state, and the data."""
    source, target, data = source_and_target()
    prior = make_prior(source, target, head="head", rms_std=0.1, head_std=1.0)
    return prior, target.state_dict(), data


def fresh(state):
    """Return the target network in a state."""
    module = Net(2)
    module.load_state_dict(state)
    return module


def net(num_classes=3):
    """Return a network that starts the same every time."""
    torch.manual_seed(4)
    return Net(num_classes)


def interrupt_at(monkeypatch, step):
    """Ask the process to end in the engine's step of that number, counted over all runs."""
    original, calls = engine.StepEvent, []

    def interrupting(*arguments, **named):
        calls.append(1)
        if len(calls) == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments, **named)

    monkeypatch.setattr(engine, "StepEvent", interrupting)
