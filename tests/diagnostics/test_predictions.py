import numpy as np
import pytest
import torch

from bayesprior.diagnostics.calibration import brier, ece, nll
from bayesprior.diagnostics.predictions import Outcome, score_intervals, scores
from bayesprior.errors import DataError
from bayesprior.inference.posteriors import PointPosterior
from bayesprior.prediction.predict import predict
from bayesprior.tasks.likelihoods import Normal, PixelCategorical


def test_scores_equal_their_functions_and_predicts_own_metrics(make_prediction):
    prediction = make_prediction(num_points=300)
    found = scores(Outcome.from_prediction("test", prediction))
    probs, targets = prediction.mean_probs.numpy(), prediction.targets.numpy()
    assert found["nll"] == pytest.approx(nll(probs, targets))
    assert found["ece"] == ece(probs, targets)
    assert found["brier"] == brier(probs, targets).score
    for name, value in prediction.metrics.items():
        assert found[name] == pytest.approx(value, rel=1e-5), name
    assert found["num_points"] == 300


def test_foreign_data_have_scores_that_need_no_labels(make_prediction):
    outcome = Outcome.from_prediction("noise", make_prediction(), has_labels=False)
    assert set(scores(outcome)) == {
        "confidence",
        "sharpness",
        "aleatoric",
        "epistemic",
        "num_points",
    }
    with pytest.raises(DataError, match="'noise' has no labels"):
        score_intervals(outcome)


def test_intervals_hold_the_scores(make_prediction):
    outcome = Outcome.from_prediction("test", make_prediction(num_points=200))
    found = scores(outcome)
    for name, interval in score_intervals(outcome, num_resamples=100).items():
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
    assert found["nll"] == pytest.approx(nll(outcome.probs, outcome.targets))
    assert found["num_points"] == 54
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
