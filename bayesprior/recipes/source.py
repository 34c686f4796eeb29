"""Fit a source posterior."""

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from bayesprior.inference.collectors.swag import SWAG
from bayesprior.inference.protocols import LossFn
from bayesprior.inference.schedules import chain, constant, cosine, scaled
from bayesprior.recipes.arguments import SourceCall, head_names
from bayesprior.recipes.calls import recipe
from bayesprior.recipes.head_priors import source_statistics
from bayesprior.recipes.prior import law_numbers
from bayesprior.recipes.training import Run
from bayesprior.version import __version__
from bayesprior.weights.gaussian import GaussianWeights

__all__ = ["fit_source"]


@recipe(SourceCall)
def fit_source(call: SourceCall) -> GaussianWeights:
    """Train on the source task, go on at a constant rate, and fit SWAG to the trajectory.

    Returns
    -------
    GaussianWeights
        Over the backbone; also in ``out/source.safetensors``.

    Raises
    ------
    ConfigError
        If ``rank`` is 0 or larger than the snapshots, or ``out`` is another run's, among others.
    DivergenceError
        If the loss or a weight becomes NaN or infinite.
    """
    with Run("fit_source", call, keeps=True) as run:
        if run.finished:
            return run.result()
        collector = SWAG(rank=call.rank, diagonal_only=call.diagonal_only)
        schedule = constant(thin=call.collect_every)
        if call.num_steps:
            descent = cosine(
                num_steps=call.num_steps,
                warm_up=min(50, call.num_steps // 10),
                final_factor=call.swag_lr_factor,
            )
            schedule = chain(descent, call.num_steps, scaled(schedule, call.swag_lr_factor))

        def optimizer(target: nn.Module) -> Optimizer:
            owned = call.loss_fn.parameters() if isinstance(call.loss_fn, nn.Module) else ()
            trained = {id(p): p for p in (*target.parameters(), *owned) if p.requires_grad}
            return torch.optim.SGD(
                list(trained.values()),
                lr=call.lr,
                momentum=call.momentum,
                weight_decay=call.weight_decay,
            )

        run.train(
            optimizer,
            schedule,
            call.num_steps + call.num_snapshots * call.collect_every,
            collectors=[collector],
            description="source fit",
        )
        source = collector.posterior(provenance=_provenance(call))
        source.buffers = run.buffers_at(source)
        head = head_names(source.layout.names, call.head, "network")
        source = source.marginal(n for n in source.layout.names if n not in head)
        _add_statistics(source, call, head)
        return run.finish(source, law_numbers(source))


def _add_statistics(source: GaussianWeights, call: SourceCall, head: set[str]) -> None:
    """Tell how the head's inputs vary, which is what a target's head can learn from."""
    found: Any = "the loss reads its batches itself"
    if call.loss_fn is None:
        found = source_statistics(call.module, source, call.data, head, call.forward)
    if isinstance(found, str):
        source.provenance["features"] = f"not looked at: {found}"
    else:
        kept = source.loc.dtype  # P x P numbers that were estimated: no need of double precision
        source.statistics = {name: tensor.to(kept) for name, tensor in found.items()}


def _provenance(call: SourceCall) -> dict[str, Any]:
    made_from = call.made_from
    checkpoint = {"checkpoint": made_from.weights} if made_from and made_from.weights else {}
    told = ("seed", "num_steps", "num_snapshots", "collect_every", "lr", "weight_decay")
    return {
        "role": "source posterior",
        "bayesprior": __version__,
        "model": type(call.module).__name__,
        **checkpoint,
        "data": call.data.name,
        "num_data": call.data.num_data,
        "objective": "negative log likelihood" if call.loss_fn is None else _name(call.loss_fn),
        **{name: getattr(call, name) for name in told},
    }


def _name(loss_fn: LossFn) -> str:
    """Return the factory's or the function's own name, such as "two_view"."""
    return getattr(loss_fn, "__qualname__", type(loss_fn).__name__).partition(".")[0]
