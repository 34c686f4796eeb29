"""What samplers and `ImplicitPriorSGD` share: checked groups, and a step group by group."""

import abc
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from bayesprior.errors import ConfigError, nearest_name

__all__ = ["GroupwiseOptimizer"]

# Written by torch and its schedulers, or a label.
_FOREIGN = {"params", "param_names", "name", "initial_lr"}


class GroupwiseOptimizer(Optimizer, abc.ABC):
    """Abstract base: what a group sets is checked, and `update_` moves one group at a time."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, its values checked like those of the constructor."""
        super().add_param_group(param_group)
        try:
            self.check_group(self.param_groups[-1])
        except ConfigError:
            self.param_groups.pop()
            raise

    def check_group(self, group: Mapping[str, Any]) -> None:
        """Raise `ConfigError` if a group's values cannot work, or it sets what would be ignored.

        A weight decay of 0, as libraries write into the groups of biases, says nothing and passes.
        """
        for key in sorted(group.keys() - self.defaults.keys() - _FOREIGN):
            advice = nearest_name(key, self.defaults) or "; leave it out"
            if key == "weight_decay":
                if not group[key]:
                    continue
                advice = "; the prior takes its place: leave it out, or choose the prior's width"
            raise ConfigError(
                f"a parameter group sets {key} = {group[key]!r}, which {type(self).__name__} "
                f"would ignore{advice}"
            )
        if not 0 < group["lr"] < math.inf:
            raise ConfigError(f"lr must be positive and finite, got {group['lr']}")

    @abc.abstractmethod
    def update_(
        self,
        group: dict[str, Any],
        params: list[Tensor],
        weights: list[Tensor],
        grads: list[Tensor],
    ) -> None:
        """Move the weights of those parameters of a group that have a gradient, in place.

        ``params`` are the keys of ``state``; ``weights`` are they themselves, or what
        a subclass moves in their place.
        """

    def move_(self, grads: Mapping[Tensor, Tensor], weights: Mapping[Tensor, Tensor]) -> None:
        """Call `update_` for every group; parameters without a weight of their own are it."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p in grads]
            if params:
                moved = [weights.get(p, p) for p in params]
                self.update_(group, params, moved, [grads[p] for p in params])

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step from the gradients in ``.grad``.

        Parameters
        ----------
        closure
            Evaluates the loss and its gradient first, as for any torch optimizer.

        Returns
        -------
        Any
            What the closure returned; None without one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        held = (p for group in self.param_groups for p in group["params"])
        self.move_({p: p.grad for p in held if p.grad is not None}, {})
        return loss
