"""A study in miniature: a task and a network by import path, and deaths on demand."""

import os
import signal
from pathlib import Path
from typing import Any

import torch
from recipes_cases import Net, blobs

from bayesprior.data import split_validation
from bayesprior.inference.generators import seeded
from bayesprior.recipes import fit_source

FIXED = {"lr": 0.05}
GRID = {"lr": [0.02, 0.1], "rms_std": [0.5]}
METHODS: dict[str, Any] = {
    "fine-tuning": {"start": "source", "prior": {"shape": "zero"}, "grid": GRID, "snapshots": 3},
    "MAP": {"grid": GRID},
    "SWAG": {"inference": "swag", "num_snapshots": 4, "rank": 2, "collect_every": 1, "grid": GRID},
    "SGLD": {"inference": "sgld", "chains": 2, "num_draws": 3, "thin": 1, "grid": GRID},
}


def task(num_data: int = 200):
    return split_validation(blobs(3, num_data=num_data, seed=1), num=30)


def net(num_classes: int) -> Net:
    """Make the network; die, kill the parent or give NaN at the seed that the environment names."""
    for name, process in (("STUDY_KILL", os.getpid()), ("STUDY_KILL_PARENT", os.getppid())):
        if os.environ.get(name) == str(torch.initial_seed()):
            os.kill(process, signal.SIGKILL)
    module = Net(num_classes)
    if os.environ.get("STUDY_NAN") == str(torch.initial_seed()):
        module.register_forward_hook(lambda module, inputs, outputs: outputs * float("nan"))
    return module


def options(folder: Path, **changes: Any) -> dict[str, Any]:
    """Return the arguments of a study in the folder; its source is fitted if it is not there."""
    source = folder / "source"
    with seeded(0, []):  # two folders' studies are to have one and the same source
        network = Net(4)
    fit_source(
        network,
        blobs(4),
        head="head",
        rank=3,
        num_steps=30,
        num_snapshots=6,
        collect_every=2,
        out=source,
        device="cpu",
        progress=False,
    )
    defaults = {
        "data": "study_cases:task",
        "model": "study_cases:net",
        "source": str(source / "source.safetensors"),
        "out": str(folder / "study"),
        "methods": {"fine-tuning": METHODS["fine-tuning"] | {"grid": {}}, "MAP": FIXED},
        "budget": 20,
        "batch_size": 16,
        "num_data": [12],
        "seeds": 2,
        "device": "cpu",
        "progress": False,
    }
    return defaults | changes
