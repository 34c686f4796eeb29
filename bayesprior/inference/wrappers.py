"""What stands around modules and optimizers: compiled, data-parallel, prepared; their modes."""

import contextlib
import sys
from collections.abc import Iterator
from typing import cast

from torch import Tensor, nn
from torch.optim import Optimizer

from bayesprior.errors import ConfigError

__all__ = [
    "layer_inputs",
    "modes_kept",
    "only_rows",
    "plain_module",
    "plain_optimizer",
    "refuse_shards",
]


def plain_optimizer(optimizer: Optimizer) -> Optimizer:
    """Return the optimizer inside a wrapper, such as Fabric's or accelerate's."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    return optimizer


def plain_module(module: nn.Module) -> nn.Module:
    """Return the module inside ``torch.compile``'s and the data-parallel wrappers."""
    parallel = (nn.parallel.DistributedDataParallel, nn.DataParallel)
    while True:
        if isinstance(inner := getattr(module, "_orig_mod", None), nn.Module):
            module = inner
        elif isinstance(module, parallel) or hasattr(module, "_forward_module"):  # Fabric's
            module = cast(nn.Module, module.module)
        else:
            return module


def refuse_shards(module: nn.Module) -> None:
    """Raise `ConfigError` if FSDP, the first or the second, holds the parameters in pieces."""
    fsdp = getattr(sys.modules.get("torch.distributed.fsdp"), "FullyShardedDataParallel", None)
    sharded = fsdp is not None and any(isinstance(part, fsdp) for part in module.modules())
    if sharded or any(hasattr(p, "device_mesh") for p in module.parameters()):
        raise ConfigError(
            "the module's parameters are sharded (FSDP), and the weights are needed whole: use "
            "DDP or one device"
        )


@contextlib.contextmanager
def modes_kept(*modules: nn.Module) -> Iterator[None]:
    """Put the training flag of every layer back at the end of the block."""
    flags = [(layer, layer.training) for module in modules for layer in module.modules()]
    try:
        yield
    finally:
        for layer, flag in flags:
            layer.training = flag


@contextlib.contextmanager
def layer_inputs(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what a layer is given by the calls inside the block."""
    given: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    try:
        yield given
    finally:
        handle.remove()


def only_rows(given: list[Tensor], head: str | None) -> Tensor:
    """Return the one batch of features (B, P) that a head was given, averaged over positions.

    Raises
    ------
    ConfigError
        If the head was called otherwise than once, with one row an example.
    """
    rows = [part.flatten(2).mean(2) if part.dim() == 4 else part for part in given]
    if len(rows) != 1 or rows[0].dim() != 2:
        raise ConfigError(
            f"the head {head!r} must be given one row an example, once; it was called {len(rows)} "
            "times" + (f", with {tuple(rows[0].shape)}" if rows else "")
        )
    return rows[0]
