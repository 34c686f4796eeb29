import dataclasses

import numpy as np
import pytest
import torch

from bayesprior.diagnostics.calibration import brier
from bayesprior.diagnostics.predictions import Outcome, score_intervals, scores
from bayesprior.errors import DataError
from bayesprior.inference.posteriors import PointPosterior
from bayesprior.prediction.predict import predict
from bayesprior.tasks.likelihoods import Normal
from bayesprior.tasks.pixels import PixelCategorical
from bayesprior.tree.build import to_datatree


def test_scores_equal_their_functions_and_predicts_own_metrics(make_prediction):
    prediction = make_prediction(num_points=300)
    found = scores(Outcome.from_prediction("test", prediction))
    probs, targets = prediction.mean_probs.numpy(), prediction.targets.numpy()
    assert found["nll"] == pytest.approx(-np.log(probs[np.arange(300), targets]).mean())
    assert found["brier"] == pytest.approx(brier(probs, targets).score)
    assert found["aleatoric"] == pytest.approx(float(prediction.expected_entropy.mean()))
    for name, value in prediction.metrics.items():
        assert found[name] == pytest.approx(value, rel=1e-5), name


def test_foreign_data_have_no_metrics(make_prediction):
    found = Outcome.from_prediction("noise", make_prediction())
    outcome = dataclasses.replace(found, targets=None, log_score=None)
    for function in (scores, score_intervals):
        with pytest.raises(DataError, match="'noise' has no labels"):
            function(outcome)


def test_an_impossible_label_is_scored_by_the_draws(make_prediction):
    """Averaged probabilities underflow to 0 where their logarithms do not."""
    prediction = make_prediction(num_points=20)
    probs, likelihood = prediction.mean_probs.clone(), prediction.log_likelihood.clone()
    label = int(prediction.targets[3])
    probs[3] = 0
    probs[3, (label + 1) % 4] = 1
    likelihood[:, 3] = -900.0
    far = dataclasses.replace(prediction, mean_probs=probs, log_likelihood=likelihood)
    assert Outcome.from_prediction("far", far).log_score[3] == pytest.approx(-900)


def test_intervals_hold_the_scores(make_prediction):
    outcome = Outcome.from_prediction("test", make_prediction(num_points=200))
    found = scores(outcome)
    for name, interval in score_intervals(outcome).items():
        assert interval.estimate == pytest.approx(found[name])
        assert interval.low < interval.high
        if name != "ece":  # the plain ECE is biased upwards, its interval corrects for that
            assert interval.low <= interval.estimate <= interval.high


def test_pixels_count_as_points_and_those_without_label_do_not():
    torch.manual_seed(0)
    model = torch.nn.Conv2d(3, 4, 1)
    images = torch.randn(2, 3, 5, 6)
    targets = torch.randint(0, 4, (2, 5, 6))
    targets[0, 0] = 255
    prediction = predict(
        model,
        PointPosterior.from_module(model),
        [(images, targets)],
        PixelCategorical(),
        keep_maps=True,
    )
    outcome = Outcome.from_prediction("frames", prediction)
    assert outcome.is_dense
    probs = model(images).softmax(1).permute(0, 2, 3, 1)[targets != 255].detach().numpy()
    np.testing.assert_allclose(outcome.probs, probs, rtol=1e-5)
    np.testing.assert_array_equal(outcome.targets, targets[targets != 255])
    found = scores(outcome)
    picked = outcome.probs[np.arange(54), outcome.targets]
    assert found["nll"] == pytest.approx(-np.log(picked).mean())
    assert found["mean_iou"] == pytest.approx(prediction.metrics["mean_iou"], rel=1e-6)
    with pytest.raises(DataError, match="pixels are not independent"):
        score_intervals(outcome)


def test_regression_has_no_classes():
    model = torch.nn.Linear(2, 1)
    prediction = predict(
        model,
        PointPosterior.from_module(model),
        [(torch.randn(4, 2), torch.randn(4, 1))],
        Normal(std=1.0),
    )
    with pytest.raises(DataError, match="no class probabilities"):
        Outcome.from_prediction("test", prediction)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda probs, targets: (probs * np.nan, targets), "60 of 60 rows of probabilities hold"),
        (lambda probs, targets: (probs * 2, targets), "sum to 1"),
        (lambda probs, targets: (probs - 0.5, targets), ">= 0"),
        (lambda probs, targets: (probs, targets + 4), "to 7 but the probabilities have 4 classes"),
        (lambda probs, targets: (probs, targets - 1), "targets range from -1"),
    ],
)
def test_each_fault_has_one_clear_line(make_prediction, change, message):
    found = make_prediction()
    probs, targets = change(found.mean_probs, found.targets)
    with pytest.raises(DataError, match=message) as caught:
        Outcome.from_prediction(
            "test", dataclasses.replace(found, mean_probs=probs, targets=targets)
        )
    assert "\n" not in str(caught.value)


def test_files_of_the_first_edition_are_scored_by_their_probabilities(make_prediction):
    tree = to_datatree(test=make_prediction())
    found = Outcome.from_group(tree, "predictions")
    tree["predictions"] = tree["predictions"].dataset.drop_vars(["log_score", "mixture_weight"])
    before = Outcome.from_group(tree, "predictions")
    np.testing.assert_allclose(before.log_score, found.log_score, rtol=1e-6)
