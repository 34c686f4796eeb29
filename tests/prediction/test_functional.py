import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from bayesprior.errors import ConfigError, DataError, LayoutMismatchError
from bayesprior.inference.protocols import Draw
from bayesprior.prediction.functional import FunctionalNetwork
from bayesprior.tasks.protocols import inputs_forward
from bayesprior.weights.layout import ParameterLayout


def outputs_of(function, draw, inputs):
    return function(function.state(draw), inputs)[0]


def functional(net, layout, **options):
    return FunctionalNetwork(net, layout, forward=inputs_forward, **options)


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


@pytest.mark.parametrize("policy", ["module", "frozen"])  # the second is an old spelling
def test_module_uses_the_modules_statistics(policy):
    net, inputs = network(), torch.randn(6, 3)
    layout, draw = moved(net, **{name: b + 1 for name, b in net.named_buffers()})
    outputs = outputs_of(functional(net, layout, batch_norm=policy), draw, inputs)
    torch.testing.assert_close(outputs, loaded(net, layout, draw)(inputs))


def test_states_are_views():
    net = network()
    layout, draw = moved(net)
    state = FunctionalNetwork(net, layout).state(draw)
    start = draw.weights.untyped_storage().data_ptr()
    assert all(state[n].untyped_storage().data_ptr() == start for n in layout.names)


@pytest.mark.parametrize("options", [{}, {"batch_norm": "draw"}, {"batch_norm": "stored"}])
def test_a_draws_own_statistics_are_the_default(options):
    net, inputs = network(), torch.randn(6, 3)
    buffers = {name: b + 1 for name, b in net.named_buffers()}
    layout, draw = moved(net, **buffers)
    expected = loaded(net, layout, draw, buffers)(inputs)
    found = outputs_of(functional(net, layout, **options), draw, inputs)
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, loaded(net, layout, draw)(inputs))


def test_what_a_draw_does_not_carry_is_the_modules():
    net, inputs = network(), torch.randn(6, 3)
    for changes in ({}, {"1.running_mean": torch.ones(5)}):
        layout, draw = moved(net, **changes)
        expected = loaded(net, layout, draw, changes)(inputs)
        torch.testing.assert_close(outputs_of(functional(net, layout), draw, inputs), expected)


def test_statistics_of_another_network_are_refused():
    net = network()
    own = {name: b + 1 for name, b in net.named_buffers()}
    layout, draw = moved(net, **{"net." + name: b for name, b in own.items()})
    with pytest.raises(ConfigError, match=r"draw 7 of chain 2 .*net\.1\..* lacks; did .*'module'"):
        functional(net, layout).state(draw)
    layout, draw = moved(net, **own | {"1.running_var": torch.ones(4)})
    with pytest.raises(ConfigError, match=r"\(4,\), which the model has in shape \(5,\)"):
        functional(net, layout).state(draw)
    layout, draw = moved(net, **own, **{"head.1.running_mean": torch.ones(2)})  # left behind
    assert "head.1.running_mean" not in functional(net, layout).state(draw)


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
    outputs = outputs_of(function, draw, (inputs, None))
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
    with pytest.raises(DataError, match="the loader gave no batch"):
        FunctionalNetwork(net, layout, batch_norm="reestimate", bn_loader=[]).state(draw)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_norm": "modul"}, "draw, module, reestimate, got 'modul'; did you mean"),
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
    with pytest.raises(DataError, match=r"returned dict with out, .*dictionary_forward\('out'\)"):
        function(function.state(draw), (torch.zeros(1, 3), None))


def test_a_forward_may_use_any_method_of_the_module():
    class Encoder(nn.Linear):
        def encode(self, inputs):
            return super().forward(inputs)

    net, inputs = Encoder(3, 2), torch.randn(4, 3)
    layout, draw = moved(net)

    def forward(module, batch):
        return module.encode(batch["x"]), batch["y"]

    function = FunctionalNetwork(net, layout, forward=forward)
    outputs, targets = function(function.state(draw), {"x": inputs, "y": 7})
    expected = loaded(net, layout, draw)(inputs)
    torch.testing.assert_close(outputs, expected)
    assert targets == 7
    assert not torch.allclose(net(inputs), expected)  # its own weights are back


def test_a_draws_own_layout_is_the_one_that_counts():
    net, inputs = network(), torch.randn(6, 3)
    layout, draw = moved(net)
    part = layout.select(["4.weight", "4.bias"])
    own = Draw(0, 0, draw.weights[: part.dim], layout=part)
    expected = loaded(net, part, own)(inputs)
    torch.testing.assert_close(outputs_of(functional(net, layout), own, inputs), expected)
