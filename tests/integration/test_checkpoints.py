"""Real checkpoints and data files, read the way a user would."""

import numpy as np
import pytest
import torch

from bayesprior.data import few_shot, from_npz, split_validation
from bayesprior.data.transforms import IMAGENET, PixelTransform
from bayesprior.models import get_model, head_prefix, torchvision_model

HALF = ((0.5,) * 3, (0.5,) * 3)


def needed(data_dir, name):
    if not (data_dir / name).is_file():
        pytest.skip(f"no file {name} in {data_dir}")
    return data_dir / name


def squeezenet(path, **options):
    return torchvision_model("squeezenet1_1", weights=path, **options)


def mobilenet(path, **options):
    return get_model("mobilenet_v1", weights=path, **options)


NETWORKS = [
    (squeezenet, "squeezenet1_1_imagenet.safetensors", "squeezenet1_1_logits", IMAGENET),
    (mobilenet, "mobilenet_v1_025_imagenet.safetensors", "mobilenet_v1_025_logits", HALF),
]


@pytest.mark.parametrize(("make", "file", "logits", "normalize"), NETWORKS)
def test_published_logits_are_reproduced(data_dir, make, file, logits, normalize):
    check = np.load(needed(data_dir, "checkpoint_check.npz"))
    net = make(needed(data_dir, file)).eval()
    images = torch.from_numpy(check["x"]).permute(0, 3, 1, 2)
    with torch.no_grad():
        got = net(PixelTransform(*normalize)(images))
    expected = torch.from_numpy(check[logits])
    # float32 sums in another order: a few parts in a million of the largest logit.
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize(("make", "file", "logits", "normalize"), NETWORKS)
def test_a_new_head_leaves_the_body_alone(data_dir, make, file, logits, normalize):
    path = needed(data_dir, file)
    net, full = make(path, num_classes=12), make(path)
    prefix = head_prefix(net)
    body = {k: v for k, v in net.state_dict().items() if not k.startswith(prefix)}
    assert all(torch.equal(v, full.state_dict()[k]) for k, v in body.items())
    assert net.get_submodule(prefix).weight.shape[0] == 12


@pytest.mark.parametrize(
    ("name", "num_classes", "num_data", "shape"),
    [
        ("flowers12", 12, 720, (3, 64, 64)),
        ("cifar10", 10, 10_000, (3, 32, 32)),
        ("cifar100", 100, 8_000, (3, 32, 32)),
        ("fashion_mnist", 10, 20_000, (1, 28, 28)),
    ],
)
def test_data_files(data_dir, name, num_classes, num_data, shape):
    bundle = split_validation(from_npz(needed(data_dir, f"{name}.npz")), fraction=0.1)
    assert bundle.num_data + len(bundle.validation) == num_data
    assert (bundle.num_classes, bundle.input_shape) == (num_classes, shape)
    few = few_shot(bundle, per_class=5, seed=1)
    assert few.class_counts.tolist() == [5] * num_classes
    images, labels = next(iter(few.loader("train", 10**6)))
    assert images.shape == (5 * num_classes, *shape)
    assert images.isfinite().all()
    # The published recipe: statistics of training pixels, so these are near mean 0, variance 1.
    assert abs(images.mean()) < 0.3
    assert 0.5 < images.std() < 1.5
    assert torch.equal(labels, few.train.targets)


def test_split_task_of_one_file(data_dir):
    path = needed(data_dir, "fashion_mnist.npz")
    source, target = (from_npz(path, classes=range(c, c + 5)) for c in (0, 5))
    assert source.class_names[:2] == ("T-shirt/top", "Trouser")
    assert target.class_names[-1] == "Ankle boot"
    assert source.num_data == target.num_data == 10_000
    assert target.class_counts.tolist() == [2000] * 5


def test_pretrained_features_separate_flowers(data_dir):
    """The nearest class mean on frozen ImageNet features, 5 images a class: far above chance."""
    weights = needed(data_dir, "squeezenet1_1_imagenet.safetensors")
    bundle = from_npz(needed(data_dir, "flowers12.npz"), size=96, normalize="imagenet")
    net = squeezenet(weights, num_classes=12).eval()

    def features(split, data):
        ((images, labels),) = data.loader(split, 1000)
        with torch.no_grad():
            return net.features(images).mean((2, 3)), labels

    x, y = features("train", few_shot(bundle, per_class=5))
    test_x, test_y = features("test", bundle)
    means = torch.stack([x[y == c].mean(0) for c in range(12)])
    guess = torch.cdist(test_x, means).argmin(1)
    assert (guess == test_y).float().mean() > 0.45
