"""What a run of `StochasticGradientMCMC` checks and decides before it begins."""

from collections.abc import Iterable, Mapping, Sized
from typing import Any

import torch
from torch import Tensor, nn

from bayesprior.errors import ConfigError
from bayesprior.inference.protocols import Schedule
from bayesprior.inference.schedules import constant
from bayesprior.probabilistic.potential import PyroPotential
from bayesprior.tasks.protocols import Batch

__all__ = ["check_loader", "device_of", "first_batch", "plan_chain"]


def device_of(model: Any, given: str | torch.device | None) -> torch.device:
    """Return where a model computes: as given, where its parameters are, or the CPU."""
    own = model.parameters() if isinstance(model, nn.Module) else iter(())
    if given is not None:
        return torch.device(given)
    return next((parameter.device for parameter in own), torch.device("cpu"))


def first_batch(loader: Iterable[Batch]) -> Batch:
    """Return a loader's first batch; refuse what is one batch itself, or none."""
    tensors = isinstance(loader, tuple) and any(isinstance(part, Tensor) for part in loader)
    if tensors or isinstance(loader, Tensor | Mapping) or not isinstance(loader, Iterable):
        raise ConfigError(
            "data_loader must yield batches, such as a DataLoader, or [(x, y)] for all data at "
            f"once, got {type(loader).__name__}"
        )
    batch = next(iter(loader), None)
    if batch is None:
        raise ConfigError("the data loader yields no batch; [()] is one without arguments")
    return batch


def plan_chain(
    schedule: Schedule | None,
    num_steps: int | None,
    num_samples: int | None,
    warmup_steps: int,
    thin: int,
) -> tuple[Schedule, int, int]:
    """Return schedule, steps and draws of a chain."""
    if schedule is None:
        if not isinstance(num_samples, int) or num_samples < 1 or num_steps is not None:
            raise ConfigError(
                "run() needs num_samples (at least 1), or a schedule with its num_steps"
            )
        steps = warmup_steps + num_samples * thin
        return constant(burn_in=warmup_steps, thin=thin), steps, num_samples
    if num_steps is None or num_samples is not None or warmup_steps or thin != 1:
        raise ConfigError(
            "a schedule says itself which draws are kept: give it with num_steps, and without "
            "num_samples, warmup_steps and thin"
        )
    found = sum(schedule(step).collect for step in range(num_steps))
    if not found:
        raise ConfigError(f"the schedule keeps no draw in {num_steps} steps")
    return schedule, num_steps, found


def check_loader(loader: Iterable[Batch], potential: PyroPotential) -> None:
    """Refuse a loader that does not fit what the model's plates say of the data."""
    if not potential.is_subsampled and isinstance(loader, Sized) and len(loader) > 1:
        raise ConfigError(
            f"the loader has {len(loader)} batches but the model takes each one for all data; "
            "give its plate the whole size: pyro.plate(name, N, subsample_size=len(batch))"
        )
    dataset = getattr(loader, "dataset", None)
    batched = getattr(loader, "batch_sampler", None) is not None
    if batched and isinstance(dataset, Sized) and len(dataset) != potential.num_data:
        raise ConfigError(
            f"the loader's data set has {len(dataset)} examples but the model's plates say "
            f"num_data = {potential.num_data}"
        )
