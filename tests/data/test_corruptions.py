import numpy as np
import pytest
import torch
from scipy.stats import kstest

from bayesprior.data.corruptions import CORRUPTIONS, Corruption
from bayesprior.errors import ConfigError


def images(num=4, channels=3, size=32):
    """Smooth random pictures, uint8."""
    coarse = torch.rand(num, channels, 5, 5, generator=torch.Generator().manual_seed(0))
    fine = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)
    return (fine * 255).round().to(torch.uint8)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("size", [8, 32, 96])
def test_damage_grows_with_the_severity_and_the_type_stays(name, size):
    clean = images(size=size)
    damage = []
    for severity in range(1, 6):
        corrupted = Corruption(name, severity)(clean)
        assert corrupted.shape == clean.shape
        assert corrupted.dtype == clean.dtype
        damage.append((corrupted.float() - clean.float()).square().mean().item())
    assert damage[-1] > damage[0]
    assert damage[-1] > 0


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_image_is_corrupted_alike_alone_and_in_a_batch(name):
    clean = images()
    corruption = Corruption(name, 3)
    together = corruption(clean)
    alone = torch.cat([corruption(image[None]) for image in clean])
    assert torch.equal(together, alone)
    assert torch.equal(corruption(clean.flip(0)).flip(0), together)


def test_floats_and_gray_images():
    gray = images(channels=1).float() / 255
    for name in CORRUPTIONS:
        out = Corruption(name, 2)(gray)
        assert out.dtype == torch.float32
        assert 0 <= out.min() <= out.max() <= 1


def test_noise_has_its_stated_law_and_depends_on_the_seed():
    gray = torch.full((3, 3, 32, 32), 0.5)
    gray += torch.arange(3)[:, None, None, None] * 1e-6  # three different images
    noise = Corruption("gaussian_noise", 1)(gray) - gray
    assert kstest(noise.flatten().numpy() / 0.04, "norm").pvalue > 1e-6
    assert np.abs(np.corrcoef(noise.flatten(1).numpy())[0, 1]) < 5 / np.sqrt(3072)
    assert not torch.equal(Corruption("gaussian_noise", 1, seed=1)(gray) - gray, noise)


def test_the_next_transform_gets_the_corrupted_images():
    clean = images()
    corruption = Corruption("contrast", 4, then=lambda x: x.float().mean())
    assert corruption(clean) == Corruption("contrast", 4)(clean).float().mean()


@pytest.mark.parametrize(
    ("name", "severity", "message"),
    [
        ("gausian_noise", 1, "did you mean 'gaussian_noise'"),
        ("fog", 1, "use one of gaussian_noise"),
        ("jpeg", 6, "1 to 5, got 6"),
    ],
)
def test_unknown_corruptions_are_refused(name, severity, message):
    with pytest.raises(ConfigError, match=message):
        Corruption(name, severity)
