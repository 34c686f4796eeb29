"""Several labels an example on the command line, from archives and tables to a report."""

import csv
import json

import numpy as np
import pytest
import torch
import yaml

from bayesprior.cli.main import main
from bayesprior.models import get_model
from bayesprior.recipes import load_run

QUIET = ["--progress", "false", "--device", "cpu"]
MODEL = ["--model", "mlp", "--model_options.widths", "[8]"]
NAMES = ["round", "red", "shiny"]
ZERO = ["--shape", "zero", "--rms_std", 0.1]


def things(num, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num, 5))
    log_odds = 3 * x[:, :3] + x[:, 2:] - 0.5
    return x, (rng.random((num, 3)) < 1 / (1 + np.exp(-log_odds))).astype(int)


def run(*words):
    assert main([*map(str, words), *QUIET]) == 0, words


def refused(capsys, *words):
    capsys.readouterr()
    assert main([*map(str, words), *QUIET]) == 2, words
    [line] = [row for row in capsys.readouterr().err.splitlines() if "error:" in row]
    return line


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A source, a prior and fits of 60 toys, all made by commands."""
    folder = tmp_path_factory.mktemp("labels")
    for seed, (name, num) in enumerate((("things", 150), ("toys", 160))):
        x, y = things(num, seed)
        np.savez(folder / f"{name}.npz", x=x, y=y, class_names=NAMES)
    lines = [",".join(map("{:g}".format, [*a, *b])) for a, b in zip(x, y, strict=True)]
    (folder / "toys.csv").write_text("\n".join(["a,b,c,d,e,round,red,shiny", *lines]) + "\n")
    steps = ("--num_steps", 30, "--num_snapshots", 4, "--collect_every", 2, "--rank", 3)
    data = ("--data", folder / "things.npz", *MODEL)
    run("fit-source", *data, *steps, "--out", folder / "source")
    task = ["--data", folder / "toys.npz", "--num_data", 60, *MODEL]
    law = folder / "source" / "source.safetensors"
    run("make-prior", "--source", law, *task, "--out", folder / "prior")
    prior = ["--prior", folder / "prior" / "prior.safetensors"]
    run("fit", "map", *prior, *task, "--num_steps", 60, "--out", folder / "map")
    run("fit", "swag", *prior, *task, *steps, "--out", folder / "swag")
    chains = ("--num_draws", 3, "--chains", 2, "--burn_in", 5, "--thin", 1, "--lr", 0.01)
    run("fit", "sgld", *prior, *task, *chains, "--out", folder / "sgld")
    table = ["--data", folder / "toys.csv", "--data_options.target", "[round, red, shiny]"]
    run("fit", "map", *prior, *table, *MODEL, "--num_steps", 20, "--out", folder / "table")
    return folder


@pytest.mark.parametrize("method", ["map", "swag", "sgld", "table"])
def test_every_fit_knows_its_likelihood_and_is_scored(work, method):
    config = yaml.safe_load((work / method / "config.yaml").read_text())
    assert config["options"]["likelihood"] == {"class": "Bernoulli"}
    fit = load_run(work / method)
    assert fit.data.class_names == tuple(NAMES)
    assert fit.data.has_several_labels
    run("predict", work / method)
    found = json.loads((work / method / "results.json").read_text())["predict-test"]
    assert {"nll", "label_nll", "label_accuracy", "mean_precision", "label_ece"} <= found.keys()
    if method != "sgld":  # five steps of burn-in
        assert found["label_accuracy"] > 0.6
    assert found["label_nll"] == pytest.approx(found["nll"] / 3)


def test_new_rows_have_a_probability_of_every_label(work, capsys):
    new = work / "new.csv"
    for _ in range(2):  # its own file is replaced
        run("predict", work / "swag", work / "toys.npz", "--out", new)
    with new.open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file", "labels", *NAMES, "entropy"]
    assert len(rows) == 160
    for row in rows:
        probs = {name: float(row[name]) for name in NAMES}
        assert row["labels"].split("; ") == ([n for n in NAMES if probs[n] > 0.5] or [""])
    run("predict", work / "table", work / "toys.csv")  # by the columns' names
    assert len(capsys.readouterr().out.splitlines()) >= 161


def test_a_report_and_a_comparison_speak_of_labels(work, capsys):
    run("report", work / "swag", work / "map")
    text = (work / "swag" / "report.md").read_text()
    assert "### Each label" in text
    assert "Confusion" not in text
    capsys.readouterr()
    run("compare", work / "swag", work / "map")
    assert "label_accuracy" in capsys.readouterr().out


def test_kept_labels_are_fitted_alone(work):
    two = ["--data", work / "toys.npz", "--classes", "shiny,round", *MODEL]
    law = work / "source" / "source.safetensors"
    run("make-prior", "--source", law, *two, "--out", work / "two")
    prior = work / "two" / "prior.safetensors"
    run("fit", "map", "--prior", prior, *two, "--num_steps", 3, "--out", work / "few")
    assert load_run(work / "few").data.class_names == ("shiny", "round")


def test_what_does_not_fit_is_one_line(work, capsys, tmp_path):
    x, y = things(20, 5)
    bad = {"threes": 3 * y, "short": y[:15], "halves": y / 2}
    said = {"threes": "it has 3", "short": r"there are 20 inputs", "halves": "kind='regression'"}
    prior = ("--prior", work / "prior" / "prior.safetensors")
    for name, targets in bad.items():
        np.savez(tmp_path / f"{name}.npz", x=x, y=targets)
        options = ["--data_options.kind", "multilabel"] if name == "halves" else []
        data = ("--data", tmp_path / f"{name}.npz", *options, *MODEL, "--out", tmp_path / "fit")
        assert said[name] in refused(capsys, "fit", "map", *prior, *data), name
    task = ("--data", work / "toys.npz", *MODEL)
    line = refused(capsys, "transfer", *task, "--weights", "none.pt", "--out", tmp_path / "t")
    assert "has several labels an example, and transfer is for one class" in line
    law = ("--source", work / "source" / "source.safetensors")
    methods = ("--methods", "{a: {inference: map}}", "--seeds", 2)
    line = refused(capsys, "study", *task, *law, *methods, "--out", tmp_path / "study")
    assert "has several labels an example, and a study compares" in line
    smooth = ("fit", "map", *prior, *task, "--label_smoothing", 0.1, "--out", tmp_path / "fit")
    assert "for one class an example, not for Bernoulli" in refused(capsys, *smooth)


@pytest.mark.slow
def test_every_source_of_the_table_of_what_to_choose_serves_several_labels(work, tmp_path):
    task = ["--data", work / "toys.npz", "--num_data", 60, *MODEL]
    steps = ["--num_steps", 4, "--num_snapshots", 3, "--collect_every", 1, "--rank", 1]
    # without labels
    x = np.random.default_rng(5).random((40, 32, 32, 1), dtype=np.float32)
    np.savez(tmp_path / "bare.npz", x=x)
    conv = ["--model", "small_conv"]
    bare = ["--data", tmp_path / "bare.npz", *conv, "--objective", "simclr", *steps]
    run("fit-source", *bare, "--batch_size", 8, "--out", tmp_path / "simclr")
    y = np.random.default_rng(6).integers(0, 2, (40, 3))
    np.savez(tmp_path / "pictures.npz", x=x, y=y, class_names=NAMES)
    pictures = ["--data", tmp_path / "pictures.npz", *conv]
    # a checkpoint, several of them, a library's network, nothing
    saved = []
    for seed in range(3):
        torch.manual_seed(seed)
        saved.append(tmp_path / f"{seed}.pt")
        network = get_model("mlp", in_features=5, num_classes=3, widths=[8])
        torch.save(network.state_dict(), saved[-1])
    collect = ["collect", *saved, *task, "--out", tmp_path / "collected"]
    assert main([str(word) for word in collect]) == 0  # which shows no progress
    library = ["--model", "timm/test_convnext", "--model_options.in_chans", 1]
    library = ["--data", tmp_path / "pictures.npz", *library]
    laws = {
        "simclr": (["--source", tmp_path / "simclr" / "source.safetensors"], pictures),
        "checkpoint": (["--weights", saved[0]], task),
        "collected": (["--source", tmp_path / "collected" / "source.safetensors"], task),
        "library": (ZERO, library),
        "none": (ZERO, task),
    }
    for name, (given, data) in laws.items():
        run("make-prior", *given, *data, "--out", tmp_path / f"prior-{name}")
        prior = ["--prior", tmp_path / f"prior-{name}" / "prior.safetensors"]
        run("fit", "map", *prior, *data, "--num_steps", 2, "--out", tmp_path / f"map-{name}")
        fit = load_run(tmp_path / f"map-{name}")
        assert fit.predict_proba(fit.data.train.inputs[:4].float()).shape == (4, 3)
