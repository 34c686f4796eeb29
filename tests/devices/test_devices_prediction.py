"""Likelihoods, predictions and metrics."""

import pytest
import torch
from devices.accelerator import waits
from prediction_cases import Draws
from torch import nn

from bayesprior.errors import DataError
from bayesprior.inference.protocols import Draw
from bayesprior.prediction.metrics import METRICS
from bayesprior.prediction.points import Points
from bayesprior.prediction.predict import predict
from bayesprior.tasks.likelihoods import Bernoulli, Categorical, HeteroscedasticNormal, Normal
from bayesprior.tasks.pixels import PixelCategorical

B = 7


def labels(*shape):
    return torch.arange(B * torch.Size(shape).numel()).view(B, *shape) % 4


# likelihood, module, inputs, targets
CASES = {
    "Categorical": (Categorical(), lambda: nn.Linear(3, 4), (3,), labels()),
    "Bernoulli": (Bernoulli(), lambda: nn.Linear(3, 4), (3,), labels(4) % 2),
    "PixelCategorical": (
        PixelCategorical(ignore_index=3),
        lambda: nn.Conv2d(1, 4, 3, padding=1),
        (1, 3, 2),
        labels(3, 2),
    ),
    "Normal": (
        Normal(std=0.3),
        lambda: nn.Linear(3, 2),
        (3,),
        torch.linspace(-1, 1, 2 * B).view(B, 2),
    ),
    "a std a target": (
        Normal(std=torch.tensor([0.3, 0.5])),
        lambda: nn.Linear(3, 2),
        (3,),
        torch.linspace(-1, 1, 2 * B).view(B, 2),
    ),
    "HeteroscedasticNormal": (
        HeteroscedasticNormal(),
        lambda: nn.Linear(3, 4),
        (3,),
        torch.linspace(-1, 1, 2 * B).view(B, 2),
    ),
}


@pytest.fixture(params=CASES)
def case(request):
    likelihood, make, shape, targets = CASES[request.param]
    torch.manual_seed(0)
    return likelihood, make(), torch.randn(B, *shape), targets


def test_likelihoods(case, both, device):
    likelihood, module, inputs, targets = case
    outputs = module(inputs).detach()

    def work(place):
        there, known = outputs.to(place).requires_grad_(), targets.to(place)
        likelihood.validate(there, known)
        score = likelihood.log_prob(there, known)
        (gradient,) = torch.autograd.grad(score.sum(), there)
        laws = [likelihood.predictive(there + shift) for shift in (0.0, 1.0)]
        average = likelihood.average(laws, [1.0, 3.0])
        density = likelihood.distribution(there).log_prob(known)
        watched = likelihood.monitor(there.detach(), known)
        return score, gradient, average, likelihood.entropy(average), density, watched

    both(work)
    there, known = outputs.to(device), targets.to(device)
    with waits() as found:
        likelihood.log_prob(there, known)
        likelihood.monitor(there, known)
        likelihood.entropy(likelihood.average([likelihood.predictive(there)]))
    assert not found
    with waits() as found:
        likelihood.validate(there, known)
    assert found.total() == 1


@pytest.mark.parametrize("name", ["Categorical", "PixelCategorical"])
def test_labels_out_of_range_are_named(device, name):
    likelihood, make, shape, targets = CASES[name]
    outputs = make()(torch.randn(B, *shape)).to(device)
    with pytest.raises(DataError, match=r"must be in 0 ... 3 .* got 9"):
        likelihood.validate(outputs, targets.where(targets != 2, 9).to(device))


class Carrying(Draws):
    """Draws with statistics, weights and confidences of their own, on a device."""

    def __init__(self, module, buffers, device):
        super().__init__(module)
        self.buffers, self.device = buffers, device

    def draws(self, num_draws=None, seed=0):
        for draw in super().draws(num_draws, seed):
            own = {k: (b + 0.1 * draw.index).to(self.device) for k, b in self.buffers.items()}
            weight = 1.0 + draw.index
            yield Draw(draw.chain, draw.index, draw.weights.to(self.device), own, None, weight)


def loader_of(inputs, targets):
    return list(zip(inputs.split(3), targets.split(3), strict=True))


@pytest.mark.parametrize("max_draw_bytes", [2**30, 1])
def test_predictions(case, both, max_draw_bytes):
    likelihood, module, inputs, targets = case
    posterior, loader = Draws(module), loader_of(inputs, targets)

    def work(device):
        found = predict(
            module,
            posterior,
            loader,
            likelihood,
            device=device,
            max_draw_bytes=max_draw_bytes,
            keep_maps=True,
        )
        assert next(module.parameters()).device.type == "cpu"
        return found

    both(work)


@pytest.mark.parametrize("batch_norm", ["draw", "module", "reestimate"])
def test_predictions_with_statistics(both, batch_norm):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 4))
    buffers = {k: b.clone() for k, b in module.named_buffers() if b.is_floating_point()}
    inputs, loader = torch.randn(B, 3), loader_of(torch.randn(B, 3), labels())

    def work(device):
        posterior = Carrying(module, buffers, device)
        bn_loader = inputs.split(4) if batch_norm == "reestimate" else None
        options = {"batch_norm": batch_norm, "bn_loader": bn_loader, "device": device}
        return predict(module, posterior, loader, Categorical(), **options)

    both(work)


def test_what_a_predicted_batch_waits_for(device):
    likelihood, make, shape, targets = CASES["Categorical"]
    torch.manual_seed(0)
    module, inputs = make(), torch.randn(B, *shape)
    posterior, loader = Draws(module), loader_of(inputs, targets)
    counted = []
    for batches, draws in ((loader, 5), (loader[:2], 5), (loader, 2)):
        with waits() as found:
            predict(module, posterior, batches, likelihood, device=device, num_draws=draws)
        counted.append(found)
    assert dict(counted[0] - counted[1]) == {
        "tasks/likelihoods.py:check_labels": 1,
        "prediction/averaging.py:update": 2,  # NaN anywhere; the log likelihoods
        "prediction/predict.py:_mark": 1,
        "prediction/results.py:add": 6,  # what is kept, by name
        "prediction/points.py:<listcomp>": 3,  # the bins of the calibration error
    }
    # a draw of a law on the host is copied to the device, and that is all
    assert dict(counted[0] - counted[2]) == {"prediction/functional.py:state": 3}


@pytest.mark.parametrize("name", METRICS)
def test_metrics(both, name):
    torch.manual_seed(0)
    row, probs, known = METRICS[name], torch.rand(9, 4).softmax(1), torch.arange(9) % 4
    mean, numbers, spread = torch.randn(9, 2), torch.randn(9, 2), torch.rand(9)

    def work(device):
        there = probs.to(device), known.to(device)
        labeled = Points.labeled(*there)
        parts = {"aleatoric": spread.to(device), "epistemic": spread.to(device)}
        points = Points(labeled.targets, labeled.log_score, labeled.probs, **parts)
        given = there
        if row.tasks == ("numbers",):
            given = mean.to(device), numbers.to(device)
            points = Points(given[1], labeled.log_score, mean=given[0], variance=given[0].exp())
        if row.tasks == ("labels",):
            several = (probs > 0.3).long().to(device)
            points = Points(several, labeled.log_score, labeled.probs)
        values = row.points(points)
        streamed = row.metric(4)
        if streamed is None:
            return values, row.summarize(values)
        streamed.to(device)
        for _ in range(2):
            streamed.update(*given)
        return values, row.summarize(values), streamed.compute()

    both(work)
