import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from bayesprior.errors import ConfigError, DataError, LayoutMismatchError
from bayesprior.inference.protocols import Draw
from bayesprior.prediction.functional import FunctionalNetwork
from bayesprior.weights.layout import ParameterLayout


def network(dropout=0.0):
    net = nn.Sequential(
        nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(dropout), nn.Linear(5, 2)
    )
    for _ in range(4):
        net(torch.randn(16, 3))
    return net.eval()


def moved(net, **changes):
    layout = ParameterLayout.from_module(net)
    weights = layout.flatten(net) + torch.randn(layout.dim)
    return layout, Draw(2, 7, weights, changes)


def loaded(net, layout, draw, buffers=None):
    """The same weights written into a copy of the module."""
    other = copy.deepcopy(net)
    layout.load_(other, draw.weights)
    other.load_state_dict(buffers or {}, strict=False)
    return other.eval()


def test_frozen_uses_the_modules_statistics():
    net = network()
    layout, draw = moved(net)
    function = FunctionalNetwork(net, layout)
    inputs = torch.randn(6, 3)
    outputs = function(function.state(draw), inputs)
    torch.testing.assert_close(outputs, loaded(net, layout, draw)(inputs))


def test_states_are_views():
    net = network()
    layout, draw = moved(net)
    state = FunctionalNetwork(net, layout).state(draw)
    start = draw.weights.untyped_storage().data_ptr()
    assert all(state[n].untyped_storage().data_ptr() == start for n in layout.names)


def test_stored_uses_the_draws_statistics():
    net, inputs = network(), torch.randn(6, 3)
    buffers = {name: b + 1 for name, b in net.named_buffers()}
    layout, draw = moved(net, **buffers)
    function = FunctionalNetwork(net, layout, batch_norm="stored")
    expected = loaded(net, layout, draw, buffers)(inputs)
    torch.testing.assert_close(function(function.state(draw), inputs), expected)
    frozen = FunctionalNetwork(net, layout)
    assert not torch.allclose(frozen(frozen.state(draw), inputs), expected)


def test_stored_without_statistics_is_refused():
    net = network()
    layout, draw = moved(net)
    with pytest.raises(ConfigError, match=r"draw 7 of chain 2 .*1\.num_batches_tracked .*frozen"):
        FunctionalNetwork(net, layout, batch_norm="stored").state(draw)
    plain = nn.Linear(3, 2)  # without buffers there is nothing to store
    layout, draw = moved(plain)
    FunctionalNetwork(plain, layout, batch_norm="stored").state(draw)


@pytest.mark.parametrize("labeled", [True, False])
def test_reestimate_equals_torch(labeled):
    net, inputs = network(), torch.randn(6, 3)
    layout, draw = moved(net)
    batches = list(torch.randn(20, 3).split(5))
    expected = loaded(net, layout, draw)
    update_bn(batches, expected)
    before = copy.deepcopy(net.state_dict())
    loader = [(x, torch.zeros(len(x))) for x in batches] if labeled else batches
    function = FunctionalNetwork(net, layout, batch_norm="reestimate", bn_loader=loader)
    outputs = function(function.state(draw), inputs)
    torch.testing.assert_close(outputs, expected.eval()(inputs))
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert not any(module.training for module in net.modules())


def test_reestimate_is_without_dropout():
    net = network(dropout=0.5)
    net.append(nn.BatchNorm1d(2))  # sees what comes after dropout
    layout, draw = moved(net.eval())
    loader = [torch.randn(8, 3)]
    function = FunctionalNetwork(net, layout, batch_norm="reestimate", bn_loader=loader)
    first, second = function.state(draw), function.state(draw)
    assert torch.equal(first["5.running_mean"], second["5.running_mean"])


def test_reestimate_needs_batches():
    net = network()
    layout, draw = moved(net)
    with pytest.raises(DataError, match="bn_loader gave no batches"):
        FunctionalNetwork(net, layout, batch_norm="reestimate", bn_loader=[]).state(draw)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_norm": "froze"}, "frozen, stored, reestimate, got 'froze'; did you mean"),
        ({"batch_norm": "reestimate"}, "go together"),
        ({"bn_loader": []}, "go together"),
    ],
)
def test_options_that_cannot_work(options, message):
    net = network()
    with pytest.raises(ConfigError, match=message):
        FunctionalNetwork(net, ParameterLayout.from_module(net), **options)


def test_a_layout_of_another_module():
    with pytest.raises(LayoutMismatchError, match="weight"):
        FunctionalNetwork(network(), ParameterLayout.from_module(nn.Linear(3, 2)))


def test_outputs_that_are_no_tensor():
    class Segmenter(nn.Linear):
        def forward(self, inputs):
            return {"out": super().forward(inputs)}

    net = Segmenter(3, 2)
    layout, draw = moved(net)
    function = FunctionalNetwork(net, layout)
    with pytest.raises(ConfigError, match="the model returned dict, expected a tensor"):
        function(function.state(draw), torch.zeros(1, 3))
