import copy
import math
import weakref

import numpy as np
import pytest
import scipy.stats
import torch
from poisson import Poisson
from prediction_cases import Draws, batches, classifier
from torch import nn
from torchmetrics.classification import MulticlassF1Score
from torchmetrics.regression import MeanAbsoluteError

from bayesprior.errors import DataError
from bayesprior.inference.posteriors import PointPosterior, StoredDraws, save_draw
from bayesprior.inference.protocols import Draw
from bayesprior.prediction.metrics import whole_scores
from bayesprior.prediction.mixtures import NormalMixture
from bayesprior.prediction.predict import predict
from bayesprior.tasks.likelihoods import Categorical, HeteroscedasticNormal, Normal
from bayesprior.tasks.pixels import PixelCategorical


def outputs_of(model, posterior, loader):
    """Every draw's outputs, the long way: (S, N, ...)."""
    model, rows = copy.deepcopy(model).eval(), []
    for draw in posterior.draws():
        posterior.layout.load_(model, draw.weights)
        with torch.no_grad():
            rows.append(torch.cat([model(x).double() for x, _ in loader]))
    return torch.stack(rows).numpy()


def softmax(logits, axis=-1):
    e = np.exp(logits - logits.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def entropy(probs, axis=-1):
    return -(probs * np.log(probs)).sum(axis)


# --- what it computes ----------------------------------------------------------------------


@pytest.mark.parametrize("max_draw_bytes", [2**30, 300, 1])
def test_classification_equals_the_whole_computation(max_draw_bytes):
    model, loader = classifier(), batches()
    posterior = Draws(model)
    found = predict(model, posterior, loader, Categorical(), max_draw_bytes=max_draw_bytes)
    probs = softmax(outputs_of(model, posterior, loader))
    targets = torch.cat([y for _, y in loader]).numpy()
    mean = probs.mean(0)
    likelihood = probs[:, np.arange(11), targets]
    assert "<tr><th>points</th><td>11</td></tr>" in found._repr_html_()
    assert f"<tr><th>nll</th><td>{found.metrics['nll']:.4g}</td></tr>" in found._repr_html_()
    np.testing.assert_allclose(found.mean_probs, mean, rtol=1e-12)
    np.testing.assert_allclose(found.log_likelihood, np.log(likelihood), rtol=1e-12)
    np.testing.assert_allclose(found.predictive_entropy, entropy(mean), rtol=1e-12)
    np.testing.assert_allclose(found.expected_entropy, entropy(probs).mean(0), rtol=1e-12)
    np.testing.assert_allclose(
        found.mutual_information, entropy(mean) - entropy(probs).mean(0), rtol=1e-9
    )
    energy = -np.logaddexp.reduce(outputs_of(model, posterior, loader), axis=2).mean(0)
    np.testing.assert_allclose(found.energy, energy, rtol=1e-12)
    assert torch.equal(found.targets, torch.from_numpy(targets))
    assert found.chain.tolist() == [0, 0, 1, 1, 2]
    assert found.draw.tolist() == [0, 1, 0, 1, 0]
    assert found.metrics["nll"] == pytest.approx(-np.log(likelihood.mean(0)).mean(), rel=1e-12)
    assert found.metrics["accuracy"] == pytest.approx((mean.argmax(1) == targets).mean())
    assert set(found.metrics) == {"accuracy", "brier", "ece", "nll"}
    assert found.mean is None
    assert found.variance is None
    for tensor in (found.mean_probs, found.log_likelihood, found.mutual_information):
        assert tensor.dtype == torch.float64
        assert not tensor.requires_grad
        assert not tensor.is_inference()


def test_a_constant_that_a_draw_adds_to_its_logits_moves_no_point_against_another():
    model, loader = nn.Linear(3, 4), batches()
    draws = Draws(model)
    energy = predict(model, draws, loader, Categorical()).energy
    moved = Draws(model)
    for row, constant in zip(moved.weights, (9.0, -3.0, 0.5, 2.0, -7.0), strict=True):
        draws.layout.unflatten(row)["bias"].add_(constant)
    found = predict(model, moved, loader, Categorical()).energy
    np.testing.assert_allclose(found - energy, -(9 - 3 + 0.5 + 2 - 7) / 5, rtol=1e-5)


class RulesOut(nn.Linear):
    """Its first class is impossible."""

    def forward(self, inputs):
        return super().forward(inputs) + torch.tensor([-torch.inf, 0.0, 0.0])


def test_classes_ruled_out_have_no_part_in_entropy_and_energy():
    model, loader = RulesOut(3, 3), [(torch.zeros(1, 3), torch.tensor([1]))]
    nn.init.zeros_(model.bias)
    found = predict(model, Draws(model, std=0.0), loader, Categorical())
    assert found.predictive_entropy.item() == pytest.approx(math.log(2), rel=1e-12)
    assert found.expected_entropy.item() == pytest.approx(math.log(2), rel=1e-12)
    assert found.energy.item() == pytest.approx(-math.log(2), rel=1e-12)


def test_draws_that_agree_share_no_information():
    model = classifier()
    found = predict(model, Draws(model, std=0.0), batches(), Categorical())
    assert found.mutual_information.min() >= 0
    assert found.mutual_information.max() < 1e-14


def test_extreme_logits_stay_finite():
    model = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3e4], [-3e4]]))
    loader = [(torch.ones(2, 1), torch.tensor([0, 1]))]
    found = predict(model, PointPosterior.from_module(model), loader, Categorical())
    assert found.log_likelihood.tolist() == [[0.0, -6e4]]
    assert found.metrics["nll"] == 3e4
    assert found.predictive_entropy.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("max_draw_bytes", [2**30, 1])
@pytest.mark.parametrize("likelihood", [Normal(std=0.7), HeteroscedasticNormal()])
def test_regression_equals_the_whole_computation(likelihood, max_draw_bytes):
    model = nn.Linear(3, 4)
    x, y = torch.randn(9, 3), torch.randn(9, 4 if isinstance(likelihood, Normal) else 2)
    loader = list(zip(x.split(4), y.split(4), strict=True))
    posterior = Draws(model)
    found = predict(model, posterior, loader, likelihood, max_draw_bytes=max_draw_bytes)
    outputs = outputs_of(model, posterior, loader)
    if isinstance(likelihood, Normal):
        mean, variance = outputs, np.full_like(outputs, 0.7**2)
    else:
        mean, variance = outputs[..., :2], np.exp(outputs[..., 2:])
    pooled = variance.mean(0) + mean.var(0)
    density = -0.5 * ((y.numpy() - mean) ** 2 / variance + np.log(2 * np.pi * variance)).sum(-1)
    np.testing.assert_allclose(found.mean, mean.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.variance, pooled, rtol=1e-12)
    np.testing.assert_allclose(found.log_likelihood, density, rtol=1e-12)
    total = 0.5 * np.log(2 * np.pi * np.e * pooled).sum(-1)
    expected = 0.5 * np.log(2 * np.pi * np.e * variance).sum(-1).mean(0)
    np.testing.assert_allclose(found.predictive_entropy, total, rtol=1e-12)
    np.testing.assert_allclose(found.mutual_information, total - expected, rtol=1e-9)
    rmse = np.sqrt(((mean.mean(0) - y.numpy()) ** 2).mean())
    nll = -(np.logaddexp.reduce(density, axis=0) - math.log(5)).mean()
    parts = [torch.from_numpy(part) for part in (mean, np.sqrt(variance))]
    law = NormalMixture(*parts, torch.ones(5))
    ranks = torch.from_numpy(scipy.stats.norm.cdf(y.numpy(), mean, np.sqrt(variance)).mean(0))
    np.testing.assert_allclose(found.ranks, ranks, rtol=1e-9)
    np.testing.assert_allclose(found.quantiles[..., 1], law.quantile(0.25), rtol=1e-9)
    whole = whole_scores(
        {"targets": y, "mean": found.mean, "variance": found.variance}
        | {"ranks": ranks, "crps": law.crps(y.double())}
    )
    assert sorted(whole) == ["coverage_50", "coverage_90", "crps", "pit"]
    assert found.metrics == pytest.approx({"nll": nll, "rmse": rmse, **whole}, rel=1e-6)
    assert found.mean_probs is None
    assert found.energy is None  # no logits


def segmentation():
    model = nn.Conv2d(2, 3, 3, padding=1)
    x, y = torch.randn(5, 2, 4, 6), torch.randint(0, 3, (5, 4, 6))
    y[1, :2] = 255
    return model, list(zip(x.split(2), y.split(2), strict=True))


@pytest.mark.parametrize("max_draw_bytes", [2**30, 1])
def test_pixels_equal_the_whole_computation(max_draw_bytes):
    model, loader = segmentation()
    posterior = Draws(model)
    found = predict(
        model, posterior, loader, PixelCategorical(), max_draw_bytes=max_draw_bytes, keep_maps=True
    )
    probs = softmax(outputs_of(model, posterior, loader), axis=2)
    targets = torch.cat([y for _, y in loader]).numpy()
    labeled = targets != 255
    picked = np.take_along_axis(probs, np.where(labeled, targets, 0)[None, :, None], 2)[:, :, 0]
    mean = probs.mean(0)
    assert found.mean_probs.dtype == torch.float32  # maps
    np.testing.assert_allclose(found.mean_probs, mean, rtol=1e-6)
    scores = np.where(labeled, np.log(picked), 0.0).sum((2, 3)) / labeled.sum((1, 2))
    np.testing.assert_allclose(found.log_likelihood, scores, rtol=1e-6)
    np.testing.assert_allclose(found.predictive_entropy, entropy(mean, 1), rtol=1e-6)
    np.testing.assert_allclose(found.expected_entropy, entropy(probs, 2).mean(0), rtol=1e-6)
    energy = -np.logaddexp.reduce(outputs_of(model, posterior, loader), axis=2).mean(0)
    np.testing.assert_allclose(found.energy, energy, rtol=1e-5)
    assert np.array_equal(found.targets, targets)
    assert found.metrics["nll"] == pytest.approx(-np.log(picked.mean(0))[labeled].mean())
    right = mean.argmax(1) == targets
    assert found.metrics["accuracy"] == pytest.approx(right[labeled].mean())
    assert set(found.metrics) == {"accuracy", "brier", "ece", "mean_iou", "nll"}


def test_pixels_keep_no_maps_by_default():
    model, loader = segmentation()
    posterior = Draws(model)
    maps = predict(model, posterior, loader, PixelCategorical(), keep_maps=True)
    found = predict(model, posterior, loader, PixelCategorical())
    assert found.mean_probs is None
    assert found.targets is None
    assert found.metrics == maps.metrics
    points, confidences, right = found.calibration
    assert torch.equal(found.calibration, maps.calibration)
    assert points.sum() == 5 * 4 * 6 - 12  # labeled pixels
    assert right.sum() / points.sum() == pytest.approx(found.metrics["accuracy"])
    error = (right - confidences).abs().sum() / points.sum()
    assert error.item() == pytest.approx(found.metrics["ece"])
    for name in ("mutual_information", "predictive_entropy", "expected_entropy", "energy"):
        mean = getattr(maps, name).double().mean((1, 2))
        torch.testing.assert_close(getattr(found, name), mean, rtol=1e-12, atol=0)


def test_a_likelihood_from_outside():
    model = nn.Linear(3, 1)
    loader = [(torch.randn(4, 3), torch.poisson(torch.ones(4, 1)))]
    found = predict(model, Draws(model), loader, Poisson())
    assert set(found.metrics) == {"nll"}
    assert found.mean.shape == (4, 1)
    found = predict(model, Draws(model), loader, Poisson(), metrics={"mae": MeanAbsoluteError()})
    expected = (found.mean - loader[0][1]).abs().mean().item()
    assert found.metrics["mae"] == pytest.approx(expected, rel=1e-6)


def test_own_metrics_are_used_and_left_alone():
    model, loader = classifier(), batches()
    metric = MulticlassF1Score(4)
    found = predict(model, Draws(model), loader, Categorical(), metrics={"f1": metric})
    assert not metric.update_called
    metric.update(found.mean_probs, found.targets)
    assert found.metrics == {
        "nll": found.metrics["nll"],
        "f1": pytest.approx(metric.compute().item()),
    }
    again = predict(model, Draws(model), loader, Categorical(), metrics={"f1": metric})
    assert again.metrics == found.metrics


# --- weights and where they come from ------------------------------------------------------


def test_stored_draws_and_points(tmp_path):
    model, loader = classifier(), batches()
    posterior = Draws(model, num_draws=4)
    for draw in posterior.draws():
        save_draw(tmp_path / f"chain-{draw.chain:02d}", posterior.layout, draw)
    memory = predict(model, posterior, loader, Categorical())
    disk = predict(model, StoredDraws(tmp_path), loader, Categorical())
    assert torch.equal(memory.mean_probs, disk.mean_probs)
    last = predict(model, StoredDraws(tmp_path), loader, Categorical(), num_draws=2)
    assert torch.equal(last.log_likelihood, disk.log_likelihood[[1, 3]])
    point = predict(model, PointPosterior.from_module(model), loader, Categorical())
    logits = torch.cat([model(x) for x, _ in loader]).detach().double()
    torch.testing.assert_close(point.mean_probs, logits.softmax(1))
    assert not point.mutual_information.any()


def test_parameters_outside_the_layout_are_the_models():
    model, loader = classifier(), batches()
    posterior = Draws(model)
    layout = posterior.layout.select(["0.weight", "0.bias"])
    sub = Draws(model)
    sub.layout, sub.weights = layout, [w[: layout.dim] for w in posterior.weights]
    expected = outputs_of(model, sub, loader)
    found = predict(model, sub, loader, Categorical())
    np.testing.assert_allclose(found.mean_probs, softmax(expected).mean(0), rtol=1e-12)


def test_tied_weights_move_together():
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    posterior, loader = Draws(model), batches(classes=3)
    assert "2.weight" not in posterior.layout.names
    found = predict(model, posterior, loader, Categorical())
    expected = softmax(outputs_of(model, posterior, loader)).mean(0)
    np.testing.assert_allclose(found.mean_probs, expected, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(dtype):
    model = classifier().to(dtype)
    loader = [(x.to(dtype), y) for x, y in batches()]
    found = predict(model, Draws(model), loader, Categorical())
    expected = softmax(outputs_of(model, Draws(model), loader)).mean(0)
    np.testing.assert_allclose(found.mean_probs, expected, rtol=1e-12)


def noisy():
    net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 4))
    for _ in range(5):
        net(torch.randn(16, 3))
    return net


@pytest.mark.parametrize("policy", ["frozen", "reestimate"])
def test_the_model_is_left_as_it_was(policy):
    model, loader = noisy(), batches()
    model[0].eval()  # flags that differ between submodules
    model[3].weight.grad = torch.ones_like(model[3].weight)
    before = copy.deepcopy(model.state_dict())
    parameters = list(model.parameters())
    flags = [module.training for module in model.modules()]
    bn_loader = loader if policy == "reestimate" else None
    predict(model, Draws(model), loader, Categorical(), batch_norm=policy, bn_loader=bn_loader)
    with pytest.raises(DataError):
        predict(model, Draws(model), [(torch.zeros(2, 3), torch.tensor([0, 9]))], Categorical())
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert torch.equal(model[3].weight.grad, torch.ones_like(model[3].weight))


def test_dropout_is_off():
    model, loader = noisy(), batches()
    first, second = (predict(model, Draws(model), loader, Categorical()) for _ in range(2))
    assert torch.equal(first.log_likelihood, second.log_likelihood)


# --- memory --------------------------------------------------------------------------------


def test_few_draws_are_held_at_once():
    model, loader = classifier(), batches()
    alive, peaks = [], []

    class Counting(Draws):
        def draws(self, num_draws=None, seed=0):
            for index, weights in enumerate(self.weights):
                copied = weights.clone()
                alive.append(weakref.ref(copied))
                yield Draw(0, index, copied)
                del copied

    def count(module, args):
        peaks.append(sum(ref() is not None for ref in alive))

    model.register_forward_pre_hook(count)
    posterior = Counting(model, num_draws=10)
    budget = 3 * posterior.layout.dim * 4
    predict(model, posterior, loader, Categorical(), max_draw_bytes=budget)
    assert max(peaks) == 4  # three in use and the one that did not fit
    peaks.clear()
    alive.clear()
    predict(model, posterior, loader, Categorical(), max_draw_bytes=1)
    assert max(peaks) == 2


def test_batches_are_read_once_if_the_draws_fit():
    model = classifier()
    found = predict(model, Draws(model), iter(batches()), Categorical())
    assert len(found.targets) == 11


# --- appearance and devices ----------------------------------------------------------------


@pytest.mark.parametrize("progress", [False, True])
def test_progress_goes_to_stderr_or_nowhere(capsys, progress):
    model = classifier()
    predict(model, Draws(model), batches(), Categorical(), progress=progress)
    captured = capsys.readouterr()
    assert not captured.out
    assert ("predict with 5 draws" in captured.err) == progress


@pytest.mark.gpu
@pytest.mark.parametrize("max_draw_bytes", [2**30, 1])
def test_gpu_equals_cpu(max_draw_bytes):
    model, loader = classifier().double(), [(x.double(), y) for x, y in batches()]
    posterior = Draws(model)
    here = predict(model, posterior, loader, Categorical())
    there = predict(
        model, posterior, loader, Categorical(), device="cuda", max_draw_bytes=max_draw_bytes
    )
    assert there.mean_probs.device.type == "cpu"
    assert next(model.parameters()).device.type == "cpu"
    torch.testing.assert_close(there.mean_probs, here.mean_probs, rtol=1e-9, atol=0)
    torch.testing.assert_close(there.log_likelihood, here.log_likelihood, rtol=1e-9, atol=0)
    assert there.metrics == pytest.approx(here.metrics)
