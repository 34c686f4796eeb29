import dataclasses

import numpy as np
import pytest
from bayesprior.diagnostics.temperature_scaling import fit_temperature
from bayesprior.report.notes import Notes
from bayesprior.report.sections.predictions import (
    calibration_section,
    results_section,
    shift_section,
    uncertainty_section,
)
from scipy.special import softmax

from bayesprior.diagnostics.calibration import brier, nll
from bayesprior.diagnostics.predictions import Outcome
from bayesprior.diagnostics.shift import ShiftRow
from bayesprior.report.document import Picture, Table


@pytest.fixture
def outcome(make_prediction):
    return Outcome.from_prediction("test", make_prediction(num_points=150, spread=1.0))


def table(section, start):
    return next(i for i in section.items if isinstance(i, Table) and i.title.startswith(start))


def test_scaled_scores_stand_beside_the_plain_ones(outcome, make_prediction):
    validation = Outcome.from_prediction("v", make_prediction(num_points=150, seed=1))
    notes = Notes()
    rows = {
        r["score"]: r for r in table(results_section(outcome, validation, notes), "Scores").rows
    }
    temperature = fit_temperature(np.log(validation.probs), validation.targets)
    scaled = softmax(np.log(outcome.probs) / temperature, axis=1)
    assert rows["NLL"]["scaled"] == pytest.approx(nll(scaled, outcome.targets))
    assert rows["NLL"]["value"].estimate == pytest.approx(nll(outcome.probs, outcome.targets))
    assert notes == {}
    assert "temperature scaling" in (results_section(outcome, None, notes), notes)[1]


def test_calibration_measures(outcome):
    rows = {r["name"]: r["value"] for r in table(calibration_section(outcome), "Calibration").rows}
    assert rows["Brier: resolution"] == brier(outcome.probs, outcome.targets).resolution


def test_uncertainty_tables_and_pictures(outcome, make_prediction):
    foreign = Outcome.from_prediction("noise", make_prediction(seed=2), has_labels=False)
    images = np.zeros((150, 4, 4), np.uint8)
    notes = Notes()
    section = uncertainty_section(outcome, [foreign], images, list("abcd"), notes)
    scores = ["max probability", "entropy", "mutual information", "energy"]
    assert [row["score"] for row in table(section, "Telling").rows] == scores
    assert not notes
    old = dataclasses.replace(foreign, energy=None)  # of a file without
    section = uncertainty_section(outcome, [old, foreign], images, list("abcd"), notes)
    rows = [(row["set"], row["score"]) for row in table(section, "Telling").rows]
    assert len(rows) == 3 + 4
    assert notes["energy score of foreign data"].startswith("no energies were stored with noise;")
    kept = table(section, "Selective").rows
    assert kept[0]["kept"] <= kept[1]["kept"] <= kept[2]["kept"]
    mistakes = next(
        i for i in section.items if isinstance(i, Picture) and i.title.startswith("Most confident")
    )
    first = mistakes.figure.axes[0].get_xlabel()
    wrong = np.flatnonzero(outcome.is_right == 0)
    worst = wrong[outcome.confidence[wrong].argmax()]
    guess, truth = outcome.probs[worst].argmax(), outcome.targets[worst]
    assert first == f"said {'abcd'[guess]} {outcome.confidence[worst]:.0%}\nis {'abcd'[truth]}"


def test_a_perfect_model_has_no_mistakes_to_show(outcome):
    right = Outcome(
        "test",
        outcome.probs,
        outcome.probs.argmax(1),
        outcome.log_score,
        outcome.aleatoric,
        outcome.epistemic,
    )
    images = np.zeros((150, 4, 4), np.uint8)
    section = uncertainty_section(right, [], images, list("abcd"), Notes())
    titles = [i.title for i in section.items]
    assert "Most confident mistakes" not in titles
    assert "Most uncertain points" in titles


def test_sets_without_severity_still_have_their_table():
    scores = {"accuracy": 0.5, "confidence": 0.6, "nll": 1.0, "ece": 0.1}
    notes = Notes()
    section = shift_section([ShiftRow("test", 0, scores), ShiftRow("winter", None, scores)], notes)
    assert [i.title for i in section.items] == ["Scores of each set"]
    assert "severity in its name" in notes["figure: Scores against severity"]
