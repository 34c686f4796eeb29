"""What every recipe shares: device, folder, seed, and one call of the engine."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn
from torch.optim import Optimizer

from bayesprior.data.bundle import DataBundle
from bayesprior.errors import ConfigError
from bayesprior.inference.engine import train
from bayesprior.inference.protocols import Collector, LossFn, Schedule
from bayesprior.storage import CHECKPOINT
from bayesprior.weights.gaussian import GaussianWeights

__all__ = ["Run", "initialize_", "is_under", "parameter_groups", "pick_device"]


def pick_device(device: str = "auto") -> torch.device:
    """Return the device of a name; ``auto`` is CUDA where there is one.

    Raises
    ------
    ConfigError
        If ``cuda`` is asked for and absent.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device {device!r} was asked for but torch sees no CUDA device")
    try:
        return torch.device(device)
    except RuntimeError:
        raise ConfigError(f"unknown device {device!r}; use auto, cpu or cuda") from None


@torch.no_grad()
def initialize_(module: nn.Module, prior: GaussianWeights) -> None:
    """Put a network at its prior's mean: the shared weights and BatchNorm buffers, in place.

    New weights (the head) keep the module's own initialization.
    """
    shared = [n for n in prior.layout.names if prior.layout.slice(n).start < prior.shared_dim]
    start = prior.marginal(shared)
    start.layout.load_(module, start.loc.to(next(module.parameters())))
    buffers = dict(module.named_buffers())
    for name, value in prior.buffers.items():
        if name in buffers and buffers[name].shape == value.shape:
            buffers[name].copy_(value)


class Run:
    """What every recipe shares: device, folder, seed, and one call of the engine."""

    def __init__(
        self,
        module: nn.Module,
        data: DataBundle,
        *,
        out: str | Path | None = None,
        seed: int = 0,
        device: str = "auto",
        fabric: Fabric | None = None,
        progress: bool = True,
        checkpoint_every: int = 1000,
    ) -> None:
        self.data, self.seed, self.fabric, self.progress = data, seed, fabric, progress
        self.out = Path(out) if out is not None else None
        self.device = fabric.device if fabric is not None else pick_device(device)
        self.checkpoint_every = checkpoint_every
        self.is_main = fabric is None or fabric.is_global_zero
        module.to(self.device)

    def start(self, module: nn.Module, prior: GaussianWeights, *, fresh: bool = False) -> None:
        """Go to the prior's mean; ``fresh`` draws a new initialization of the new weights."""
        if fresh:
            new = prior.layout.names[len(prior.layout.names) - _num_new(prior) :]
            owners = {name.rpartition(".")[0] for name in new}
            with _seeded(self.seed):
                for owner in sorted(owners):
                    layer = module.get_submodule(owner)
                    reset = getattr(layer, "reset_parameters", None)
                    if callable(reset):
                        reset()
        initialize_(module, prior)

    def train(
        self,
        module: nn.Module,
        loss_fn: LossFn,
        optimizer: Callable[[nn.Module], Optimizer],
        schedule: Schedule,
        num_steps: int,
        *,
        batch_size: int,
        prior: GaussianWeights | None = None,
        collectors: Sequence[Collector] = (),
        batch_norm: str,
        description: str,
    ) -> None:
        """Run the engine on the training split, resuming if the folder has a checkpoint."""
        rank = self.fabric.global_rank if self.fabric is not None else 0
        world = self.fabric.world_size if self.fabric is not None else 1
        loader = self.data.loader(
            "train", batch_size, shuffle=True, seed=self.seed, rank=rank, world_size=world
        )
        with _seeded(self.seed):
            train(
                module,
                loss_fn,
                loader,
                optimizer(module),
                schedule,
                num_steps,
                num_data=self.data.num_data,
                prior=prior,
                collectors=collectors,
                fabric=self.fabric,
                batch_norm=batch_norm,
                run_dir=self.out,
                resume=self.out is not None and (self.out / CHECKPOINT).exists(),
                checkpoint_every=self.checkpoint_every,
                progress=self.progress,
                description=description,
            )


def _num_new(prior: GaussianWeights) -> int:
    return sum(prior.layout.slice(n).start >= prior.shared_dim for n in prior.layout.names)


def parameter_groups(
    module: nn.Module,
    prior: GaussianWeights,
    lr: float,
    head_lr: float | None,
    temperature: float | None = None,
    head_temperature: float | None = None,
) -> list[dict[str, Any]]:
    """Split the weights into shared and new ones, each with its step size and temperature."""
    parameters = prior.layout.parameters(module)
    split = len(parameters) - _num_new(prior)
    hot = temperature is not None
    groups: list[dict[str, Any]] = [{"params": parameters[:split], "lr": lr}]
    if parameters[split:]:
        groups.append({"params": parameters[split:], "lr": lr if head_lr is None else head_lr})
    for group, own in zip(groups, (temperature, head_temperature), strict=False):
        if hot:
            group["temperature"] = temperature if own is None else own
    return [group for group in groups if group["params"]]


def is_under(name: str, prefix: str) -> bool:
    """Whether a parameter name is ``prefix`` or lies under it."""
    return name == prefix or name.startswith(prefix + ".")


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch inside the block and put its global state back afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
