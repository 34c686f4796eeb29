import numpy as np
import pytest
import torch

from bayesprior.data import ArrayDataset, CropFlip, few_shot, from_arrays, get_data, select_classes
from bayesprior.data.masks import IGNORED, augmented, checked_masks, resized
from bayesprior.errors import DataError


def arrays(count=12, size=(6, 8), seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, *size, 3), dtype=np.uint8)
    return images, rng.integers(0, 3, (count, *size))


def position_images(count=5, size=(6, 8)):
    """Every pixel's value is its own label."""
    labels = torch.randint(0, 200, (count, *size), dtype=torch.uint8)
    return labels[:, None].clone(), labels


@pytest.mark.parametrize("flip", [True, False])
def test_image_and_mask_move_together(flip):
    images, masks = position_images(40)
    images += 1  # so that what is filled in is known
    moved, labels = augmented(CropFlip(padding=2, flip=flip), images, masks, torch.rand(40, 8))
    assert not torch.equal(moved, images)
    inside = moved[:, 0] != 0
    assert torch.equal(labels[inside], moved[:, 0][inside] - 1)
    assert (labels[~inside] == IGNORED).all()
    assert not inside.all()
    ignoring = torch.full_like(masks, IGNORED)
    _, labels = augmented(CropFlip(padding=2), images, ignoring, torch.rand(40, 8))
    assert (labels == IGNORED).all()


def test_float_images_and_a_data_set():
    images, masks = position_images()
    data = ArrayDataset(images / 255, masks, augment=CropFlip(padding=1))
    x, y = data[2]
    assert y.dtype == torch.int64
    inside = x[0] > 0
    assert torch.equal(y[inside], (x[0] * 255).round().long()[inside])
    x, y = data.without_augmentation()[2]
    assert torch.equal(y, masks[2].long())


def test_masks_follow_a_resized_image():
    images, masks = arrays(size=(8, 8))
    bundle = from_arrays("toy", (images, masks), size=4, test_fraction=0.25)
    x, y = next(iter(bundle.loader("train", 3)))
    assert x.shape[2:] == y.shape[1:] == (4, 4)
    blocks = torch.arange(4).view(2, 2).repeat_interleave(3, 0).repeat_interleave(3, 1)[None]
    assert resized(blocks, (2, 2)).tolist() == [[[0, 1], [2, 3]]]


def test_a_bundle_from_an_archive(tmp_path):
    images, masks = arrays()
    masks[masks == 2] = -1
    np.savez(tmp_path / "toy.npz", x=images, y=masks, class_names=["sky", "road"])
    bundle = get_data(tmp_path / "toy.npz", ignore_index=-1, augment="crop-flip")
    assert bundle.has_masks
    assert bundle.class_names == ("sky", "road")
    assert bundle.class_counts.sum() == (bundle.train.targets != IGNORED).sum()
    assert few_shot(bundle, num_data=4).num_data == 4
    assert len(bundle.test) == 2
    with pytest.raises(DataError, match="has no class for each example"):
        select_classes(bundle, [0, 1])
    assert from_arrays("toy", arrays(), arrays(3, seed=1)).class_names == ("0", "1", "2")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda y: y[:, :4], r"y_train is 12 x 4 x 8, the images are 12 x 6 x 8"),
        (lambda y: y + 2, "y_train has the label 4, classes are 0 to 2; name every class"),
        (lambda y: -y, "y_train has the label -2, classes are 0 to 2"),
        (lambda y: y / 2, "y_train has dtype float64; store one whole number a pixel"),
        (lambda y: np.where(y > 1, 255, 0), "0 and 255 alone.* stored as 0 and 1"),
    ],
)
def test_errors_are_one_line(change, message):
    images, masks = arrays()
    with pytest.raises(DataError, match=message) as caught:
        from_arrays("toy", (images, change(masks)), class_names=("a", "b", "c"))
    assert "\n" not in str(caught.value)


def test_an_image_that_nobody_labeled_is_no_binary_mask():
    assert (checked_masks("y", np.full((2, 2), 255), (2, 2)) == IGNORED).all()
    found = checked_masks("y", np.array([[True, False]]), (1, 2))
    assert found.tolist() == [[1, 0]]
