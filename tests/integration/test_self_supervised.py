"""Sources without labels on the command line: real pictures, and a process that is killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bayesprior.cli.main import main
from bayesprior.tasks.objectives import METHODS
from bayesprior.weights.gaussian import GaussianWeights

QUIET = ["--progress", "false", "--device", "cpu"]
FIT = ["fit-source", "--model", "small_conv", "--num_snapshots", "4", "--rank", "3"]
KILLED = """
import os, signal, sys
from bayesprior.cli.main import main
from bayesprior.inference import engine
original, calls = engine.StepEvent, []
def killing(*arguments, **named):
    calls.append(1)
    if len(calls) == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments, **named)
engine.StepEvent = killing
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("objective", METHODS)
def test_each_objective_makes_a_prior_of_unlabeled_clothes(objective, data_dir, tmp_path):
    with np.load(data_dir / "fashion_mnist.npz") as arrays:
        np.savez(tmp_path / "bare.npz", x=arrays["x_train"][:1500])
    bare, out = str(tmp_path / "bare.npz"), str(tmp_path / "source")
    steps = ["--num_steps", "20", "--collect_every", "2", "--objective", objective]
    assert main([*FIT, "--data", bare, "--out", out, *steps, *QUIET]) == 0
    source = GaussianWeights.load(tmp_path / "source" / "source.safetensors")
    assert source.provenance["objective"] == objective
    assert source.provenance["num_data"] == 1500
    assert (source.variance > 0).all()
    assert torch.linalg.eigvalsh(source.statistics["head_inputs.within"]).max() > 0
    words = ["make-prior", "--source", f"{out}/source.safetensors", "--model", "small_conv"]
    target = ["--data", str(data_dir / "mnist.npz"), "--num_data", "50"]
    assert main([*words, *target, "--out", str(tmp_path / "prior")]) == 0
    assert GaussianWeights.load(tmp_path / "prior" / "prior.safetensors").shared_dim == source.dim


@pytest.mark.slow
@pytest.mark.parametrize("options", [["moco", "--queue", "40"], ["byol", "--optimizer", "adamw"]])
def test_a_killed_process_goes_on_bit_for_bit(options, tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "bare.npz", x=rng.integers(0, 256, (96, 8, 8), dtype=np.uint8))
    steps = ["--num_steps", "6", "--collect_every", "2", "--batch_size", "32"]
    steps += ["--checkpoint_every", "4", "--collect_momentum", "true", "--objective", *options]
    words = [*FIT, "--data", str(tmp_path / "bare.npz"), *steps, *QUIET, "--out"]
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    command = [sys.executable, "-c", KILLED, "7", *words, str(stopped)]
    assert subprocess.run(command, env=environment).returncode == -signal.SIGKILL
    for folder in (stopped, whole):  # goes on; all at once
        assert main([*words, str(folder)]) == 0
    laws = [GaussianWeights.load(folder / "source.safetensors") for folder in (stopped, whole)]
    for name in ("loc", "cov_diag", "cov_factor"):
        assert torch.equal(*(getattr(law, name) for law in laws)), name
