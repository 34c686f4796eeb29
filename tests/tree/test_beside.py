import dataclasses

import numpy as np
import pytest

from bayesprior.diagnostics.compare import MethodResult
from bayesprior.diagnostics.outcomes import NumberOutcome
from bayesprior.diagnostics.predictions import Outcome, outcome_of
from bayesprior.errors import DataError
from bayesprior.tree.beside import images_of, methods_of
from bayesprior.tree.build import to_datatree
from bayesprior.tree.files import load_tree, save_tree


def test_methods_and_images_come_back_from_a_file(run, tmp_path, rng):
    outcome = Outcome.from_prediction("test", run.predictions["test"])
    methods = [
        MethodResult("sgld", [outcome, outcome], seeds=(3, 5), seconds=1.5),
        MethodResult("map", [outcome]),
    ]
    images = {7: rng.integers(0, 255, (4, 4)).astype(np.uint8), 2: np.zeros((4, 4), np.uint8)}
    save_tree(run.tree(methods=methods, images=images), tmp_path / "a.nc")
    tree = load_tree(tmp_path / "a.nc")
    first, second = methods_of(tree)
    assert (first.name, list(first.seeds), first.seconds) == ("sgld", [3, 5], 1.5)
    assert (second.name, second.seconds) == ("map", None)
    for name in ("accuracy", "nll", "ece", "epistemic"):
        np.testing.assert_array_equal(first.metric(name), [outcome.metric(name)] * 2)
    found = images_of(tree)
    assert list(found) == [7, 2]
    np.testing.assert_array_equal(found[7], images[7])
    assert (methods_of(run.tree()), images_of(run.tree())) == ([], {})


def test_outcomes_of_other_points_are_refused(run):
    outcome = Outcome.from_prediction("test", run.predictions["test"])
    short = Outcome.from_prediction("noise", run.predictions["noise"])
    unlabeled = dataclasses.replace(outcome, targets=None)
    for other in (short, unlabeled):
        with pytest.raises(DataError, match="'a' are not of the same labeled points"):
            to_datatree(methods=[MethodResult("a", [outcome, other])])


def test_methods_that_predict_numbers_come_back(tmp_path, rng):
    parts = (rng.normal(size=(5, 2)), np.ones((5, 2)), rng.normal(size=(5, 2)), rng.normal(size=5))
    outcome = NumberOutcome("test", *parts)
    save_tree(to_datatree(methods=[MethodResult("map", [outcome])]), tmp_path / "a.nc")
    (found,) = methods_of(load_tree(tmp_path / "a.nc"))
    for name in ("rmse", "crps", "nll", "coverage_50"):
        assert found.metric(name)[0] == outcome.metric(name)


def test_methods_that_predict_several_labels_come_back(tmp_path, labels):
    outcome = outcome_of("test", labels)
    save_tree(to_datatree(methods=[MethodResult("map", [outcome])]), tmp_path / "a.nc")
    (found,) = methods_of(load_tree(tmp_path / "a.nc"))
    for name in outcome.rows:
        assert found.metric(name)[0] == outcome.metric(name)


def test_ranks_and_crps_of_numbers_come_back(tmp_path, numbers):
    outcome = outcome_of("test", numbers)
    save_tree(to_datatree(methods=[MethodResult("map", [outcome])]), tmp_path / "a.nc")
    (found,) = methods_of(load_tree(tmp_path / "a.nc"))
    np.testing.assert_array_equal(found.outcomes[0].ranks, numbers.ranks)
    np.testing.assert_array_equal(found.outcomes[0].crps, numbers.crps)
