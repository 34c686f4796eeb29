"""Draws that know what they are: statistics, mixture weights, confidence and layouts."""

import dataclasses

import numpy as np
import pytest
import torch
from prediction_cases import Draws, batches, classifier
from scipy.special import logsumexp
from torch import nn

from bayesprior.errors import ConfigError
from bayesprior.inference.collectors import DrawsInMemory
from bayesprior.inference.posteriors import PointPosterior, StoredDraws, save_draw
from bayesprior.prediction.predict import predict
from bayesprior.tasks.likelihoods import Categorical, Normal

WEIGHTS = (0.5, 2.0, 1.0, 0.25, 3.0)


def on_disk(folder, posterior):
    for draw in posterior.draws():
        place = folder / f"chain-{draw.chain:02d}"
        save_draw(place, posterior.layout, draw, average=posterior.average)
    return StoredDraws(folder)


def in_one_chain(draws, **changes):
    return [
        dataclasses.replace(d, chain=0, index=i, **{k: v[i] for k, v in changes.items()})
        for i, d in enumerate(draws.draws())
    ]


@pytest.mark.parametrize("max_draw_bytes", [2**30, 1])
@pytest.mark.parametrize("where", ["memory", "disk"])
def test_mixture_weights(tmp_path, where, max_draw_bytes):
    model, loader = classifier(), batches()
    draws = Draws(model)
    posterior = DrawsInMemory(in_one_chain(draws, weight=WEIGHTS), draws.layout)
    if where == "disk":
        posterior = on_disk(tmp_path, posterior)
    options = {"max_draw_bytes": max_draw_bytes}
    alone = [
        predict(model, DrawsInMemory([d], draws.layout), loader, Categorical())
        for d in in_one_chain(draws)
    ]
    found = predict(model, posterior, loader, Categorical(), **options)
    shares = np.array(WEIGHTS) / sum(WEIGHTS)
    np.testing.assert_allclose(found.weight, shares, rtol=1e-12)
    for name in ("mean_probs", "expected_entropy", "energy"):
        expected = np.tensordot(shares, np.stack([getattr(one, name) for one in alone]), 1)
        np.testing.assert_allclose(getattr(found, name), expected, rtol=1e-12)
    scores = np.concatenate([one.log_likelihood for one in alone])
    np.testing.assert_allclose(found.log_likelihood, scores, rtol=1e-12)  # of each draw
    score = logsumexp(scores + np.log(shares)[:, None], axis=0)
    np.testing.assert_allclose(found.average_log_likelihood, score, rtol=1e-12)
    assert found.metrics["nll"] == pytest.approx(-score.mean(), rel=1e-12)
    picked = found.mean_probs[range(11), found.targets].log()
    np.testing.assert_allclose(picked, score, rtol=1e-12)


def test_moments_of_a_weighted_mixture():
    model, x = nn.Linear(3, 2), torch.randn(5, 3)
    loader, draws = [(x, torch.randn(5, 2))], Draws(model)
    posterior = DrawsInMemory(in_one_chain(draws, weight=WEIGHTS), draws.layout)
    found = predict(model, posterior, loader, Normal(std=0.5), max_draw_bytes=1)
    means = np.stack(
        [
            predict(model, DrawsInMemory([d], draws.layout), loader, Normal(std=0.5)).mean
            for d in draws.draws()
        ]
    )
    shares = np.array(WEIGHTS) / sum(WEIGHTS)
    mean = np.tensordot(shares, means, 1)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-10)
    spread = np.tensordot(shares, (means - mean) ** 2, 1)
    np.testing.assert_allclose(found.variance, 0.25 + spread, rtol=1e-10)


def test_weights_that_are_equal_change_no_bit():
    model, loader = classifier(), batches()
    draws = Draws(model)
    plain = predict(model, DrawsInMemory(in_one_chain(draws), draws.layout), loader, Categorical())
    same = in_one_chain(draws, weight=[0.5] * 5)
    found = predict(model, DrawsInMemory(same, draws.layout), loader, Categorical())
    assert torch.equal(found.mean_probs, plain.mean_probs)
    assert found.metrics == plain.metrics
    assert torch.equal(found.weight, torch.full((5,), 0.2, dtype=torch.float64))


def test_confidence_of_a_point_survives_its_file(tmp_path):
    model, loader = classifier(), batches()
    layout = Draws(model).layout
    PointPosterior(layout, layout.flatten(model), confidence=0.3).save(tmp_path / "map")
    found = predict(model, PointPosterior.load(tmp_path / "map"), loader, Categorical())
    logits = torch.cat([model(x) for x, _ in loader]).double()
    np.testing.assert_allclose(found.mean_probs, (0.3 * logits).softmax(1).detach(), rtol=1e-12)


def test_statistics_of_a_new_session_are_the_draws():
    """A network made anew has other BatchNorm statistics than the fit that was stored."""
    trained = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))
    for _ in range(20):
        trained(3 + 5 * torch.randn(16, 3))
    fit, loader = PointPosterior.from_module(trained.eval()), batches()
    fresh = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))
    expected = torch.cat([trained(x) for x, _ in loader]).double().softmax(1)
    found = predict(fresh, fit, loader, Categorical())
    np.testing.assert_allclose(found.mean_probs, expected.detach(), rtol=1e-6)
    own = predict(fresh, fit, loader, Categorical(), batch_norm="module")
    assert not torch.allclose(own.mean_probs, found.mean_probs, atol=1e-3)


def test_draws_of_different_layouts_in_one_mixture():
    model, loader = classifier(), batches()
    draws = Draws(model, num_draws=2)
    first, second = draws.draws()
    part = draws.layout.select(["0.weight", "0.bias"])
    short = dataclasses.replace(second, weights=second.weights[: part.dim], layout=part)
    whole = torch.cat([short.weights, draws.layout.flatten(model)[part.dim :]])
    expected = [first, dataclasses.replace(second, weights=whole)]
    found, same = (
        predict(model, DrawsInMemory(which, draws.layout), loader, Categorical())
        for which in ([first, short], expected)
    )
    assert torch.equal(found.log_likelihood, same.log_likelihood)


@pytest.mark.parametrize("max_draw_bytes", [2**30, 1])
@pytest.mark.parametrize("where", ["memory", "disk"])
def test_logits_are_averaged_where_the_posterior_says_so(tmp_path, where, max_draw_bytes):
    model, loader = classifier(), batches()
    draws = Draws(model)
    confidence = (2.4, 1.0, 1.3, 0.7, 1.0)
    chain = in_one_chain(draws, weight=WEIGHTS, confidence=confidence)
    posterior = DrawsInMemory(chain, draws.layout, average="logits")
    if where == "disk":
        posterior = on_disk(tmp_path, posterior)
    found = predict(model, posterior, loader, Categorical(), max_draw_bytes=max_draw_bytes)
    x = torch.cat([inputs for inputs, _ in loader])
    logits = []
    for draw in draws.draws():
        views = draws.layout.unflatten(draw.weights)
        logits.append(torch.func.functional_call(model, views, (x,)).double().detach())
    shares = torch.tensor(WEIGHTS).double() / sum(WEIGHTS)
    pooled = torch.einsum(
        "s,s,snc->nc", shares, torch.tensor(confidence).double(), torch.stack(logits)
    )
    np.testing.assert_allclose(found.mean_probs, pooled.softmax(1), rtol=1e-6)
    score = pooled.log_softmax(1)[range(11), found.targets]
    np.testing.assert_allclose(found.average_log_likelihood, score, rtol=1e-6)
    assert found.metrics["nll"] == pytest.approx(-float(score.mean()), rel=1e-6)
    plain = predict(model, posterior, loader, Categorical(), average="probabilities")
    assert plain.metrics["nll"] != pytest.approx(found.metrics["nll"], rel=1e-3)
    assert torch.equal(plain.log_likelihood, found.log_likelihood)  # of each draw


def test_logits_of_what_has_none_are_refused():
    model, draws = nn.Linear(3, 2), Draws(nn.Linear(3, 2))
    loader = [(torch.randn(5, 3), torch.randn(5, 2))]
    with pytest.raises(ConfigError, match="Normal has no logits"):
        predict(model, draws, loader, Normal(std=0.5), average="logits")
    with pytest.raises(ConfigError, match="average must be"):
        predict(model, draws, loader, Normal(std=0.5), average="votes")
