"""Random and adversarial predictions shared by the diagnostics' tests."""

import numpy as np
import pytest


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
