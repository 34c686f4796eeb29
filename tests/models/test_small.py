import pytest
import torch
from torch import nn

from bayesprior.errors import ConfigError
from bayesprior.models.heads import head_prefix
from bayesprior.models.small import MLP, SmallConvNet, SmallResNet


def count(module, *kinds):
    return sum(isinstance(child, kinds) for child in module.modules())


@pytest.mark.parametrize("norm", ["group", "batch", "none"])
@pytest.mark.parametrize(
    ("make", "images"),
    [(SmallConvNet, torch.rand(3, 1, 8, 8)), (SmallResNet, torch.rand(3, 1, 16, 16))],
)
def test_networks_of_every_norm_learn(make, images, norm):
    net = make(1, 5, norm=norm)
    kinds = {"group": nn.GroupNorm, "batch": nn.BatchNorm2d, "none": ()}
    convolutions = count(net, nn.Conv2d)
    assert count(net, nn.GroupNorm, nn.BatchNorm2d) == (convolutions if norm != "none" else 0)
    assert count(net, kinds[norm] or nn.Identity) >= (norm != "none") * convolutions
    assert head_prefix(net) == "head"
    nn.functional.cross_entropy(net(images), torch.tensor([0, 1, 2])).backward()
    # A bias before a norm would have no effect: every parameter must have a gradient.
    assert all(p.grad.abs().sum() > 0 for name, p in net.named_parameters())


def test_group_norm_nets_do_not_mix_examples():
    for net, size in ((SmallConvNet(1, 5), 8), (SmallResNet(1, 5), 32)):
        images = torch.rand(4, 1, size, size)
        torch.testing.assert_close(net.train()(images)[:2], net.eval()(images[:2]))
        assert not dict(net.named_buffers())


def test_sizes():
    assert SmallConvNet(1, 10).head.in_features == 256
    assert SmallConvNet(3, 10, widths=(8, 24), pooled_size=1).head.in_features == 24
    # 6 n + 2 weighted layers on the main path, and 2 projection shortcuts.
    for num_blocks in (1, 3):
        net = SmallResNet(3, 10, num_blocks=num_blocks)
        assert count(net, nn.Conv2d, nn.Linear) == 6 * num_blocks + 2 + 2
    with torch.no_grad():
        features = SmallResNet(3, 10).backbone[:-2](torch.rand(1, 3, 32, 32))
    assert features.shape == (1, 64, 8, 8)


def test_mlp():
    net = MLP(12, 3, widths=(7,))
    assert net(torch.rand(2, 3, 4)).shape == (2, 3)
    assert MLP(4, 2, widths=())(torch.rand(5, 4)).shape == (5, 2)
    assert head_prefix(net) == "head"


def test_bad_options():
    with pytest.raises(ConfigError, match="norm must be 'group', 'batch' or 'none'"):
        SmallConvNet(1, 2, norm="layer")
    with pytest.raises(ConfigError, match="num_blocks must be at least 1"):
        SmallResNet(3, 10, num_blocks=0)
