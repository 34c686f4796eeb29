"""Likelihoods: how a network's outputs speak about targets.

A likelihood is a plain value with the methods of `Likelihood`; what a subclass overrides is asked.
Outputs are what the network returns for B examples, ``*B`` for any axes of vectorized weights too.

==========================  ==========================  ======================
likelihood                  outputs                     targets
==========================  ==========================  ======================
`Categorical`               logits (B, C)               labels (B,)
`Bernoulli`                 log odds (B, C)             labels (B, C), 0 or 1
`tasks.pixels`              logits (B, C, H, W)         labels (B, H, W)
`Normal`                    mean (B, P)                 (B, P)
`HeteroscedasticNormal`     mean, log variance (B, 2P)  (B, P)
==========================  ==========================  ======================
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import pyro.distributions as dist
import torch
from jaxtyping import Float, Integer
from torch import Tensor
from torch.nn import functional as F

from bayesprior.errors import DataError
from bayesprior.tasks.numbers import TAKE, mean_of
from bayesprior.tasks.numbers import HeteroscedasticNormal as HeteroscedasticNormal
from bayesprior.tasks.numbers import Moments as Moments
from bayesprior.tasks.numbers import Normal as Normal
from bayesprior.tasks.numbers import check_shapes as check_shapes
from bayesprior.tasks.numbers import inherits as inherits

__all__ = [
    "Bernoulli",
    "Categorical",
    "ClassProbabilities",
    "Likelihood",
    "Predictive",
    "check_labels",
]


Predictive = Tensor | Moments
"""Class probabilities with the classes on axis 1, those of labels (B, C), or `Moments`."""


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
        return mean_of(list(predictions), counts)

    def entropy(self, prediction: Float[Tensor, "*B"]) -> Float[Tensor, "*rest"]:
        """-sum p log p in nats over the classes."""
        probs = prediction.movedim(self.class_axis, -1)
        logs = probs.clamp_min(torch.finfo(probs.dtype).tiny).log()  # 0 log 0 = 0
        return -torch.einsum("...c,...c->...", probs, logs)  # twice as fast as entr


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


class _Labels(dist.Bernoulli):
    """Takes labels of any type, as the likelihood does."""

    def log_prob(self, value: Tensor) -> Tensor:
        found: Tensor = super().log_prob(value.to(self.logits))
        return found


@dataclass(frozen=True)
class Bernoulli:
    """Any number of C labels an example, each 0 or 1; the outputs are log odds (B, C).

    log p(y | f) = sum_c [y_c log s(f_c) + (1 - y_c) log s(-f_c)], s(f) = 1 / (1 + exp(-f))

    Given the weights the labels are independent; under the average over draws they need not be.
    Its entropies are sums over labels of each label's own: of an average an upper bound.

    Examples
    --------
    >>> likelihood = Bernoulli()
    >>> log_odds = torch.tensor([[0.0, 0.0, 0.0]])
    >>> likelihood.log_prob(log_odds, torch.tensor([[1, 0, 1]])).exp()
    tensor([0.1250])
    >>> likelihood.validate(log_odds, torch.tensor([[1, 0, 2]]))
    Traceback (most recent call last):
    bayesprior.errors.DataError: each of several labels an example must be 0 or 1, got 2
    """

    def validate(self, outputs: Tensor, targets: Tensor) -> None:
        """Raise `DataError` unless log odds and targets are (B, C) and the targets 0 or 1."""
        fits = outputs.dim() == 2 and targets.shape == outputs.shape
        check_shapes("log odds and labels (B, C), each 0 or 1", outputs, targets, fits)
        if targets.is_complex():
            raise DataError(f"labels must be 0 or 1, got {targets.dtype}")
        if bool((odd := (targets != 0) & (targets != 1)).any()):
            found = targets[odd][0].item()
            raise DataError(f"each of several labels an example must be 0 or 1, got {found:g}")

    def log_prob(self, outputs: Float[Tensor, "*B C"], targets: Tensor) -> Float[Tensor, "*B"]:
        """Log probability of each example's labels together; `DataError` for other shapes."""
        fits = targets.shape == outputs.shape
        check_shapes("log odds and labels (B, C), each 0 or 1", outputs, targets, fits)
        wanted = targets.to(outputs)
        return -F.binary_cross_entropy_with_logits(outputs, wanted, reduction="none").sum(-1)

    def predictive(self, outputs: Float[Tensor, "*B C"]) -> Float[Tensor, "*B C"]:
        """Probability of each label."""
        return outputs.sigmoid()

    def average(
        self, predictions: Iterable[Tensor], counts: Sequence[float] | None = None
    ) -> Float[Tensor, "*B C"]:
        """Mean of the probabilities, the model average of each label."""
        return mean_of(list(predictions), counts)

    def entropy(self, prediction: Float[Tensor, "*B C"]) -> Float[Tensor, "*B"]:
        """Sum over labels of -p log p - (1 - p) log(1 - p) in nats."""
        return (torch.special.entr(prediction) + torch.special.entr(1 - prediction)).sum(-1)

    def distribution(self, outputs: Float[Tensor, "*B C"]) -> dist.Distribution:
        """``Bernoulli(logits)``, batch shape (*B,), event shape (C,)."""
        return _Labels(logits=outputs).to_event(1)

    def monitor(self, outputs: Float[Tensor, "B C"], targets: Tensor) -> dict[str, Tensor]:
        """Give the batch's ``accuracy``, the share of right labels."""
        return {"accuracy": ((outputs > 0) == (targets > 0)).float().mean()}


def check_labels(targets: Tensor, num_classes: int, ignore_index: int | None = None) -> None:
    """Raise `DataError` unless targets are integers below the number of classes, or ignored."""
    if targets.dtype == torch.bool or targets.is_floating_point() or targets.is_complex():
        raise DataError(f"labels must be integers (.long()), got {targets.dtype}; {TAKE}")
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
