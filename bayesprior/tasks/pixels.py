"""The likelihood of masks: a label for each pixel."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor
from torch.nn import functional as F

from bayesprior.errors import ConfigError
from bayesprior.tasks.likelihoods import ClassProbabilities, check_labels, check_shapes

__all__ = ["PixelCategorical"]

_REDUCTIONS = ("mean", "sum")
_SHAPES = "logits (B, C, H, W) and labels (B, H, W)"


@dataclass(frozen=True)
class PixelCategorical(ClassProbabilities):
    """One label for each pixel; the outputs are logits of shape (B, C, H, W).

    log p(y | f) = a sum_ij [f_yij - logsumexp_c f_cij] over the labeled pixels of an image, with
    a = 1 / their number (``"mean"``) or a = 1 (``"sum"``). Outputs of one channel are the log odds
    of class 1 against class 0: a binary mask, the Bernoulli law.

    Parameters
    ----------
    ignore_index
        The label of pixels that do not count (255 in most data sets).
    reduction
        How an image's pixels count together. ``"sum"`` is the law of pixels that are independent
        given the weights. They are not: neighbors agree, so that the sum claims far more evidence
        than there is, and its gradient is as many times larger as there are pixels. ``"mean"``,
        the default, lets an image count as one pixel: a *tempered* likelihood, of power 1 / (H W),
        whose posterior is wider than that of any larger number of independent pixels. Its loss is
        the one that plain SGD takes, with the same ``lr``. Either way ``num_data`` counts images.

    Raises
    ------
    ConfigError
        If the reduction is neither.

    Examples
    --------
    >>> logits, masks = torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4).long()
    >>> for reduction in ("mean", "sum"):
    ...     print(f"{PixelCategorical(reduction=reduction).log_prob(logits, masks).item():.3f}")
    -0.693
    -11.090
    >>> PixelCategorical().predictive(torch.zeros(1, 1, 2, 2)).shape  # a binary mask
    torch.Size([1, 2, 2, 2])
    """

    class_axis: ClassVar[int] = -3
    ignore_index: int = 255
    reduction: str = "mean"

    def __post_init__(self) -> None:
        if self.reduction not in _REDUCTIONS:
            raise ConfigError(f"reduction must be 'mean' or 'sum', got {self.reduction!r}")

    def logits(self, outputs: Float[Tensor, "*B C H W"]) -> Float[Tensor, "*B C2 H W"]:
        """Return one logit a class: of log odds, two."""
        if outputs.dim() < 3 or outputs.shape[-3] != 1:
            return outputs
        return torch.cat([torch.zeros_like(outputs), outputs], -3)

    def validate(self, outputs: Tensor, targets: Tensor) -> None:
        """Raise `DataError` unless targets are integers (B, H, W) below C or `ignore_index`."""
        fits = outputs.dim() == 4 and targets.shape == outputs[:, 0].shape
        check_shapes(_SHAPES, outputs, targets, fits)
        check_labels(targets, max(outputs.shape[1], 2), self.ignore_index)

    def log_prob(self, outputs: Float[Tensor, "*B C H W"], targets: Tensor) -> Float[Tensor, "*B"]:
        """Log probability of each image's labeled pixels; `DataError` for other shapes."""
        fits = targets.shape == outputs.shape[:-3] + outputs.shape[-2:]
        check_shapes(_SHAPES, outputs, targets, fits)
        images = self.logits(outputs.reshape(-1, *outputs.shape[-3:]))
        labels = targets.reshape(-1, *targets.shape[-2:]).long()
        loss = F.cross_entropy(images, labels, ignore_index=self.ignore_index, reduction="none")
        return -self.reduced(loss, labels != self.ignore_index).view(targets.shape[:-2])

    def reduced(
        self, values: Float[Tensor, "B H W"], labeled: Bool[Tensor, "B H W"]
    ) -> Float[Tensor, " B"]:
        """Return the sum or mean over each image's labeled pixels; 0 where there are none."""
        total = values.sum((1, 2))
        return total / labeled.sum((1, 2)).clamp_min(1) if self.reduction == "mean" else total

    def distribution(self, outputs: Float[Tensor, "*B C H W"]) -> dist.Distribution:
        """Batch shape (*B,), event shape (H, W); ignored pixels have log probability 0."""
        return _Masks(self, outputs)

    def monitor(
        self, outputs: Float[Tensor, "B C H W"], targets: Integer[Tensor, "B H W"]
    ) -> dict[str, Tensor]:
        """Give the ``accuracy`` on the batch's labeled pixels (NaN without any)."""
        labeled = targets != self.ignore_index
        correct = (self.logits(outputs).argmax(1) == targets) & labeled
        return {"accuracy": correct.sum() / labeled.sum()}


class _Masks(dist.TorchDistribution):
    """The law of masks that a likelihood scores, perhaps tempered; drawn pixel by pixel."""

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = dist.constraints.independent(dist.constraints.nonnegative_integer, 2)

    def __init__(self, likelihood: PixelCategorical, outputs: Tensor) -> None:
        self.likelihood, self.outputs = likelihood, outputs
        super().__init__(outputs.shape[:-3], outputs.shape[-2:], validate_args=False)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        logits = self.likelihood.logits(self.outputs).movedim(-3, -1)
        labels: Tensor = dist.Categorical(logits=logits).sample(torch.Size(sample_shape))
        return labels

    def log_prob(self, value: Tensor) -> Tensor:
        batch = torch.broadcast_shapes(value.shape[:-2], self.batch_shape)
        outputs = self.outputs.expand(*batch, *self.outputs.shape[-3:])
        return self.likelihood.log_prob(outputs, value.expand(*batch, *value.shape[-2:]))

    def expand(self, batch_shape: Sequence[int], _instance: None = None) -> "_Masks":
        return _Masks(self.likelihood, self.outputs.expand(*batch_shape, *self.outputs.shape[-3:]))
