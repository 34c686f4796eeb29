"""Random and adversarial predictions shared by the diagnostics' tests."""

import numpy as np
import pytest
import torch
from torch import nn

from bayesprior.inference.posteriors import PointPosterior
from bayesprior.inference.protocols import Draw
from bayesprior.prediction.predict import predict
from bayesprior.tasks.likelihoods import Bernoulli, Categorical, Normal
from bayesprior.tree.build import to_datatree
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout


def _random(rng, num_points, num_classes):
    probs = rng.dirichlet(np.ones(num_classes), num_points)
    return probs, rng.integers(0, num_classes, num_points)


CASES = {
    "random": lambda rng: _random(rng, 500, 7),
    "two classes": lambda rng: _random(rng, 400, 2),
    "1000 classes": lambda rng: _random(rng, 50, 1000),
    "one point": lambda rng: _random(rng, 1, 3),
    "all one class": lambda rng: (rng.dirichlet(np.ones(4), 60), np.full(60, 2)),
    "a class never occurs": lambda rng: (rng.dirichlet(np.ones(5), 80), rng.integers(0, 4, 80)),
    "ties": lambda rng: (np.full((90, 3), 1 / 3), rng.integers(0, 3, 90)),
    "zero and one": lambda rng: (np.eye(3)[rng.integers(0, 3, 70)], rng.integers(0, 3, 70)),
    "on the edges": lambda rng: (
        np.stack([k := rng.integers(0, 16, 200) / 15, 1 - k], 1),
        rng.integers(0, 2, 200),
    ),
}


@pytest.fixture(params=list(CASES))
def case(request):
    """Probabilities (N, C) and targets (N,)."""
    return CASES[request.param](np.random.default_rng(3))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def make_prediction():
    """A factory of predictions by draws of a random linear classifier."""

    def make(num_points=60, num_classes=4, chains=2, draws=5, spread=0.3, seed=0):
        g = torch.Generator().manual_seed(seed)
        model = nn.Linear(5, num_classes)
        center = torch.randn(model.weight.numel() + num_classes, generator=g)
        layout = ParameterLayout.from_module(model)
        inputs = torch.randn(num_points, 5, generator=g)
        layout.load_(model, center)
        targets = torch.distributions.Categorical(logits=model(inputs).detach())
        uniform = torch.rand(num_points, 1, generator=g)
        targets = (uniform > targets.probs.cumsum(1)).sum(1).clamp(max=num_classes - 1)
        noise = spread * torch.randn(chains, draws, len(center), generator=g)
        posterior = ListPosterior(layout, center + noise)
        return predict(model, posterior, [(inputs, targets)], Categorical())

    return make


class ListPosterior:
    """Draws (chain, draw, D) in memory."""

    def __init__(self, layout, weights):
        self.layout, self.weights = layout, weights

    def draws(self, num_draws=None, seed=0):
        for chain, rows in enumerate(self.weights):
            for index, row in enumerate(rows):
                yield Draw(chain, index, row)


class Run:
    """A linear classifier under a low-rank prior, with draws near the prior's mean."""

    def __init__(self):
        g = torch.Generator().manual_seed(5)
        self.model = nn.Linear(5, 4)
        layout = ParameterLayout.from_module(self.model)
        factor = torch.randn(layout.dim, 3, generator=g)
        self.prior = GaussianWeights(
            layout,
            torch.randn(layout.dim, generator=g),
            torch.full((layout.dim,), 0.5),
            factor,
            provenance={"source": "unit test", "jitter_share": 0.1},
        )
        self.class_names = ("cat", "dog", "owl", "fox")
        x = torch.randn(30, 5, generator=g)
        y = torch.randint(0, 4, (30,), generator=g)
        self.loader = [(x, y)]
        self.sets = {
            "train": (x, y),
            "test": (x.flip(0) * 0.9, y.flip(0)),
            "rotated": (x.roll(1, 1), y),
            "noise": (5 * torch.randn(20, 5, generator=g), torch.zeros(20, dtype=torch.long)),
        }
        self.draw(2, 4)

    def draw(self, chains, draws, width=0.5):
        g = torch.Generator().manual_seed(9)
        noise = self.prior.rsample((chains, draws), generator=g) - self.prior.loc
        self.posterior = ListPosterior(self.prior.layout, self.prior.loc + width * noise)
        self.predict()

    def predict(self):
        self.predictions = {
            name: predict(self.model, self.posterior, [batch], Categorical())
            for name, batch in self.sets.items()
        }

    def tree(self, chains=2, draws=4, **options):
        if (chains, draws) != self.posterior.weights.shape[:2]:
            self.draw(chains, draws)
        p = self.predictions
        rows = [{"step": float(i), "loss": 1.0 / (i + 1), "temperature": 1.0} for i in range(6)]
        defaults = {
            "train": p["train"],
            "test": p["test"],
            "shifted": {"rotated": p["rotated"]},
            "ood": {"noise": p["noise"]},
            "traces": [rows] * chains,
            "class_names": self.class_names,
            "num_prior_draws": 10,
        }
        return to_datatree(prior=self.prior, draws=self.posterior.draws(), **(defaults | options))


@pytest.fixture
def run():
    return Run()


@pytest.fixture
def run_factory():
    return Run


@pytest.fixture(scope="module")
def run_factory_module():
    return Run


@pytest.fixture
def numbers():
    """Predictions of 200 numbers by the law that made them."""
    line = torch.nn.Linear(3, 1)
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(200, 1, generator=torch.Generator().manual_seed(1))
    batch = (x, (line(x) + noise).detach())
    return predict(line, PointPosterior.from_module(line), [batch], Normal(std=1.0))


@pytest.fixture
def labels():
    """Predictions of 200 examples with three labels by six draws around the law that made them."""
    g = torch.Generator().manual_seed(0)
    line = torch.nn.Linear(4, 3)
    layout = ParameterLayout.from_module(line)
    center = 2 * torch.randn(layout.dim, generator=g)
    layout.load_(line, center)
    x = torch.randn(200, 4, generator=g)
    y = (torch.rand(200, 3, generator=g) < line(x).sigmoid()).long()
    draws = center + 0.3 * torch.randn(2, 3, layout.dim, generator=g)
    return predict(line, ListPosterior(layout, draws), [(x, y)], Bernoulli())
