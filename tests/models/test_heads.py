import pytest
import torch
from torch import nn

from bayesprior.errors import ConfigError
from bayesprior.models.heads import head_prefix, learn_noise, num_outputs, replace_head


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 5, bias=False), nn.ReLU())


def test_head_is_the_last_linear_layer():
    assert head_prefix(network()) == "2"


def test_new_head_keeps_inputs_bias_dtype_and_the_rest():
    net = network().double()
    old = {name: p.clone() for name, p in net.named_parameters()}
    assert replace_head(net, 9) == "2"
    assert net[2].weight.shape == (9, 4)
    assert net[2].weight.dtype == torch.float64
    assert net[2].bias is None
    assert torch.equal(net[0].weight, old["0.weight"])


def test_a_convolution_can_be_the_head():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 1), nn.AdaptiveAvgPool2d(1))
    assert replace_head(net, 2) == "1"
    assert net(torch.zeros(1, 3, 8, 8)).shape == (1, 2, 1, 1)


def test_a_pattern_replaces_several_layers():
    net = nn.ModuleDict({"low": nn.Conv2d(3, 4, 1), "high": nn.Conv2d(3, 4, 3, padding=1)})
    assert replace_head(net, 2, "*.weight") == "*.weight"
    assert net["low"].weight.shape == (2, 3, 1, 1)
    assert net["high"](torch.zeros(1, 3, 5, 5)).shape == (1, 2, 5, 5)
    assert num_outputs(net, "*.weight") == 2
    assert num_outputs(net, "other") is None


def test_errors():
    with pytest.raises(ConfigError, match="ReLU has no linear layer"):
        head_prefix(nn.ReLU())
    with pytest.raises(ConfigError, match="num_classes must be at least 1, got 0"):
        replace_head(network(), 0)
    named = nn.Sequential()
    named.add_module("classifier", nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="no linear layer 'clasifier'; did you mean 'classifier'"):
        replace_head(named, 3, prefix="clasifier")


def test_a_head_for_numbers_learns_its_noise_or_knows_it():
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    x = torch.randn(5, 4)
    means = net(x)
    assert learn_noise(net) == "2"
    torch.testing.assert_close(net(x), torch.cat([means, torch.zeros(5, 2)], 1))
    assert isinstance(net[2].log_variance, nn.Parameter)
    known = nn.Sequential(nn.Linear(3, 1))
    learn_noise(known, "0", std=[0.1])
    assert "log_variance" in dict(known[0].named_buffers())
    torch.testing.assert_close(known(x[:, :3])[:, 1].exp(), torch.full((5,), 0.01))


def test_a_noise_that_cannot_be_is_refused():
    net = nn.Sequential(nn.Linear(3, 1))
    with pytest.raises(ConfigError, match="noise must be 1 positive numbers"):
        learn_noise(net, "0", std=[-1.0])
    with pytest.raises(ConfigError, match="no linear layer 'hed'"):
        learn_noise(net, "hed")


def test_a_relu_behind_the_head_goes_with_it():
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2), nn.ReLU(), nn.Flatten())
    replace_head(net, 5)
    assert [type(layer).__name__ for layer in net] == [
        "Linear",
        "ReLU",
        "Linear",
        "Identity",
        "Flatten",
    ]
    replace_head(net, 6, "0")  # this one bends features
    assert isinstance(net[1], nn.ReLU)
