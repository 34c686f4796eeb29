import pytest
from torch import nn

from bayesprior.errors import ConfigError
from bayesprior.models.small import SmallResNet
from bayesprior.models.zoo import MODELS, get_model
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
    with pytest.raises(ConfigError, match="no option 'weight'; did you mean 'weights'"):
        get_model("resnet18", weight=None)
    with pytest.raises(ConfigError, match="needs the option num_classes"):
        get_model("mlp", in_features=3)
    with pytest.raises(ConfigError, match="gave Fraction, not a torch module"):
        get_model("fractions:Fraction", numerator=1)
