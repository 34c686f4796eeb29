import pytest
import torch
from recipes_cases import Net, blobs, source_and_target
from torch import nn

from bayesprior.errors import CheckpointError, ConfigError, LayoutMismatchError
from bayesprior.recipes.candidates import candidates, network_for, ranked
from bayesprior.recipes.options import ModelOptions
from bayesprior.tasks.protocols import pair_forward
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout


def test_a_network_is_copied_and_its_head_replaced():
    net, data = Net(7), blobs(3)
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    found, head = network_for(net, data, seed=1)
    assert torch.equal(torch.rand(2), expected)  # the global generator was not asked
    assert (head, found.head.out_features, net.head.out_features) == ("head", 3, 7)
    assert torch.equal(found.backbone[1].weight, net.backbone[1].weight)
    again, _ = network_for(net, data, seed=1)
    assert torch.equal(again.head.weight, found.head.weight)


def test_checkpoints_are_loaded_and_ranked(tmp_path):
    data = blobs(3)
    options = {"widths": [12]}
    choice = ModelOptions(model="mlp", model_options=options)
    files = []
    for name, size in (("good", 1.0), ("dead", 1e-6)):
        module, _ = network_for(choice, data, seed=0)
        with torch.no_grad():
            module.backbone[1].weight.mul_(size)
            module.backbone[1].bias.mul_(size).sub_(0 if size == 1 else 1e-9)
        files.append(tmp_path / f"{name}.pt")
        torch.save(module.state_dict(), files[-1])
    found = candidates(choice, data, weights=files)
    best, ranking = ranked(found, data, forward=pair_forward, device=torch.device("cpu"))
    assert len(ranking) == 2
    assert best.label == ranking[0]["source"]
    assert ranking[0]["loaded"] == f"{tmp_path / best.label}: 4 tensors taken"
    assert best.source.layout.names[-1] == "head.bias"
    torch.testing.assert_close(
        best.source.loc, best.source.layout.flatten(best.module), rtol=0, atol=0
    )


def test_other_names_in_a_file_are_taken_in_order_where_asked(tmp_path):
    choice = ModelOptions(model="mlp", model_options={"widths": [12]})
    module, _ = network_for(choice, blobs(3), seed=0)
    state = {f"layer{i}": value for i, value in enumerate(module.state_dict().values())}
    torch.save(state, tmp_path / "other.pt")
    given = {"weights": [tmp_path / "other.pt"]}
    with pytest.raises(CheckpointError):
        next(candidates(choice, blobs(3), **given))
    [found] = candidates(choice, blobs(3), rename="auto", **given)
    assert torch.equal(found.module.backbone[1].weight, module.backbone[1].weight)


def test_a_source_puts_the_network_at_its_mean():
    source, *_ = source_and_target()
    [found] = candidates(Net(3), blobs(3), sources=[source])
    layout = source.layout
    assert torch.equal(layout.flatten(found.module), source.loc)
    name = "backbone.2.running_mean"
    assert torch.equal(dict(found.module.named_buffers())[name], source.buffers[name])


def test_a_sources_own_head_is_left_behind():
    layout = ParameterLayout.from_module(net := Net(7))
    source = GaussianWeights.point(layout, torch.ones(layout.dim), 0.1)
    [found] = candidates(Net(3), blobs(3), sources=[source])
    assert found.module.head.out_features == 3
    assert torch.equal(found.module.backbone[1].weight, torch.ones_like(net.backbone[1].weight))
    with pytest.raises(LayoutMismatchError, match="shares no parameter"):
        next(candidates(Net(3), blobs(3), sources=[source.marginal(["head.weight", "head.bias"])]))


def test_what_stands_behind_the_head_is_refused():
    behind = nn.Sequential(Net(3), nn.Softmax(1))
    with pytest.raises(ConfigError, match="does more behind its head"):
        ranked(
            candidates(behind, blobs(3)),
            blobs(3),
            forward=pair_forward,
            device=torch.device("cpu"),
        )
