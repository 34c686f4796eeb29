import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bayesprior.errors import ConfigError, DataError
from bayesprior.tasks.likelihoods import (
    Categorical,
    HeteroscedasticNormal,
    Normal,
    PixelCategorical,
)
from bayesprior.tasks.objectives import supervised, two_view


def test_supervised_is_the_mean_cross_entropy():
    module = nn.Linear(3, 4)
    inputs, targets = torch.randn(6, 3), torch.tensor([0, 1, 2, 3, 0, 1])
    loss, extras = supervised(Categorical())(module, (inputs, targets))
    torch.testing.assert_close(loss, F.cross_entropy(module(inputs), targets))
    right = (module(inputs).argmax(1) == targets).sum().item()
    assert extras["accuracy"].item() == pytest.approx(right / 6)
    assert not extras["accuracy"].requires_grad
    loss.backward()
    assert module.weight.grad.any()


def test_supervised_loss_does_not_grow_with_the_batch():
    module = nn.Linear(3, 4)
    inputs, targets = torch.randn(6, 3), torch.tensor([0, 1, 2, 3, 0, 1])
    loss_fn = supervised(Categorical())
    once, _ = loss_fn(module, (inputs, targets))
    twice, _ = loss_fn(module, (inputs.repeat(2, 1), targets.repeat(2)))
    torch.testing.assert_close(once, twice)


def test_supervised_on_pixels_counts_labeled_pixels():
    logits = torch.randn(2, 3, 4, 4)
    targets = logits.argmax(1)
    targets[0, 0, 0] = (targets[0, 0, 0] + 1) % 3
    targets[1, 2:] = 255
    loss, extras = supervised(PixelCategorical())(nn.Identity(), (logits, targets))
    total = F.cross_entropy(logits, targets, ignore_index=255, reduction="sum")
    torch.testing.assert_close(loss, total / 2)
    torch.testing.assert_close(extras["accuracy"], torch.tensor(23 / 24))


def test_supervised_regression_reports_the_rmse():
    outputs, targets = torch.randn(5, 1), torch.randn(5, 1)
    rmse = float(np.sqrt(((outputs - targets).numpy() ** 2).mean()))
    loss, extras = supervised(Normal(std=1.0))(nn.Identity(), (outputs, targets))
    assert extras["rmse"].item() == pytest.approx(rmse)
    assert loss.item() == pytest.approx(rmse**2 / 2 + math.log(2 * math.pi) / 2)
    both = torch.cat([outputs, torch.zeros(5, 1)], 1)
    with_noise, extras = supervised(HeteroscedasticNormal())(nn.Identity(), (both, targets))
    torch.testing.assert_close(with_noise, loss)
    assert extras["rmse"].item() == pytest.approx(rmse)


def test_supervised_refuses_a_label_out_of_range():
    with pytest.raises(DataError, match=r"labels must be in 0 \.\.\. 2"):
        supervised(Categorical())(nn.Linear(2, 3), (torch.zeros(1, 2), torch.tensor([3])))


def alignment(left, right):
    return ((left - right) ** 2).sum(1).mean()


@pytest.mark.parametrize("labeled", [False, True])
def test_two_view_takes_both_kinds_of_batches(labeled):
    module = nn.Linear(3, 2)
    views = (torch.randn(4, 3), torch.randn(4, 3))
    batch = (views, torch.zeros(4)) if labeled else views
    loss, extras = two_view(alignment)(module, batch)
    torch.testing.assert_close(loss, alignment(module(views[0]), module(views[1])))
    loss.backward()
    assert module.weight.grad.any()
    assert set(extras) == {"embedding_std"}


def test_two_view_makes_one_forward_pass():
    module = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
    views = torch.randn(4, 3), torch.randn(4, 3)
    two_view(alignment)(module, views)
    assert module[0].num_batches_tracked == 1
    torch.testing.assert_close(module[0].running_mean, 0.1 * torch.cat(views).mean(0))


def test_embedding_std_tells_collapse_from_health():
    loss_fn = two_view(alignment)
    _, collapsed = loss_fn(nn.Identity(), (torch.ones(64, 8), torch.ones(64, 8)))
    _, healthy = loss_fn(nn.Identity(), (torch.randn(64, 8), torch.randn(64, 8)))
    assert collapsed["embedding_std"] < 1e-6
    assert 0.9 < healthy["embedding_std"] <= 1.0


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((torch.zeros(2, 3), torch.zeros(2)), "is this a labeled batch"),
        ((torch.zeros(2, 3),), r"\(view1, view2\)"),
        (((torch.zeros(2, 3),) * 3, torch.zeros(2)), r"\(view1, view2\)"),
        ((), r"\(view1, view2\)"),
    ],
)
def test_two_view_refuses_other_batches(batch, message):
    with pytest.raises(DataError, match=message):
        two_view(alignment)(nn.Linear(3, 2), batch)


def test_two_view_refuses_a_loss_per_example():
    views = torch.zeros(2, 3), torch.zeros(2, 3)
    with pytest.raises(ConfigError, match=r"scalar .* got shape \(2, 3\)"):
        two_view(lambda a, b: (a - b) ** 2)(nn.Identity(), views)


def test_nt_xent_of_lightly():
    loss_module = pytest.importorskip("lightly.loss").NTXentLoss(temperature=0.5)
    z1, z2 = torch.randn(5, 4), torch.randn(5, 4)
    loss, _ = two_view(loss_module)(nn.Identity(), (z1, z2))
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    similarity = (z @ z.T / 0.5).masked_fill(torch.eye(10, dtype=torch.bool), -math.inf)
    partner = torch.arange(10).roll(5)
    torch.testing.assert_close(loss, F.cross_entropy(similarity, partner))
