import pytest
import torch
from safetensors.torch import save_file

from bayesprior.errors import CheckpointError
from bayesprior.models.heads import head_prefix
from bayesprior.models.mobilenet import MobileNetV1
from bayesprior.models.zoo import get_model


def test_shape_and_published_sizes():
    # Parameters of the paper's table 1 networks with their 1000-class head, in millions.
    for width, millions in ((0.25, 0.47), (1.0, 4.23)):
        with torch.device("meta"):
            net = MobileNetV1(width=width)
            images = torch.zeros(1, 3, 224, 224)
        assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, abs=5e-3)
        assert net.eval()(images).shape == (1, 1000)
        assert head_prefix(net) == "head"


def test_body_from_a_file(tmp_path):
    source = MobileNetV1()
    save_file(source.state_dict(), tmp_path / "net.safetensors")
    net = get_model("mobilenet_v1", num_classes=3, weights=tmp_path / "net.safetensors")
    assert net.head.out_features == 3
    assert torch.equal(net.blocks[5].pw.weight, source.blocks[5].pw.weight)
    with pytest.raises(CheckpointError, match="does not fit MobileNetV1"):
        get_model("mobilenet_v1", width=0.5, weights=tmp_path / "net.safetensors")
