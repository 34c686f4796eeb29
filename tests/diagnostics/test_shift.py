import dataclasses

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from bayesprior.diagnostics.predictions import Outcome, scores
from bayesprior.diagnostics.shift import ood_table, shift_table
from bayesprior.errors import DataError


def outcome(rng, name, sharpness, honesty=1.0, num_points=2000, labels=True):
    """Predictions whose labels follow softmax(honesty * logits)."""
    logits = sharpness * rng.normal(size=(num_points, 4))
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    truth = honesty * logits + rng.gumbel(size=logits.shape)
    half = -(probs * np.log(probs)).sum(1) / 2
    targets = truth.argmax(1) if labels else None
    score = np.log(probs[np.arange(num_points), targets]) if labels else None
    return Outcome(name, probs, targets, score, half, half)


def test_names_carry_the_severity(rng):
    test = outcome(rng, "predictions", 2.0)
    sets = [outcome(rng, n, 2.0) for n in ("jpeg-1", "gaussian_noise-5", "winter")]
    rows = shift_table(test, sets)
    assert [(r.shift, r.severity) for r in rows] == [
        ("predictions", 0),
        ("jpeg", 1),
        ("gaussian_noise", 5),
        ("winter", None),
    ]
    assert rows[2].scores == scores(sets[1])


def test_a_set_without_labels_cannot_be_scored(rng):
    with pytest.raises(DataError, match="'noise' has no labels"):
        shift_table(outcome(rng, "test", 1.0), [outcome(rng, "noise", 1.0, labels=False)])


@pytest.mark.statistical
def test_chance_is_what_an_honest_model_shows(rng):
    """Of honest sets about one in twenty exceeds it."""
    sets = [outcome(rng, f"s-{i}", 2.0, num_points=100) for i in range(1, 101)]
    rows = shift_table(outcome(rng, "test", 2.0), sets)
    beyond = sum(row.scores["ece"] > row.chance for row in rows[1:])
    assert binomtest(beyond, 100, 0.05, "greater").pvalue > 1e-5


def test_detection_table(rng):
    test = outcome(rng, "test", 3.0)
    foreign = outcome(rng, "noise", 0.3, num_points=500, labels=False)
    rows = ood_table(test, [foreign])
    assert [r["score"] for r in rows] == ["max_probability", "entropy", "mutual_information"]
    labels = np.repeat([0, 1], [2000, 500])
    confidence = np.concatenate([test.confidence, foreign.confidence])
    assert rows[0]["auroc"] == pytest.approx(roc_auc_score(labels, -confidence))
    assert rows[0]["auroc"] > 0.9


def test_the_energy_detects_what_no_class_claims(make_prediction):
    """Inputs with logits near 0 have a higher energy; a file without energies has no such row."""
    test = Outcome.from_prediction("test", make_prediction(num_points=200))
    shifted = make_prediction(num_points=200, seed=1)
    foreign = Outcome.from_prediction("far", shifted)
    far = dataclasses.replace(foreign, energy=foreign.energy + 50)
    rows = {row["score"]: row for row in ood_table(test, [far])}
    assert [rows["energy"][k] for k in ("auroc", "aupr", "fpr95")] == [1.0, 1.0, 0.0]
    labels = np.repeat([0, 1], 200)
    both = np.concatenate([test.energy, foreign.energy])
    found = {row["score"]: row for row in ood_table(test, [foreign])}
    assert found["energy"]["auroc"] == pytest.approx(roc_auc_score(labels, both))
    for pair in (
        (dataclasses.replace(test, energy=None), far),
        (test, dataclasses.replace(far, energy=None)),
    ):
        assert "energy" not in {row["score"] for row in ood_table(pair[0], [pair[1]])}
