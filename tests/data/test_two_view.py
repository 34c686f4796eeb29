import sys

import numpy as np
import pytest
import torch
from PIL import Image

from bayesprior.data.bundle import DataBundle
from bayesprior.data.datasets import ArrayDataset, LazyDataset
from bayesprior.data.transforms import PixelTransform
from bayesprior.data.two_view import (
    AUGMENTATIONS,
    LightlyViews,
    augmentations,
    simclr_view,
    two_views,
)
from bayesprior.errors import MissingDependencyError


def bundle(num_data=6):
    images = torch.randint(0, 256, (num_data, 3, 16, 16), dtype=torch.uint8)
    pixels = PixelTransform((0.5,) * 3, (0.5,) * 3)
    train = ArrayDataset(images, torch.arange(num_data) % 2, transform=pixels)
    test = ArrayDataset(255 - images[:2], torch.arange(2), transform=pixels)
    return DataBundle("toy", train, test, class_names=("a", "b"))


def test_views_differ_and_are_transformed():
    whole = bundle()
    data = two_views(whole, size=12)
    (first, second), targets = next(iter(data.loader("train", 6, seed=1)))
    assert first.shape == second.shape == (6, 3, 12, 12)
    assert first.dtype == torch.float32
    assert first.min() >= -1
    assert first.max() <= 1
    assert all(not torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(targets, data.train.targets)
    assert torch.equal(data.test[0][0], whole.test[0][0])


def test_views_belong_to_seed_epoch_and_example():
    data, before = two_views(bundle()), torch.get_rng_state()

    def views(batch_size, epoch):
        loader = data.loader("train", batch_size, shuffle=False, seed=2)
        loader.batch_sampler.set_epoch(epoch)
        return [torch.cat(parts) for parts in zip(*(pair for pair, _ in loader), strict=True)]

    assert all(torch.equal(a, b) for a, b in zip(views(6, 0), views(4, 0), strict=True))
    assert not torch.equal(views(6, 0)[0], views(6, 1)[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_subset_and_plain_images():
    data = two_views(bundle()).train
    part = data.subset(torch.tensor([5, 0]))
    assert torch.equal(part.raw(0), data.raw(5))
    (first, _), target = part[1]
    assert first.shape == (3, 16, 16)
    assert target == 0
    assert data.without_augmentation()[3][0].shape == (3, 16, 16)


def test_views_of_images_without_labels_are_both_transformed():
    whole = bundle()
    plain = ArrayDataset(whole.train.inputs, transform=whole.train.transform)
    data = two_views(DataBundle("new", plain))
    first, second = next(iter(data.loader("train", 6)))
    assert first.shape == second.shape == (6, 3, 16, 16)
    assert first.dtype == second.dtype == torch.float32


def test_photographs_are_read_once_per_pair(monkeypatch):
    reads = []

    class Source(list):
        def __getitem__(self, index):
            reads.append(index)
            return super().__getitem__(index)

    source = Source((Image.new("RGB", (20, 30), (i, 0, 0)), i % 2) for i in range(4))
    lazy = LazyDataset(source, torch.arange(4) % 2, crop=simclr_view(8), transform=PixelTransform())
    data = two_views(DataBundle("toy", lazy, bundle().test, class_names=("a", "b")), size=8)
    (first, _), _ = next(iter(data.loader("train", 4)))
    assert first.shape == (4, 3, 8, 8)
    assert reads == [0, 1, 2, 3]


@pytest.mark.parametrize("blur", [False, True])
def test_simclr_view_of_gray_and_color(blur):
    for channels in (1, 3):
        image = torch.randint(0, 256, (channels, 20, 20), dtype=torch.uint8)
        view = simclr_view(10, blur=blur)(image)
        assert type(view) is torch.Tensor
        assert (view.shape, view.dtype) == ((channels, 10, 10), torch.uint8)


def pictures(num_data, channels, size):
    images = torch.randint(0, 256, (num_data, channels, size, size), dtype=torch.uint8)
    return DataBundle("pictures", ArrayDataset(images, transform=PixelTransform()))


@pytest.mark.parametrize(
    ("channels", "size", "transform", "settings"),
    [
        (1, 28, "SimCLRTransform", AUGMENTATIONS["gray"]),
        (3, 32, "SimCLRTransform", AUGMENTATIONS["small"]),
        (3, 72, "BYOLTransform", {}),
    ],
)
def test_views_of_lightly_fit_the_images_and_belong_to_seed_and_example(
    channels, size, transform, settings
):
    whole = pictures(4, channels, size)
    views = augmentations(whole, "byol")
    assert views == LightlyViews(transform, size, settings)
    data, numpy_state = two_views(whole, view=views), np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = next(iter(data.loader("train", 4, seed=2)))
    again, _ = next(iter(data.loader("train", 2, seed=2)))  # blur draws from NumPy's numbers
    assert first.shape == second.shape == (4, channels, size, size)
    assert type(first) is torch.Tensor
    assert 0 <= first.min() < first.max() <= 1
    assert torch.equal(first[:2], again)
    assert not torch.equal(first, second)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


@pytest.mark.parametrize("objective", ["simclr", "moco", "byol", "vicreg", "barlow_twins"])
@pytest.mark.parametrize("kind", AUGMENTATIONS)
def test_views_have_the_shape_of_images_that_are_no_squares(objective, kind):
    images = torch.randint(0, 256, (2, 3, 18, 24), dtype=torch.uint8)
    whole = DataBundle("wide", ArrayDataset(images, transform=PixelTransform()))
    views = augmentations(whole, objective, kind)
    assert views.size == (18, 24)
    assert [view.shape for view in two_views(whole, view=views).train[0]] == [(3, 18, 24)] * 2
    assert [view.shape for view in two_views(whole).train[0]] == [(3, 18, 24)] * 2
    assert [view.shape for view in two_views(whole, size=12).train[0]] == [(3, 12, 12)] * 2


@pytest.mark.parametrize("objective", ["simclr", "moco", "byol", "vicreg", "barlow_twins"])
def test_photographs_have_the_published_views(objective):
    whole = pictures(2, 3, 24)
    first, _ = two_views(whole, view=augmentations(whole, objective, "photographs")).train[0]
    assert first.shape == (3, 24, 24)


def test_without_lightly_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightly", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'bayesprior\[ssl\]'"):
        augmentations(pictures(2, 3, 24), "simclr")
