import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from bayesprior.errors import DataError
from bayesprior.inference.batch_norm import reestimate_batch_norm_


def test_equal_batches_give_what_torch_gives():
    net = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.BatchNorm1d(5))
    batches = list(torch.randn(20, 3).split(5))
    expected = copy.deepcopy(net)
    update_bn(batches, expected)
    net[3].momentum = 0.3
    net.eval()
    net[1].train()
    reestimate_batch_norm_(net, [(x, None) for x in batches])
    for name, buffer in net.named_buffers():
        torch.testing.assert_close(buffer, expected.get_buffer(name))
    assert [m.training for m in net] == [False, True, False, False]
    assert (net[1].momentum, net[3].momentum) == (0.1, 0.3)
    assert not net[1]._forward_pre_hooks


def test_every_example_counts_alike():
    net = nn.Sequential(nn.BatchNorm1d(1, affine=True))
    batches = [torch.tensor([[-0.1], [0.1]]).repeat(5, 1), torch.tensor([[5.9], [6.1]])]
    reestimate_batch_norm_(net, batches)
    torch.testing.assert_close(net[0].running_mean, torch.tensor([1.0]))  # of all 12 values
    variances = torch.stack([batch.var() for batch in batches])
    expected = (variances * torch.tensor([10.0, 2.0])).sum() / 12
    torch.testing.assert_close(net[0].running_var, expected.view(1))


@pytest.mark.parametrize("sizes", [[4, 4, 1], [1, 4, 4], [4, 1, 4]])
def test_a_batch_of_one_never_crashes(sizes):
    net = nn.Sequential(nn.BatchNorm1d(2, affine=True))
    x = torch.randn(9, 2)
    parts = x.split(sizes)
    reestimate_batch_norm_(net, parts)
    kept = torch.cat([part for part in parts if len(part) > 1])
    torch.testing.assert_close(net[0].running_mean, kept.mean(0))


def test_single_maps_count():
    net = nn.Sequential(nn.BatchNorm2d(2), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(2))
    x = torch.randn(5, 2, 3, 3)
    reestimate_batch_norm_(net, x.split([3, 1, 1]))
    torch.testing.assert_close(net[0].running_mean, x.mean((0, 2, 3)))
    assert net[2].running_mean.isfinite().all()


def test_nothing_to_average():
    net = nn.Sequential(nn.BatchNorm1d(2))
    with pytest.raises(DataError, match="gave no batches"):
        reestimate_batch_norm_(net, [])
    with pytest.raises(DataError, match="too small for BatchNorm"):
        reestimate_batch_norm_(net, torch.randn(3, 2).split(1))
