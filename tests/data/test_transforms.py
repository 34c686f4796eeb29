import pytest
import torch
from torchvision.transforms import v2

from bayesprior.data.transforms import IMAGENET, CropFlip, PixelTransform, normalization
from bayesprior.errors import ConfigError


def pixels(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8)


@pytest.mark.parametrize("size", [None, 5, 20])
def test_pixel_transform_equals_torchvision(size):
    mean, std, images = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), pixels(4, 3, 11, 9)
    resize = [v2.Resize((size, size), antialias=True)] if size else []
    reference = v2.Compose(
        [v2.ToDtype(torch.float32, scale=True), *resize, v2.Normalize(mean, std)]
    )
    torch.testing.assert_close(PixelTransform(mean, std, size)(images), reference(images))


def test_float_images_are_not_scaled_and_gray_becomes_three_channels():
    images = torch.rand(2, 1, 3, 3)
    assert torch.equal(PixelTransform()(images), images)
    three = PixelTransform((0.0,) * 3, (1.0, 0.5, 0.25))(images)
    torch.testing.assert_close(three, torch.cat([images, 2 * images, 4 * images], 1))


def test_bad_normalization():
    with pytest.raises(ConfigError, match="all of them positive"):
        PixelTransform((0.5,), (0.0,))
    with pytest.raises(ConfigError, match="as many means"):
        PixelTransform((0.5, 0.5), (1.0,))
    with pytest.raises(ConfigError, match="at least 1 pixel"):
        PixelTransform(size=0)
    with pytest.raises(ConfigError, match="for 3 channels but the images have 4"):
        PixelTransform((0.5,) * 3, (1.0,) * 3)(pixels(1, 4, 2, 2))


def test_crop_flip_equals_padding_slicing_and_mirroring():
    images, numbers = pixels(50, 2, 6, 7), torch.rand(50, 8)
    out = CropFlip(padding=2)(images, numbers)
    assert out.dtype == torch.uint8
    for image, number, result in zip(images, numbers, out, strict=True):
        padded = torch.zeros(2, 10, 11, dtype=torch.uint8)
        padded[:, 2:-2, 2:-2] = image
        top, left = int(number[0] * 5), int(number[1] * 5)
        window = padded[:, top : top + 6, left : left + 7]
        assert torch.equal(result, window.flip(-1) if number[2] < 0.5 else window)
    unmoved = CropFlip(padding=0, flip=False)(images, numbers)
    assert torch.equal(unmoved, images)


def test_train_statistics_are_those_of_all_pixels():
    images = pixels(5000, 3, 4, 4)
    mean, std = normalization("train", images)
    scaled = images.double() / 255
    torch.testing.assert_close(torch.tensor(mean).double(), scaled.mean((0, 2, 3)))
    torch.testing.assert_close(torch.tensor(std).double(), scaled.std((0, 2, 3), correction=0))


def test_constant_channel_is_left_finite():
    mean, std = normalization("train", torch.full((3, 1, 2, 2), 0.3))
    assert std == (1.0,)
    assert PixelTransform(mean, std)(torch.full((1, 1, 2, 2), 0.3)).isfinite().all()


def test_named_normalizations():
    images = pixels(2, 3, 2, 2)
    assert normalization("imagenet", images)[0] == (0.485, 0.456, 0.406)
    assert normalization("imagenet") == IMAGENET
    assert normalization("MNIST") == ((0.1307,), (0.3081,))
    with pytest.raises(ConfigError, match="'train' of these inputs; use 'train' .of arrays only"):
        normalization("train")
    assert normalization(None, images) == ((), ())
    assert normalization(((0.1,), (0.2,)), images) == ((0.1,), (0.2,))
    with pytest.raises(ConfigError, match="'imagnet'.*did you mean 'imagenet'"):
        normalization("imagnet", images)
