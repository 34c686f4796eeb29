"""Running statistics of normalization layers: frozen, or re-estimated by examples."""

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from bayesprior.errors import DataError
from bayesprior.inference.wrappers import modes_kept
from bayesprior.tasks.protocols import Batch, Forward, batch_size, pair_forward, to_device

__all__ = ["freeze_batch_norm", "is_leftover", "reestimate_", "running_layers"]


def running_layers(module: nn.Module) -> list[_NormBase]:
    """Return the layers with running statistics: BatchNorm, and InstanceNorm that tracks."""
    return [
        layer
        for layer in module.modules()
        if isinstance(layer, _NormBase) and layer.running_mean is not None
    ]


def freeze_batch_norm(module: nn.Module) -> None:
    """Put layers with running statistics into evaluation mode: those stay, weights learn."""
    for layer in running_layers(module):
        layer.eval()


def is_leftover(batch: Batch, largest: int) -> bool:
    """Whether a batch is one example that the batch size left over, and say so.

    It has no variance of its own: BatchNorm in training mode refuses it.

    Parameters
    ----------
    batch
        The batch at hand.
    largest
        Size of the largest batch before it; a loader of nothing but single examples has none.
    """
    if largest < 2 or batch_size(batch) != 1:
        return False
    _warn_of_skipping("last ")
    return True


def _warn_of_skipping(which: str) -> None:
    warnings.warn(
        f"a {which}batch of one example is skipped: BatchNorm in training mode has no variance "
        "there; choose a batch size that leaves more than 1",
        stacklevel=4,
    )


@torch.no_grad()
def reestimate_(
    module: nn.Module,
    loader: Iterable[Batch],
    forward: Forward | Callable[[nn.Module, Batch], Any] = pair_forward,
    *,
    max_examples: int | None = None,
) -> int:
    """Replace running statistics by their averages over a loader, in place.

    The average of the batches' means and variances weighs each batch by its examples
    (`torch.optim.swa_utils.update_bn` counts a last small batch like a full one). All other
    layers are in evaluation mode, so dropout is off. A first or last
    batch of one without a variance is skipped with a warning.

    Parameters
    ----------
    module
        At the weights in question; left in the modes in which it came.
    loader
        Batches, on any device.
    forward
        Runs the module on a batch; what it returns is not used.
    max_examples
        Stop once so many were seen, for loaders without end.

    Returns
    -------
    int
        How many examples were seen; 0 for a module without such layers, which is not run.

    Raises
    ------
    DataError
        If the loader gives no batch, or only one of one example, or statistics come out NaN.
    """
    layers = running_layers(module)
    if not layers:
        return 0
    device = next(module.parameters()).device
    momenta = [layer.momentum for layer in layers]
    seen = largest = 0
    with modes_kept(module):
        module.eval()
        for layer in layers:
            layer.reset_running_stats()
            layer.train()
        try:
            for batch in loader:
                if is_leftover(batch, largest):
                    continue
                size = batch_size(batch)
                seen, largest = seen + size, max(size, largest)
                for layer in layers:
                    layer.momentum = size / seen
                try:
                    forward(module, to_device(batch, device))
                except ValueError:
                    if seen > 1:
                        raise
                    _warn_of_skipping("first ")  # images alone have a variance, and pass
                    seen = 0
                    for layer in layers:
                        layer.reset_running_stats()
                if max_examples is not None and seen >= max_examples:
                    break
        finally:
            for layer, momentum in zip(layers, momenta, strict=True):
                layer.momentum = momentum
    if seen == 0:
        raise DataError("the loader gave no batch to estimate BatchNorm statistics from")
    found = torch.cat([v.flatten() for layer in layers if (v := layer.running_var) is not None])
    if not bool(found.isfinite().all()):
        raise DataError(
            "re-estimated running statistics are NaN or infinite: a batch of the loader holds such "
            "values, or the weights do"
        )
    return seen
