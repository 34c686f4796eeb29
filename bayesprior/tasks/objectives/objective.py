"""What a loss is that owns something: a module, trained and kept with the network."""

from typing import Any

from torch import Tensor, nn

from bayesprior.inference.protocols import StepEvent
from bayesprior.tasks.protocols import Batch

__all__ = ["Objective"]


class Objective(nn.Module):
    """A loss that is a module: a projector, a momentum copy, a queue or a center are its own.

    `bayesprior.inference.engine.train` takes it as a loss function, and trains, moves, checkpoints
    and resumes what it owns together with the network. Prior and collectors speak of the network
    alone; `bayesprior.inference.collectors.Watching` shows a collector a momentum copy instead.

    Notes
    -----
    What must survive a resume belongs into parameters and buffers, as everywhere in torch. What
    no gradient may reach, such as a momentum copy, is frozen with ``requires_grad_(False)``; what
    is to be trained must be in a group of the optimizer.

    Examples
    --------
    >>> import torch
    >>> class Center(Objective):
    ...     '''Pulls the outputs to a point that is learned too.'''
    ...     def __init__(self, size):
    ...         super().__init__()
    ...         self.center = nn.Parameter(torch.zeros(size))
    ...     def forward(self, module, batch):
    ...         return (module(batch) - self.center).square().mean(), {}
    >>> loss, extras = Center(2)(nn.Linear(3, 2), torch.randn(4, 3))
    """

    def forward(self, module: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Any]]:
        """Return the mean loss per example, and named scalars worth watching."""
        raise NotImplementedError

    def after_step(self, event: StepEvent) -> None:
        """Do what follows every step of the optimizer, such as moving a momentum copy."""
