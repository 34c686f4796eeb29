"""Arguments of the recipes beside their options: objects, checked when they are given."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY
from statistics import fmean
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from bayesprior.data import DataBundle, as_bundle, check_fit
from bayesprior.data.adapters import forward_for
from bayesprior.errors import ConfigError, DataError, LayoutMismatchError, check, kind_of
from bayesprior.inference.engine import TrainResult
from bayesprior.inference.prior_term import PriorTerm
from bayesprior.inference.protocols import LossFn
from bayesprior.recipes.digests import described
from bayesprior.recipes.objectives import self_supervision
from bayesprior.recipes.options import (
    MadeFrom,
    MapOptions,
    RunOptions,
    SamplerOptions,
    SourceOptions,
    SwagOptions,
)
from bayesprior.tasks.likelihoods import Bernoulli, Categorical, HeteroscedasticNormal, Likelihood
from bayesprior.tasks.objectives import supervised
from bayesprior.tasks.pixels import PixelCategorical
from bayesprior.tasks.protocols import Forward, pair_forward
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout
from bayesprior.weights.selection import Selection, select_names

__all__ = [
    "FitCall",
    "MapCall",
    "SampleCall",
    "SourceCall",
    "SwagCall",
    "check_network",
    "default_likelihood",
    "head_names",
]

_COLLAPSED = 0.05  # spread of the projections, of at most 1: cosine similarities above .997


def check_network(module: Any, name: str = "module") -> None:
    """Raise `ConfigError` unless it is a network with something to train."""
    check(module, "network", name)
    if not any(p.requires_grad and p.numel() for p in module.parameters()):
        raise ConfigError(
            f"{name} has no trainable parameter ({type(module).__name__}); "
            "requires_grad_(True) on what is to be inferred"
        )
    for parameter, value in module.named_parameters():
        if value.is_meta:
            raise ConfigError(f"{name}: {parameter} has no values (meta device); load them first")


def head_names(names: Iterable[str], head: Selection | None, owner: str) -> set[str]:
    """Return the parameters that a head names: prefixes, glob patterns or a predicate.

    Raises
    ------
    LayoutMismatchError
        If a prefix or pattern names no parameter.
    """
    names = tuple(names)
    if head is None or callable(head):
        return set() if head is None else set(select_names(names, head))
    found: set[str] = set()
    for pattern in [head] if isinstance(head, str) or not isinstance(head, Iterable) else head:
        if not isinstance(pattern, str):
            raise ConfigError(f"head must be names or a predicate, got {kind_of(pattern)}")
        try:
            found |= set(select_names(names, pattern))
        except ConfigError:
            raise LayoutMismatchError(
                f"the {owner} has no trainable parameter under the head {pattern!r}; its "
                f"parameters are {', '.join(names[-4:])} (last four)"
            ) from None
    return found


def default_likelihood(data: DataBundle) -> Likelihood:
    """Return the likelihood that a task's targets ask for."""
    if data.num_numbers:
        return HeteroscedasticNormal.of_targets(data.train.targets)
    if data.has_several_labels:
        return Bernoulli()
    return PixelCategorical() if data.has_masks else Categorical()


class TrainCall(RunOptions):
    """What every recipe that trains takes in Python alone."""

    likelihood: Likelihood | None = None
    """How outputs speak about targets. By default what the data ask for: `Categorical` of labels,
    `Bernoulli` of several an example, `PixelCategorical` of masks, and of numbers (N, P)
    `HeteroscedasticNormal` in the units of the training targets: the network then gives 2P
    outputs, as one does to which `bayesprior.models.learn_noise` was applied."""
    forward: Forward = pair_forward
    """Calls the network on a batch: ``(module, batch) -> (outputs, targets)``. Batches that are
    dictionaries go by `bayesprior.tasks.protocols.keyword_forward` where nothing else is given."""
    fabric: Fabric | None = None
    """Devices, precision and processes; it takes the place of ``device``."""
    made_from: MadeFrom | None = None
    """The names and files that module, prior and data were made from: `load_run` reads a folder
    that knows them without being given anything."""

    def __post_init__(self) -> None:
        super().__post_init__()
        words = {"likelihood": "likelihood", "forward": "function", "fabric": "fabric"}
        for name, word in words.items():
            if getattr(self, name) is not None or name == "forward":
                check(getattr(self, name), word, name)
        if not isinstance(self.made_from, MadeFrom | None):
            raise ConfigError(f"made_from must be a MadeFrom, got {kind_of(self.made_from)}")

    def choose(self, data: DataBundle) -> None:
        """Take likelihood and forward that the data ask for, where none were given."""
        object.__setattr__(self, "likelihood", self.likelihood or default_likelihood(data))
        object.__setattr__(self, "forward", forward_for(data, self.forward))

    def loss(self) -> LossFn:
        """Return the mean loss per example."""
        law, smoothing = self.likelihood or Categorical(), self._smoothing()
        return supervised(law, forward=self.forward, label_smoothing=smoothing)

    def _smoothing(self) -> float:
        """Return how much labels are smoothed, by those that descend."""
        return getattr(self, "label_smoothing", None) or 0.0

    def extras(self) -> dict[str, Any]:
        """Return what decides the result beside the options, as JSON primitives."""
        return {
            "likelihood": described(self.likelihood or Categorical()),
            "forward": described(self.forward),
        }

    def ended(self, results: Sequence[TrainResult]) -> dict[str, float]:
        """Return loss and accuracy at the end of training; warn if it is no better than guessing.

        Means over the last ten logged steps, and over the chains. Guessing is to answer every
        example with the shares of the classes. Without labels, warn of projections that are one.
        """
        rows = [result.stats for result in results]
        told = ("loss", "accuracy", "embedding_std")
        names = [name for name in told if rows and all(name in r for r in rows)]
        found = {f"training_{name}": fmean(r[name] for r in rows) for name in names}
        spread = found.get("training_embedding_std", 1.0)
        if spread < _COLLAPSED and all(result.step >= 100 for result in results):
            warnings.warn(
                f"at the end the projections of all images nearly agree (embedding_std "
                f"{spread:.3f}, of at most 1): they have collapsed to a point, and the source has "
                "learned nothing; lower lr, or take another objective or a larger batch_size",
                stacklevel=2,
            )
        data = getattr(self, "data")  # noqa: B009 - of every call that trains
        own = type(self.likelihood) not in (Categorical, type(None))
        own = own or self._smoothing() > 0 or getattr(self, "loss_fn", None) is not None
        known = data.num_classes and data.train.targets is not None  # without reading pictures
        if own or not known or any(result.step < 100 for result in results):
            return found
        shares = data.class_counts / data.class_counts.sum()
        guessing = float(torch.special.entr(shares).sum())
        if 0 < guessing <= found.get("training_loss", 0):
            sampled = "raise burn_in, or make the prior with a smaller head_std"
            remedy = sampled if hasattr(self, "burn_in") else "lower lr, or raise num_steps"
            warnings.warn(
                f"at the end the training loss is {found['training_loss']:.3f}, no better than "
                f"guessing by the classes' shares ({guessing:.3f}): {remedy}; and see that the "
                "inputs are normalized as the source's were",
                stacklevel=2,
            )
        return found

    def check_task(self, module: nn.Module, data: DataBundle) -> None:
        """Raise `ConfigError` unless the network takes the data and answers with what they need."""
        numbers = data.num_numbers if type(self.likelihood) is HeteroscedasticNormal else 0
        classes = isinstance(self.likelihood, Categorical | Bernoulli | PixelCategorical | None)

        def forward(network: nn.Module, batch: Any) -> Any:
            outputs, targets = self.forward(network, batch)
            if numbers and outputs.shape[1:] != (2 * numbers,):
                raise ConfigError(
                    f"the network gives outputs {tuple(outputs.shape[1:])}, the targets of "
                    f"{data.name!r} are {numbers} numbers, each of which needs a mean and a noise: "
                    "bayesprior.models.learn_noise(module), or likelihood=Normal(std)"
                )
            # What other likelihoods make of outputs need not be one number a class.
            return outputs if classes else None, targets

        check_fit(module, data, forward)


class FitCall(TrainCall, kw_only=False):
    """Arguments of every recipe that infers with a prior."""

    module: nn.Module
    """The network; trained in place."""
    prior: GaussianWeights
    """Law of all trainable weights, as of `make_prior`."""
    data: DataBundle
    """The target task (a data set or a ``DataLoader`` will do); N = ``data.num_data``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_network(self.module)
        check(self.prior, "gaussian", "prior")
        object.__setattr__(self, "data", as_bundle(check(self.data, "data", "data")))
        self.choose(self.data)
        PriorTerm(self.module, self.prior, self.data.num_data)  # refuses a prior of other weights
        buffers = dict(self.module.named_buffers())
        for name, value in self.prior.buffers.items():
            if name in buffers and buffers[name].shape != value.shape:
                raise LayoutMismatchError(
                    f"the prior's statistics {name!r} have shape {tuple(value.shape)}, the "
                    f"network's {tuple(buffers[name].shape)}"
                )
        self.check_task(self.module, self.data)


class MapCall(FitCall, MapOptions, kw_only=False):
    """Arguments of `fit_map`."""


class SwagCall(FitCall, SwagOptions, kw_only=False):
    """Arguments of `fit_swag`."""


class SampleCall(FitCall, SamplerOptions, kw_only=False):
    """Arguments of `sample`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.batch_size:
            size = min(self.data.num_data, 256) if self.lr is None else 64
            object.__setattr__(self, "batch_size", size)


class SourceCall(TrainCall, SourceOptions, kw_only=False):
    """Arguments of `fit_source`."""

    module: nn.Module
    """Backbone and source head; trained in place, from its own weights."""
    data: DataBundle
    """The source task."""
    _: KW_ONLY
    loss_fn: LossFn | None = None
    """Mean loss per example instead of a likelihood: ``(module, batch) -> (loss, scalars)``. With
    a self-supervised loss (`bayesprior.tasks.objectives.two_view`) the result is a
    pseudo-posterior, and the provenance says so. What a loss that is a module owns is trained."""
    head: Selection | None = None
    """The source head's parameters, which do not transfer and are left out of the result: a
    prefix, glob patterns, several of them, or a predicate of the name. An objective without
    labels takes the name of one layer, whose inputs are the features; None: the outputs are."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_network(self.module)
        object.__setattr__(self, "data", as_bundle(check(self.data, "data", "data")))
        if self.objective != "supervised":
            if self._smoothing():
                raise ConfigError("label_smoothing belongs to objective = 'supervised'")
            if self.loss_fn or self.likelihood or self.forward is not pair_forward:
                raise ConfigError(
                    f"objective = {self.objective!r} calls the network itself; leave out loss_fn, "
                    "likelihood and forward"
                )
            data, loss = self_supervision(self.module, self.data, self.head, self)
            object.__setattr__(self, "data", data)
            object.__setattr__(self, "loss_fn", loss)
        names = ParameterLayout.from_module(self.module).names
        if len(head_names(names, self.head, "network")) == len(names):
            raise ConfigError(f"head = {self.head!r} covers every parameter; nothing would remain")
        if self.loss_fn is None:
            if isinstance(self.data.peek(1), Tensor):
                raise DataError(
                    f"{self.data.name!r} has no labels; store y with its x, give every class a "
                    "folder, or learn without labels: objective='simclr'"
                )
            self.choose(self.data)
            self.check_task(self.module, self.data)
            return
        check(self.loss_fn, "function", "loss_fn")
        if self.likelihood or self.forward is not pair_forward or self._smoothing():
            raise ConfigError(
                "a loss_fn calls the network itself; give it, or likelihood, forward and "
                "label_smoothing"
            )

    def loss(self) -> LossFn:
        """Return the mean loss per example."""
        return super().loss() if self.loss_fn is None else self.loss_fn

    def extras(self) -> dict[str, Any]:
        """Return what decides the result beside the options, as JSON primitives."""
        own = {"head": described(self.head), "loss_fn": described(self.loss_fn)}
        return own if self.loss_fn is not None else {**super().extras(), **own}
