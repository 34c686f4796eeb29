"""What a loss is that owns something: a module, trained and kept with the network."""

from typing import Any

from torch import Tensor, nn

from bayesprior.tasks.protocols import Batch

__all__ = ["Objective"]


class Objective(nn.Module):
    """A loss that is a module: a projector, a momentum copy, a queue or a center are its own.

    Given to `bayesprior.inference.engine.train` in place of a loss function, it is trained, moved
    to the device, written to the checkpoint and resumed together with the network. Prior,
    collectors and recipes speak of ``network`` alone.

    Parameters
    ----------
    network
        What is learned for use elsewhere; kept under this name, with its parameters' names as
        they are without the objective.

    Notes
    -----
    What must survive a resume belongs into parameters and buffers, as everywhere in torch. What
    no gradient may reach, such as a momentum copy, is frozen with ``requires_grad_(False)``.

    Examples
    --------
    >>> import torch
    >>> class Center(Objective):
    ...     '''Pulls the outputs to a point that is learned too.'''
    ...     def __init__(self, network, size):
    ...         super().__init__(network)
    ...         self.center = nn.Parameter(torch.zeros(size))
    ...     def forward(self, batch):
    ...         return (self.network(batch) - self.center).square().mean(), {}
    >>> objective = Center(nn.Linear(3, 2), 2)
    >>> sorted(name for name, _ in objective.named_parameters())
    ['center', 'network.bias', 'network.weight']
    """

    network: nn.Module

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Any]]:
        """Return the mean loss per example, and named scalars worth watching."""
        raise NotImplementedError

    def after_step(self, step: int) -> None:
        """Do what follows every step of the optimizer, such as moving a momentum copy.

        Parameters
        ----------
        step
            Number of completed steps (1 after the first).
        """
