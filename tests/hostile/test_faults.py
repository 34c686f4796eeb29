"""A full disk and too little memory: one line, and nothing is lost."""

import os
import sys

import pytest
import torch
from hostile import judge

from bayesprior.inference.posteriors import PointPosterior

ONE_LINE = judge.Case([], "fault", refused=True)


@pytest.fixture
def alone(tmp_path):
    """Run a command as a process of its own, under limits."""

    def run(argv, **limits):
        place = tmp_path / f"answer{len(os.listdir(tmp_path))}"
        place.mkdir()
        return judge.run_alone(argv, place, **limits)

    return run


def test_a_fit_goes_on_when_the_disk_has_room_again(field, tmp_path, alone):
    argv = ["fit", "map", *field.fit(tmp_path / "run"), "--seed", "3"]
    for size in (0, 60, 1500, 8000, 30_000):  # in the lock, configuration, prior, checkpoint
        status, out, err = alone(argv, file_size=size)
        assert judge.fault(ONE_LINE, status, out, err) is None, (size, status, err)
        assert "rror: could not write" in err
    assert alone(argv)[0] == 0
    fit = ["fit", "map", *field.fit(tmp_path / "whole"), "--seed", "3"]
    assert alone(fit)[0] == 0
    one, other = (PointPosterior.load(tmp_path / r / "map.safetensors") for r in ("run", "whole"))
    assert torch.equal(one.weights, other.weights)
    left = [path.name for path in (tmp_path / "run").glob(".*")]
    assert not left


def test_a_full_disk_leaves_no_half_written_tree_or_table(field, tmp_path, alone):
    run = field.copied("map", tmp_path)
    (run / "predictive-test.nc").unlink()
    argv = ["predict", str(run), "--progress", "false", "--device", "cpu"]
    for size in (0, 5000):
        status, out, err = alone(argv, file_size=size)
        assert judge.fault(ONE_LINE, status, out, err) is None, (size, status, err)
        assert not (run / "predictive-test.nc").exists()
    assert alone(argv)[0] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="limits of address space are Linux's")
def test_too_little_memory_is_one_line(field, tmp_path, alone):
    wide = ["--model_options.widths=[4000,4000]", "--num_steps", "1", "--num_snapshots", "2"]
    model = ["--model", "mlp", *wide, "--rank", "1", "--collect_every", "1"]
    argv = ["fit-source", "--data", str(field.npz), *model, "--out", str(tmp_path / "run")]
    status, out, err = alone([*argv, "--progress", "false"], memory=150 * 2**20)
    assert judge.fault(ONE_LINE, status, out, err) is None, (status, err)
    assert "not enough memory" in err
