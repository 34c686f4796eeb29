"""BatchNorm's statistics under given weights, averaged over data."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from bayesprior.errors import DataError
from bayesprior.tasks.protocols import Batch, Forward, inputs_forward, pair_forward, to_device

__all__ = ["reestimate_batch_norm_"]


@torch.no_grad()
def reestimate_batch_norm_(
    module: nn.Module, batches: Iterable[Batch], *, forward: Forward = pair_forward
) -> None:
    """Set BatchNorm's statistics to the averages over batches, weighted by examples, in place.

    As `torch.optim.swa_utils.update_bn`, with two differences: every example counts alike,
    however small the last batch is, and all other layers are in evaluation mode (no dropout).

    Parameters
    ----------
    module
        Its BatchNorm buffers are written to; its training flags are left as they are.
    batches
        Training batches, moved to where the module is. A tensor is taken as inputs alone.
    forward
        Calls the module on a batch; the outputs are not used.

    Raises
    ------
    DataError
        If there are no batches, or each holds a single value for each channel.

    Notes
    -----
    One value for each channel (one example of a network without a map) has no variance. A layer
    that meets it uses the averages so far and does not count it.
    """
    kind = nn.modules.batchnorm._BatchNorm
    layers = [m for m in module.modules() if isinstance(m, kind) and m.track_running_stats]
    flags = [(m, m.training) for m in module.modules()]
    momenta = [layer.momentum for layer in layers]
    counts = dict.fromkeys(layers, 0)

    def before(layer: Any, inputs: tuple[Tensor, ...]) -> None:
        (values,) = inputs
        several = values.numel() > values.shape[1]
        layer.train(several)
        if several:
            counts[layer] += len(values)
            layer.momentum = len(values) / counts[layer]

    hooks = [layer.register_forward_pre_hook(before) for layer in layers]
    device = next(module.parameters()).device
    empty = True
    try:
        module.eval()
        for layer in layers:
            layer.reset_running_stats()
        for batch in batches:
            call = inputs_forward if isinstance(batch, Tensor) else forward
            call(module, to_device(batch, device))
            empty = False
    finally:
        for hook in hooks:
            hook.remove()
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for part, flag in flags:
            part.training = flag
    if empty:
        raise DataError("bn_loader gave no batches to estimate BatchNorm statistics from")
    if layers and not any(counts.values()):
        raise DataError("every batch of bn_loader is too small for BatchNorm: use a larger one")
