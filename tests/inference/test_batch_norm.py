import pytest
import torch
from torch import nn

from bayesprior.errors import DataError
from bayesprior.inference.batch_norm import freeze_batch_norm, reestimate_, running_layers
from bayesprior.tasks.protocols import inputs_forward


def network():
    return nn.Sequential(nn.BatchNorm1d(1), nn.Dropout(0.5))


def test_every_example_counts_alike():
    """Batches of 10 and 2: the mean is that of all 12 values, the variance weighs likewise."""
    values = torch.cat([torch.zeros(10), torch.full((2,), 6.0)])[:, None]
    values = values + torch.randn(12, 1)
    module = network()
    seen = reestimate_(module, [values[:10], values[10:]], inputs_forward)
    assert seen == 12
    layer = module[0]
    torch.testing.assert_close(layer.running_mean, values.mean(0))
    variance = (10 * values[:10].var(0) + 2 * values[10:].var(0)) / 12
    torch.testing.assert_close(layer.running_var, variance)
    assert layer.momentum == 0.1
    assert all(part.training for part in module.modules())


def test_pairs_and_modes():
    module = network().eval()
    reestimate_(module, [(torch.tensor([[1.0], [3.0]]), None)])
    assert module[0].running_mean.item() == 2
    assert not any(part.training for part in module.modules())


def test_a_last_example_alone_is_skipped_and_said():
    module, values = network(), torch.randn(5, 1)
    with pytest.warns(UserWarning, match="last batch of one example is skipped"):
        assert reestimate_(module, [values[:4], values[4:]], inputs_forward) == 4
    torch.testing.assert_close(module[0].running_mean, values[:4].mean(0))


def test_a_first_example_alone_is_skipped_and_said():
    module = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.BatchNorm1d(4))
    images = torch.randn(5, 1, 2, 2)
    with pytest.warns(UserWarning, match="first batch of one example is skipped"):
        assert reestimate_(module, [images[:1], images[1:]], inputs_forward) == 4
    torch.testing.assert_close(module[0].running_mean, images[1:].mean((0, 2, 3)))
    torch.testing.assert_close(module[0].running_var, images[1:].flatten().var()[None])
    with pytest.warns(UserWarning, match="first batch"), pytest.raises(DataError, match="no batch"):
        reestimate_(module, [images[:1]], inputs_forward)


def test_single_images_are_batches_of_their_own():
    module, images = nn.Sequential(nn.BatchNorm2d(2)), torch.randn(3, 2, 4, 4)
    assert reestimate_(module, list(images.split(1)), inputs_forward) == 3
    torch.testing.assert_close(module[0].running_mean, images.mean((0, 2, 3)))


def test_an_endless_loader_ends_after_max_examples():
    def endless():
        while True:
            yield torch.randn(4, 1)

    assert reestimate_(network(), endless(), inputs_forward, max_examples=10) == 12


def test_a_network_without_running_statistics_is_not_run():
    assert reestimate_(nn.Linear(1, 1), iter(int, 1)) == 0


def test_an_empty_loader_is_an_error_and_modes_come_back():
    module = network()
    with pytest.raises(DataError, match="gave no batch"):
        reestimate_(module, [])
    assert module.training
    assert module[0].momentum == 0.1


def test_tracking_instance_norm_is_frozen_too():
    module = nn.Sequential(nn.InstanceNorm2d(2, track_running_stats=True), nn.InstanceNorm2d(2))
    assert running_layers(module) == [module[0]]
    freeze_batch_norm(module)
    module(torch.randn(3, 2, 4, 4) + 5)
    assert not module[0].running_mean.any()


def test_an_error_of_a_later_batch_is_the_networks_own():
    def forward(module, batch):
        if len(batch) == 3:
            raise ValueError("three is no good")
        return module(batch), None

    with pytest.raises(ValueError, match="three is no good"):
        reestimate_(network(), [torch.randn(4, 1), torch.randn(3, 1)], forward)
