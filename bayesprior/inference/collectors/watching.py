"""Any collector on other weights than those that are trained."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from bayesprior.errors import ConfigError
from bayesprior.inference.protocols import Collector, StepEvent
from bayesprior.weights.layout import ParameterLayout
from bayesprior.weights.selection import Selection, select_names

__all__ = ["Watching"]


class Watching:
    """Shows a collector a selection of weights, frozen ones too, or a map of the trained ones.

    Parameters
    ----------
    collector
        What learns: `SWAG`, `DrawWriter` or any other.
    module
        Whose weights and buffers, with names as in this module; None is the trained module. A part
        of the objective, such as a momentum copy of the backbone, is named like the backbone.
    select
        Which parameters of the module; all of them by default.
    map
        From the trained weights, shape (D,), to those to collect, such as whitened ones to the
        network's; ``layout`` says what they are. Takes the place of ``select``.
    layout
        Names and shapes of what ``map`` returns; None is the trained layout.

    Raises
    ------
    ConfigError
        If ``map`` and ``select`` are both given, or neither they nor ``module`` is.

    Examples
    --------
    >>> from bayesprior.inference.collectors import SWAG
    >>> from bayesprior.inference.protocols import Phase
    >>> trained, momentum = nn.Linear(2, 1), nn.Linear(2, 1).requires_grad_(False)
    >>> swag = SWAG(rank=2)
    >>> watching = Watching(swag, module=momentum, select="weight")
    >>> layout = ParameterLayout.from_module(trained)
    >>> for step in (1, 2):
    ...     momentum.weight.fill_(step).shape
    ...     watching.update(StepEvent(step, Phase(1.0, 1.0, True), trained, layout))
    torch.Size([1, 2])
    torch.Size([1, 2])
    >>> swag.posterior().loc
    tensor([1.5000, 1.5000])
    """

    def __init__(
        self,
        collector: Collector,
        *,
        module: nn.Module | None = None,
        select: Selection | None = None,
        map: Callable[[Tensor], Tensor] | None = None,
        layout: ParameterLayout | None = None,
    ) -> None:
        if map is not None and select is not None:
            raise ConfigError("map= takes all trained weights: leave out select=")
        if map is None and select is None and module is None:
            raise ConfigError("say what to watch: module=, select= or map=")
        self.collector, self.module, self.select = collector, module, select
        self.map, self.layout = map, layout

    def update(self, event: StepEvent) -> None:
        """Show the collector the weights in question after a collected step."""
        module = event.module if self.module is None else self.module
        layout, read = self.layout or event.layout, None
        if self.map is not None:
            read = functools.partial(_mapped, self.map, event)
        else:
            named = dict(module.named_parameters())
            names = named if self.select is None else select_names(named, self.select)
            layout = ParameterLayout(tuple(names), tuple(tuple(named[n].shape) for n in names))
        seen = dataclasses.replace(event, module=module, layout=layout, read=read)
        self.collector.update(seen)

    def state_dict(self) -> dict[str, Any]:
        """Return the collector's."""
        return self.collector.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.collector.load_state_dict(state)


def _mapped(change: Callable[[Tensor], Tensor], event: StepEvent) -> Tensor:
    return change(event.weights())
