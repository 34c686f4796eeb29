import pytest
import torch
from torch import nn

from bayesprior.errors import ConfigError
from bayesprior.models.small import MLP, SmallResNet
from bayesprior.models.zoo import MODELS, get_model, model_for
from bayesprior.registry import resolve


@pytest.mark.parametrize("name", MODELS)
def test_short_names_lead_somewhere(name):
    assert callable(resolve("model", name, MODELS))


def test_get_model_by_name_and_by_path():
    assert isinstance(get_model("small_resnet", in_channels=3, num_classes=2), SmallResNet)
    net = get_model("squeezenet1_1", num_classes=2, weights=None)
    assert net.classifier[1].out_channels == 2
    assert isinstance(get_model("torch.nn:Linear", in_features=1, out_features=1), nn.Linear)


def test_wrong_names_options_and_results():
    with pytest.raises(ConfigError, match="no model 'resnet-18'.*did you mean 'resnet18'"):
        get_model("resnet-18")
    with pytest.raises(ConfigError, match="no model 'mobilenet'.*did you mean 'mobilenet_v1'"):
        get_model("mobilenet")  # one of ours before the many of libraries
    with pytest.raises(ConfigError, match="no option 'weight'; did you mean 'weights'"):
        get_model("resnet18", weight=None)
    with pytest.raises(ConfigError, match="needs the option num_classes"):
        get_model("mlp", in_features=3)
    with pytest.raises(ConfigError, match="gave Fraction, not a torch module"):
        get_model("fractions:Fraction", numerator=1)


def open_ended(depth=1, **options):
    """Takes any keyword, as timm's factory does."""
    return MLP(4, options.pop("num_classes", 1000), [3] * depth, **options)


def deaf(**options):
    return nn.Sequential(nn.Linear(4, 7, **options))


class Factory:
    @staticmethod
    def make(num_classes):
        return MLP(4, num_classes, [3])


TASK = {"num_classes": 5, "input_shape": (1, 2, 2)}


@pytest.mark.parametrize("name", ["open_ended", "Factory.make"])
def test_the_number_of_classes_reaches_callables(name):
    net, head, _ = model_for(f"{__name__}:{name}", **TASK)
    assert (head, net.head.out_features) == ("head", 5)


def test_what_takes_no_number_of_classes_keeps_its_own():
    assert model_for(f"{__name__}:deaf", **TASK)[0][0].out_features == 7


def test_networks_are_shaped_for_the_task_by_the_seed():
    before = torch.get_rng_state()
    nets = [model_for("mlp", **TASK, seed=s, options={"widths": (3,)})[0] for s in (1, 1, 2)]
    weights = [net.head.weight for net in nets]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("num_classes", [5, 9])
def test_weights_that_are_a_file(tmp_path, num_classes):
    """Given to a callable that knows names only, as torchvision's: the old head goes."""
    source, path = MLP(4, num_classes, [3]), tmp_path / "checkpoint.pth.tar"
    torch.save({"state_dict": source.state_dict()}, path)
    for name in ("open_ended", "Factory.make"):
        net, _, loaded = model_for(f"{__name__}:{name}", **TASK, weights=path)
        assert loaded.where == "state_dict"
        assert torch.equal(net.backbone[1].weight, source.backbone[1].weight)
        assert torch.equal(net.head.weight, source.head.weight) == (num_classes == 5)
    made = get_model(f"{__name__}:open_ended", num_classes=num_classes, weights=str(path))
    assert torch.equal(made.head.weight, source.head.weight)


def named(weights=None):
    return {"V1": nn.Linear(1, 1)}[weights]


def test_names_of_weights_that_are_neither():
    with pytest.raises(ConfigError, match="no weights 'a/b.pth', and there is no such file"):
        get_model(f"{__name__}:named", weights="a/b.pth")
    with pytest.raises(ConfigError, match="no file 'a/b.pth'"):
        model_for("mlp", **TASK, weights="a/b.pth")
    with pytest.raises(ConfigError, match="import path out of a file"):
        get_model("subprocess:getoutput", trusted=False)


def test_a_file_for_a_network_of_torchvisions(tmp_path):
    source = get_model("squeezenet1_1", num_classes=5, weights=None)
    torch.save({"model": source.state_dict()}, tmp_path / "file.ckpt")
    for num_classes in (5, 2):
        net, head, loaded = model_for(
            "squeezenet1_1",
            num_classes=num_classes,
            input_shape=(3, 64, 64),
            weights=tmp_path / "file.ckpt",
        )
        layers = dict(net.named_modules()), dict(source.named_modules())
        assert layers[0][head].out_channels == num_classes
        assert torch.equal(net.features[0].weight, source.features[0].weight)
        kept = num_classes == 5
        assert bool(loaded.left_out) != kept
        if kept:
            assert torch.equal(layers[0][head].weight, layers[1][head].weight)
