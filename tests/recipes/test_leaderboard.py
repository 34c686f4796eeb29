"""Rows of a leaderboard, and what ``results.json`` makes of them."""

import dataclasses
import math

import pytest
import torch
from recipes_cases import Net, blobs
from torch.nn import functional as F

from bayesprior.data import few_shot
from bayesprior.prediction.predict import predict
from bayesprior.recipes import transfer
from bayesprior.recipes.leaderboard import held_out_numbers, split_numbers
from bayesprior.recipes.rule import RULE
from bayesprior.tasks.likelihoods import Categorical

QUIET = {"device": "cpu", "progress": False}


@pytest.fixture(scope="module")
def data():
    return few_shot(blobs(3, 240, noise=1.5), per_class=5, seed=1)


@pytest.fixture
def short(monkeypatch):
    def of(**changes):
        rule = dataclasses.replace(RULE, num_steps=(12, 24), **changes)
        monkeypatch.setattr("bayesprior.recipes.transferring.RULE", rule)

    of()
    return of


def test_what_each_method_took_and_how_far_it_is_from_the_committee(source, data, short):
    found = transfer(data, Net(3), source=source, baselines="all", **QUIET)
    rows = {row["method"]: row for row in found.leaderboard()}
    fits = {"transfer": 5, "map": 1, "fine-tuning": 4, "probe": 0, "LP-FT": 1, "WiSE-FT": 0}
    assert fits.items() <= {name: row["fits"] for name, row in rows.items()}.items()
    assert all(row["predict_seconds"] > 0 for row in rows.values())
    assert all((row["fit_seconds"] > 0) == (name != "WiSE-FT") for name, row in rows.items())
    parts = rows["map"]["fit_seconds"] + rows["fine-tuning"]["fit_seconds"]
    probe = rows["probe"]["fit_seconds"]
    assert rows["transfer"]["fit_seconds"] == pytest.approx(parts + probe)
    assert "verdict" not in rows["transfer"]
    # the difference is that of the pairs of test examples
    loader = data.loader("test", 256)
    labels = torch.cat([y for _, y in loader])
    ours = predict(found.module, found.posterior, loader, Categorical()).mean_probs
    mean = float(rows["probe"]["nll"] + ours[range(len(labels)), labels].log().mean())
    assert rows["probe"]["nll_difference"] == pytest.approx(mean, abs=1e-5)
    low, high = rows["probe"]["nll_interval"]
    assert (low + high) / 2 == pytest.approx(mean, abs=1e-5)
    is_tie = low <= 0.005 and high >= -0.005
    assert rows["probe"]["verdict"] == ("tie" if is_tie else "worse" if mean > 0 else "better")


def test_a_probe_that_is_taken_is_what_the_board_tells(source, data, short):
    """The rejected committee's numbers stood there as those of the call."""
    bare = dataclasses.replace(data, test=None)
    short(probe_lead=(-math.inf, -math.inf))
    for task in (bare, data):
        found = transfer(task, Net(3), source=source, **QUIET)
        assert found.results["fit"]["members"] == ["probe"]
        rows = {row["method"]: row for row in found.leaderboard()}
        assert rows.keys() == {"transfer", "probe"}
        assert rows["transfer"]["nll"] == pytest.approx(rows["probe"]["nll"], rel=1e-6)
        assert rows["probe"]["verdict"] == "tie"
        assert rows["transfer"]["fits"] == (9 if task is bare else 5)  # that were for nothing
        assert any("the probe is taken instead" in note for note in found.results["fit"]["notes"])
    assert found.results["baselines"].keys() == {"probe"}
    assert rows["transfer"]["nll"] == pytest.approx(found.evaluate()["nll"], rel=1e-6)


def test_numbers_of_logits_are_those_of_their_probabilities():
    logits, labels = torch.randn(40, 3).double(), torch.arange(40) % 3
    found = held_out_numbers(logits, labels)
    probs, hot = logits.softmax(1), F.one_hot(labels, 3)
    assert found["nll"] == pytest.approx(float(-probs[range(40), labels].log().mean()))
    assert found["accuracy"] == pytest.approx(float((probs.argmax(1) == labels).double().mean()))
    assert found["brier"] == pytest.approx(float((probs - hot).square().sum(1).mean()))
    assert 0 < found["ece"] < 1


def test_results_hold_test_numbers_by_method():
    rows = [
        {"method": "probe", "on": "test", "n": 9, "nll": 2.0},
        {"method": "transfer", "on": "test", "n": 9, "nll": 1.0},
        {"method": "map", "on": "test", "n": 9, "nll": 1.5},
    ]
    found = split_numbers(rows, seed=4)
    assert found["test"] == {**rows[1], "seed": 4}
    assert found["baselines"] == {"probe": {"test": {**rows[0], "seed": 4}}}
    assert found["parts"] == {"map": {"test": {**rows[2], "seed": 4}}}


def test_out_of_fold_numbers_are_not_called_test_numbers():
    assert split_numbers([{"method": "transfer", "on": "out of fold", "nll": 1.0}], seed=0) == {}
