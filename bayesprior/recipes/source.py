"""Fit a source posterior."""

from typing import Any, cast

import torch
from torch import nn
from torch.optim import Optimizer

from bayesprior.data import DataBundle
from bayesprior.data.transforms import PixelTransform
from bayesprior.inference.collectors.swag import SWAG
from bayesprior.inference.collectors.watching import Watching
from bayesprior.inference.protocols import Collector
from bayesprior.inference.schedules import chain, constant, cosine, scaled
from bayesprior.recipes.arguments import SourceCall, head_names
from bayesprior.recipes.calls import recipe
from bayesprior.recipes.features import FeatureQuality, features_of_views
from bayesprior.recipes.head_priors import source_statistics
from bayesprior.recipes.objectives import asks_for_accuracy, told_of
from bayesprior.recipes.prior import law_numbers
from bayesprior.recipes.training import Run
from bayesprior.tasks.objectives import Momentum
from bayesprior.version import __version__
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout

__all__ = ["add_statistics", "fit_source", "normalization_of"]


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
        watched: Collector = collector
        if call.collect_momentum:
            assert isinstance(run.loss, Momentum)  # as the options were checked
            trained = set(ParameterLayout.from_module(call.module).names)
            watched = Watching(collector, module=run.loss.network, select=trained.__contains__)
        schedule = constant(thin=call.collect_every)
        if call.num_steps:
            usual = min(50, call.num_steps // 10)
            descent = cosine(
                num_steps=call.num_steps,
                warm_up=usual if call.warm_up is None else call.warm_up,
                final_factor=call.swag_lr_factor,
            )
            schedule = chain(descent, call.num_steps, scaled(schedule, call.swag_lr_factor))

        def optimizer(target: nn.Module) -> Optimizer:
            owned = call.loss_fn.parameters() if isinstance(call.loss_fn, nn.Module) else ()
            trained = {id(p): p for p in (*target.parameters(), *owned) if p.requires_grad}
            every: dict[str, Any] = {"lr": call.lr, "weight_decay": call.weight_decay}
            if call.optimizer == "adamw":
                return torch.optim.AdamW(trained.values(), betas=(call.momentum, 0.999), **every)
            return torch.optim.SGD(trained.values(), momentum=call.momentum, **every)

        quality = None
        if asks_for_accuracy(call, call.data):
            quality = FeatureQuality(run, cast(str | None, call.head))
        run.train(
            optimizer,
            schedule,
            call.num_steps + call.num_snapshots * call.collect_every,
            collectors=[watched],
            description="source fit",
        )
        source = collector.posterior(provenance=_provenance(call))
        source.buffers = run.buffers_at(source)
        head = head_names(source.layout.names, call.head, "network")
        source = source.marginal(n for n in source.layout.names if n not in head)
        if call.objective == "supervised":
            add_statistics(source, call, head)
        else:
            source.statistics = features_of_views(run, source, cast(str | None, call.head))
        found = {} if quality is None else {"accuracy": quality.compared_with(source)}
        return run.finish(source, {**law_numbers(source), **found})


def add_statistics(source: GaussianWeights, call: Any, head: set[str]) -> None:
    """Tell how the head's inputs vary, which is what a target's head can learn from.

    Parameters
    ----------
    source
        Gains statistics, or in its provenance why there are none.
    call
        Of `fit_source` or `bayesprior.recipes.collecting.collect`.
    head
        Parameters of the source's head.
    """
    found: Any = "the loss reads its batches itself"
    if getattr(call, "loss_fn", None) is None:
        found = source_statistics(call.module, source, call.data, head, call.forward)
    if isinstance(found, str):
        source.provenance["features"] = f"not looked at: {found}"
    else:
        kept = source.loc.dtype  # P x P numbers that were estimated: no need of double precision
        source.statistics = {name: tensor.to(kept) for name, tensor in found.items()}


def _provenance(call: SourceCall) -> dict[str, Any]:
    made_from = call.made_from
    checkpoint = {"checkpoint": made_from.weights} if made_from and made_from.weights else {}
    told = ("seed", "num_steps", "num_snapshots", "collect_every", "optimizer", "lr")
    is_law = call.loss_fn is None
    return {
        "role": "source posterior" if is_law else "source pseudo-posterior",
        "bayesprior": __version__,
        "model": type(call.module).__name__,
        **checkpoint,
        "data": call.data.name,
        "num_data": call.data.num_data,
        **normalization_of(call.data),
        "objective": _objective(call),
        **({} if is_law else {"law": "pseudo-posterior: exp(-N loss) is no likelihood"}),
        **(told_of(call) if call.objective != "supervised" else {}),
        **{name: getattr(call, name) for name in (*told, "weight_decay")},
    }


def normalization_of(data: DataBundle) -> dict[str, Any]:
    """Return how images reach the network, for a provenance; empty if the data do not tell."""
    transform = data.train.transform
    if not isinstance(transform, PixelTransform):
        return {}
    mean, std = list(transform.mean), list(transform.std)
    return {"normalization": {"mean": mean, "std": std, "size": transform.size}}


def _objective(call: SourceCall) -> str:
    """Return the objective's name, or that of the loss's factory, such as "two_view"."""
    if call.objective != "supervised":
        return call.objective
    if call.loss_fn is None:
        return "negative log likelihood"
    return getattr(call.loss_fn, "__qualname__", type(call.loss_fn).__name__).partition(".")[0]
