"""Source to target on real files, in miniature: the tasks of `benchmarks/real_transfer.py`."""

import dataclasses
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bayesprior.data import DataBundle
from bayesprior.inference.posteriors import StoredDraws
from bayesprior.models import read_state_dict
from bayesprior.prediction.predict import predict
from bayesprior.recipes import make_prior
from bayesprior.tasks.likelihoods import Categorical
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout
from bayesprior.weights.selection import select_names

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    before = set(sys.modules)
    import real_transfer

    yield real_transfer
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == BENCHMARKS:
            del sys.modules[name]


def make_task(scripts, name, data_dir, **changes):
    missing = [file for file in scripts.FILES[name] if not (data_dir / file).is_file()]
    if missing:
        pytest.skip(f"no file {missing[0]} in {data_dir}")
    return scripts.TASKS[name](data_dir, quick=True, **changes)


def training_nll(task, module, posterior, seed):
    bundle: DataBundle = task.draw(seed)
    return predict(module, posterior, bundle.loader("train", 500), Categorical()).metrics["nll"]


def test_transfer_beats_scratch_on_fashion(scripts, data_dir):
    """Classes 0-4 help to learn classes 5-9 from 5 images each, paired over few-shot draws."""
    task = make_task(
        scripts,
        "fashion",
        data_dir,
        per_class=5,
        source_steps=100,
        num_steps=40,
        num_test=500,
    )
    source = task.make_source()
    assert source.provenance["swag"]["num_snapshots"] == task.setting.num_snapshots
    config = {"lr": 0.02, "rms_std": 0.1}
    nll = {
        method: [task.score(method, config, source, seed, "test")["nll"] for seed in range(5)]
        for method in ("scratch", "MAP low-rank")
    }
    mean, error, half = scripts.paired(nll["MAP low-rank"], nll["scratch"])
    assert mean + half < 0
    assert mean < -4 * error


def test_imagenet_checkpoint_becomes_a_prior_over_the_backbone(scripts, data_dir, tmp_path):
    task = make_task(scripts, "flowers", data_dir, num_steps=8, num_snapshots=3, source_steps=2)
    source = task.make_source()
    module = task.network()
    layout = ParameterLayout.from_module(module)
    head = select_names(layout.names, task.head)
    assert set(source.layout.names) == set(layout.names) - set(head)
    checkpoint = read_state_dict(data_dir / scripts.FILES["flowers"][-1])
    for name, view in source.layout.unflatten(source.loc).items():
        assert torch.equal(view, checkpoint[name])
    prior = make_prior(source, module, head=task.head, rms_std=0.01)
    assert prior.shared_dim == layout.dim - sum(
        layout.slice(n).stop - layout.slice(n).start for n in head
    )
    assert prior.rms_std == pytest.approx(0.01, rel=1e-5)
    module, fit = task.fit("MAP low-rank", {"lr": 0.005, "rms_std": 0.01}, source, 0, tmp_path)
    assert training_nll(task, module, fit, seed=0) < math.log(12)
    scratch, start = task.fit("scratch", {"lr": 0.005, "rms_std": 0.1}, source, 0, tmp_path)
    assert training_nll(task, module, fit, 0) < training_nll(task, scratch, start, 0)


@pytest.mark.slow
def test_residual_network_is_sampled_around_its_source(scripts, data_dir, tmp_path):
    task = make_task(scripts, "cifar", data_dir, num_steps=30, source_steps=6)
    source = task.make_source()
    assert 0 < source.effective_rank <= task.setting.num_snapshots - 1
    config = {"temperature": 0.01, "rms_std": 0.01}
    module, fit = task.fit("SGLD low-rank", config, source, 0, tmp_path / "run")
    assert isinstance(fit, StoredDraws)
    assert (fit.num_chains, fit.num_draws) == (1, task.setting.num_draws)
    first, last = (draw.weights for draw in fit.draws())
    assert not torch.equal(first, last)
    shared = task.network()
    prior = make_prior(source, shared, head=task.head, rms_std=0.01)
    # A cold chain stays within its prior's reach along every block of the backbone.
    moved = (last - prior.loc)[: prior.shared_dim].square().mean().sqrt()
    assert moved < 3 * prior.rms_std
    brief = make_task(scripts, "cifar", data_dir, num_steps=1, source_steps=6)
    hardly, start = brief.fit("SGLD low-rank", config, source, 0, tmp_path / "brief")
    assert training_nll(task, module, fit, seed=0) < training_nll(brief, hardly, start, seed=0)


def test_finished_pieces_are_kept(scripts, data_dir, tmp_path, monkeypatch):
    """The whole comparison, every method; a second run fits nothing and says the same."""
    task = make_task(scripts, "fashion", data_dir, num_validation=40, num_test=40)
    results = scripts.compare(task, tmp_path)
    assert list(results) == list(scripts.METHODS)
    for found in results.values():
        assert len(found["accuracy"]) == task.setting.test_seeds
        assert np.isfinite([found[name] for name in scripts.SHOWN]).all()
    assert isinstance(
        GaussianWeights.load(next(tmp_path.glob("fashion-source-*.safetensors"))), GaussianWeights
    )
    monkeypatch.setattr(type(task), "fit", None)
    assert scripts.compare(task, tmp_path) == results
    section = scripts.report(task, results)
    assert all(f"| {method} |" in section for method in scripts.METHODS)


def test_every_method_has_equally_many_configurations(scripts, data_dir):
    task = make_task(scripts, "fashion", data_dir)
    full = dataclasses.replace(task, setting=dataclasses.replace(task.setting, lrs=(0.01, 0.03)))
    for one in (task, full):
        sizes = {len(one.grid(method)) for method in scripts.METHODS}
        widths = {tuple(sorted({c["rms_std"] for c in one.grid(m)})) for m in scripts.METHODS}
        assert len(sizes) == len(widths) == 1


@pytest.mark.parametrize(
    ("ours", "expected"),
    [([1.0, 1.2, 0.9], "tie"), ([0.5, 0.6, 0.4], "better"), ([1.9, 2.0, 1.8], "worse")],
)
def test_verdict(scripts, ours, expected):
    assert scripts.verdict(ours, [1.0, 1.1, 0.95]) == expected


def test_missing_files_are_named(scripts, tmp_path):
    with pytest.raises(SystemExit, match="no file fashion_mnist.npz in .*--data-dir"):
        scripts.find_data(str(tmp_path), ["fashion"])
