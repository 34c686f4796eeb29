"""Mixtures of normal laws, the predictive laws of numbers: one component a draw."""

import functools
import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["LEVELS", "NormalMixture"]

LEVELS = (0.05, 0.25, 0.75, 0.95)
"""Of the quantiles that predictions keep: the ends of central intervals of 90 % and 50 %."""

_MOST_STEPS = 200


@dataclass(frozen=True)
class NormalMixture:
    """sum_s a_s N(mean_s, std_s^2), for each of B points and P outputs.

    Parameters
    ----------
    mean, std
        Of the components, shape (S, B, P).
    weight
        a_s, shape (S,); only the ratios matter.

    Examples
    --------
    Half of the mass is at 0, half at 10; a normal law of the same moments has the interval
    -3.6 to 13.6:

    >>> mean = torch.tensor([0.0, 10.0]).view(2, 1, 1)
    >>> law = NormalMixture(mean, torch.ones_like(mean), torch.ones(2))
    >>> [f"{law.quantile(level).item():.3f}" for level in (0.05, 0.95)]
    ['-1.282', '11.282']
    """

    mean: Float[Tensor, "S B P"]
    std: Float[Tensor, "S B P"]
    weight: Float[Tensor, " S"]

    @functools.cached_property
    def _shares(self) -> Float[Tensor, "S 1 1"]:
        shares = self.weight.to(self.mean)
        return (shares / shares.sum())[:, None, None]

    def cdf(self, values: Float[Tensor, "B P"]) -> Float[Tensor, "B P"]:
        """Return the probability of no more than a value."""
        return (self._shares * torch.special.ndtr((values - self.mean) / self.std)).sum(0)

    def quantile(self, level: float) -> Float[Tensor, "B P"]:
        """Return the value below which the law has this probability, by Newton's method.

        It lies between the least and the largest quantile of the components; every fifth step
        halves what is left between the ends, and so does every step of Newton's that leaves it.
        """
        ends = self.mean + self.std * NormalDist().inv_cdf(level)
        low, high = ends.amin(0), ends.amax(0)
        value = (self._shares * ends).sum(0).clamp(low, high)
        least = 4 * torch.finfo(value.dtype).eps * torch.maximum(low.abs(), high.abs())
        for step in range(1, _MOST_STEPS):
            scaled = (value - self.mean) / self.std
            gap = (self._shares * torch.special.ndtr(scaled)).sum(0) - level
            density = (self._shares * (-(scaled**2) / 2).exp() / self.std).sum(0)
            low, high = torch.where(gap <= 0, value, low), torch.where(gap >= 0, value, high)
            newton = value - gap * math.sqrt(2 * math.pi) / density
            is_found = ((newton - value).abs() <= least) | (high - low <= least)
            if bool(is_found.all()):
                break
            is_kept = (newton > low) & (newton < high) & bool(step % 5)
            value = torch.where(is_found, value, torch.where(is_kept, newton, (low + high) / 2))
        return value

    def crps(self, values: Float[Tensor, "B P"]) -> Float[Tensor, " B"]:
        """Return the continuous ranked probability score, the mean over the P outputs.

        E |Y - y| - E |Y - Y'| / 2, with Y and Y' independent draws of the law.

        References
        ----------
        E. P. Grimit et al., The continuous ranked probability score for circular variables and its
        application to mesoscale forecast ensemble verification, Q. J. R. Meteorol. Soc. 132
        (2006), doi:10.1256/qj.05.235, equation 5
        """
        shares, variance = self._shares, self.std**2
        total = (shares * _mean_size(values - self.mean, self.std)).sum(0)
        for s, share in enumerate(shares):
            apart = self.mean[s] - self.mean[: s + 1]
            sizes = _mean_size(apart, (variance[s] + variance[: s + 1]).sqrt())
            pairs = shares[: s + 1] * sizes
            total = total - share * (pairs[:-1].sum(0) + pairs[-1] / 2)
        return total.mean(1)


def _mean_size(mean: Tensor, std: Tensor) -> Tensor:
    """Return E |X| of normal laws."""
    z = mean / std
    density = (-(z**2) / 2).exp() / math.sqrt(2 * math.pi)
    return std * (2 * density + z * torch.erf(z / math.sqrt(2)))
