import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from bayesprior.data import get_data
from bayesprior.data.mask_folders import mask_folder
from bayesprior.errors import ConfigError, DataError
from bayesprior.recipes.digests import data_digests

SIZE = (12, 16)


def write(root, count=6, mode="L", names=None, seed=0):
    """Pictures whose red channel is 100 times their label."""
    rng = np.random.default_rng(seed)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for i in range(count):
        labels = np.repeat(np.repeat(rng.integers(0, 3, (3, 4), dtype=np.uint8), 4, 0), 4, 1)
        picture = np.stack([100 * labels] * 3, -1)
        Image.fromarray(picture).save(root / "images" / f"{i}.png")
        mask = Image.fromarray(labels)
        if mode == "P":
            mask = mask.convert("P")
            mask.putdata(list(labels.ravel()))
            mask.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
        mask.save(root / "masks" / f"{i}.png")
    if names:
        (root / "classes.txt").write_text("\n".join(names))
    return root


@pytest.mark.parametrize("mode", ["L", "P"])
def test_pictures_and_masks(tmp_path, mode):
    bundle = get_data(write(tmp_path / "scenes", mode=mode), size=SIZE, normalize=None)
    assert (bundle.num_data, len(bundle.test), bundle.num_classes) == (5, 1, 3)
    assert bundle.has_masks
    assert bundle.input_shape == (3, *SIZE)
    images, masks = next(iter(bundle.loader("test", 1)))
    assert torch.equal((images[:, 0] * 2.55).round().long(), masks)
    moved, masks = next(iter(bundle.loader("train", 5, shuffle=True)))
    labeled = masks != 255
    assert torch.equal((moved[:, 0] * 2.55).round().long()[labeled], masks[labeled])
    assert not labeled.all()
    assert (moved[:, 0][~labeled] == 0).all()


def test_splits_names_and_ignored_labels(tmp_path):
    for split in ("train", "test"):
        write(tmp_path / split, seed=len(split))
    names = ("sky", "road", "tree")
    (tmp_path / "classes.txt").write_text("\n".join([*names, ""]))
    bundle = get_data(tmp_path, ignore_index=2, size=8, augment=False)
    assert bundle.class_names == names
    assert len(bundle.train) == len(bundle.test) == 6
    _, masks = next(iter(bundle.loader("train", 6)))
    assert set(masks.unique().tolist()) == {0, 1, 255}
    _, masks = next(iter(mask_folder(tmp_path, binary=True).loader("test", 6)))
    assert set(masks.unique().tolist()) == {0, 1}


def test_the_digest_follows_a_mask_but_not_a_moved_folder(tmp_path):
    root = write(tmp_path / "a")
    before = data_digests(mask_folder(root))
    shutil.copytree(root, tmp_path / "b", copy_function=shutil.copy2)
    assert data_digests(mask_folder(tmp_path / "b")) == before
    for i in range(6):
        Image.fromarray(np.zeros(SIZE, np.uint8)).save(root / "masks" / f"{i}.png")
    assert data_digests(mask_folder(root)) != before


def break_size(root):
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(root / "masks" / "0.png")


def break_color(root):
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(root / "masks" / "0.png")


def break_label(root):
    Image.fromarray(np.full(SIZE, 7, np.uint8)).save(root / "masks" / "0.png")


def break_name(root):
    (root / "masks" / "0.png").rename(root / "masks" / "zero.png")


def break_twice(root):
    shutil.copy(root / "masks" / "0.png", root / "masks" / "0.gif")


def break_file(root):
    (root / "masks" / "0.png").write_bytes(b"no picture")


def break_all(root):
    for i in range(6):
        Image.fromarray(np.eye(12, 16, dtype=np.uint8) * 255).save(root / "masks" / f"{i}.png")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_size, r"0\.png is 5 x 5, the images are 12 x 16"),
        (break_color, r"0\.png has colors \(mode RGB\)"),
        (break_label, r"0\.png has the label 7, classes are 0 to 2"),
        (break_name, r"images has '0', masks has no file of this name \(2 such\)"),
        (break_twice, r"has 0\.gif and 0\.png; keep one"),
        (break_file, r"0\.png cannot be read as a mask"),
        (break_all, r"masks holds 0 and 255 alone.* --data_options\.binary true"),
    ],
)
def test_errors_name_the_file(tmp_path, damage, message):
    root = write(tmp_path / "scenes", names=("a", "b", "c"))
    damage(root)
    with pytest.raises(DataError, match=message) as caught:
        get_data(root)
    assert "\n" not in str(caught.value)


def test_masks_in_a_folder_of_another_name_are_no_class(tmp_path):
    """Else pictures and masks would be two classes to tell apart."""
    root = write(tmp_path / "scenes")
    (root / "masks").rename(root / "labels")
    with pytest.raises(DataError, match="labels holds pictures of the names in images.*'masks'"):
        get_data(root)
    (root / "labels" / "0.png").rename(root / "labels" / "more.png")
    assert get_data(root, size=8).class_names == ("images", "labels")


def test_no_size_below_one_pixel(tmp_path):
    with pytest.raises(ConfigError, match=r'size must be pixels.*--data_options.size "\[48, 64\]"'):
        mask_folder(write(tmp_path / "scenes"), size=(4, 0))
    (tmp_path / "empty" / "images").mkdir(parents=True)
    (tmp_path / "empty" / "masks").mkdir()
    with pytest.raises(DataError, match="holds no pictures"):
        get_data(tmp_path / "empty")


def test_a_picture_of_many_sizes_becomes_one(tmp_path):
    root = write(tmp_path / "scenes")
    for folder in ("images", "masks"):
        with Image.open(root / folder / "1.png") as picture:
            picture.resize((30, 20), Image.Resampling.NEAREST).save(root / folder / "1.png")
    images, masks = next(iter(mask_folder(root, size=8, augment=False).loader("train", 5)))
    assert images.shape == (5, 3, 8, 8)
    assert masks.shape == (5, 8, 8)
