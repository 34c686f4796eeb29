import numpy as np
import pytest
import torch

from bayesprior.diagnostics.intervals import metric_interval
from bayesprior.inference.posteriors import PointPosterior
from bayesprior.prediction.images import IMAGE_METRICS, ImageSums, class_overlap
from bayesprior.prediction.metrics import METRICS
from bayesprior.prediction.predict import predict
from bayesprior.tasks.pixels import PixelCategorical


def prediction(num_classes=3, channels=3):
    generator = torch.Generator().manual_seed(0)
    net = torch.nn.Conv2d(2, channels, 3, padding=1)
    images = 3 * torch.randn(7, 2, 6, 5, generator=generator)
    masks = torch.randint(0, num_classes, (7, 6, 5), generator=generator)
    masks[0, :3] = 255
    masks[1] = 255
    batches = list(zip(images.split(3), masks.split(3), strict=True))
    return predict(net, PointPosterior.from_module(net), batches, PixelCategorical())


@pytest.mark.parametrize("name", IMAGE_METRICS)
@pytest.mark.parametrize(("classes", "channels"), [(3, 3), (2, 1)])
def test_all_images_together_give_the_streamed_metric(name, classes, channels):
    found = prediction(classes, channels)
    row = IMAGE_METRICS[name]
    assert row.label == METRICS[name].label
    value = row.summarize(row.points(found.images))
    assert value == pytest.approx(found.metrics[name], rel=1e-5)


def test_an_interval_is_one_over_images():
    found = prediction().images
    assert found.confusion.sum((1, 2)).tolist() == [15, 0, 30, 30, 30, 30, 30]
    row = IMAGE_METRICS["mean_iou"]
    values = np.asarray(row.points(found))
    low, high = metric_interval(row, values)[1:]
    assert low < row.summarize(row.points(found)) < high
    twice = np.concatenate([values] * 4)
    narrow = metric_interval(row, twice)
    assert narrow.high - narrow.low < high - low


def test_overlap_of_a_class_that_is_nowhere_is_unknown():
    confusion = torch.tensor([[5, 0, 1], [0, 0, 0], [2, 0, 2]])
    expected = torch.tensor([5 / 8, torch.nan, 2 / 5], dtype=torch.float64)
    torch.testing.assert_close(class_overlap(confusion), expected, equal_nan=True)
    values = confusion.flatten()[None].double()
    assert IMAGE_METRICS["mean_iou"].summarize(values) == pytest.approx((5 / 8 + 2 / 5) / 2)


def test_sums_of_parts_are_those_of_the_whole():
    probs = torch.rand(4, 3, 6, 5).softmax(1)
    masks = torch.randint(0, 3, (4, 6, 5))
    whole = ImageSums.of(probs, masks, 255)
    wide = ImageSums.of(
        probs.permute(1, 0, 2, 3).reshape(1, 3, 24, 5), masks.reshape(1, 24, 5), 255
    )
    for part, total in zip(whole, wide, strict=True):
        torch.testing.assert_close(part.sum(0), total[0])
