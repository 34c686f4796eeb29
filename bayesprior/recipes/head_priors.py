"""The prior of a new head, and widths in units of the source's own weights."""

import contextlib
import copy
import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bayesprior.data import DataBundle
from bayesprior.errors import BayesPriorError, ConfigError
from bayesprior.inference.strength.features import (
    WITHIN,
    feature_statistics,
    head_inputs,
    head_layer,
)
from bayesprior.inference.strength.head import HeadPrior, within_metric
from bayesprior.inference.strength.noise import feature_noise
from bayesprior.models import head_prefix
from bayesprior.recipes.prior_options import PriorOptions
from bayesprior.recipes.training import initialize_
from bayesprior.tasks.protocols import Forward
from bayesprior.weights.algebra import rescaled_each
from bayesprior.weights.blocks import Block, place
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.rows import RowCovariance

__all__ = [
    "NOISE_WIDTH",
    "HeadChoice",
    "examples",
    "head_of",
    "head_prior_of",
    "named_head",
    "rms_by_tensor",
    "source_statistics",
    "width_of",
    "with_head",
    "with_widths",
]

LOGIT_STD, WEIGHT_STD = 5.0, 1.0
NOISE_WIDTH = 2.5  # of a prior, in units of `feature_noise`
NUMBER_STD = 1.0
"""Of an output that is a standardized number: the targets have the standard deviation 1, and what
the inputs explain of it is at most all (the law of total variance)."""
_ENOUGH = {"source": 10_000, "target": 1_000, "width": 256}  # examples that are looked at
_FLOOR = 0.01  # a tensor of zeros counts as one of this share of the weights' rms


@dataclass(frozen=True)
class HeadChoice:
    """What became of the wish for a head's prior.

    Attributes
    ----------
    prior
        None: every new weight has the standard deviation ``std``.
    name
        Of the head's layer.
    std
        Of new weights that are not the head's.
    logit_std
        Of a logit; None where the features' size is not known.
    note
        Why it is not the learned one.
    """

    prior: HeadPrior | None
    name: str | None = None
    std: float = WEIGHT_STD
    logit_std: float | None = None
    note: str = ""

    def told(self) -> dict[str, Any]:
        """Return what the provenance says of it."""
        if self.name is None and self.prior is None and not self.note:
            return {"head_std": None}
        learned = self.prior is not None and self.prior.tril is not None
        return {
            "head_prior": "learned" if learned else "isotropic",
            "head_std": self.std if self.prior is None else self.prior.std,
            "head_logit_std": self.logit_std,
            **({"head_note": self.note} if self.note else {}),
        }

    def put_on(self, law: GaussianWeights, target: nn.Module) -> GaussianWeights:
        """Return the law with this prior in place of the head's independent weights."""
        if self.prior is None or self.name is None:
            return law
        return with_head(law, self.prior, self.name, head_layer(target, self.name))


def with_head(
    law: GaussianWeights, prior: HeadPrior, name: str, layer: nn.Module
) -> GaussianWeights:
    """Return a law with the prior of a head in place of the block that holds it."""
    weight, bias = f"{name}.weight", None if layer.bias is None else f"{name}.bias"
    shape = tuple(layer.weight.shape)  # type: ignore[arg-type]
    blocks: list[Block] = list(prior.blocks(weight, bias, shape, law.loc.dtype))
    held = {weight, bias}
    rest = law.marginal(n for n in law.layout.names if n not in held)
    return GaussianWeights.from_blocks(
        law.layout,
        law.loc,
        [*rest.blocks, *blocks],
        buffers=law.buffers,
        provenance=law.provenance,
        statistics=law.statistics,
    )


def head_prior_of(law: GaussianWeights, name: str) -> HeadPrior:
    """Return the prior that a law has for its head: the inverse of `with_head`."""
    held = {block.names[0]: block.covariance for block in law.blocks if len(block.names) == 1}
    weight, bias = held[f"{name}.weight"], held.get(f"{name}.bias")
    if not isinstance(weight, RowCovariance):
        return HeadPrior(math.sqrt(float(weight.variance()[0])), None, bias is not None)
    std = 1.0 if bias is None else math.sqrt(float(bias.variance()[0]))
    return HeadPrior(std, weight.tril.double().cpu() / std, bias is not None)


def named_head(module: nn.Module, names: Iterable[str]) -> str | None:
    """Return the only linear layer (or convolution of one pixel) whose weight is among names."""
    owners = [name.rpartition(".")[0] for name in sorted(names) if name.endswith(".weight")]
    found = []
    for owner in filter(None, owners):
        try:
            head_layer(module, owner)
        except ConfigError:
            continue
        found.append(owner)
    return found[0] if len(found) == 1 else None


def head_of(call: Any, law: GaussianWeights, new: set[str]) -> HeadChoice:
    """Choose the prior of a new head.

    Parameters
    ----------
    call
        Of `bayesprior.recipes.make_prior`.
    law
        What comes from the source, with its statistics.
    new
        Parameters of the head.

    Raises
    ------
    ConfigError
        If what is asked for cannot be had; names what is missing.
    """
    options: PriorOptions = call
    if options.head_std is not None:
        return HeadChoice(None, std=options.head_std, note="its width was given in weights")
    target, data = call.target, call.data
    name, known = named_head(target, new), law.statistics
    layer = None if name is None else head_layer(target, name)
    told, note = WITHIN in known, ""
    if layer is None:
        note = "the head is not one linear layer"
    elif options.head_prior == "isotropic":
        note = "asked for"
    elif not told:
        note = "the source tells nothing of its features (fit-source with a head does)"
    elif len(known[WITHIN]) != layer.weight.shape[1]:
        note = f"the source's head takes {len(known[WITHIN])} numbers, {layer.weight.shape[1]} here"
        told = False
    if options.head_prior == "learned" and note:
        raise ConfigError(f"no learned head_prior: {note}; use head_prior='isotropic'")
    if layer is None or (data is None and not told):
        if options.head_logit_std is not None:
            raise ConfigError(
                "head_logit_std needs the size of the head's inputs: give data=, or head_std"
            )
        return HeadChoice(None, note=note or "the size of the head's inputs is not known")
    assert name is not None
    usual = NUMBER_STD if data is not None and data.num_numbers else LOGIT_STD
    logit_std = options.head_logit_std or usual
    has_bias = layer.bias is not None
    if data is None:
        prior = HeadPrior.of_statistics(known, logit_std, learned=not note, has_bias=has_bias)
    else:
        tril = None if note else within_metric(known[WITHIN])
        module = copy.deepcopy(target)
        initialize_(module, law)
        batches = examples(data, _ENOUGH["target"])
        features, _ = head_inputs(module, name, batches, forward=call.forward)
        prior = HeadPrior.of_features(features, logit_std, tril, has_bias=has_bias)
    return HeadChoice(prior, name, logit_std=logit_std, note=note)


def examples(data: DataBundle, most: int, batch_size: int = 256) -> Iterable[Any]:
    """Return batches of training examples as they are, at most so many, chosen by no seed."""
    order = torch.randperm(data.num_data, generator=torch.Generator().manual_seed(0))[:most]
    chosen = data.train.without_augmentation().subset(order.sort().values)
    few = dataclasses.replace(data, train=chosen, test=None, validation=None, class_names=())
    return few.loader("train", batch_size)


def source_statistics(
    module: nn.Module, law: GaussianWeights, data: DataBundle, head: set[str], forward: Forward
) -> dict[str, Tensor] | str:
    """Return what `feature_statistics` finds at a source's mean, or why there is nothing.

    Where no head was named, which then belongs to the law, the last linear layer is looked at.
    """
    with contextlib.suppress(ConfigError):
        head = head or {f"{head_prefix(module)}.weight"}
    name = named_head(module, head)
    if name is None:
        return "no head that is one linear layer was named or found"
    if not data.num_classes or data.train.targets is None or data.train.targets.ndim != 1:
        return "the examples have no classes of their own"
    module = copy.deepcopy(module)
    initialize_(module, law)
    try:
        features, labels = head_inputs(
            module, name, examples(data, _ENOUGH["source"]), forward=forward
        )
        return feature_statistics(features, labels)
    except BayesPriorError as error:
        return str(error)


def width_of(call: Any, law: GaussianWeights, new: set[str]) -> float | None:
    """Return a prior's width as a share of each tensor's rms weight, from what the features bear.

    Parameters
    ----------
    call
        Of `bayesprior.recipes.make_prior`, with data.
    law
        What comes from the source.
    new
        Parameters of the head; None is returned unless they are one linear layer's.
    """
    name = named_head(call.target, new)
    if name is None:
        return None
    module = copy.deepcopy(call.target)
    initialize_(module, law)
    few = examples(call.data, _ENOUGH["width"])
    try:
        noise = feature_noise(module, few, head=name, by_tensor=True, forward=call.forward)
    except ConfigError:  # inputs of the head that do not vary
        return None
    return NOISE_WIDTH * noise


def rms_by_tensor(law: GaussianWeights) -> dict[str, float]:
    """Return each parameter's root mean square value in the law's mean, away from zero."""
    least = _FLOOR * math.sqrt(float(law.loc.detach().double().square().mean()))
    views = law.layout.unflatten(law.loc.detach()).items()
    return {n: max(math.sqrt(float(v.double().square().mean())), least) for n, v in views}


def with_widths(law: GaussianWeights, stds: Mapping[str, float]) -> GaussianWeights:
    """Return the law A Sigma A in which each parameter has a root mean square std of its own."""
    return GaussianWeights.from_blocks(
        law.layout,
        law.loc,
        rescaled_each(place(law.layout, law.blocks), stds),
        buffers=law.buffers,
        provenance=law.provenance,
        statistics=law.statistics,
    )
