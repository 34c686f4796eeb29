"""What is kept of every image whose pixels are predicted: sums, of which metrics are functions.

Pixels depend on their neighbors; images do not. So an interval is one over images.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int, Integer, Shaped
from torch import Tensor

from bayesprior.prediction.metrics import METRICS, MetricRow
from bayesprior.prediction.points import NUM_BINS, Points, bin_sums, calibration_error

__all__ = ["IMAGE_METRICS", "ImageSums", "class_overlap", "overlap_values"]


class ImageSums(NamedTuple):
    """Sums over the labeled pixels of N images; those of parts add up to those of the whole.

    Attributes
    ----------
    confusion
        (N, C, C), pixels by their label and by the class that they are taken for.
    bins
        (N, 3, M), pixels, confidences and right answers by the largest probability.
    losses
        (N, 2), negative log likelihoods in nats, and Brier scores.

    Examples
    --------
    >>> probs = torch.tensor([0.8, 0.2]).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    >>> sums = ImageSums.of(probs, torch.tensor([[[0, 0], [1, 255]]]), 255)
    >>> sums.confusion.tolist()
    [[[2, 0], [1, 0]]]
    """

    confusion: Int[Tensor, "N C C"]
    bins: Float[Tensor, "N 3 M"]
    losses: Float[Tensor, "N 2"]

    @classmethod
    def of(
        cls,
        probs: Float[Tensor, "B C H W"],
        targets: Integer[Tensor, "B H W"],
        ignore_index: int,
    ) -> "ImageSums":
        """Sum up a batch."""
        size, parts = probs.shape[1], []
        for image, labels in zip(probs, targets, strict=True):
            points = Points.labeled(image[None], labels[None], ignore_index)
            pairs = torch.bincount(points.targets * size + points.top[1], minlength=size * size)
            brier = METRICS["brier"].points(points)
            parts.append(
                (
                    pairs.view(size, size),
                    bin_sums(points.confidence, points.is_right, NUM_BINS),
                    torch.stack([-points.log_score.double().sum(), brier.double().sum()]),
                )
            )
        return cls(*(torch.stack(part).cpu() for part in zip(*parts, strict=True)))

    @classmethod
    def joined(cls, parts: "Sequence[ImageSums]") -> "ImageSums | None":
        """Return the sums of all batches; None without any."""
        return cls(*map(torch.cat, zip(*parts, strict=True))) if parts else None


def class_overlap(confusion: Shaped[Tensor, "*N C C"]) -> Float[Tensor, "*N C"]:
    """Return the intersection over union of every class; NaN where it does not occur.

    Examples
    --------
    >>> class_overlap(torch.tensor([[2, 0], [1, 1]]))
    tensor([0.6667, 0.5000], dtype=torch.float64)
    """
    right = confusion.diagonal(dim1=-2, dim2=-1).double()
    return right / (confusion.sum(-1) + confusion.sum(-2) - right)


def _mean_overlap(values: Tensor) -> Tensor:
    size = round(values.shape[1] ** 0.5)
    return class_overlap(values.sum(0).view(size, size)).nanmean()


def _ratio(values: Tensor) -> Tensor:
    total, count = values.sum(0)
    return total / count


def _count(sums: ImageSums) -> Tensor:
    return sums.confusion.sum((1, 2)).double()


def _of_losses(column: int) -> Callable[[Any], Tensor]:
    return lambda sums: torch.stack([sums.losses[:, column], _count(sums)], 1)


def _right(sums: ImageSums) -> Tensor:
    return torch.stack([sums.confusion.diagonal(dim1=1, dim2=2).sum(1).double(), _count(sums)], 1)


def overlap_values(sums: ImageSums, label: int) -> tuple[MetricRow, Float[Tensor, "N 2"]]:
    """Return the IoU of one class as a metric, with its values of the images that hold it."""
    right = sums.confusion[:, label, label].double()
    both = sums.confusion[:, label].sum(1) + sums.confusion[:, :, label].sum(1) - right
    row = dataclasses.replace(METRICS["mean_iou"], label="IoU", summary=_ratio)
    return row, torch.stack([right, both], 1)[both > 0]


IMAGE_METRICS: dict[str, MetricRow] = {
    name: dataclasses.replace(METRICS[name], points=points, summary=summary, margin=0.005)
    for name, points, summary in (
        ("accuracy", _right, _ratio),
        ("mean_iou", lambda sums: sums.confusion.flatten(1).double(), _mean_overlap),
        ("nll", _of_losses(0), _ratio),
        ("brier", _of_losses(1), _ratio),
        (
            "ece",
            lambda sums: sums.bins.flatten(1),
            lambda values: calibration_error(values.sum(0).view(3, -1)),
        ),
    )
}
"""The metrics of pixels, as functions of N images' `ImageSums`: of all pixels, not means over
images."""
