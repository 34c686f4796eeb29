"""Likelihoods: how a network's outputs speak about targets.

A likelihood is a plain value with the methods of `Likelihood`; what a subclass overrides is asked.
Outputs are what the network returns for B examples, ``*B`` for any axes of vectorized weights too.

==========================  ==========================  ======================
likelihood                  outputs                     targets
==========================  ==========================  ======================
`Categorical`               logits (B, C)               labels (B,)
`tasks.pixels`              logits (B, C, H, W)         labels (B, H, W)
`Normal`                    mean (B, P)                 (B, P)
`HeteroscedasticNormal`     mean, log variance (B, 2P)  (B, P)
==========================  ==========================  ======================
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import pyro.distributions as dist
import torch
from jaxtyping import Float, Integer
from torch import Tensor
from torch.nn import functional as F

from bayesprior.errors import ConfigError, DataError, check
from bayesprior.tasks.protocols import to_device

__all__ = [
    "Categorical",
    "ClassProbabilities",
    "HeteroscedasticNormal",
    "Likelihood",
    "Moments",
    "Normal",
    "Predictive",
    "check_labels",
    "check_shapes",
    "inherits",
]


class Moments(NamedTuple):
    """Mean and variance of a predictive law of continuous targets, each of shape (B, P)."""

    mean: Tensor
    variance: Tensor


Predictive = Tensor | Moments
"""Class probabilities with the classes on axis 1, or `Moments`."""


@runtime_checkable
class Likelihood(Protocol):
    """What training, prediction and Pyro models ask of a task.

    ``Any`` stands for the implementation's own one of the `Predictive` kinds.
    ``bayesprior.testing`` has the contract that every implementation passes.
    """

    def validate(self, outputs: Tensor, targets: Tensor) -> None:
        """Raise `DataError` if the targets do not fit the outputs (shape, type, range, NaN)."""

    def log_prob(self, outputs: Tensor, targets: Tensor) -> Float[Tensor, " B"]:
        """Log likelihood of each example in nats, shape (B,)."""

    def predictive(self, outputs: Tensor) -> Predictive:
        """Predictive law of each example under one draw of the weights."""

    def average(self, predictions: Iterable[Any], counts: Sequence[float] | None = None) -> Any:
        """Average predictive laws over draws; ``counts`` are their weights, 1 by default."""

    def entropy(self, prediction: Any) -> Tensor:
        """Entropy in nats of each law: (B,), or (B, H, W) for pixels."""

    def distribution(self, outputs: Tensor) -> Any:
        """Pyro distribution of the targets: batch shape (B,), event shape of one target."""

    def monitor(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Scalars worth watching while training, such as the accuracy; may be empty."""


class ClassProbabilities:
    """What likelihoods of class labels share: outputs that are logits, on one axis of classes.

    A draw's ``confidence`` multiplies the outputs of such a likelihood, and they have an energy.

    Attributes
    ----------
    class_axis
        Axis of the classes, counted from the end; axis 1 of a batch.
    """

    class_axis: ClassVar[int] = -1

    def logits(self, outputs: Tensor) -> Tensor:
        """Return one logit a class; the outputs themselves, where a likelihood says no other."""
        return outputs

    def predictive(self, outputs: Float[Tensor, "*B"]) -> Float[Tensor, "*B2"]:
        """Class probabilities: softmax over the classes."""
        return self.logits(outputs).softmax(self.class_axis)

    def average(
        self, predictions: Iterable[Tensor], counts: Sequence[float] | None = None
    ) -> Float[Tensor, "*B"]:
        """Mean of the probabilities, the model average."""
        return _mean(list(predictions), counts)

    def entropy(self, prediction: Float[Tensor, "*B"]) -> Float[Tensor, "*rest"]:
        """-sum p log p in nats over the classes."""
        probs = prediction.movedim(self.class_axis, -1)
        logs = probs.clamp_min(torch.finfo(probs.dtype).tiny).log()  # 0 log 0 = 0
        return -torch.einsum("...c,...c->...", probs, logs)  # twice as fast as entr


def inherits(likelihood: Any, base: type, *methods: str) -> bool:
    """Whether a likelihood has these methods of a class unchanged: others must be asked."""
    return isinstance(likelihood, base) and all(
        getattr(type(likelihood), name) is getattr(base, name) for name in methods
    )


@dataclass(frozen=True)
class Categorical(ClassProbabilities):
    """One label among C classes; the outputs are logits of shape (B, C).

    log p(y | f) = f_y - logsumexp(f)

    Examples
    --------
    >>> likelihood = Categorical()
    >>> logits = torch.tensor([[0.0, 0.0]])
    >>> likelihood.log_prob(logits, torch.tensor([1])).exp()
    tensor([0.5000])
    >>> likelihood.validate(logits, torch.tensor([2]))
    Traceback (most recent call last):
    bayesprior.errors.DataError: labels must be in 0 ... 1 (the outputs have 2 classes), got 2
    """

    def validate(self, outputs: Tensor, targets: Tensor) -> None:
        """Raise `DataError` unless logits are (B, C) and targets integers (B,) below C."""
        fits = outputs.dim() == 2 and targets.shape == outputs.shape[:1]
        check_shapes("logits (B, C) and labels (B,)", outputs, targets, fits)
        check_labels(targets, outputs.shape[1])

    def log_prob(self, outputs: Float[Tensor, "*B C"], targets: Tensor) -> Float[Tensor, "*B"]:
        """Log probability of each label; `DataError` if there is not one a row of logits."""
        fits = targets.shape == outputs.shape[:-1]
        check_shapes("logits (B, C) and labels (B,)", outputs, targets, fits)
        rows, labels = outputs.reshape(-1, outputs.shape[-1]), targets.reshape(-1).long()
        return -F.cross_entropy(rows, labels, reduction="none").view(targets.shape)

    def distribution(self, outputs: Float[Tensor, "*B C"]) -> dist.Distribution:
        """``Categorical(logits)``, batch shape (*B,)."""
        return dist.Categorical(logits=outputs)

    def monitor(
        self, outputs: Float[Tensor, "B C"], targets: Integer[Tensor, " B"]
    ) -> dict[str, Tensor]:
        """Give the batch's ``accuracy``."""
        return {"accuracy": (outputs.argmax(1) == targets).float().mean()}


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
        mean = _mean([p.mean for p in predictions], counts)
        spread = [p.variance + (p.mean - mean) ** 2 for p in predictions]
        return Moments(mean, _mean(spread, counts))

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
        std = torch.as_tensor(check(self.std, "numbers", "the noise std")).detach()
        if not bool(((std > 0) & std.isfinite()).all()):
            raise ConfigError(f"the noise std must be positive and finite, got {std.tolist()}")

    def validate(self, outputs: Tensor, targets: Tensor) -> None:
        """Raise `DataError` unless outputs and targets are (B, P) and the targets finite."""
        fits = outputs.dim() == 2 and targets.shape == outputs.shape
        check_shapes("means and targets (B, P), a column [:, None]", outputs, targets, fits)
        _check_real(targets)

    def predictive(self, outputs: Float[Tensor, "*B P"]) -> Moments:
        """Mean and noise variance, both (B, P)."""
        std = self.std if isinstance(self.std, Tensor) else outputs.new_full((), self.std)
        std = to_device(std, outputs.device).to(outputs.dtype)
        return Moments(outputs, (std**2).expand_as(outputs))


@dataclass(frozen=True)
class HeteroscedasticNormal(_IndependentNormal):
    """Real targets whose noise the network predicts too.

    The outputs have shape (B, 2P): P means, then P logarithms of the noise variance.

    References
    ----------
    Kendall and Gal, What Uncertainties Do We Need in Bayesian Deep Learning for Computer
    Vision?, arXiv:1703.04977, equation 8.

    Examples
    --------
    >>> HeteroscedasticNormal().predictive(torch.tensor([[3.0, 0.0]]))
    Moments(mean=tensor([[3.]]), variance=tensor([[1.]]))
    """

    def validate(self, outputs: Tensor, targets: Tensor) -> None:
        """Raise `DataError` unless outputs are (B, 2P) and targets finite (B, P)."""
        fits = targets.dim() == 2 and outputs.shape == (len(targets), 2 * targets.shape[1])
        check_shapes(_TWO_HALVES, outputs, targets, fits)
        _check_real(targets)

    def predictive(self, outputs: Float[Tensor, "*B twoP"]) -> Moments:
        """Mean and noise variance, both (B, P)."""
        mean, log_variance = outputs.chunk(2, dim=-1)
        return Moments(mean, log_variance.exp())

    def distribution(self, outputs: Float[Tensor, "*B twoP"]) -> dist.Distribution:
        """``Normal(mean, std)``, batch shape (*B,), event shape (P,)."""
        if not inherits(self, HeteroscedasticNormal, "predictive"):
            return super().distribution(outputs)
        mean, log_variance = outputs.chunk(2, dim=-1)
        return dist.Normal(mean, (log_variance / 2).exp()).to_event(1)  # no variance that overflows

    def log_prob(self, outputs: Float[Tensor, "*B twoP"], targets: Tensor) -> Float[Tensor, "*B"]:
        """Log density of each example; `DataError` for other shapes.

        -sum_j [(y_j - m_j)^2 exp(-s_j) + s_j + log(2 pi)] / 2 of means m and log variances s:
        exp(s) itself is 0 or infinite in float32 beyond 100, and its gradient no number.
        """
        if not inherits(self, HeteroscedasticNormal, "predictive"):
            return super().log_prob(outputs, targets)
        mean, log_variance = outputs.chunk(2, dim=-1)
        fits = targets.shape == mean.shape == log_variance.shape
        check_shapes(_TWO_HALVES, outputs, targets, fits)
        squares = ((targets - mean) * (-log_variance / 2).exp()) ** 2
        return -(squares + log_variance + math.log(2 * math.pi)).sum(-1) / 2


_TWO_HALVES = "means, log variances (B, 2P) and targets (B, P)"
_TAKE = "likelihood=: labels take Categorical(), masks PixelCategorical(), numbers take Normal(std)"


def _mean(terms: Sequence[Tensor], counts: Sequence[float] | None) -> Tensor:
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
        raise DataError(f"expected {expected}, got {found}; {_TAKE}")


def check_labels(targets: Tensor, num_classes: int, ignore_index: int | None = None) -> None:
    """Raise `DataError` unless targets are integers below the number of classes, or ignored."""
    if targets.dtype == torch.bool or targets.is_floating_point() or targets.is_complex():
        raise DataError(f"labels must be integers (.long()), got {targets.dtype}; {_TAKE}")
    if ignore_index is not None:
        targets = targets.where(targets != ignore_index, 0)
    if not targets.numel():
        return
    low, high = torch.stack(targets.aminmax()).tolist()
    if low < 0 or high >= num_classes:
        raise DataError(
            f"labels must be in 0 ... {num_classes - 1} (the outputs have {num_classes} classes)"
            f", got {low if low < 0 else high}"
        )


def _check_real(targets: Tensor) -> None:
    if not targets.is_floating_point():
        raise DataError(f"targets must be floating point, got {targets.dtype}; use .float()")
    if not bool(targets.isfinite().all()):
        raise DataError("the targets hold NaN or infinite values")
