"""Turn a source posterior into a prior."""

import math
from collections.abc import Callable
from dataclasses import KW_ONLY
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from bayesprior.data import DataBundle, as_bundle, check_fit
from bayesprior.data.adapters import forward_for
from bayesprior.errors import ConfigError, LayoutMismatchError, check
from bayesprior.recipes.arguments import check_network, head_names
from bayesprior.recipes.calls import recipe
from bayesprior.recipes.digests import (
    data_digests,
    described,
    network_digest,
    prior_digest,
    state_digest,
)
from bayesprior.recipes.head_priors import (
    WEIGHT_STD,
    HeadChoice,
    head_of,
    rms_by_tensor,
    width_of,
    with_widths,
)
from bayesprior.recipes.options import MadeFrom, plain_values
from bayesprior.recipes.places import recorded
from bayesprior.recipes.prior_options import PriorOptions
from bayesprior.recipes.runs import add_results, is_finished, open_run
from bayesprior.recipes.sessions import locked
from bayesprior.storage import PRIOR
from bayesprior.tasks.protocols import Forward, pair_forward
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout
from bayesprior.weights.selection import Selection

__all__ = ["law_numbers", "make_prior", "shaped"]


class PriorCall(PriorOptions, kw_only=False):
    """Arguments of `make_prior`."""

    source: GaussianWeights
    """The source posterior; `GaussianWeights.rename` it first if names differ."""
    target: nn.Module
    """The network to come."""
    _: KW_ONLY
    head: Selection | None = None
    """The target's new head, never taken from the source: a prefix, glob patterns, several of
    them, or a predicate of the name. Every other trainable parameter of the target must be in the
    source with its shape."""
    data: DataBundle | None = None
    """The target task, where it is at hand: the target must take it and answer with its classes,
    and its training inputs tell the size of the head's."""
    forward: Forward = pair_forward
    """Calls the network on a batch of the data; by keywords where these are dictionaries."""
    made_from: MadeFrom | None = None
    """The names and files that source and target were made from, for the folder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.source, "fitted", "source")
        check_network(self.target, "target")
        if self.data is not None:
            object.__setattr__(self, "data", as_bundle(check(self.data, "data", "data")))
            object.__setattr__(self, "forward", forward_for(self.data, self.forward))
            check_fit(self.target, self.data, self.forward)


@recipe(PriorCall)
def make_prior(call: PriorCall) -> GaussianWeights:
    """Turn a source posterior into a prior for another network: marginal, rescale, extend.

    Returns
    -------
    GaussianWeights
        Its provenance lists what was transferred, what is new and what was left behind, the width
        that was asked for and the one that it has. Also in ``out/prior.safetensors``.

    Raises
    ------
    LayoutMismatchError
        If a parameter outside the head is not in the source, with the nearest name.
    ConfigError
        If the width does not fit the type of the weights, or ``out`` is another run's; then
        nothing is written.
    """
    source = call.source
    layout = ParameterLayout.from_module(call.target)
    new = head_names(layout.names, call.head, "target")
    kept = _covered(source, layout, new)
    law = source.marginal(kept)
    head = head_of(call, law, new) if new else None
    width, own = law.rms_std, rms_by_tensor(law)
    law = shaped(law.jitter(call.jitter), call.shape, call.rank)
    law.statistics = {}  # they stay with the source
    ratio, asked = call.rms_ratio, (call.rms_std, call.cov_scale, call.rms_ratio)
    if asked == (None, None, None):
        if call.data is not None and call.shape != "zero":
            ratio = width_of(call, source.marginal(kept), new)
        if ratio is None and source.provenance.get("role") == "checkpoint":
            raise ConfigError(
                "a checkpoint has no width of its own: give rms_std, or data and one linear head"
            )
    if ratio is not None:
        law = with_widths(law, {name: ratio * rms for name, rms in own.items()})
    elif call.rms_std is not None or call.cov_scale is not None or call.jitter:
        own_width = width * math.sqrt(call.cov_scale or 1.0)
        law = law.rescale(rms_std=own_width if call.rms_std is None else call.rms_std)
    norms = _scales_of_norms(call.target, new)
    if head is not None:
        # A noise is a factor, not one of the head's weights: its width is not theirs.
        noise = {name for name in new if name.rpartition(".")[2] == "log_variance"}
        law = law.extend(layout.select(set(layout.names) - noise), std=head.std, loc=norms)
        law = law.extend(layout, std=WEIGHT_STD)
        law = head.put_on(law, call.target)
    law.provenance = source.provenance | {
        "role": "prior",
        "shape": call.shape,
        "rms_std_asked": call.rms_std,
        "cov_scale_asked": call.cov_scale,
        "rms_std": law.rms_std,
        "rms_ratio": ratio,
        **(HeadChoice(None).told() if head is None else head.told()),
        "jitter_share": call.jitter / (1 + call.jitter),
        "transferred": 0 if call.shape == "zero" else len(kept),
        "new": sorted(new),
        "left_behind": [n for n in source.layout.names if n not in set(kept)],
    }
    _check_width(law)
    if call.out is None:
        return law
    with locked(call.out):
        options = {**plain_values(call), "head": described(call.head)}
        digests = {"source": prior_digest(source), "network": network_digest(call.target)}
        if call.data is not None and (
            ratio != call.rms_ratio or (head is not None and head.logit_std is not None)
        ):
            digests["data.train"] = data_digests(call.data)["train"]
        if norms:
            digests["norms"] = state_digest(norms)
        names = recorded(call.made_from, call.out)
        path = open_run(call.out, "make_prior", options, digests, names)
        if not is_finished(path, "make_prior"):
            law.save(path / PRIOR)
            add_results(path, "make-prior", law_numbers(law))
        return GaussianWeights.load(path / PRIOR)


def _scales_of_norms(module: nn.Module, new: set[str]) -> dict[str, Tensor]:
    """Return the scales of new norm layers as they stand.

    A prior around 0 would pull to a layer that lets nothing through.
    """
    norms = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
    scales = {
        f"{owner}.weight".removeprefix("."): layer.weight
        for owner, layer in module.named_modules()
        if isinstance(layer, norms)
    }
    return {name: scale.detach().clone() for name, scale in scales.items() if name in new}


def _covered(source: GaussianWeights, layout: ParameterLayout, new: set[str]) -> list[str]:
    """Return the source's parameters that go on; every one outside the head must be there."""
    outside = [name for name in layout.names if name not in new]
    if not outside:
        raise ConfigError("the head covers every parameter, so nothing comes from the source")
    diff = source.layout.compare(layout.select(outside))
    if unknown := (*diff.only_there, *diff.shape_conflicts):
        raise LayoutMismatchError(
            f"the source does not cover {len(unknown)} parameters of the target outside its head "
            f"(source against target: {diff.describe()}); rename() the source or name the head"
        )
    return list(diff.shared)


def _check_width(law: GaussianWeights) -> None:
    variance = law.variance
    least, most = variance.min().item(), variance.max().item()
    limits = torch.finfo(variance.dtype)
    if not limits.tiny <= least <= most <= limits.max / 2 or most > 1 / limits.tiny:
        raise ConfigError(
            f"the variances run from {least:.3g} to {most:.3g}, beyond what {variance.dtype} "
            "holds; choose rms_std and head_std nearer to 1"
        )


def shaped(prior: GaussianWeights, shape: str, rank: int | None = None) -> GaussianWeights:
    """Return the prior as "low-rank", "diagonal", "isotropic" or "zero", with equal trace.

    All but "zero", which is isotropic around zero, have the prior's mean.
    """
    shapes: dict[str, Callable[[], GaussianWeights]] = {
        "low-rank": lambda: prior if rank is None else prior.truncate(rank),
        "diagonal": prior.diagonal,
        "isotropic": prior.isotropic,
        "zero": lambda: GaussianWeights.point(
            prior.layout, torch.zeros_like(prior.loc), prior.rms_std, buffers=prior.buffers
        ),
    }
    if shape not in shapes:
        raise ConfigError(f"shape must be one of {', '.join(shapes)}, got {shape!r}")
    return shapes[shape]()


def law_numbers(law: GaussianWeights) -> dict[str, Any]:
    """Return width, rank, directions and blocks, as ``results.json`` holds them.

    ``effective_rank`` is 1 / sum p^2 over the directions' shares p of the factor's variance;
    ``drift_share`` is the largest share.
    """
    return {
        "num_weights": law.dim,
        "shared": law.shared_dim,
        "rank": law.rank,
        "rms_std": law.rms_std,
        "effective_rank": law.effective_rank,
        "drift_share": law.drift_share,
        "rms_std_by_block": law.block_rms_std(),
    }
