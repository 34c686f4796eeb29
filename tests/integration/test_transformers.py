"""Batches that are dictionaries: a transformer with LoRA, from a source to a report."""

import json

import numpy as np
import pytest
import torch
from tiny_texts import HEAD, padded, reviews, rows, transformer

import bayesprior as bp
from bayesprior.cli.main import main
from bayesprior.errors import ConfigError
from bayesprior.inference.checkpoint import read_checkpoint

# transformers' own, of what peft asks it
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

QUIET = {"progress": False, "device": "cpu"}
SOURCE = {"num_steps": 40, "num_snapshots": 5, "rank": 3, "collect_every": 2, "lr": 0.1}


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    """Of LoRA's and the classifier's weights, learned on other sentences of the same language."""
    out = tmp_path_factory.mktemp("source")
    task, network = reviews(seed=5, num_train=120), transformer()
    source = bp.fit_source(network, task, head=HEAD, out=out, batch_size=16, **SOURCE, **QUIET)
    trained = {n for n, p in network.named_parameters() if p.requires_grad}
    assert set(source.layout.names) == {n for n in trained if not n.startswith(HEAD)}
    assert all("lora_" in name for name in source.layout.names)
    return bp.make_prior(source, transformer(), head=HEAD, data=reviews())


def test_what_is_trained_alone_is_in_laws_and_checkpoints(prior, tmp_path):
    network = transformer()
    before = {n: p.clone() for n, p in network.named_parameters() if not p.requires_grad}
    trained = {n for n, p in network.named_parameters() if p.requires_grad}
    assert set(prior.layout.names) == trained
    bp.fit_map(network, prior, reviews(), num_steps=30, out=tmp_path / "map", **QUIET)
    state = read_checkpoint(next((tmp_path / "map").rglob("checkpoint*")))["model"]
    assert set(state) <= trained | {n for n, _ in network.named_buffers()}
    for name, value in before.items():
        assert torch.equal(network.get_parameter(name), value), name


def test_draws_and_their_average_come_back_from_a_folder(prior, tmp_path):
    data, options = reviews(), {"num_steps": 40, "num_snapshots": 4, "rank": 2}
    fit = bp.fit_swag(transformer(), prior, data, out=tmp_path / "swag", **options, **QUIET)
    run = bp.load_run(tmp_path / "swag", network=transformer(), data=data)
    assert run.forward == bp.keyword_forward()
    loader = data.loader("test", 16)
    found = bp.predict(run.module, run.posterior, loader, run.likelihood, forward=run.forward)
    assert found.metrics["accuracy"] > 0.7
    new = [{k: v for k, v in padded(rows(5, 9)).items() if k != "labels"}]
    torch.testing.assert_close(run.predict_proba(new), fit.predict_proba(new))
    assert run.predict_proba(new).shape == (5, 2)
    bp.report(run.module, run.posterior, data, out=tmp_path / "page", prior=prior, **QUIET)
    assert "of 2 classes" in (tmp_path / "page" / "report.md").read_text()


def test_padding_says_nothing(prior):
    """A row alone and the same row beside a longer one have the same probabilities."""
    fit = bp.fit_map(transformer(), prior, reviews(), num_steps=20, **QUIET)
    some = sorted(rows(6, 3), key=lambda row: len(row["input_ids"]))
    alone = torch.cat([fit.predict_proba([padded([row])]) for row in some])
    torch.testing.assert_close(fit.predict_proba([padded(some)]), alone, rtol=1e-5, atol=1e-6)


def test_other_frozen_weights_are_another_network(prior, tmp_path):
    data = reviews()
    bp.fit_map(transformer(), prior, data, num_steps=5, out=tmp_path / "map", **QUIET)
    with pytest.raises(ConfigError, match="frozen weights are not those that .*map was fitted"):
        bp.load_run(tmp_path / "map", network=transformer(base_seed=1), data=data)


@pytest.mark.filterwarnings("ignore:.*no better than guessing")
def test_every_command_takes_dictionaries(tmp_path, capsys):
    here = ["--model", "tiny_texts:transformer", "--head", HEAD]
    here += ["--progress", "false", "--device", "cpu"]
    task, source = ["--data", "tiny_texts:reviews"], str(tmp_path / "source")
    steps = ["--num_steps", "40", "--num_snapshots", "4", "--rank", "2", "--collect_every", "2"]
    own = [*task, "--data_options.seed", "5", *steps, "--lr", "0.1", "--out", source]
    assert main(["fit-source", *here, *own]) == 0
    law, out = f"{source}/source.safetensors", str(tmp_path / "prior")
    assert main(["make-prior", "--source", law, *here, *task, "--out", out]) == 0
    law, out = f"{out}/prior.safetensors", str(tmp_path / "swag")
    fit = ["fit", "swag", "--prior", law, *here, *task, *steps, "--label_smoothing", "0.1"]
    assert main([*fit, "--out", out]) == 0
    assert main(["predict", out, "--trust", "--progress", "false"]) == 0
    found = json.loads((tmp_path / "swag" / "results.json").read_text())["predict-test"]
    assert found["accuracy"] > 0.7
    assert main(["report", out, "--trust", "--progress", "false"]) == 0
    assert (tmp_path / "swag" / "report.html").is_file()
    np.savez(tmp_path / "new.npz", x=np.zeros((2, 3)))
    capsys.readouterr()
    new = str(tmp_path / "new.npz")
    assert main(["predict", out, new, "--trust", "--progress", "false"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "examples of 'reviews' are dictionaries" in line
    assert "predict_proba" in line
