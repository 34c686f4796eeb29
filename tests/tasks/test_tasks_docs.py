"""The likelihoods that the page of pitfalls shows."""

import re
from pathlib import Path

import pytest
import torch

from bayesprior.errors import DataError
from bayesprior.tasks.likelihoods import Categorical
from bayesprior.tasks.objectives import supervised

PAGE = Path(__file__).parents[2] / "docs" / "gotchas.md"


@pytest.fixture(scope="module")
def shown():
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL):
        exec(block, names)
    return names


@pytest.fixture
def task():
    inputs = torch.randn(6, 3, dtype=torch.float64)
    return torch.nn.Linear(3, 2).double(), inputs, torch.tensor([0, 0, 1, 0, 1, 1])


def gradient(module, likelihood, *batch):
    loss, _ = supervised(likelihood)(module, batch)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, [*module.parameters()])])


def test_a_class_weight_is_so_many_copies(shown, task):
    module, inputs, labels = task
    copies = torch.cat([torch.arange(6), *([torch.tensor([2, 4, 5])] * 3)])
    weighted = gradient(module, shown["Weighted"](weights=(1.0, 4.0)), inputs, labels)
    plain = gradient(module, Categorical(), inputs[copies], labels[copies])
    torch.testing.assert_close(weighted * 6, plain * len(copies))


def test_soft_labels_are_the_average_over_labels(shown, task):
    module, inputs, labels = task
    soft = torch.full((6, 2), 0.25, dtype=torch.float64)
    soft[:, 1] = 0.75
    found = gradient(module, shown["Soft"](), inputs, soft)
    zeros, ones = (gradient(module, Categorical(), inputs, label + 0 * labels) for label in (0, 1))
    torch.testing.assert_close(found, 0.25 * zeros + 0.75 * ones)
    with pytest.raises(DataError, match=r"probabilities \(6, 2\)"):
        gradient(module, shown["Soft"](), inputs, labels)
