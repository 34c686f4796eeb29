"""torchvision's own readers on small files in the real on-disk formats."""

import hashlib
import pickle
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

from bayesprior.data import torchvision_sets
from bayesprior.errors import ConfigError, DataError


@pytest.fixture
def rng(seed):
    return np.random.default_rng(seed)


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_pickle(path, content):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps(content))
    return [path.name, md5(path)]


def write_idx(path, array):
    """The MNIST format: magic number with type and rank, big-endian sizes, bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">I{array.ndim}I", 0x0800 + array.ndim, *array.shape)
    path.write_bytes(header + array.tobytes())


def write_photograph(path, color, size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)


def test_cifar10(tmp_path, monkeypatch, rng):
    folder = tmp_path / "cifar-10-batches-py"
    images = rng.integers(0, 256, (24, 3, 32, 32), dtype=np.uint8)
    labels = [i % 10 for i in range(24)]
    parts = []
    for number, part in enumerate(np.split(np.arange(24), 2)):
        content = {"data": images[part].reshape(12, -1), "labels": [labels[i] for i in part]}
        parts.append(write_pickle(folder / f"part_{number}", content))
    names = list("abcdefghij")
    meta = write_pickle(folder / "batches.meta", {"label_names": names})
    monkeypatch.setattr(datasets.CIFAR10, "train_list", parts[:1])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", parts[1:])
    monkeypatch.setattr(
        datasets.CIFAR10, "meta", {"filename": meta[0], "md5": meta[1], "key": "label_names"}
    )
    bundle = torchvision_sets.cifar10(tmp_path, augment=False)
    assert bundle.class_names == tuple(names)
    assert bundle.train.targets.tolist() == labels[:12]
    loaded, _ = next(iter(bundle.loader("test", 12)))
    mean, std = np.array([0.4914, 0.4822, 0.4465]), np.array([0.2470, 0.2435, 0.2616])
    expected = (images[12:] / 255 - mean[:, None, None]) / std[:, None, None]
    np.testing.assert_allclose(loaded, expected, rtol=1e-4, atol=1e-5)
    assert torchvision_sets.cifar10(tmp_path).train.augment.padding == 4
    assert torchvision_sets.cifar10(tmp_path).test.augment is None

    fine = {"data": images[:12].reshape(12, -1), "fine_labels": list(range(12))}
    folder = tmp_path / "cifar-100-python"
    names = [f"class {i}" for i in range(12)]
    meta = write_pickle(folder / "meta", {"fine_label_names": names})
    monkeypatch.setattr(datasets.CIFAR100, "train_list", [write_pickle(folder / "train", fine)])
    other = fine | {"data": 255 - fine["data"]}
    monkeypatch.setattr(datasets.CIFAR100, "test_list", [write_pickle(folder / "test", other)])
    monkeypatch.setattr(
        datasets.CIFAR100, "meta", {"filename": meta[0], "md5": meta[1], "key": "fine_label_names"}
    )
    bundle = torchvision_sets.cifar100(tmp_path, size=16)
    assert bundle.input_shape == (3, 16, 16)
    assert bundle.train.targets.tolist() == list(range(12))


@pytest.mark.parametrize(
    ("load", "folder"),
    [(torchvision_sets.mnist, "MNIST"), (torchvision_sets.fashion_mnist, "FashionMNIST")],
)
def test_mnist_files(tmp_path, rng, load, folder):
    raw = tmp_path / folder / "raw"
    images = rng.integers(0, 256, (20, 28, 28), dtype=np.uint8)
    labels = (np.arange(20) % 10).astype(np.uint8)
    for split, part in (("train", slice(0, 10)), ("t10k", slice(10, 20))):
        write_idx(raw / f"{split}-images-idx3-ubyte", images[part])
        write_idx(raw / f"{split}-labels-idx1-ubyte", labels[part])
    bundle = load(tmp_path, normalize=None)
    loaded, targets = next(iter(bundle.loader("train", 10)))
    np.testing.assert_array_equal(loaded[:, 0].numpy(), images[:10] / np.float32(255))
    assert targets.tolist() == list(range(10))
    assert bundle.num_classes == 10
    assert load(tmp_path, augment=True).train.augment.padding == 2
    (raw / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=f"is not in {tmp_path} or is incomplete"):
        load(tmp_path)


def test_flowers102(tmp_path, monkeypatch):
    base = tmp_path / "flowers-102"
    colors = {1: (255, 0, 0), 2: (0, 255, 0), 3: (0, 0, 255), 4: (255, 255, 0)}
    for number, color in colors.items():
        write_photograph(base / "jpg" / f"image_{number:05d}.jpg", color)
    savemat(base / "imagelabels.mat", {"labels": np.array([[3, 1, 2, 1]])})
    ids = {"trnid": np.array([[1, 2]]), "valid": np.array([[3, 3]]), "tstid": np.array([[4, 2]])}
    savemat(base / "setid.mat", ids)
    files = dict(datasets.Flowers102._file_dict)
    for key, name in (("label", "imagelabels.mat"), ("setid", "setid.mat")):
        files[key] = (name, md5(base / name))
    monkeypatch.setattr(datasets.Flowers102, "_file_dict", files)
    with pytest.warns(UserWarning, match="no training example of 100 of its 102"):
        bundle = torchvision_sets.flowers102(tmp_path, size=14, normalize=((0.0,) * 3, (1.0,) * 3))
    assert bundle.train.targets.tolist() == [2, 0]
    assert bundle.validation.targets.tolist() == [1, 1]
    images, labels = next(iter(bundle.loader("test", 2)))
    assert images.shape == (2, 3, 14, 14)
    assert labels.tolist() == [0, 0]
    # JPEG of one color: within a few of 255 levels.
    torch.testing.assert_close(images[0, :, 7, 7], torch.tensor([1.0, 1.0, 0.0]), atol=0.03, rtol=0)
    assert bundle.validation.augment is None
    assert next(iter(bundle.loader("train", 2)))[0].shape == (2, 3, 14, 14)


def test_oxford_pets(tmp_path):
    base = tmp_path / "oxford-iiit-pet"
    lines = {"trainval": ["Abyssinian_1 1 1 1", "pug_3 2 2 1"], "test": ["pug_9 2 2 1"]}
    for split, rows in lines.items():
        (base / "annotations").mkdir(parents=True, exist_ok=True)
        (base / "annotations" / f"{split}.txt").write_text("\n".join(rows) + "\n")
        for row in rows:
            write_photograph(base / "images" / f"{row.split()[0]}.jpg", (9, 9, 9))
    bundle = torchvision_sets.oxford_pets(tmp_path, size=14)
    assert bundle.class_names == ("Abyssinian", "Pug")
    assert (bundle.num_data, bundle.test.targets.tolist()) == (2, [1])
    assert bundle.validation is None


@pytest.mark.parametrize(
    "name", ["cifar10", "cifar100", "mnist", "fashion_mnist", "flowers102", "oxford_pets"]
)
def test_absent_root(tmp_path, name):
    with pytest.raises(DataError, match=f"{name} is not in {tmp_path}.*download=True") as caught:
        getattr(torchvision_sets, name)(tmp_path)
    assert "\n" not in str(caught.value)


def test_failed_download(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(DataError, match=f"cifar10 cannot be downloaded to {tmp_path}: .*no route"):
        torchvision_sets.cifar10(tmp_path, download=True)


def test_images_and_masks_are_cropped_together(tmp_path, rng):
    """A class of torchvision's with files that we write: the mask is the image's red channel."""
    base = tmp_path / "VOCdevkit" / "VOC2012"
    for folder in ("ImageSets/Segmentation", "JPEGImages", "SegmentationClass"):
        (base / folder).mkdir(parents=True)
    for split, name in (("train", "a"), ("val", "b")):
        (base / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(name + "\n")
        labels = rng.integers(0, 20, (20, 30), dtype=np.uint8)
        Image.fromarray(labels).save(base / "SegmentationClass" / f"{name}.png")
        red = np.stack([labels * 10, *2 * [np.zeros_like(labels)]], -1)
        Image.fromarray(red).save(base / "JPEGImages" / f"{name}.jpg", quality=100, subsampling=0)
    nothing = ((0.0,) * 3, (1.0,) * 3)
    bundle = torchvision_sets.from_torchvision(
        "VOCSegmentation", tmp_path, size=16, normalize=nothing
    )
    loader = bundle.loader("train", 1, shuffle=True, seed=4)
    (image, mask), again = next(iter(loader)), next(iter(loader))
    assert image.shape == (1, 3, 16, 16)
    assert (mask.shape, mask.dtype) == ((1, 16, 16), torch.int64)
    assert not torch.equal(mask, again[1])
    loader.batch_sampler.set_epoch(0)
    assert torch.equal(next(iter(loader))[1], mask)
    # Resized by another rule (nearest), so alike, not equal: shuffled masks are not.
    r = np.corrcoef(image[0, 0].flatten(), mask.flatten())[0, 1]
    assert r > 0.5
    assert abs(np.corrcoef(image[0, 0].flatten(), mask.flip(2).flatten())[0, 1]) < 0.3
    with pytest.raises(ConfigError, match="no data set 'CIFAR11'; did you mean 'CIFAR10'"):
        torchvision_sets.from_torchvision("CIFAR11", tmp_path)
    with pytest.raises(ConfigError, match="EuroSAT has no splits that we know; give splits="):
        torchvision_sets.from_torchvision("EuroSAT", tmp_path)
