"""Networks of timm, transformers and torchvision by name: built, shaped, fed as they expect."""

import copy

import pytest
import torch

from bayesprior.errors import CheckpointError, ConfigError
from bayesprior.models import expected_images, get_model, model_for

TASK = {"num_classes": 4, "input_shape": (3, 32, 32)}


@pytest.fixture
def vit_folder(tmp_path):
    """A tiny ViT with its preprocessor, as `save_pretrained` lays a folder out."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    config = transformers.ViTConfig(
        **sizes, num_attention_heads=2, image_size=32, patch_size=16, num_labels=3
    )
    network = transformers.ViTForImageClassification(config)
    network.save_pretrained(tmp_path)
    processor = transformers.ViTImageProcessor(
        size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.25] * 3
    )
    processor.save_pretrained(tmp_path)
    return tmp_path, network


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("timm/resnet18", "fc"),
        ("timm/mobilenetv3_small_050", "classifier"),
        ("torchvision/resnet18", "fc"),
    ],
)
def test_networks_of_libraries(name, head, tmp_path):
    if name.startswith("timm"):
        pytest.importorskip("timm")
    made = model_for(name, **TASK)
    assert made.head == head
    assert made.module(torch.zeros(2, 3, 32, 32)).shape == (2, 4)
    torch.save(
        {"model_ema": {f"module.{n}": t for n, t in made.module.state_dict().items()}},
        tmp_path / "a.bin",
    )
    again = model_for(
        name, num_classes=5, input_shape=(3, 32, 32), weights=tmp_path / "a.bin", seed=1
    )
    ours, theirs = again.module.state_dict(), made.module.state_dict()
    for key in theirs:
        assert torch.equal(ours[key], theirs[key]) != key.startswith(f"{head}."), key


def test_networks_for_masks():
    pytest.importorskip("segmentation_models_pytorch")
    task = {"num_classes": 4, "input_shape": (1, 32, 64), "options": {"encoder_name": "resnet18"}}
    made = model_for("smp/unet", **task)
    assert made.head == "segmentation_head.0"
    assert made.module.eval()(torch.zeros(1, 1, 32, 64)).shape == (1, 4, 32, 64)
    with pytest.raises(ConfigError, match="smp/unett: .*unetplusplus"):
        model_for("smp/unett", **task)
    with pytest.raises(ConfigError, match="for smp/unet weights are a file, DEFAULT"):
        model_for("smp/unet", **task, weights="nothing.pth")


def test_channels_reach_timm():
    pytest.importorskip("timm")
    made = model_for("timm/resnet18", num_classes=2, input_shape=(1, 32, 32))
    assert made.module(torch.zeros(2, 1, 32, 32)).shape == (2, 2)


def test_a_classifier_of_transformers(vit_folder):
    folder, source = vit_folder
    made = model_for(f"hf/{folder}", **TASK, weights="DEFAULT")
    assert made.head == "classifier"
    images = torch.randn(2, 3, 32, 32)
    assert made.module(images).shape == (2, 4)
    assert torch.equal(made.module.vit.layernorm.weight, source.vit.layernorm.weight)
    for module in (made.module, copy.deepcopy(made.module)):
        weights = dict(module.named_parameters())
        torch.testing.assert_close(
            torch.func.functional_call(module, weights, (images,)), made.module(images)
        )
    fresh = get_model(f"hf/{folder}", num_classes=3, weights=str(folder / "model.safetensors"))
    torch.testing.assert_close(fresh.eval()(images), source.eval()(images).logits)


def test_what_images_are_expected(vit_folder):
    assert expected_images(f"hf/{vit_folder[0]}") == (32, (0.5,) * 3, (0.25,) * 3)
    assert expected_images("efficientnet_b3").size == 300
    assert expected_images("mobilenet_v1").mean == (0.5,) * 3
    assert expected_images("small_conv") is None
    assert expected_images("pkg.module:net") is None
    pytest.importorskip("timm")
    assert expected_images("timm/vit_tiny_patch16_224") == (224, (0.5,) * 3, (0.5,) * 3)


def test_errors(tmp_path):
    pytest.importorskip("timm")
    with pytest.raises(ConfigError, match="timm has no network 'resnet17'; did you mean"):
        get_model("timm/resnet17")
    with pytest.raises(ConfigError, match="for timm/resnet18 weights are a file, DEFAULT"):
        get_model("timm/resnet18", weights="nothing.pth")
    with pytest.raises(ConfigError, match="no model 'keras/resnet18'"):
        get_model("keras/resnet18")
    pytest.importorskip("transformers")
    with pytest.raises(CheckpointError, match="cannot fetch hf/.*give a local file or folder"):
        get_model(f"hf/{tmp_path}")


def test_a_missing_library_names_its_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(ConfigError, match=r"pip install 'bayesprior\[models\]'"):
        get_model("timm/resnet18")
