"""Parameter groups that say more than their optimizer knows."""

from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer

from bayesprior.errors import ConfigError, nearest_name

__all__ = ["check_keys"]

# Written by torch, its schedulers and the training loop, or a label.
_FOREIGN = {"params", "param_names", "name", "initial_lr", "initial_temperature"}


def check_keys(group: Mapping[str, Any], optimizer: Optimizer) -> None:
    """Raise `ConfigError` if a group sets an option that the optimizer would ignore.

    A weight decay of 0, as libraries write into the groups of biases, says nothing and passes.
    """
    for key in sorted(group.keys() - optimizer.defaults.keys() - _FOREIGN):
        if key == "weight_decay" and not group[key]:
            continue
        advice = nearest_name(key, optimizer.defaults) or "; leave it out"
        if key == "weight_decay":
            advice = "; the prior takes its place: leave it out, or choose the prior's width"
        raise ConfigError(
            f"a parameter group sets {key} = {group[key]!r}, which {type(optimizer).__name__} "
            f"would ignore{advice}"
        )
