import numpy as np
import pytest
import torch
from scipy.special import entr, logsumexp, softmax

from bayesprior.errors import ConfigError, DataError
from bayesprior.inference.protocols import Draw
from bayesprior.prediction import averaging
from bayesprior.prediction.averaging import DrawAverage, add_softmax
from bayesprior.tasks.likelihoods import Categorical, Normal
from bayesprior.tasks.pixels import PixelCategorical

SHAPES = [(7, 3), (1, 1000), (4, 1), (2, 3, 5), (3, 4, 6, 5), (1, 11, 40, 30)]


@pytest.mark.parametrize("strip", [1, 100, 2**18])
@pytest.mark.parametrize("shape", SHAPES)
def test_one_sweep_equals_scipy(shape, strip, monkeypatch):
    monkeypatch.setattr(averaging, "_STRIP", strip)
    logits = 5 * torch.randn(2, *shape, dtype=torch.float64)
    total = torch.zeros(shape, dtype=torch.float64)
    for draw in logits:
        entropy, energy = add_softmax(total, draw)
        probs = softmax(draw.numpy(), 1)
        np.testing.assert_allclose(entropy, entr(probs).sum(1), rtol=1e-9, atol=1e-13)
        np.testing.assert_allclose(energy, -logsumexp(draw.numpy(), 1), rtol=1e-12)
    np.testing.assert_allclose(total, softmax(logits.numpy(), 2).sum(0), rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_logits(dtype):
    top = torch.finfo(dtype).max / 4
    logits = torch.tensor([[top, -top, -torch.inf], [-1e4, -1e4, -1e4], [0, -1e4, 0]], dtype=dtype)
    total = torch.zeros_like(logits)
    entropy, energy = add_softmax(total, logits)
    expected = torch.tensor([[1, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0, 0.5]], dtype=dtype)
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(entropy, torch.tensor([0, 3, 2], dtype=dtype).clamp_min(1).log())
    logs = torch.tensor([0.0, 3, 2], dtype=dtype).clamp_min(1).log()
    torch.testing.assert_close(energy, -torch.tensor([top, -1e4, 0], dtype=dtype) - logs)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_no_number_stays_none(value):
    total = torch.zeros(1, 2)
    entropy, _ = add_softmax(total, torch.tensor([[0.0, value]]))
    assert entropy.isnan().all()
    average = DrawAverage(Categorical(), torch.tensor([0]))
    draws = [Draw(0, 0, torch.zeros(1)), Draw(3, 7, torch.zeros(1))]
    outputs = [torch.zeros(1, 2), torch.tensor([[0.0, value]])]
    with pytest.raises(DataError, match="draw 7 of chain 3 gives NaN in batch 5"):
        average.update(outputs, torch.tensor([0]), draws, 5)


def test_the_callers_outputs_are_left_alone():
    outputs = torch.randn(2, 3, 4, 4)
    kept = outputs.clone()
    average = DrawAverage(PixelCategorical(), targets := torch.zeros(2, 4, 4).long())
    average.update([outputs], targets, [Draw(0, 0, torch.zeros(1))], 0)
    assert torch.equal(outputs, kept)
    law, means = average.average()
    assert law.dtype == means["energy"].dtype == torch.float32  # maps take half the memory


class Doubled(PixelCategorical):
    """Its own log likelihood must be asked, not ours."""

    def log_prob(self, outputs, targets):
        return 2 * super().log_prob(outputs, targets)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
def test_log_likelihood_of_maps_is_the_likelihoods_own(dtype):
    outputs, targets = 5 * torch.randn(2, 3, 6, 5), torch.randint(0, 3, (2, 6, 5)).to(dtype)
    targets[0, :2] = 255
    draws = [Draw(0, 0, torch.zeros(1))]
    for likelihood in (PixelCategorical(), PixelCategorical(reduction="sum"), Doubled()):
        found = DrawAverage(likelihood, targets).update([outputs], targets, draws, 0)
        expected = likelihood.log_prob(outputs.double(), targets.long())
        np.testing.assert_allclose(found[0], expected, rtol=1e-6)
    targets[:] = 255  # nothing is labeled
    found = DrawAverage(PixelCategorical(), targets).update([outputs], targets, draws, 0)
    assert found.tolist() == [[0.0, 0.0]]


def test_log_odds_of_binary_masks_are_averaged_as_two_classes():
    odds, targets = torch.randn(2, 3, 1, 4, 4), torch.randint(0, 2, (3, 4, 4))
    draws = [Draw(0, i, torch.zeros(1), confidence=c) for i, c in enumerate((1.0, 2.0))]
    average = DrawAverage(PixelCategorical(), targets)
    average.update(iter(odds), targets, draws, 0)
    law, means = average.average()
    expected = (odds[0].sigmoid() + (2 * odds[1]).sigmoid()) / 2
    torch.testing.assert_close(law[:, 1:], expected)
    torch.testing.assert_close(law.sum(1), torch.ones(3, 4, 4))
    assert means["energy"].shape == (3, 4, 4)


class Sharper(Categorical):
    """Logits at temperature 1 / 2."""

    def predictive(self, outputs):
        return super().predictive(2 * outputs)


class Geometric(Categorical):
    """Pools probabilities by their logarithms."""

    def average(self, predictions, counts=None):
        logs = super().average([p.log() for p in predictions], counts)
        return logs.softmax(-1)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.2, 3.0, 1.3)])
@pytest.mark.parametrize("likelihood", [Categorical(), Sharper(), Geometric()])
def test_a_subclass_own_law_and_average_are_asked(likelihood, weights):
    logits, targets = torch.randn(3, 5, 4).double(), torch.randint(0, 4, (5,))
    draws = [Draw(0, i, torch.zeros(1), weight=w) for i, w in enumerate(weights)]
    average = DrawAverage(likelihood, targets)
    average.update(logits[:2], targets, draws[:2], 0)
    average.update(logits[2:], targets, draws[2:], 0)
    law, means = average.average()
    laws = [likelihood.predictive(draw) for draw in logits]
    expected = likelihood.average(laws, weights)
    np.testing.assert_allclose(law, expected, rtol=1e-12)
    shares = np.array(weights) / sum(weights)
    entropies = np.stack([likelihood.entropy(one) for one in laws])
    np.testing.assert_allclose(means["expected_entropy"], shares @ entropies, rtol=1e-12)
    energies = -logsumexp(logits.numpy(), 2)
    np.testing.assert_allclose(means["energy"], shares @ energies, rtol=1e-12)


def test_confidence_multiplies_the_logits():
    logits, targets = torch.randn(2, 5, 4).double(), torch.randint(0, 4, (5,))
    draws = [Draw(0, 0, torch.zeros(1)), Draw(0, 1, torch.zeros(1), confidence=2.5)]
    average = DrawAverage(Categorical(), targets)
    scores = average.update(logits, targets, draws, 0)
    scaled = logits * torch.tensor([1.0, 2.5]).double().view(2, 1, 1)
    np.testing.assert_allclose(average.average()[0], softmax(scaled.numpy(), 2).mean(0), rtol=1e-12)
    for score, row in zip(scores, scaled, strict=True):
        np.testing.assert_allclose(score, Categorical().log_prob(row, targets), rtol=1e-12)
    with pytest.raises(ConfigError, match=r"draw 1 of chain 0 has confidence 2\.5, .*Normal has"):
        DrawAverage(Normal(std=1.0), None).update(logits, None, draws, 0)
