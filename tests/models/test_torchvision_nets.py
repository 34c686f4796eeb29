import urllib.error

import pytest
import torch
from safetensors.torch import save_file
from torchvision import models

from bayesprior.errors import CheckpointError, ConfigError
from bayesprior.models.heads import head_prefix
from bayesprior.models.torchvision_nets import torchvision_model

HEADS = {
    "alexnet": "classifier.6",
    "convnext_tiny": "classifier.2",
    "densenet121": "classifier",
    "efficientnet_b0": "classifier.1",
    "googlenet": "fc",
    "inception_v3": "fc",
    "mnasnet0_5": "classifier.1",
    "mobilenet_v2": "classifier.1",
    "mobilenet_v3_small": "classifier.3",
    "regnet_x_400mf": "fc",
    "resnet18": "fc",
    "shufflenet_v2_x0_5": "fc",
    "squeezenet1_1": "classifier.1",
    "swin_t": "head",
    "vgg11": "classifier.6",
    "vit_b_32": "heads.head",
}


def check_network(name, prefix=None):
    # On the meta device nothing is computed; RegNet's own constructor needs numbers.
    device = "cpu" if name.startswith("regnet") else "meta"
    with torch.device(device):
        net = torchvision_model(name, num_classes=7, weights=None).eval()
    size = 299 if name == "inception_v3" else 224
    with torch.no_grad():
        assert net(torch.zeros(2, 3, size, size, device=device)).shape == (2, 7)
    assert prefix in (None, head_prefix(net))
    head = net.get_submodule(head_prefix(net))
    shapes = [p.shape[0] for p in head.parameters()]
    assert shapes
    assert set(shapes) == {7}
    assert not [n for n, _ in net.named_parameters() if "aux" in n.lower()]


@pytest.mark.parametrize("name", HEADS)
def test_head_of_every_family(name):
    check_network(name, HEADS[name])


@pytest.mark.long
@pytest.mark.parametrize("name", models.list_models(module=models))
def test_every_network(name):
    if name.startswith("regnet") and "00mf" not in name:
        pytest.skip("hundreds of millions of weights, and the same code as the small ones")
    check_network(name)


@pytest.fixture(scope="module")
def source():
    torch.manual_seed(0)
    return models.squeezenet1_1(num_classes=5).eval()


@pytest.fixture(params=["net.safetensors", "net.pth"])
def saved(request, source, tmp_path):
    path = tmp_path / request.param
    (save_file if path.suffix == ".safetensors" else torch.save)(source.state_dict(), path)
    return path


def test_local_file_with_its_head(source, saved):
    net = torchvision_model("squeezenet1_1", weights=saved).eval()
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(net(images), source(images))


def test_local_file_with_a_new_head(source, saved):
    net = torchvision_model("squeezenet1_1", num_classes=3, weights=str(saved)).eval()
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(net.features(images), source.features(images))
    assert net(images).shape == (2, 3)
    assert net.num_classes == 3
    with torch.no_grad():  # the ReLU behind it went with the old head
        net.classifier[1].bias.fill_(-9)
    assert net(images).max() < 0


def test_auxiliary_heads_in_the_file_are_not_needed(tmp_path):
    with torch.device("meta"):
        full = models.googlenet(weights=None, aux_logits=True, init_weights=False)
    state = {name: torch.zeros(t.shape, dtype=t.dtype) for name, t in full.state_dict().items()}
    torch.save(state, tmp_path / "googlenet.pth")
    net = torchvision_model("googlenet", num_classes=2, weights=tmp_path / "googlenet.pth")
    assert net.transform_input
    assert net.aux1 is None
    assert net.conv1.conv.weight.count_nonzero() == 0


def test_file_of_another_network(source, saved):
    with pytest.raises(CheckpointError, match="does not fit AlexNet") as caught:
        torchvision_model("alexnet", num_classes=5, weights=saved)
    assert "\n" not in str(caught.value)


def test_missing_keys_are_named(source, tmp_path):
    state = source.state_dict()
    del state["features.3.squeeze.weight"]
    save_file(state, tmp_path / "cut.safetensors")
    with pytest.raises(CheckpointError, match=r"only here: features\.3\.squeeze\.weight"):
        torchvision_model("squeezenet1_1", num_classes=5, weights=tmp_path / "cut.safetensors")


def test_unknown_names():
    with pytest.raises(ConfigError, match="no such network 'resnet81'; did you mean"):
        torchvision_model("resnet81", num_classes=2, weights=None)
    with pytest.raises(ConfigError, match="no weights 'IMAGENET1K_V3'; use one of IMAGENET1K_V1"):
        torchvision_model("resnet18", num_classes=2, weights="IMAGENET1K_V3")


def test_weights_that_cannot_be_fetched(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", refuse)
    message = "cannot fetch the weights DEFAULT of squeezenet1_1 .*no route.*pass a local file"
    with pytest.raises(CheckpointError, match=message) as caught:
        torchvision_model("squeezenet1_1", num_classes=2)
    assert "\n" not in str(caught.value)


def test_pretrained_weights_come_through_torchvision(monkeypatch, source):
    """What torchvision would have downloaded is loaded and keeps its body under a new head."""
    torch.manual_seed(0)
    full = models.squeezenet1_1()
    monkeypatch.setattr(
        models.SqueezeNet1_1_Weights, "get_state_dict", lambda *_, **__: full.state_dict()
    )
    net = torchvision_model("squeezenet1_1", num_classes=4, weights="IMAGENET1K_V1")
    assert torch.equal(net.features[0].weight, full.features[0].weight)
    assert net.classifier[1].out_channels == 4


SEGMENTERS = {
    "lraspp_mobilenet_v3_large": "classifier.*_classifier.*",
    "fcn_resnet50": "classifier.4",
    "deeplabv3_mobilenet_v3_large": "classifier.4",
}


@pytest.mark.parametrize("name", SEGMENTERS)
def test_networks_for_masks(name):
    with torch.device("meta"):
        net = torchvision_model(name, num_classes=5, weights=None).eval()
        assert net(torch.zeros(2, 3, 32, 48)).shape == (2, 5, 32, 48)
    assert head_prefix(net) == SEGMENTERS[name]


def test_a_file_of_a_network_for_masks_with_its_auxiliary_head(tmp_path):
    full = models.segmentation.fcn_resnet50(weights=None, weights_backbone=None, aux_loss=True)
    torch.save(full.state_dict(), tmp_path / "fcn.pth")
    net = torchvision_model("fcn_resnet50", num_classes=2, weights=tmp_path / "fcn.pth").eval()
    assert torch.equal(net.backbone.layer4[2].conv3.weight, full.backbone.layer4[2].conv3.weight)
    assert net.aux_classifier is None
    assert net.classifier[4].weight.shape == (2, 512, 1, 1)


def test_both_layers_of_a_head_are_new_or_come_from_the_file(tmp_path):
    source = torchvision_model("lraspp_mobilenet_v3_large", num_classes=4, weights=None).eval()
    torch.save(source.state_dict(), tmp_path / "net.pth")
    again = torchvision_model("lraspp_mobilenet_v3_large", weights=tmp_path / "net.pth").eval()
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(again(images), source(images))
    other = torchvision_model(
        "lraspp_mobilenet_v3_large", num_classes=3, weights=tmp_path / "net.pth"
    )
    theirs = source.state_dict()
    for name, tensor in other.state_dict().items():
        is_head = name.split(".")[1].endswith("_classifier")
        assert is_head == (tensor.shape != theirs[name].shape)
        assert is_head or torch.equal(tensor, theirs[name])
