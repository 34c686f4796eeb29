import math

import pytest
import torch
from scipy import stats

from bayesprior.tasks.objectives.probes import knn_accuracy, linear_accuracy


def clusters(distance, num=400, seed=0):
    """Two classes around opposite points; their features lie on a cone, not on a line."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num) % 2
    features = torch.randn(num, 5, generator=generator)
    features[:, 0] += distance * (2 * labels - 1)
    return features, labels


@pytest.mark.parametrize("accuracy", [knn_accuracy, linear_accuracy])
def test_classifiers_find_what_is_there_and_nothing_else(accuracy):
    assert accuracy(*clusters(20.0), *clusters(20.0, seed=1)) == 1.0
    found = accuracy(*clusters(0.0), *clusters(0.0, num=2000, seed=1))
    assert stats.binomtest(round(found * 2000), 2000).pvalue > 1e-3


def test_a_linear_probe_reaches_the_best_accuracy_of_two_normals():
    found = linear_accuracy(*clusters(1.0, num=20_000), *clusters(1.0, num=20_000, seed=1))
    best = stats.norm.cdf(1.0)
    assert abs(found - best) < 4 * math.sqrt(best * (1 - best) / 20_000)


def test_neighbors_vote_by_similarity():
    bank = torch.tensor([[1.0, 0.0], [0.9, 0.3], [0.9, 0.35]])
    labels = torch.tensor([0, 1, 1])
    new = torch.tensor([[1.0, 0.0]])
    assert knn_accuracy(bank, labels, new, torch.tensor([0]), neighbors=1) == 1.0
    assert knn_accuracy(bank, labels, new, torch.tensor([1]), neighbors=3) == 1.0
