import numpy as np
import pytest
import torch
from prediction_cases import Draws, classifier
from torch import nn

from bayesprior.errors import ConfigError
from bayesprior.inference.collectors import DrawsInMemory
from bayesprior.inference.posteriors import PointPosterior
from bayesprior.prediction.new_data import NewData
from bayesprior.prediction.predict import predict
from bayesprior.tasks.likelihoods import Bernoulli, Categorical, Normal
from bayesprior.tasks.pixels import PixelCategorical
from bayesprior.tasks.protocols import inputs_forward, keyword_forward


def test_rows_are_those_of_the_inputs():
    network, x = classifier(), torch.randn(11, 3)
    posterior = DrawsInMemory(Draws(network).draws(), Draws(network).layout)
    posterior.bind(NewData(network, Categorical()))
    expected = predict(network, posterior, [x], Categorical(), forward=inputs_forward).mean_probs
    for inputs in (x, x.double(), x.numpy(), x.double().numpy(), x.split(4), [x[:5], x[5:]]):
        found = posterior.predict_proba(inputs, batch_size=4)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert torch.equal(
        posterior.predict_proba(x, num_draws=1),
        predict(
            network, posterior, [x], Categorical(), forward=inputs_forward, num_draws=1
        ).mean_probs,
    )


def test_batches_of_keywords_and_maps():
    network, x = classifier(), torch.randn(6, 3)
    fit = PointPosterior.from_module(network)
    plain = fit.bind(NewData(network, Categorical())).predict_proba(x)
    fit.bind(NewData(network, Categorical(), keyword_forward()))
    assert torch.equal(fit.predict_proba([{"input": x[:3]}, {"input": x[3:]}]), plain)
    pixels = nn.Conv2d(2, 3, 1)
    maps = PointPosterior.from_module(pixels).bind(NewData(pixels, PixelCategorical()))
    assert maps.predict_proba(torch.randn(2, 2, 4, 4)).shape == (2, 3, 4, 4)


def test_several_labels_have_a_probability_each():
    network, x = nn.Linear(3, 2), torch.randn(4, 3)
    fit = PointPosterior.from_module(network).bind(NewData(network, Bernoulli()))
    torch.testing.assert_close(fit.predict_proba(x), network(x).sigmoid().double())


def test_regression_has_no_classes():
    line = nn.Linear(3, 1)
    fit = PointPosterior.from_module(line).bind(NewData(line, Normal(std=1.0)))
    with pytest.raises(ConfigError, match=r"Normal has no class probabilities; bp\.predict"):
        fit.predict_proba(torch.zeros(1, 3))


def test_indices_stay_integers():
    network = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 2))
    fit = PointPosterior.from_module(network).bind(NewData(network, Categorical()))
    tokens = torch.randint(0, 5, (7, 2))
    torch.testing.assert_close(
        fit.predict_proba(tokens, batch_size=3).float(), network(tokens).softmax(1)
    )
