"""The benchmark on real data, in miniature: every task's study, and what its source is."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bayesprior.models import read_state_dict
from bayesprior.weights.gaussian import GaussianWeights

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import real_transfer

    yield real_transfer
    for name in ("real_transfer", "_bench"):
        sys.modules.pop(name, None)


def the_task(scripts, name, data_dir):
    task = scripts.TASKS[name]
    missing = [file for file in task.files if not (data_dir / file).is_file()]
    if missing:
        pytest.skip(f"no file {missing[0]} in {data_dir}")
    return task


@pytest.mark.long
def test_every_method_is_fitted_within_the_budget(scripts, data_dir, tmp_path):
    task = the_task(scripts, "fashion", data_dir)
    found = scripts.compare(task, data_dir, tmp_path, quick=True)
    rows = found.comparisons[0].rows
    assert len(rows) == 7
    assert {row["tried"] for row in rows} == {2}
    assert all(row["evaluations"] <= scripts.QUICK_STUDY["budget"] for row in rows)
    assert np.isfinite([row["nll"] for row in rows]).all()
    section = scripts.section("fashion", task, found)
    assert all(f"| {row['method']} |" in section for row in rows)


@pytest.mark.long
def test_imagenet_checkpoint_is_the_mean_of_its_source(scripts, data_dir, tmp_path):
    task = the_task(scripts, "flowers", data_dir)
    source = GaussianWeights.load(scripts.make_source(task, data_dir, tmp_path, quick=True))
    checkpoint = read_state_dict(data_dir / task.checkpoint)
    for name, view in source.layout.unflatten(source.loc).items():
        assert torch.equal(view, checkpoint[name])


def test_every_method_has_equally_many_configurations(scripts):
    for task in scripts.TASKS.values():
        described = scripts.methods(task, task.study["budget"])
        sizes = {np.prod([len(v) for v in m["grid"].values()]) for m in described.values()}
        assert len(described) == 7
        assert len(sizes) == 1


def test_missing_files_are_named(scripts, tmp_path):
    with pytest.raises(SystemExit, match="no file fashion_mnist.npz in .*--data-dir"):
        scripts.main(["--task", "fashion", "--data-dir", str(tmp_path)])
