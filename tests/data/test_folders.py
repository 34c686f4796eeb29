"""Folders as people have them: hidden ones, other names of splits, deep pictures."""

import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from bayesprior.data.folders import image_folder, read_picture
from bayesprior.errors import ConfigError, DataError


def write_photograph(path, color, size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)


def image_folders(root, splits, classes=("cat", "dog"), per_class=5):
    for place, split in enumerate(splits):
        for label, name in enumerate(classes):
            for number in range(per_class):
                color = (label * 200, number, place)
                write_photograph(root / split / name / f"{number}.png", color)


def test_image_folder_with_splits(tmp_path):
    image_folders(tmp_path, ["train", "val", "test"])
    bundle = image_folder(tmp_path, size=14)
    assert [len(bundle.split(s)) for s in ("train", "validation", "test")] == [10, 10, 10]
    assert bundle.class_names == ("cat", "dog")
    loader = bundle.loader("train", 10, shuffle=True, seed=1)
    first, second = next(iter(loader)), next(iter(loader))
    loader.batch_sampler.set_epoch(0)
    again = next(iter(loader))
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], second[0])


def test_image_folder_without_test(tmp_path):
    image_folders(tmp_path, ["train", "val"])
    bundle = image_folder(tmp_path, size=14)
    assert bundle.validation is None
    assert "/val/" in bundle.test.source.samples[0][0]


def test_image_folder_without_splits(tmp_path):
    image_folders(tmp_path, ["."])
    bundle = image_folder(tmp_path, size=14)
    assert (len(bundle.train), len(bundle.test)) == (8, 2)
    assert bundle.test.augment is None
    assert bundle.train.augment is not None
    assert torch.bincount(bundle.test.targets).tolist() == [1, 1]
    assert not set(bundle.train.rows.tolist()) & set(bundle.test.rows.tolist())


def test_a_split_that_copies_another_is_a_leak(tmp_path):
    image_folders(tmp_path, ["train", "test"])
    shutil.rmtree(tmp_path / "test")
    shutil.copytree(tmp_path / "train", tmp_path / "test")
    for name in ("cat", "dog"):  # a part of them, under other names
        (tmp_path / "test" / name / "0.png").unlink()
        (tmp_path / "test" / name / "1.png").rename(tmp_path / "test" / name / "a.png")
    with pytest.raises(DataError, match="the pictures of test are those of train"):
        image_folder(tmp_path, size=14)
    write_photograph(tmp_path / "test" / "cat" / "a.png", (1, 2, 3))
    assert len(image_folder(tmp_path, size=14).test) == 8


def test_image_folder_errors(tmp_path):
    with pytest.raises(DataError, match="holds no class folders"):
        image_folder(tmp_path / "absent")
    image_folders(tmp_path, ["train"])
    with pytest.raises(DataError, match="a folder train but neither test nor val"):
        image_folder(tmp_path)
    image_folders(tmp_path, ["test"], classes=("cat", "dig"))
    with pytest.raises(DataError, match=r"train and test differ \(dig, dog\)"):
        image_folder(tmp_path)


@pytest.mark.parametrize("names", ["Training Testing Valid", "TRAIN Test validation"])
def test_splits_under_other_names(tmp_path, names):
    image_folders(tmp_path, [*names.split(), "more"])
    with pytest.warns(UserWarning, match="more are no splits and are not used"):
        bundle = image_folder(tmp_path, size=14)
    assert [len(bundle.split(s)) for s in ("train", "validation", "test")] == [10, 10, 10]
    assert bundle.class_names == ("cat", "dog")


def test_two_folders_of_one_split_are_refused(tmp_path):
    image_folders(tmp_path, ["train", "test", "testing"])
    with pytest.raises(DataError, match="has test and testing; keep one"):
        image_folder(tmp_path)


def test_hidden_folders_and_files_are_no_classes(tmp_path):
    image_folders(tmp_path, ["."])
    for place in (".ipynb_checkpoints", "__MACOSX", "cat/.ipynb_checkpoints"):
        write_photograph(tmp_path / place / "0.png", (0, 0, 0))
    write_photograph(tmp_path / "cat" / "._0.png", (0, 0, 0))
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    bundle = image_folder(tmp_path, size=14)
    assert bundle.class_names == ("cat", "dog")
    assert len(bundle.train) + len(bundle.test) == 10


def test_one_class_names_the_deeper_folder(tmp_path):
    image_folders(tmp_path / "flowers", ["."], classes=("rose", "tulip"))
    with pytest.raises(DataError, match=r"one class only, flowers; did you mean .*flowers\?"):
        image_folder(tmp_path)
    (tmp_path / "flowers" / "empty").mkdir()
    with pytest.raises(DataError, match="the class folder empty holds no images; remove it"):
        image_folder(tmp_path / "flowers")


def test_sixteen_bits_are_scaled_and_rotations_kept(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(5):
            Image.fromarray(np.full((8, 8), 5000 + i, np.uint16)).save(tmp_path / name / f"{i}.png")
    bundle = image_folder(tmp_path, size=8, normalize=((0.0,) * 3, (1.0,) * 3), augment=False)
    images = torch.cat([bundle.train[i][0] for i in range(4)])
    torch.testing.assert_close(images.min(), torch.tensor(5000 / 65535), atol=1e-4, rtol=0)
    sideways = Image.new("RGB", (6, 4))
    exif = sideways.getexif()
    exif[0x0112] = 6
    sideways.save(tmp_path / "turned.jpg", exif=exif)
    assert read_picture(tmp_path / "turned.jpg").size == (4, 6)


def test_pictures_that_cannot_be_read(tmp_path, monkeypatch):
    (tmp_path / "cut.png").write_bytes(b"\x89PNG")
    Image.new("F", (4, 4)).save(tmp_path / "float.tiff")
    with pytest.raises(DataError, match=r"cut.png cannot be read as a picture"):
        read_picture(tmp_path / "cut.png")
    with pytest.raises(DataError, match="mode F have no known range"):
        read_picture(tmp_path / "float.tiff")
    Image.new("L", (40, 40)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match=r"large.png cannot be read .*decompression bomb"):
        read_picture(tmp_path / "large.png")


@pytest.mark.parametrize("options", [{"test_fraction": 0.0}, {"size": 0}])
def test_options_that_cannot_be(tmp_path, options):
    image_folders(tmp_path, ["."])
    with pytest.raises(ConfigError, match="test_fraction must be|at least 1 pixel"):
        image_folder(tmp_path, **options)


@pytest.mark.parametrize("folder", [".", "train"])
def test_pictures_without_classes_are_data_without_labels(tmp_path, folder):
    for number in range(3):
        write_photograph(tmp_path / folder / f"{number}.jpg", (number, 0, 0))
    bundle = image_folder(tmp_path, size=14)
    assert (bundle.num_data, bundle.class_names, bundle.test) == (3, (), None)
    assert next(iter(bundle.loader("train", 2))).shape == (2, 3, 14, 14)
    assert bundle.peek(2).shape == (2, 3, 14, 14)
