"""One small task, fitted once, of which every hostile input is made."""

import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hostile.damage import LATIN
from PIL import Image

from bayesprior.cli.main import main

QUIET = ["--progress", "false", "--device", "cpu"]
MODEL = ["--model", "small_conv", "--model_options", "norm=batch", "--model_options.widths=[4,4]"]


@dataclass
class Field:
    """Files and arguments of a task that works."""

    root: Path

    @property
    def npz(self) -> Path:
        return self.root / "task.npz"

    @property
    def prior(self) -> Path:
        return self.root / "prior" / "prior.safetensors"

    @property
    def data(self) -> list[str]:
        return ["--data", str(self.npz), "--num_validation", "6", "--num_data", "12"]

    @property
    def model(self) -> list[str]:
        return MODEL

    def fit(self, out: Path, *more: str) -> list[str]:
        """Arguments of a fit but for its method."""
        few = ["--num_steps", "4", "--checkpoint_every", "2"]
        return [
            *self.data,
            *MODEL,
            *QUIET,
            "--prior",
            str(self.prior),
            *few,
            "--out",
            str(out),
            *more,
        ]

    def make_prior(self, out: Path, *more: str) -> list[str]:
        """Arguments of a prior around zero, or around what ``more`` says."""
        return ["make-prior", *MODEL, *QUIET, "--rms_std", "0.1", "--out", str(out), *more]

    def copied(self, name: str, folder: Path) -> Path:
        """A copy of a run's folder, which may be broken."""
        return Path(shutil.copytree(self.root / name, folder / name))


def _do(*argv: str) -> None:
    assert main(list(argv)) == 0, argv


@pytest.fixture(scope="session")
def field(tmp_path_factory):
    field = Field(tmp_path_factory.mktemp("hostile"))
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 30), ("test", 24)):
        labels = np.arange(count) % 3
        arrays[f"x_{split}"] = rng.integers(0, 255, (count, 8, 8)).astype(np.uint8)
        arrays[f"y_{split}"] = labels
    np.savez(field.npz, **arrays)
    for split in ("train", "test"):
        for name in ("cat", LATIN):
            folder = field.root / "pictures" / split / name
            folder.mkdir(parents=True)
            for i in range(2):
                Image.fromarray(rng.integers(0, 255, (8, 8, 3)).astype(np.uint8)).save(
                    folder / f"{i}.png"
                )
    source = ["--num_steps", "4", "--num_snapshots", "3", "--collect_every", "1", "--rank", "2"]
    root = field.root
    _do(
        "fit-source",
        "--data",
        str(field.npz),
        *MODEL,
        *QUIET,
        *source,
        "--out",
        str(root / "source"),
    )
    posterior = str(root / "source" / "source.safetensors")
    prior = ["--source", posterior, *field.data, "--head_std", "1"]
    _do(*field.make_prior(root / "prior", *prior))
    _do("fit", "map", *field.fit(root / "map"))
    _do("fit", "map", *field.fit(root / "other", "--seed", "1"))
    sampler = ["--num_draws", "2", "--burn_in", "1", "--thin", "1", "--chains", "2"]
    fit = [word for word in field.fit(root / "sgld") if word not in ("--num_steps", "4")]
    _do("fit", "sgld", *fit, "--lr", "1e-4", *sampler)
    for run in ("map", "other", "sgld"):
        _do("predict", str(root / run), *QUIET)
    stopped = field.copied("map", root / "stopped")  # as a kill before the end leaves it
    (stopped / "results.json").unlink()
    for path in stopped.glob("*.safetensors"):
        if path.name != "prior.safetensors":
            path.unlink()
    return field


@pytest.fixture(autouse=True)
def _signals_as_in_a_terminal():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
