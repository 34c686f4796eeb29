"""A tiny task that every command's tests share: three kinds of 8 x 8 images."""

from pathlib import Path

import numpy as np
import pytest

from bayesprior.cli.main import main

QUIET = ["--progress", "false", "--device", "cpu"]
MODEL = ["--model", "small_conv", "--model_options", "norm=batch", "--model_options.widths=[8,8]"]


def images(labels: np.ndarray, seed: int) -> np.ndarray:
    """Bright stripes at a place that depends on the label, in noise."""
    rng = np.random.default_rng(seed)
    out = rng.integers(0, 120, (len(labels), 8, 8)).astype(np.uint8)
    for image, label in zip(out, labels, strict=True):
        image[2 * label : 2 * label + 2] += 100
    return out


def write_npz(path: Path, num: int, seed: int, classes: int = 3) -> Path:
    arrays = {}
    for split, count in (("train", num), ("test", 45)):
        labels = np.arange(count) % classes
        seed += 1
        arrays |= {f"x_{split}": images(labels, seed), f"y_{split}": labels}
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    """A folder with a source posterior, a prior and one fit of each kind."""
    folder = tmp_path_factory.mktemp("commands")
    source, target = folder / "source.npz", folder / "target.npz"
    write_npz(source, 120, seed=0)
    write_npz(target, 30, seed=10)
    data = ["--data", str(target), "--num_validation", "6", "--num_data", "12"]

    def run(*arguments: str) -> None:
        assert main([*arguments, *QUIET]) == 0

    run(
        *("fit-source", "--data", str(source), *MODEL, "--num_steps", "20", "--num_snapshots", "4"),
        *("--collect_every", "2", "--rank", "3", "--batch_size", "32"),
        *("--out", str(folder / "source")),
    )
    run(
        *("make-prior", "--source", str(folder / "source" / "source.safetensors"), *data, *MODEL),
        *("--rms_std", "0.05", "--head_std", "1.5", "--out", str(folder / "prior")),
    )
    fit = [*data, *MODEL, "--prior", str(folder / "prior" / "prior.safetensors")]
    run("fit", "map", *fit, "--num_steps", "15", "--lr", "0.05", "--out", str(folder / "map"))
    run(
        *("fit", "swag", *fit, "--num_steps", "10", "--num_snapshots", "4", "--rank", "2"),
        *("--collect_every", "1", "--out", str(folder / "swag")),
    )
    run(
        *("fit", "sgld", *fit, "--lr", "1e-4", "--head_lr", "0.01", "--num_draws", "6"),
        *("--chains", "2", "--burn_in", "5", "--thin", "1", "--out", str(folder / "sgld")),
    )
    return folder


@pytest.fixture
def fit(work):
    """Arguments of a fit but for its method, options and folder."""
    data = ["--data", str(work / "target.npz"), "--num_validation", "6", "--num_data", "12"]
    prior = str(work / "prior" / "prior.safetensors")
    return [*data, *MODEL, "--prior", prior, *QUIET]


@pytest.fixture
def refused(capsys):
    """Run a command that must end in one line and status 2; returns the line."""

    def run(*arguments: str) -> str:
        capsys.readouterr()
        assert main([str(a) for a in arguments]) == 2
        captured = capsys.readouterr()
        lines = captured.err.splitlines()
        assert len(lines) == 1, lines
        return lines[0].removeprefix("bayesprior: error: ")

    return run
