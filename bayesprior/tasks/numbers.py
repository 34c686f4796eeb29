"""Likelihoods of real numbers, and what every likelihood's file needs."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from bayesprior.errors import ConfigError, DataError, check
from bayesprior.tasks.protocols import to_device

__all__ = ["HeteroscedasticNormal", "Moments", "Normal", "check_shapes", "inherits", "mean_of"]

TAKE = (
    "likelihood=: labels take Categorical(), several an example Bernoulli(), masks "
    "PixelCategorical(), numbers take Normal(std)"
)


class Moments(NamedTuple):
    """Mean and variance of a predictive law of continuous targets, each of shape (B, P)."""

    mean: Tensor
    variance: Tensor


def inherits(likelihood: Any, base: type, *methods: str) -> bool:
    """Whether a likelihood has these methods of a class unchanged: others must be asked."""
    return isinstance(likelihood, base) and all(
        getattr(type(likelihood), name) is getattr(base, name) for name in methods
    )


def mean_of(terms: Sequence[Tensor], counts: Sequence[float] | None) -> Tensor:
    """Return the mean of tensors with weights; `DataError` of none."""
    if not terms:
        raise DataError("there is nothing to average: no predictions were given")
    counts = [1] * len(terms) if counts is None else counts
    total = terms[0] * counts[0]
    for term, count in zip(terms[1:], counts[1:], strict=True):
        total = total + term * count
    return total / sum(counts)


def check_shapes(expected: str, outputs: Tensor, targets: Tensor, fits: bool) -> None:
    """Raise `DataError` with both shapes unless they fit."""
    if not fits:
        found = f"outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)}"
        raise DataError(f"expected {expected}, got {found}; {TAKE}")


def _check_real(targets: Tensor) -> None:
    if not targets.is_floating_point():
        raise DataError(f"targets must be floating point, got {targets.dtype}; use .float()")
    if not bool(targets.isfinite().all()):
        raise DataError("the targets hold NaN or infinite values")


class _IndependentNormal:
    """What both normal likelihoods share: P independent targets with a mean and a variance."""

    def predictive(self, outputs: Tensor) -> Moments:
        """Mean and noise variance; the one thing that differs."""
        raise NotImplementedError

    def log_prob(
        self, outputs: Float[Tensor, "*B outputs"], targets: Tensor
    ) -> Float[Tensor, "*B"]:
        """Log density of each example, summed over its P targets; `DataError` for other shapes."""
        mean, variance = self.predictive(outputs)
        fits = targets.shape == mean.shape
        check_shapes("one mean for each target (B, P)", outputs, targets, fits)
        terms = (targets - mean) ** 2 / variance + variance.log() + math.log(2 * math.pi)
        return -terms.sum(-1) / 2

    def average(
        self, predictions: Iterable[Moments], counts: Sequence[float] | None = None
    ) -> Moments:
        """Moments of the mixture over draws, by the law of total variance."""
        predictions = list(predictions)
        mean = mean_of([p.mean for p in predictions], counts)
        spread = [p.variance + (p.mean - mean) ** 2 for p in predictions]
        return Moments(mean, mean_of(spread, counts))

    def entropy(self, prediction: Moments) -> Float[Tensor, "*B"]:
        """Entropy in nats of the normal law with these moments (an upper bound for mixtures)."""
        return (prediction.variance.log() + math.log(2 * math.pi) + 1).sum(-1) / 2

    def distribution(self, outputs: Float[Tensor, "*B outputs"]) -> dist.Distribution:
        """``Normal(mean, std)``, batch shape (*B,), event shape (P,)."""
        mean, variance = self.predictive(outputs)
        return dist.Normal(mean, variance.sqrt()).to_event(1)

    def monitor(
        self, outputs: Float[Tensor, "B outputs"], targets: Float[Tensor, "B P"]
    ) -> dict[str, Tensor]:
        """Give the batch's ``rmse``, root mean squared error."""
        return {"rmse": F.mse_loss(self.predictive(outputs).mean, targets).sqrt()}


@dataclass(frozen=True, eq=False)
class Normal(_IndependentNormal):
    """Real targets with one noise level; the outputs are means of shape (B, P).

    log p(y | f) = -sum_j [(y_j - f_j)^2 / std_j^2 + log std_j^2 + log(2 pi)] / 2

    Parameters
    ----------
    std
        Noise standard deviation in the targets' unit: a number, or a tensor of shape () or (P,),
        which may require gradients (then the caller optimizes it).

    Raises
    ------
    ConfigError
        If it is not positive and finite.

    Examples
    --------
    Two draws that disagree by 1 add their spread of 1/4 to the noise:

    >>> zero, one = torch.zeros(1, 1), torch.ones(1, 1)
    >>> law = Normal(std=1.0).average([Moments(zero, one), Moments(one, one)])
    >>> law.mean.item(), law.variance.item()
    (0.5, 1.25)
    """

    std: float | Tensor

    def __post_init__(self) -> None:
        _check_positive(self.std, "the noise std")

    def validate(self, outputs: Tensor, targets: Tensor) -> None:
        """Raise `DataError` unless outputs and targets are (B, P) and the targets finite."""
        fits = outputs.dim() == 2 and targets.shape == outputs.shape
        check_shapes("means and targets (B, P), a column [:, None]", outputs, targets, fits)
        _check_real(targets)

    def predictive(self, outputs: Float[Tensor, "*B P"]) -> Moments:
        """Mean and noise variance, both (B, P)."""
        std = _beside(self.std, outputs)
        return Moments(outputs, (std**2).expand_as(outputs))


@dataclass(frozen=True, eq=False)
class HeteroscedasticNormal(_IndependentNormal):
    """Real targets whose noise the network predicts too, in units of its own.

    The outputs have shape (B, 2P): P means f, then P logarithms s of the noise variance, of the
    standardized targets (y - m) / t:

    log p(y | f, s) = -sum_j [(z_j - f_j)^2 exp(-s_j) + s_j + 2 log t_j + log(2 pi)] / 2

    with z = (y - m) / t. Moments and densities are those of the targets in their own unit.

    Parameters
    ----------
    target_mean, target_std
        m and t: numbers, or tensors of shape (P,); those of the training targets by `of_targets`.
        0 and 1 leave the outputs in the targets' own unit.

    Raises
    ------
    ConfigError
        If they are not finite, or the second is not positive.

    References
    ----------
    Kendall and Gal, What Uncertainties Do We Need in Bayesian Deep Learning for Computer
    Vision?, arXiv:1703.04977, equation 8.

    Examples
    --------
    >>> HeteroscedasticNormal().predictive(torch.tensor([[3.0, 0.0]]))
    Moments(mean=tensor([[3.]]), variance=tensor([[1.]]))
    >>> prices = HeteroscedasticNormal.of_targets(torch.tensor([[10.0], [30.0]]))
    >>> prices.predictive(torch.tensor([[1.0, 0.0]]))  # one std above the mean
    Moments(mean=tensor([[30.]]), variance=tensor([[100.]]))
    """

    target_mean: float | Tensor = 0.0
    target_std: float | Tensor = 1.0

    def __post_init__(self) -> None:
        _check_positive(self.target_std, "target_std")
        if not bool(
            torch.as_tensor(check(self.target_mean, "numbers", "target_mean")).isfinite().all()
        ):
            raise ConfigError(f"target_mean must be finite, got {self.target_mean}")

    @classmethod
    def of_targets(cls, targets: Float[Tensor, "N P"]) -> "HeteroscedasticNormal":
        """Return it in the units of these targets; a constant one has the unit 1."""
        std, mean = torch.std_mean(targets.double(), 0, correction=0)
        constant = std <= 1e-6 * mean.abs()
        return cls(mean.float(), std.where(~constant, 1.0).float())

    def validate(self, outputs: Tensor, targets: Tensor) -> None:
        """Raise `DataError` unless outputs are (B, 2P) and targets finite (B, P)."""
        fits = targets.dim() == 2 and outputs.shape == (len(targets), 2 * targets.shape[1])
        check_shapes(_TWO_HALVES, outputs, targets, fits)
        _check_real(targets)

    def _units(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the targets, beside a tensor."""
        return _beside(self.target_mean, like), _beside(self.target_std, like)

    def predictive(self, outputs: Float[Tensor, "*B twoP"]) -> Moments:
        """Mean and noise variance, both (B, P)."""
        mean, log_variance = outputs.chunk(2, dim=-1)
        center, unit = self._units(outputs)
        return Moments(center + unit * mean, unit**2 * log_variance.exp())

    def distribution(self, outputs: Float[Tensor, "*B twoP"]) -> dist.Distribution:
        """``Normal(mean, std)``, batch shape (*B,), event shape (P,)."""
        if not inherits(self, HeteroscedasticNormal, "predictive"):
            return super().distribution(outputs)
        mean, log_variance = outputs.chunk(2, dim=-1)
        center, unit = self._units(outputs)
        std = unit * (log_variance / 2).exp()  # no variance that overflows
        return dist.Normal(center + unit * mean, std).to_event(1)

    def log_prob(self, outputs: Float[Tensor, "*B twoP"], targets: Tensor) -> Float[Tensor, "*B"]:
        """Log density of each example; `DataError` for other shapes.

        Of log variances, never of variances: exp(s) itself is 0 or infinite in float32 beyond
        100, and its gradient no number.
        """
        if not inherits(self, HeteroscedasticNormal, "predictive"):
            return super().log_prob(outputs, targets)
        mean, log_variance = outputs.chunk(2, dim=-1)
        fits = targets.shape == mean.shape == log_variance.shape
        check_shapes(_TWO_HALVES, outputs, targets, fits)
        center, unit = self._units(outputs)
        squares = (((targets - center) / unit - mean) * (-log_variance / 2).exp()) ** 2
        terms = squares + log_variance + 2 * unit.log() + math.log(2 * math.pi)
        return -terms.sum(-1) / 2


_TWO_HALVES = "means, log variances (B, 2P) and targets (B, P)"


def _beside(value: float | Tensor, like: Tensor) -> Tensor:
    """Return a value on the device of a tensor and in its type."""
    value = value if isinstance(value, Tensor) else like.new_full((), value)
    moved: Tensor = to_device(value, like.device).to(like.dtype)
    return moved


def _check_positive(value: float | Tensor, name: str) -> None:
    found = torch.as_tensor(check(value, "numbers", name)).detach()
    if not bool(((found > 0) & found.isfinite()).all()):
        raise ConfigError(f"{name} must be positive and finite, got {found.tolist()}")
