"""Rows of a leaderboard, and what ``results.json`` makes of them."""

import pytest
import torch
from torch.nn import functional as F

from bayesprior.recipes.leaderboard import held_out_numbers, split_numbers


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
    ]
    found = split_numbers(rows, seed=4)
    assert found["test"] == {**rows[1], "seed": 4}
    assert found["baselines"] == {"probe": {"test": {**rows[0], "seed": 4}}}


def test_out_of_fold_numbers_are_not_called_test_numbers():
    assert split_numbers([{"method": "transfer", "on": "out of fold", "nll": 1.0}], seed=0) == {}
