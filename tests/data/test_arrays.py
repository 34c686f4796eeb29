import io
import pickle

import numpy as np
import pytest
import torch
from numpy.lib import format as npy_format
from sklearn.datasets import load_digits

from bayesprior.data.arrays import digits, from_arrays, from_npz
from bayesprior.data.subsets import few_shot
from bayesprior.data.transforms import CropFlip
from bayesprior.errors import ConfigError, DataError


@pytest.fixture
def rng(seed):
    return np.random.default_rng(seed)


def arrays(rng, channels=3, **changes):
    shape = (6, 5) + (channels,) * bool(channels)
    out = {
        "x_train": rng.integers(0, 256, (12, *shape), dtype=np.uint8),
        "y_train": np.arange(12) % 4,
        "x_test": rng.integers(0, 256, (4, *shape), dtype=np.uint8),
        "y_test": np.arange(4),
        "class_names": np.array(["ant", "bee", "cat", "dog"]),
    } | changes
    return {key: value for key, value in out.items() if value is not None}


@pytest.fixture
def write(tmp_path):
    def write(arrays):
        np.savez_compressed(tmp_path / "set.npz", **arrays)
        return tmp_path / "set.npz"

    return write


@pytest.mark.parametrize("channels", [0, 1, 3])
def test_pixels_arrive_scaled_and_channels_first(rng, write, channels):
    stored = arrays(rng, channels)
    bundle = from_npz(write(stored), normalize=None)
    images, labels = next(iter(bundle.loader("train", 12)))
    expected = stored["x_train"].reshape(12, 6, 5, -1).transpose(0, 3, 1, 2) / np.float32(255)
    np.testing.assert_array_equal(images.numpy(), expected)
    assert images.dtype == torch.float32
    assert bundle.train.inputs.dtype == torch.uint8
    assert labels.tolist() == stored["y_train"].tolist()
    assert (bundle.name, bundle.class_names) == ("set", ("ant", "bee", "cat", "dog"))
    assert bundle.validation is None


def test_normalization_is_that_of_training(rng, write):
    stored = arrays(rng)
    stored["x_test"] //= 4
    bundle = from_npz(write(stored))
    images, _ = next(iter(bundle.loader("train", 12)))
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(images.std((0, 2, 3), correction=0), torch.ones(3))
    train = stored["x_train"] / 255
    expected = (stored["x_test"] / 255 - train.mean((0, 1, 2))) / train.std((0, 1, 2))
    test, _ = next(iter(bundle.loader("test", 4)))
    np.testing.assert_allclose(test.permute(0, 2, 3, 1), expected, rtol=1e-4, atol=1e-5)


def test_augmentation_is_for_training_only(rng, write):
    extra = {"x_val": rng.integers(0, 256, (4, 6, 5, 3), dtype=np.uint8), "y_val": np.arange(4)}
    bundle = from_npz(write(arrays(rng) | extra), augment="crop-flip", size=8)
    assert bundle.train.augment == CropFlip()
    assert bundle.validation.augment is bundle.test.augment is None
    assert bundle.input_shape == (3, 8, 8)


def test_one_array_is_split_class_by_class(rng, write):
    x, y = rng.random((40, 4, 4)), np.arange(40) % 4
    path = write({"x": x, "y": y})
    bundle = from_npz(path, normalize=None, test_fraction=0.25)
    assert bundle.class_names == ("0", "1", "2", "3")
    counts = torch.bincount(bundle.test.targets)
    assert (counts.sum(), counts.min(), counts.max()) == (10, 2, 3)
    together = torch.cat([bundle.train.inputs, bundle.test.inputs]).flatten(1)
    assert sorted(together[:, 0].tolist()) == sorted(x[:, 0, 0].astype(np.float32).tolist())
    again = from_npz(path, normalize=None, test_fraction=0.25)
    assert torch.equal(again.test.inputs, bundle.test.inputs)
    other = from_npz(path, normalize=None, test_fraction=0.25, seed=1)
    assert not torch.equal(other.test.inputs, bundle.test.inputs)


def test_classes_are_relabeled_before_the_statistics(rng, write):
    stored = arrays(rng)
    bundle = from_npz(write(stored), classes=["dog", "bee"])
    assert bundle.class_names == ("dog", "bee")
    assert bundle.train.targets.tolist() == [1, 0, 1, 0, 1, 0]
    kept = stored["x_train"][np.isin(stored["y_train"], [1, 3])] / 255
    np.testing.assert_allclose(bundle.train.transform.mean, kept.mean((0, 1, 2)), rtol=1e-5)


def nan_pixel(x):
    x = x / 255
    x[1, 2, 3] = np.nan
    return x


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_test": None}, r"lacks y_test; store x_train, y_train.*\(it holds class_names, x_test"),
        ({"x_train": None}, "lacks x_train"),
        ({"x_val": np.zeros((2, 6, 5, 3), np.uint8)}, "lacks y_val"),
        ({"y_train": np.arange(12)}, r"train labels .* run from 0 to 11, outside 0\.\.3"),
        (
            {"y_test": np.array([0, 1, 2, -1])},
            "the label -1 among 4 inputs; number the classes 0, 1",
        ),
        ({"y_test": np.arange(4.0)}, "y_test has dtype float64; store class indices as integers"),
        ({"y_test": np.arange(3)}, r"y_test has shape \(3,\) but there are 4 inputs"),
        ({"y_test": np.eye(4, dtype=int)}, r"y_test has shape \(4, 4\).*one label per input"),
        ({"x_train": nan_pixel}, "x_train has 3 NaN or infinite numbers; remove or repair"),
        ({"x_train": lambda x: x * 1.0}, r"x_train has float64 pixels .*floats scaled to \[0, 1\]"),
        (
            {"x_train": lambda x: x.astype(np.int64)},
            r"int64 pixels from \d+ to \d+; store uint8",
        ),
        ({"x_train": lambda x: x[:, 0, 0, 0]}, r"x_train has shape \(12,\); images must be N x H"),
        ({"x_test": lambda x: np.moveaxis(x, -1, 1)}, r"x_test .*numpy.moveaxis\(x, 1, -1\)"),
        (
            {"y_train": np.r_[np.arange(11), 2**62]},
            "y_train has the label 46116860184273879",
        ),
        ({"y_train": np.r_[np.arange(11), 10**9]}, "numpy.unique"),
        ({"y_train": np.full(12, 2**63, np.uint64)}, "the label 9223372036854775808"),
        ({"y_train": np.array(["a"] * 12)}, "y_train has dtype <U1; store class indices"),
        ({"x_test": lambda x: x[:0], "y_test": np.arange(0)}, r"x_test has shape \(0, 6, 5, 3\)"),
        ({"y_test": np.array([0, None, 1, 2])}, r"y_test cannot be read \(Object arrays"),
    ],
)
def test_bad_arrays(rng, write, changes, message):
    stored = arrays(rng)
    changes = {k: v(stored[k]) if callable(v) else v for k, v in changes.items()}
    path = write(arrays(rng, **changes))
    with pytest.raises(DataError, match=message) as caught:
        from_npz(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_number_is_no_image(write):
    with pytest.raises(DataError, match=r"x has shape \(\)|x_train has shape|y has shape"):
        from_npz(write({"x": np.array(3), "y": np.arange(1)}))


def truncated(path):
    return path.read_bytes()[:-200]


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    return bytes(content)


def single_array(path):
    buffer = io.BytesIO()
    npy_format.write_array(buffer, np.zeros(3))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [truncated, flipped, single_array, lambda path: b"", lambda path: pickle.dumps({"x": 1})],
)
def test_unreadable_files(rng, write, content):
    path = write(arrays(rng))
    path.write_bytes(content(path))
    with pytest.raises(DataError, match="cannot be read|lacks x_train") as caught:
        from_npz(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert "pickle" not in str(caught.value)  # nobody is told how to run what is in a file


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"absent\.npz: there is no such file"):
        from_npz(tmp_path / "absent.npz")


def test_bad_options(rng, write):
    path = write(arrays(rng))
    with pytest.raises(ConfigError, match="no augmentation 'crop-flp'.*did you mean 'crop-flip'"):
        from_npz(path, augment="crop-flp")
    with pytest.raises(ConfigError, match="no class 'ent'; did you mean 'ant'"):
        from_npz(path, classes=["ent", "bee"])
    with pytest.raises(ConfigError, match="test_fraction"):
        from_npz(path, test_fraction=1.0)


def test_absent_classes_are_announced(rng, write):
    path = write(arrays(rng, y_train=np.arange(12) % 2))
    with pytest.warns(UserWarning, match="'set' has no training example of 2 .* cat, dog"):
        from_npz(path)


def test_arrays_in_memory(rng):
    stored = arrays(rng)
    pairs = [(stored[f"x_{s}"], stored[f"y_{s}"]) for s in ("train", "test")]
    other = (255 - pairs[0][0], pairs[0][1])
    bundle = from_arrays("mine", *pairs, validation=other, normalize="imagenet")
    assert bundle.class_names == ("0", "1", "2", "3")
    assert bundle.validation.transform.mean == (0.485, 0.456, 0.406)


def test_digits_are_scikit_learns_once_each():
    bundle, original = digits(), load_digits()
    parts = [bundle.train, bundle.validation, bundle.test]
    assert [len(p) for p in parts] == [600, 400, 797]
    images = torch.cat([p.inputs for p in parts]).flatten(1) * 16
    rows = {
        (*map(int, image), int(label))
        for image, label in zip(images, torch.cat([p.targets for p in parts]), strict=True)
    }
    assert rows == {
        (*map(int, i), int(t)) for i, t in zip(original.data, original.target, strict=True)
    }
    shares = [torch.bincount(p.targets) / len(p) for p in parts]
    assert max((s - shares[0]).abs().max() for s in shares) < 0.005


def test_digits_split_is_fixed_by_the_seed():
    assert torch.equal(digits().train.inputs, digits().train.inputs)
    assert not torch.equal(digits(seed=1).test.inputs, digits().test.inputs)
    with pytest.raises(DataError, match="cannot split 1797 of 1797"):
        digits(num_test=1797)


def test_tables_and_numbers_to_predict(rng):
    x, y = rng.normal(3, 2, (20, 4)), rng.normal(size=20)
    bundle = from_arrays("table", (x[:12], y[:12]), (x[12:], y[12:]))
    inputs, targets = next(iter(bundle.loader("train", 12)))
    assert inputs.dtype == targets.dtype == torch.float32
    np.testing.assert_allclose(inputs, (x[:12] - x[:12].mean(0)) / x[:12].std(0), rtol=1e-4)
    np.testing.assert_allclose(targets, y[:12, None].astype(np.float32))
    assert (bundle.num_numbers, bundle.columns) == (1, ())
    assert (bundle.num_classes, bundle.input_shape) == (0, (4,))
    two = from_arrays("two", (x, np.stack([y, -y], 1)), normalize=None)
    assert two.train[3][1].tolist() == [np.float32(y[3]), -np.float32(y[3])]
    assert two.test is None
    labels = from_arrays("labels", (x[:12], np.arange(12) % 3), (x[12:], np.arange(8) % 3))
    assert labels.class_names == ("0", "1", "2")


def test_whole_numbers_as_floats_are_asked_about(rng):
    x, y = rng.random((6, 2)), np.arange(6.0)
    with pytest.raises(DataError, match="indices as integers, or say kind='regression'"):
        from_arrays("t", (x, y))
    assert from_arrays("t", (x, y), kind="regression").num_classes == 0
    with pytest.raises(
        ConfigError, match="kind must be one of 'classification', 'multilabel', 'segm"
    ):
        from_arrays("t", (x, y), kind="regresion")
    with pytest.raises(DataError, match="y_train has 6 NaN or infinite"):
        from_arrays("t", (x, y / 0.3 * np.nan), kind="regression")


def test_new_inputs_need_no_targets(rng):
    x = rng.random((8, 4, 4))
    bundle = from_arrays("new", (x[:4], np.arange(4) % 2), x[4:], normalize=None)
    (batch,) = bundle.loader("test", 4)
    np.testing.assert_allclose(batch[:, 0], x[4:].astype(np.float32))


def test_sixteen_bits_are_scaled(rng):
    x = np.full((4, 2, 2), 5000, np.uint16)
    bundle = from_arrays("deep", (x, np.arange(4) % 2), normalize=None)
    torch.testing.assert_close(bundle.train[0][0], torch.full((1, 2, 2), 5000 / 65535))


def test_pictures_of_different_sizes(rng):
    x = [rng.integers(0, 256, (6 + i, 5, 3), dtype=np.uint8) for i in range(4)]
    with pytest.raises(DataError, match=r"shapes \(6, 5, 3\), \(7, 5, 3\), .* with size="):
        from_arrays("t", (x, np.arange(4) % 2))
    bundle = from_arrays("t", (x, np.arange(4) % 2), size=5, normalize=None)
    assert bundle.input_shape == (3, 5, 5)


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 3)])
def test_equal_splits_are_a_leak_whatever_their_channels(rng, shape):
    x, y = rng.integers(0, 256, (6, *shape), dtype=np.uint8), np.arange(6) % 2
    with pytest.raises(DataError, match="train and test splits of 't' are the same data"):
        from_arrays("t", (x, y), (x.copy(), y))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("ab", "must be a list with one name a class"),
        (["a", "a"], "must differ, got a more than once"),
        (np.array("a"), "must be a list"),
        (["a", "b\0"], "a NUL character"),
        ({0: "a", 2: "b"}, "must number the classes 0, 1"),
    ],
)
def test_bad_class_names(rng, names, message):
    with pytest.raises(DataError, match=message):
        from_arrays("t", (rng.random((4, 4, 4)), np.arange(4) % 2), class_names=names)


@pytest.mark.parametrize(
    "names", [np.array([b"cat", b"dog"]), {"dog": 1, "cat": 0}, {1: "dog", 0: "cat"}]
)
def test_class_names_of_other_kinds(rng, names):
    bundle = from_arrays("t", (rng.random((4, 4, 4)), np.arange(4) % 2), class_names=names)
    assert bundle.class_names == ("cat", "dog")


@pytest.mark.parametrize("splits", [[""], ["_train"], ["_train", "_test", "_val"]])
def test_images_without_labels(tmp_path, splits):
    images = {f"x{s}": np.full((6, 5, 5), n, np.uint8) for n, s in enumerate(splits)}
    np.savez(tmp_path / "bare.npz", **images)
    bundle = from_npz(tmp_path / "bare.npz")
    assert (bundle.num_data, bundle.num_classes, len(bundle.splits)) == (6, 0, len(splits))
    assert bundle.loader("train", 3).dataset[0].shape == (1, 5, 5)
    assert few_shot(bundle, num_data=4).num_data == 4
