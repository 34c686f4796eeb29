"""Batches and outputs of other kinds, and batches without targets."""

import numpy as np
import pytest
import torch
from prediction_cases import Draws, batches, classifier
from torch import nn

from bayesprior.errors import DataError
from bayesprior.inference.posteriors import PointPosterior
from bayesprior.prediction.predict import predict
from bayesprior.tasks.likelihoods import Categorical, Normal
from bayesprior.tasks.pixels import PixelCategorical
from bayesprior.tasks.protocols import dictionary_forward, inputs_forward, keyword_forward


class Keywords(nn.Module):
    """Takes keywords and returns a dictionary, as transformers do."""

    def __init__(self):
        super().__init__()
        self.network = classifier()

    def forward(self, inputs, mask=None):
        return {"logits": self.network(inputs if mask is None else inputs * mask)}


def same(left, right):
    for name in ("mean_probs", "predictive_entropy", "expected_entropy", "energy"):
        assert torch.equal(getattr(left, name), getattr(right, name))


def test_dictionaries():
    model, loader = Keywords(), batches()
    draws = Draws(model)
    pairs = predict(
        model, draws, loader, Categorical(), forward=dictionary_forward("logits"), num_draws=3
    )
    keywords = [{"inputs": x, "mask": torch.ones(3), "labels": y} for x, y in loader]
    found = predict(model, draws, keywords, Categorical(), forward=keyword_forward(), num_draws=3)
    same(found, pairs)
    assert found.metrics == pairs.metrics
    assert torch.equal(found.targets, pairs.targets)
    with pytest.raises(DataError, match=r"pass forward=keyword_forward\(\)"):
        predict(model, draws, keywords, Categorical())


@pytest.mark.parametrize("max_draw_bytes", [2**30, 1])
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x]])
def test_new_data_without_targets(max_draw_bytes, wrap):
    model, loader = classifier(), batches()
    draws, options = Draws(model), {"max_draw_bytes": max_draw_bytes}
    labeled = predict(model, draws, loader, Categorical(), **options)
    inputs = [wrap(x) for x, _ in loader]
    found = predict(model, draws, inputs, Categorical(), forward=inputs_forward, **options)
    same(found, labeled)
    assert found.targets is found.log_likelihood is found.average_log_likelihood is None
    assert found.metrics == {}
    assert found.calibration is None
    assert found.num_points == labeled.num_points == 11
    assert torch.equal(found.chain, labeled.chain)


def test_new_data_of_other_tasks():
    line, x = nn.Linear(3, 2), torch.randn(5, 3)
    found = predict(line, Draws(line), [x], Normal(std=1.0), forward=inputs_forward)
    assert found.mean.shape == found.variance.shape == (5, 2)
    pixels, maps = nn.Conv2d(2, 3, 1), torch.randn(2, 2, 4, 4)
    found = predict(
        pixels, Draws(pixels), [maps], PixelCategorical(), forward=inputs_forward, keep_maps=True
    )
    assert found.mean_probs.shape == (2, 3, 4, 4)


def test_inputs_that_change_between_passes_are_noticed():
    model = classifier()

    class Shuffled:
        def __iter__(self):
            return iter(torch.randn(2, 4, 3))

    with pytest.raises(DataError, match="has other examples in batch 0"):
        predict(
            model, Draws(model), Shuffled(), Categorical(), forward=inputs_forward, max_draw_bytes=1
        )


def test_all_batches_have_targets_or_none():
    model, loader = classifier(), batches()
    loader[1] = (loader[1][0], None)
    with pytest.raises(DataError, match="1 of 3 batches have no targets"):
        predict(model, Draws(model), loader, Categorical())


def test_nan_of_a_dictionary_is_the_inputs_fault():
    model, loader = Keywords(), [{"inputs": torch.randn(2, 3), "n": torch.ones(2)}] * 2
    loader[1] = {"inputs": torch.full((2, 3), torch.nan), "n": torch.ones(2)}
    with pytest.raises(DataError, match="^batch 1 of the inputs holds NaN"):
        predict(
            model,
            Draws(model),
            [{k: b[k] for k in ("inputs",)} for b in loader],
            Categorical(),
            forward=keyword_forward(),
        )


def test_outputs_are_the_long_way_round():
    model, x = Keywords(), torch.randn(6, 3)
    draws = Draws(model)
    rows = []
    for draw in draws.draws():
        other = Keywords()
        draws.layout.load_(other, draw.weights)
        rows.append(other(x)["logits"].double().softmax(1))
    found = predict(model, draws, [{"inputs": x}], Categorical(), forward=keyword_forward())
    np.testing.assert_allclose(found.mean_probs, torch.stack(rows).mean(0).detach(), rtol=1e-12)


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda m: torch.compile(m, backend="eager")])
def test_wrapped_networks_predict_under_their_plain_names(wrap):
    model, loader = classifier(), batches()
    expected = predict(model, Draws(model), loader, Categorical())
    wrapped = wrap(model)
    found = predict(wrapped, Draws(model), loader, Categorical())
    assert torch.equal(found.log_likelihood, expected.log_likelihood)
    fit = PointPosterior.from_module(wrapped)
    assert fit.layout == Draws(model).layout
