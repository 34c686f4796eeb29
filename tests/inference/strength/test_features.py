import numpy as np
import pytest
import torch
from torch import nn

from bayesprior.errors import ConfigError, DataError
from bayesprior.inference.strength.features import (
    check_is_last,
    feature_statistics,
    head_inputs,
    head_layer,
    second_moment,
    stratified_folds,
)


def images(num=6):
    return torch.randn(num, 3, 4, 4), torch.arange(num) % 2


def convolutional(*behind):
    return nn.Sequential(
        nn.Conv2d(3, 5, 3),
        nn.BatchNorm2d(5),
        nn.Dropout(0.5),
        nn.Conv2d(5, 2, 1),
        *behind,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def test_a_head_that_is_a_convolution_is_given_means_over_positions():
    net = convolutional()
    x, y = images()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    features, labels = head_inputs(net, "3", [(x[:4], y[:4]), (x[4:], y[4:])])
    with torch.no_grad():
        net.eval()
        expected = net[1](net[0](x)).mean((2, 3))
    torch.testing.assert_close(features, expected)
    assert torch.equal(labels, y)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    check_is_last(net, "3", (x, y))


def test_the_network_is_left_in_its_mode_and_without_a_hook():
    net = convolutional()
    head_inputs(net, "3", [images()])
    assert net.training
    assert not net[3]._forward_pre_hooks


def test_a_forward_of_ones_own_is_used():
    def forward(module, batch):
        return module(batch["pixels"]), batch["label"]

    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    x, y = images()
    features, labels = head_inputs(net, "1", [{"pixels": x, "label": y}], forward=forward)
    assert torch.equal(features, x.flatten(1))
    assert torch.equal(labels, y)


def test_what_stands_behind_the_head_is_found():
    with pytest.raises(ConfigError, match=r"more behind its head '3' .* torch.nn.Identity\(\)"):
        check_is_last(convolutional(nn.ReLU()), "3", images())


def test_what_is_not_finite_is_named():
    net, (x, y) = nn.Sequential(nn.Flatten(), nn.Linear(48, 4), nn.Linear(4, 2)), images()
    with pytest.raises(DataError, match="batch 1 of the inputs holds NaN or infinite"):
        head_inputs(net, "2", [(x, y), (x / 0, y)])
    net[1].bias.data.fill_(torch.nan)
    with pytest.raises(DataError, match="gives its head NaN .* in batch 0: load or initialize"):
        head_inputs(net, "2", [(x, y)])


def test_no_head_is_told_in_one_line():
    with pytest.raises(ConfigError, match="the head '0' is no linear layer of Sequential"):
        head_layer(convolutional(), "0")
    tokens = nn.Sequential(nn.Linear(4, 2))
    with pytest.raises(ConfigError, match=r"one row an example, once; .* with \(6, 3, 4\)"):
        head_inputs(tokens, "0", [(torch.randn(6, 3, 4), torch.zeros(6))])
    with pytest.raises(DataError, match="no batches"):
        head_inputs(tokens, "0", [])


def test_statistics_are_the_analysis_of_variance():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, 50)
    phi = generator.normal(size=(50, 3)) + generator.normal(size=(4, 3))[labels]
    found = feature_statistics(torch.tensor(phi), torch.tensor(labels))
    means = np.stack([phi[labels == c].mean(0) for c in range(4)])[labels]
    np.testing.assert_allclose(found["head_inputs.within"], (phi - means).T @ (phi - means) / 46)
    np.testing.assert_allclose(found["head_inputs.mean"], phi.mean(0))
    size = np.sqrt((phi**2).sum(1).mean())
    np.testing.assert_allclose(found["head_inputs.rms_norm"], size)
    # the one share that a covariance with N - C in place of N sees twice
    extra = 4 / 46 * (phi - means).T @ (phi - means) / 50
    np.testing.assert_allclose(second_moment(found).numpy() - extra, phi.T @ phi / 50, rtol=1e-10)


def test_statistics_need_classes_and_numbers():
    with pytest.raises(DataError, match="no class has two examples"):
        feature_statistics(torch.randn(3, 2), torch.arange(3))
    with pytest.raises(DataError, match="NaN"):
        feature_statistics(torch.full((4, 2), torch.nan), torch.zeros(4).long())


def test_folds_are_even_within_every_class_and_overall():
    labels = torch.tensor([0] * 7 + [1] * 5 + [2] * 2)
    folds = stratified_folds(labels, 3, seed=4)
    assert torch.equal(folds, stratified_folds(labels, 3, seed=4))
    assert not torch.equal(folds, stratified_folds(labels, 3, seed=5))
    for members in (labels == 0, labels == 1, labels == 2, labels >= 0):
        counts = torch.bincount(folds[members], minlength=3)
        assert int(counts.max() - counts.min()) <= 1


def test_two_views_of_each_image_are_a_class_of_two():
    torch.manual_seed(0)
    first, second = torch.randn(2, 50, 4)
    both = torch.cat((first, second)).double()
    found = feature_statistics(both, torch.arange(50).repeat(2))
    apart = (first - second).double()
    torch.testing.assert_close(found["head_inputs.within"], apart.T @ apart / 100)
    # Within an image there is one degree of freedom of two views.
    total = found["head_inputs.within"] / 2 + found["head_inputs.between"]
    total = total + found["head_inputs.mean"].outer(found["head_inputs.mean"])
    torch.testing.assert_close(total, both.T @ both / 100)
    torch.testing.assert_close(found["head_inputs.rms_norm"], both.square().sum(1).mean().sqrt())
