"""Every interface of the inference floor on one page.

Optimizer x prior x collector are orthogonal: whatever meets these protocols combines.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bayesprior.errors import ConfigError
from bayesprior.weights.layout import ParameterLayout

__all__ = [
    "Batch",
    "Collector",
    "Draw",
    "LossFn",
    "Phase",
    "Posterior",
    "PriorShare",
    "Schedule",
    "StepEvent",
    "TakesPrior",
    "WeightDistribution",
]

Batch = Any
"""Whatever the loader yields; usually ``(inputs, targets)``. Only the loss looks inside."""

LossFn = Callable[[nn.Module, Batch], tuple[Tensor, dict[str, Tensor]]]
"""``loss_fn(module, batch) -> (mean loss per example, named extra scalars)``.

It may be a module: `bayesprior.inference.engine.train` then trains, moves, saves and resumes what
it owns (a projector, a queue) with the network, and calls its ``after_step(event)``, if it has
one, with the `StepEvent` of every step.
"""


class Phase(NamedTuple):
    """What a schedule says of one step.

    Both factors multiply what each parameter group carries, so that the head keeps its own
    learning rate and temperature under any schedule.

    Attributes
    ----------
    lr_factor
        Multiplies the group's ``lr``.
    temperature_factor
        Multiplies the group's ``temperature`` (0 while a cyclical schedule explores).
    collect
        Whether collectors see the weights after this step.
    """

    lr_factor: float
    temperature_factor: float
    collect: bool


Schedule = Callable[[int], Phase]
"""A pure function of the 0-based step: a resumed run needs a counter, not a scheduler object."""


@dataclass(frozen=True)
class StepEvent:
    """What collectors see after a step.

    Attributes
    ----------
    step
        Number of completed steps (1 after the first).
    phase
        The schedule's word on the step that was just made.
    module
        The unwrapped module, at its new weights.
    layout
        The layout of the weights.
    stats
        Scalars of the last logged step: loss, log_prior, lr, temperature, what the sampler adds.
    read
        Reads the weights in ``layout`` off the module; None flattens its parameters of these names.
    """

    step: int
    phase: Phase
    module: nn.Module
    layout: ParameterLayout
    stats: Mapping[str, float] = field(default_factory=dict)
    read: Callable[[], Tensor] | None = None

    def weights(self, *, out: Tensor | None = None) -> Float[Tensor, " D"]:
        """Copy the current weights into a flat vector of shape (D,), a new one or ``out``."""
        if self.read is None:
            return self.layout.flatten(self.module, out=out)
        return self.read() if out is None else out.copy_(self.read())

    def buffers(self) -> dict[str, Tensor]:
        """Copy the module's buffers (BatchNorm statistics) by name."""
        return {name: b.detach().clone() for name, b in self.module.named_buffers()}


@runtime_checkable
class Collector(Protocol):
    """Learns something from a trajectory: SWAG moments, stored draws, traces."""

    def update(self, event: StepEvent) -> None:
        """Take in the weights after a step whose phase says ``collect``."""

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and primitives only; the checkpoint is loaded with ``weights_only``."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""


@dataclass(frozen=True)
class Draw:
    """One draw of the weights.

    Attributes
    ----------
    chain, index
        ArviZ's coordinates of the draw.
    weights
        Shape (D,).
    buffers
        BatchNorm statistics that belong to the draw; empty if the module's own are to be used.
    layout
        Names of the weights; None is the posterior's.
    weight
        Share of the draw in an average, up to a common factor: 1 for draws that count alike.
    confidence
        Factor on the draw's logits, fitted on held-out data; 1 leaves them as they are.

    Raises
    ------
    ConfigError
        If weight or confidence is not positive and finite.
    """

    chain: int
    index: int
    weights: Float[Tensor, " D"]
    buffers: Mapping[str, Tensor] = field(default_factory=dict)
    layout: ParameterLayout | None = None
    weight: float = 1.0
    confidence: float = 1.0

    def __post_init__(self) -> None:
        for name in ("weight", "confidence"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ConfigError(f"the {name} of a draw must be positive and finite, got {value}")


@runtime_checkable
class Posterior(Protocol):
    """Whatever yields draws of a module's weights."""

    @property
    def layout(self) -> ParameterLayout:
        """The layout of every draw's weights."""

    def draws(self, num_draws: int | None = None, seed: int = 0) -> Iterator[Draw]:
        """Yield draws.

        Parameters
        ----------
        num_draws
            How many; None means all that are stored (or a documented default where draws are
            made on demand). A posterior that has fewer yields those it has.
        seed
            Decides which, where there is a choice.
        """


@runtime_checkable
class WeightDistribution(Protocol):
    """What recipes, engine and optimizers need of a prior; `GaussianWeights` is the one we ship.

    Whoever asks may write into what a method returns. `bayesprior.testing` checks the contract.
    """

    @property
    def layout(self) -> ParameterLayout:
        """Names <-> positions of the D weights."""

    @property
    def loc(self) -> Float[Tensor, " D"]:
        """The mean."""

    @property
    def buffers(self) -> Mapping[str, Tensor]:
        """BatchNorm statistics that belong to ``loc``, by name; may be empty."""

    def score(
        self, value: Float[Tensor, "*batch D"], *, out: Tensor | None = None
    ) -> Float[Tensor, "*batch D"]:
        """Gradient of the log density, written to ``out`` where given (``value`` itself, too)."""

    def score_and_log_prob(
        self, value: Float[Tensor, "*batch D"]
    ) -> tuple[Float[Tensor, "*batch D"], Float[Tensor, "*batch"]]:
        """Return the score and the float64 log density in one pass."""

    def max_precision(self) -> Float[Tensor, " D"]:
        """Return per weight an upper bound on the curvature of the potential: 1 / cov_diag."""

    def gradient_in_z(self, gradient: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """Return R^T g: a gradient with respect to the weights as one to the z of `color`."""

    def color(self, z: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """Return loc + R z with R R^T = Sigma: weights of standard normal coordinates."""

    def whiten(self, value: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """Return R^-1 (w - loc), the inverse of `color`."""

    def to(
        self, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ) -> "WeightDistribution":
        """Return the same law on another device or in another type."""

    def save(self, path: str | Path) -> None:
        """Write the law to a file."""


@runtime_checkable
class PriorShare(Protocol):
    """A prior as one optimizer sees it: by its own parameters, in the order of their groups.

    `bayesprior.inference.prior_term.PriorTerm` is it.
    """

    num_data: int

    def curvature(self) -> dict[Tensor, Tensor]:
        """Return by parameter an upper bound on the curvature of the prior's part of U / N."""

    def gradient_in_z(self, gradients: Mapping[Tensor, Tensor]) -> dict[Tensor, Tensor]:
        """Return R^T g by parameter; parameters left out of ``gradients`` count as zero."""

    def color(self, normals: Mapping[Tensor, Tensor]) -> dict[Tensor, Tensor]:
        """Return R z by parameter, Sigma = R R^T: the square root, which makes N(0, Sigma)."""


@runtime_checkable
class TakesPrior(Protocol):
    """An optimizer that uses what it knows of the prior in its own step.

    The prior's gradient is in ``.grad`` all the same, and every step size is taken to be stable
    unless the optimizer has a ``stability_limit``.
    """

    def take_prior(self, prior: PriorShare | None) -> None:
        """Take the prior, in place of an earlier one; None takes it away."""
