"""Fit a source posterior."""

from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from bayesprior.data.bundle import DataBundle
from bayesprior.errors import ConfigError
from bayesprior.inference.collectors.swag import SWAG
from bayesprior.inference.protocols import LossFn
from bayesprior.inference.schedules import chain, constant, cosine, scaled
from bayesprior.recipes.arguments import TrainCall
from bayesprior.recipes.calls import recipe
from bayesprior.recipes.checks import as_data, check_function, check_network, head_names
from bayesprior.recipes.digests import described
from bayesprior.recipes.numbers import law_numbers
from bayesprior.recipes.options import SourceOptions
from bayesprior.recipes.training import Run
from bayesprior.storage import SOURCE
from bayesprior.tasks.protocols import pair_forward
from bayesprior.version import __version__
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout
from bayesprior.weights.selection import Selection

__all__ = ["fit_source"]


@dataclass(frozen=True, eq=False)
class SourceCall(TrainCall, SourceOptions):
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
    prefix, glob patterns, several of them, or a predicate of the name."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_network(self.module)
        object.__setattr__(self, "data", as_data(self.data))
        if self.loss_fn is not None:
            check_function(self.loss_fn, "loss_fn", "module, batch")
            if self.likelihood is not None or self.forward is not pair_forward:
                raise ConfigError(
                    "a loss_fn calls the network itself; give it, or likelihood and forward"
                )
        names = ParameterLayout.from_module(self.module).names
        if len(head_names(names, self.head, "network")) == len(names):
            raise ConfigError(f"head = {self.head!r} covers every parameter; nothing would remain")

    def loss(self) -> LossFn:
        """Return the mean loss per example."""
        return super().loss() if self.loss_fn is None else self.loss_fn

    def extras(self) -> dict[str, Any]:
        """Return what decides the result beside the options, as JSON primitives."""
        own = {"head": described(self.head), "loss_fn": described(self.loss_fn)}
        return own if self.loss_fn is not None else {**super().extras(), **own}


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
    module = call.module
    with Run("fit_source", call, module, call.data, keeps=True) as run:
        if run.finished:
            run.restore()
            return GaussianWeights.load(run.folder / SOURCE)
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
            call.loss(),
            optimizer,
            schedule,
            call.num_steps + call.num_snapshots * call.collect_every,
            batch_size=call.batch_size,
            collectors=[collector],
            batch_norm=call.batch_norm,
            description="source fit",
        )
        buffers = {n: b.detach().clone() for n, b in module.named_buffers()}
        source = collector.posterior(buffers=buffers, provenance=_provenance(call))
        head = head_names(source.layout.names, call.head, "network")
        source = source.marginal(n for n in source.layout.names if n not in head)
        run.finish(lambda folder: source.save(folder / SOURCE), law_numbers(source))
    return source


def _provenance(call: SourceCall) -> dict[str, Any]:
    made_from = call.made_from
    checkpoint = {"checkpoint": made_from.weights} if made_from and made_from.weights else {}
    return {
        "role": "source posterior",
        "bayesprior": __version__,
        "model": type(call.module).__name__,
        **checkpoint,
        "data": call.data.name,
        "num_data": call.data.num_data,
        "objective": "negative log likelihood" if call.loss_fn is None else _name(call.loss_fn),
        "seed": call.seed,
        "num_steps": call.num_steps,
        "num_snapshots": call.num_snapshots,
        "collect_every": call.collect_every,
        "lr": call.lr,
        "weight_decay": call.weight_decay,
    }


def _name(loss_fn: LossFn) -> str:
    """Return the factory's or the function's own name, such as "two_view"."""
    return getattr(loss_fn, "__qualname__", type(loss_fn).__name__).partition(".")[0]
