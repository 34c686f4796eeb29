import math

import pytest
import torch
from torch.nn import functional as F

from bayesprior.errors import DataError
from bayesprior.inference.strength.confidence import fit_confidence


@pytest.fixture
def held_out():
    labels = torch.arange(60) % 4
    return 2 * torch.randn(60, 4) + 2 * F.one_hot(labels, 4), labels


@pytest.mark.parametrize(("center", "log_std"), [(1.0, 0.3), (2.4, 0.5), (1.0, math.inf)])
def test_it_is_the_stationary_point(held_out, center, log_std):
    logits, labels = held_out
    found = fit_confidence(logits, labels, center=center, log_std=log_std)
    t = torch.tensor(math.log(found), dtype=torch.float64, requires_grad=True)
    loss = F.cross_entropy(t.exp() * logits.double(), labels, reduction="sum")
    loss = loss + ((t - math.log(center)) / log_std) ** 2 / 2
    (slope,) = torch.autograd.grad(loss, t)
    assert abs(float(slope)) < 1e-3


def test_few_examples_leave_it_near_the_center(held_out):
    logits, labels = held_out
    assert abs(math.log(fit_confidence(logits[:1], labels[:1]))) < 0.3
    doubled = fit_confidence(logits / 2, labels, log_std=math.inf)
    assert doubled == pytest.approx(2 * fit_confidence(logits, labels, log_std=math.inf), rel=1e-5)


def test_nothing_to_fit_on_is_refused():
    for logits in (torch.zeros(0, 3), torch.full((2, 3), torch.inf)):
        with pytest.raises(DataError, match="held-out logits"):
            fit_confidence(logits, torch.zeros(len(logits)).long())
