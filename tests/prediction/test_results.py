"""What is kept of numbers and of several labels an example."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from prediction_cases import Draws
from sklearn.metrics import average_precision_score, brier_score_loss, hamming_loss
from torch import nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MultilabelAUROC

from bayesprior.inference.posteriors import PointPosterior
from bayesprior.prediction.predict import predict
from bayesprior.tasks.likelihoods import Bernoulli, Normal
from bayesprior.tasks.protocols import inputs_forward


def labels_case(num=23, inputs=3, labels=4, size=6):
    x, y = torch.randn(num, inputs), torch.randint(0, 2, (num, labels))
    return list(zip(x.split(size), y.split(size), strict=True)), y


@pytest.mark.parametrize("max_draw_bytes", [2**30, 1])
def test_several_labels_equal_the_whole_computation(max_draw_bytes):
    model = nn.Linear(3, 4).double()
    loader, y = labels_case()
    loader = [(x.double(), targets) for x, targets in loader]
    posterior = Draws(model, std=2.0)
    found = predict(model, posterior, loader, Bernoulli(), max_draw_bytes=max_draw_bytes)
    outputs = []
    for draw in posterior.draws():
        posterior.layout.load_(model, draw.weights)
        outputs.append(torch.cat([model(x) for x, _ in loader]).detach().numpy())
    each = 1 / (1 + np.exp(-np.stack(outputs)))
    probs, truth = each.mean(0), y.numpy()
    assert found.mean_probs is None
    assert found.energy is None
    assert found.targets.tolist() == truth.tolist()
    np.testing.assert_allclose(found.label_probs, probs, rtol=1e-12)
    law = scipy.stats.bernoulli
    density = law(each).logpmf(truth).sum(-1)
    np.testing.assert_allclose(found.log_likelihood, density, rtol=1e-9)
    np.testing.assert_allclose(found.predictive_entropy, law(probs).entropy().sum(1), rtol=1e-9)
    expected = law(each).entropy().sum(2).mean(0)
    np.testing.assert_allclose(found.expected_entropy, expected, rtol=1e-9)
    nll = -(np.logaddexp.reduce(density, axis=0) - math.log(5)).mean()
    assert found.metrics == pytest.approx(
        {
            "nll": nll,
            "label_accuracy": 1 - hamming_loss(truth, probs > 0.5),
            "label_nll": nll / 4,
            "mean_precision": average_precision_score(truth, probs, average="macro"),
            "label_brier": brier_score_loss(truth.ravel(), probs.ravel()),
            "label_ece": binned_gap(probs.ravel(), truth.ravel()),
        },
        rel=1e-6,
    )


def binned_gap(probs, truth):
    where = np.ceil(probs * 15).clip(1)
    parts = [where == k for k in range(1, 16)]
    gaps = [abs((probs[rows] - truth[rows]).sum()) for rows in parts]
    return sum(gaps) / len(probs)


def test_labels_that_never_occur_have_no_precision():
    loader, _ = labels_case()
    loader = [(x, y * torch.tensor([1, 0, 1, 0])) for x, y in loader]
    model = nn.Linear(3, 4)
    found = predict(model, PointPosterior.from_module(model), loader, Bernoulli())
    truth, probs = np.concatenate([y for _, y in loader]), found.label_probs.numpy()
    expected = average_precision_score(truth[:, ::2], probs[:, ::2], average="macro")
    assert found.metrics["mean_precision"] == pytest.approx(expected, rel=1e-6)
    nothing = [(x, torch.zeros_like(y)) for x, y in loader]
    found = predict(model, PointPosterior.from_module(model), nothing, Bernoulli())
    assert math.isnan(found.metrics["mean_precision"])


def test_ties_are_shared_by_the_precision():
    loader = [(torch.zeros(6, 3), torch.tensor([[1], [0], [0], [1], [0], [0]]))]
    model = nn.Linear(3, 1)
    found = predict(model, PointPosterior.from_module(model), loader, Bernoulli())
    assert found.metrics["mean_precision"] == pytest.approx(1 / 3)


def test_metrics_of_ones_own_take_the_place_of_the_usual():
    loader, _ = labels_case()
    model = nn.Linear(3, 4)
    metrics = MetricCollection({"auroc": MultilabelAUROC(4)})
    found = predict(model, PointPosterior.from_module(model), loader, Bernoulli(), metrics=metrics)
    assert sorted(found.metrics) == ["auroc", "nll"]


def test_new_inputs_get_probabilities_and_quantiles():
    model = nn.Linear(3, 2)
    posterior, inputs = PointPosterior.from_module(model), torch.randn(5, 3)
    found = predict(model, posterior, [inputs], Bernoulli(), forward=inputs_forward)
    torch.testing.assert_close(found.label_probs, model(inputs).sigmoid().double())
    assert found.metrics == {}
    found = predict(model, posterior, [inputs], Normal(std=2.0), forward=inputs_forward)
    assert (found.ranks, found.crps, found.metrics) == (None, None, {})
    low = model(inputs).double() + 2 * scipy.stats.norm.ppf(0.05)
    torch.testing.assert_close(found.quantiles[..., 0], low.detach())


@pytest.mark.parametrize("max_draw_bytes", [2**30, 1])
def test_intervals_are_quantiles_of_the_mixture(max_draw_bytes):
    """Two draws 100 standard deviations apart: a normal law's intervals would end elsewhere."""
    model = nn.Linear(1, 1, bias=False)
    posterior = Draws(model, num_draws=2)
    posterior.weights = [torch.tensor([0.0]), torch.tensor([100.0])]
    loader = [(torch.ones(2, 1), torch.tensor([[0.0], [50.0]]))]
    found = predict(model, posterior, loader, Normal(std=1.0), max_draw_bytes=max_draw_bytes)
    z = scipy.stats.norm.ppf(0.9)
    np.testing.assert_allclose(found.quantiles[0, 0], [-z, 0, 100, 100 + z], atol=1e-9)
    assert found.ranks.tolist() == [[0.25], [0.5]]
    assert found.metrics["coverage_50"] == 1.0
    # E|Y - y| - E|Y - Y'| / 2
    apart = (50 + 1 / math.sqrt(math.pi)) / 2
    near = (math.sqrt(2 / math.pi) + 100) / 2
    np.testing.assert_allclose(found.crps, [near - apart, 50 - apart], rtol=1e-12)
