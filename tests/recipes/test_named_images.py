"""Folders of pictures are read as the network expects them; other normalizations are warned of."""

import numpy as np
import pytest
import torch
from PIL import Image

from bayesprior.data import check_fit, from_arrays
from bayesprior.errors import ConfigError
from bayesprior.models import get_model
from bayesprior.recipes.named import load_data, load_model
from bayesprior.recipes.options import DataOptions, ModelOptions


@pytest.fixture
def pictures(tmp_path):
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for i in range(5):
            Image.fromarray(np.full((40, 40, 3), 51 * i, np.uint8)).save(
                tmp_path / name / f"{i}.png"
            )
    return tmp_path


def test_size_and_normalization_come_from_the_network(pictures):
    choice = DataOptions(data="image_folder", data_options={"root": pictures})
    for data in (choice, DataOptions(data=str(pictures))):
        bundle = load_data(data, ModelOptions(model="mobilenet_v1"))
        assert bundle.input_shape == (3, 224, 224)
        assert bundle.train.transform.mean == (0.5,) * 3
    own = DataOptions(data=str(pictures), data_options={"size": 64})
    bundle = load_data(own, ModelOptions(model="torchvision/efficientnet_b3"))
    assert bundle.input_shape == (3, 64, 64)
    assert bundle.train.transform.mean == pytest.approx((0.485, 0.456, 0.406))
    assert load_data(own, ModelOptions(model="small_conv")).train.transform.mean[0] == 0.485


def test_other_channels_than_the_networks_are_refused_for_that(tmp_path):
    torch.save(get_model("resnet18", num_classes=2, weights=None).state_dict(), tmp_path / "w.pth")
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 4)).astype(np.uint8)
    data = from_arrays("rgba", (pixels, np.arange(8) % 2))
    model, file = ModelOptions(model="resnet18"), str(tmp_path / "w.pth")
    net, _ = load_model(model, data, seed=0, weights=file)
    with pytest.raises(ConfigError, match="takes 3 channels, the data have 4"):
        check_fit(net, data)


def test_another_normalization_is_warned_of(pictures, tmp_path, recwarn):
    torch.save(get_model("resnet18", num_classes=2, weights=None).state_dict(), tmp_path / "w.pth")
    model = ModelOptions(model="resnet18")
    options = {"size": 32, "normalize": ((0.5,) * 3, (0.5,) * 3)}
    wrong = load_data(DataOptions(data=str(pictures), data_options=options))
    with pytest.warns(UserWarning, match=r"weights of resnet18 expect .*0.485.* give --data_opt"):
        load_model(model, wrong, seed=0, weights=str(tmp_path / "w.pth"))
    recwarn.clear()
    load_model(model, wrong, seed=0)  # nothing pretrained
    right = load_data(DataOptions(data=str(pictures), data_options={"size": 32}), model)
    load_model(model, right, seed=0, weights=str(tmp_path / "w.pth"))
    assert not [w for w in recwarn if "normalized" in str(w.message)]
