"""The MAP head against its optimality conditions and scikit-learn, and its prior against draws."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from bayesprior.errors import ConfigError, DivergenceError
from bayesprior.inference.strength.features import feature_statistics
from bayesprior.inference.strength.head import (
    HeadPrior,
    fit_logistic,
    held_out_logits,
    map_head,
    within_metric,
)
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout

C = 3


def task(num, width):
    labels = torch.arange(num) % C
    centers = torch.randn(C, width)
    return 3 * torch.randn(num, width) + centers[labels], labels


def metric(width):
    root = torch.randn(width, width).double()
    return within_metric(root @ root.T)


@pytest.mark.parametrize(("num", "width"), [(40, 5), (12, 30)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_the_gradient_of_the_potential_vanishes(num, width, has_bias):
    features, labels = task(num, width)
    prior = HeadPrior.of_features(features, 5.0, metric(width), has_bias=has_bias)
    weight, bias = map_head(features, labels, C, prior)
    layout = ParameterLayout(("head.weight",), ((C, width),))
    if has_bias:
        layout = ParameterLayout(("head.weight", "head.bias"), ((C, width), (C,)))
    blocks = prior.blocks(
        "head.weight", "head.bias" if has_bias else None, (C, width), torch.double
    )
    law = GaussianWeights.from_blocks(layout, torch.zeros(layout.dim).double(), blocks)
    parts = [weight.reshape(-1)] + ([bias] if has_bias else [])
    w = torch.cat(parts).requires_grad_()
    views = layout.unflatten(w)
    logits = nn.functional.linear(features.double(), views["head.weight"], views.get("head.bias"))
    potential = nn.functional.cross_entropy(logits, labels, reduction="sum") - law.log_prob(w)
    (gradient,) = torch.autograd.grad(potential, w)
    # in the prior's own coordinates, where 1 is the curvature of the prior alone
    assert float(law.gradient_in_z(gradient).norm()) < 1e-7 * math.sqrt(layout.dim)


@pytest.mark.parametrize("penalty", [0.3, 30.0])
def test_scikit_learn_finds_the_same_minimum(penalty):
    from sklearn.linear_model import LogisticRegression

    features, labels = task(60, 4)
    inputs = torch.cat([features, torch.ones(60, 1)], 1)
    penalties = torch.tensor([penalty] * 4 + [0.0])
    found = fit_logistic(inputs, labels, C, penalties).numpy()
    oracle = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=10_000)
    oracle.fit(features.double().numpy(), labels.numpy())
    np.testing.assert_allclose(found[:, :-1], oracle.coef_, atol=1e-5)
    bias = found[:, -1] - found[:, -1].mean()
    np.testing.assert_allclose(bias, oracle.intercept_ - oracle.intercept_.mean(), atol=1e-5)


def test_more_columns_than_examples_are_no_other_problem():
    features, labels = task(10, 25)
    wide = fit_logistic(features, labels, C)
    full = fit_logistic(features, labels, C, torch.ones(25))
    torch.testing.assert_close(wide, full, atol=1e-7, rtol=1e-6)


def test_out_of_fold_logits_are_those_of_heads_that_have_not_seen_them():
    features, labels = task(12, 4)
    prior = HeadPrior.of_features(features, 5.0)
    folds = torch.tensor([0, 1, 2] * 3 + [-1] * 3)
    logits = held_out_logits(features, labels, C, prior, folds)
    for fold in (-1, 1):
        out = folds == fold
        kept = ~out if fold >= 0 else torch.ones(12, dtype=torch.bool)
        weight, bias = map_head(features[kept], labels[kept], C, prior)
        expected = features[out].double() @ weight.T + bias
        torch.testing.assert_close(logits[out], expected, atol=1e-6, rtol=1e-6)


def test_a_logit_has_the_standard_deviation_that_was_asked_for():
    features, labels = task(50, 6)
    for tril in (None, metric(6)):
        prior = HeadPrior.of_features(features, 2.0, tril)
        factors = torch.randn(4000, 7, dtype=torch.float64)
        weight, bias = prior.weights(factors)
        squares = (features.double() @ weight.T + bias).square().mean(0)
        z = (squares.mean() - 4) / (squares.std() / math.sqrt(4000))
        assert abs(float(z)) < stats.norm.isf(1e-7)
        # the same from the source's statistics, but for the degrees of freedom
        told = HeadPrior.of_statistics(
            feature_statistics(features, labels), 2.0, learned=tril is not None
        )
        if tril is None:
            assert told.std == pytest.approx(prior.std, rel=C / 50)


def test_the_metric_is_the_inverse_root_of_the_shrunk_covariance():
    root = torch.randn(5, 5).double()
    within = root @ root.T
    tril = within_metric(within)
    assert not torch.triu(tril, 1).any()
    metric = tril @ tril.T
    shrunk = within + 0.1 * within.diagonal().mean() * torch.eye(5)
    product = metric @ shrunk @ metric  # a multiple of the identity
    torch.testing.assert_close(product / product[0, 0], torch.eye(5).double())
    assert float(metric.diagonal().mean()) == pytest.approx(1)


def test_features_without_a_size_are_refused():
    with pytest.raises(ConfigError, match="all zero"):
        HeadPrior.of_features(torch.zeros(4, 2), has_bias=False)
    with pytest.raises(ConfigError, match="do not vary within classes"):
        within_metric(torch.zeros(2, 2))
    with pytest.raises(DivergenceError, match="not finite"):
        fit_logistic(torch.full((4, 2), torch.nan), torch.zeros(4).long(), 2)
