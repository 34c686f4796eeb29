"""A distribution over B examples, seen as one over S stacks of them."""

import math
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

__all__ = ["StackedDistribution"]


class StackedDistribution(dist.TorchDistribution):
    """Reshape the batch shape (S * B,) of a distribution to (*lead, B), prod(lead) = S.

    Likelihoods speak of one axis of examples; vectorized weights bring further ones. This keeps
    the likelihoods simple.

    Parameters
    ----------
    base
        Any distribution whose batch shape has one axis.
    lead
        The leading axes.

    Examples
    --------
    >>> law = StackedDistribution(dist.Normal(torch.zeros(6), 1.0), (3,))
    >>> law.batch_shape, law.log_prob(torch.zeros(2)).shape
    (torch.Size([3, 2]), torch.Size([3, 2]))
    """

    arg_constraints: dict[str, Any] = {}

    def __init__(self, base: torch.distributions.Distribution, lead: Sequence[int]) -> None:
        self.base_dist = base
        batch_shape = torch.Size((*lead, base.batch_shape[0] // math.prod(lead)))
        super().__init__(batch_shape, base.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        """The support of the base."""
        return self.base_dist.support

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of values of shape (..., B, *event), broadcast over the leading axes."""
        shape = self.batch_shape + self.event_shape
        flat = value.expand(shape).reshape(self.base_dist.batch_shape + self.event_shape)
        return self.base_dist.log_prob(flat).reshape(self.batch_shape)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw values of shape (*sample_shape, *lead, B, *event)."""
        return self._stack(self.base_dist.sample(torch.Size(sample_shape)), sample_shape)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw values differentiably, where the base can."""
        return self._stack(self.base_dist.rsample(torch.Size(sample_shape)), sample_shape)

    @property
    def has_rsample(self) -> bool:
        """Whether the base draws differentiably."""
        return bool(self.base_dist.has_rsample)

    def _stack(self, value: Tensor, sample_shape: Sequence[int]) -> Tensor:
        return value.reshape((*sample_shape, *self.batch_shape, *self.event_shape))
