"""Fit a source posterior."""

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from bayesprior.data.bundle import DataBundle
from bayesprior.errors import ConfigError
from bayesprior.inference.collectors.swag import SWAG
from bayesprior.inference.protocols import LossFn
from bayesprior.inference.schedules import chain, constant, cosine, scaled
from bayesprior.recipes.training import Run, is_under
from bayesprior.tasks.likelihoods import Categorical
from bayesprior.tasks.objectives import supervised
from bayesprior.version import __version__
from bayesprior.weights.gaussian import GaussianWeights

__all__ = ["fit_source"]


def fit_source(
    module: nn.Module,
    data: DataBundle,
    *,
    loss_fn: LossFn | None = None,
    head: str | None = None,
    rank: int = 20,
    num_steps: int = 2000,
    num_snapshots: int = 40,
    collect_every: int = 10,
    batch_size: int = 128,
    lr: float = 0.05,
    swag_lr_factor: float = 0.5,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    batch_norm: str = "train",
    diagonal_only: bool = False,
    **options: Any,
) -> GaussianWeights:
    """Train on the source task, go on at a constant rate, and fit SWAG to the trajectory.

    Parameters
    ----------
    module
        Backbone and source head; trained in place.
    data
        The source task.
    loss_fn
        Mean loss per example; the negative log likelihood of classes by default. With a
        self-supervised loss (`bayesprior.tasks.objectives.two_view`) the result is a
        pseudo-posterior, and the provenance says so.
    head
        Prefix of the source head's parameters, which do not transfer; left out of the result.
    rank
        K, the number of deviations kept; at most ``num_snapshots``.
    num_steps
        Steps of training before the snapshots (0 continues from a trained checkpoint).
    num_snapshots, collect_every
        Snapshots taken and steps between two of them.
    batch_size, lr, momentum, weight_decay
        Of SGD, with a cosine from ``lr`` to ``swag_lr_factor * lr`` after a short warm-up.
    swag_lr_factor
        Factor on ``lr`` while snapshots are taken.
    batch_norm
        "train" or "frozen".
    diagonal_only
        Keep no deviations.
    **options
        ``out``, ``seed``, ``device``, ``fabric``, ``progress``, ``checkpoint_every``.

    Returns
    -------
    GaussianWeights
        Over the backbone; also in ``out/source.safetensors``.

    Raises
    ------
    ConfigError
        If ``rank`` is 0 or larger than the snapshots, among others.
    DivergenceError
        If the loss or a weight becomes NaN or infinite.
    """
    if not diagonal_only and not 1 <= rank <= num_snapshots:
        raise ConfigError(f"rank must be between 1 and num_snapshots = {num_snapshots}, got {rank}")
    if lr <= 0 or swag_lr_factor <= 0:
        raise ConfigError(f"lr and swag_lr_factor must be positive, got {lr} and {swag_lr_factor}")
    run = Run(module, data, **options)
    collector = SWAG(rank=rank, diagonal_only=diagonal_only)
    total = num_steps + num_snapshots * collect_every
    warm_up = min(50, num_steps // 10)
    schedule = constant(thin=collect_every)
    if num_steps:
        descent = cosine(num_steps=num_steps, warm_up=warm_up, final_factor=swag_lr_factor)
        schedule = chain(descent, num_steps, scaled(schedule, swag_lr_factor))

    def optimizer(target: nn.Module) -> Optimizer:
        trainable = [p for p in target.parameters() if p.requires_grad]
        try:
            return torch.optim.SGD(trainable, lr=lr, momentum=momentum, weight_decay=weight_decay)
        except ValueError as error:
            raise ConfigError(f"SGD of the source fit: {error}") from error

    run.train(
        module,
        loss_fn or supervised(Categorical()),
        optimizer,
        schedule,
        total,
        batch_size=batch_size,
        collectors=[collector],
        batch_norm=batch_norm,
        description="source fit",
    )
    provenance = {
        "role": "source posterior",
        "bayesprior": __version__,
        "model": type(module).__name__,
        "data": data.name,
        "num_data": data.num_data,
        "objective": "negative log likelihood" if loss_fn is None else _name(loss_fn),
        "seed": run.seed,
        "num_steps": num_steps,
        "num_snapshots": num_snapshots,
        "collect_every": collect_every,
        "lr": lr,
        "weight_decay": weight_decay,
    }
    buffers = {n: b.detach().clone() for n, b in module.named_buffers()}
    source = collector.posterior(buffers=buffers, provenance=provenance)
    if head is not None:
        source = source.marginal(n for n in source.layout.names if not is_under(n, head))
    if run.out is not None and run.is_main:
        source.save(run.out / "source.safetensors")
    return source


def _name(loss_fn: LossFn) -> str:
    """Return the factory's or the function's own name, such as "two_view"."""
    return getattr(loss_fn, "__qualname__", type(loss_fn).__name__).partition(".")[0]
