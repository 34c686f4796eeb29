"""What every collector promises."""

import io
import pickle
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from bayesprior.inference.protocols import Collector, Phase, StepEvent
from bayesprior.weights.layout import ParameterLayout

__all__ = ["check_collector"]


def check_collector(
    make: Callable[[], Any], *, result: Callable[[Any], torch.Tensor], num_steps: int = 12
) -> None:
    """Run the contract of `bayesprior.inference.protocols.Collector`.

    Parameters
    ----------
    make
        Makes a fresh collector; one that writes files must write where the last one did.
    result
        What was learned, as one tensor, such as a posterior's mean or its draws.
    num_steps
        Steps of the trajectory that it is shown.

    Raises
    ------
    AssertionError
        Naming the first promise that is broken.

    Examples
    --------
    >>> from bayesprior.inference.collectors import SWAG
    >>> check_collector(lambda: SWAG(rank=3), result=lambda swag: swag.posterior().variance)
    """
    trajectory = torch.randn(num_steps, 8, generator=torch.Generator().manual_seed(0))
    module = nn.Linear(3, 2)
    layout = ParameterLayout.from_module(module)

    def show(collector: Collector, steps: range) -> None:
        for step in steps:
            layout.load_(module, trajectory[step])
            before = layout.flatten(module)
            collector.update(StepEvent(step + 1, Phase(1.0, 1.0, True), module, layout))
            assert torch.equal(before, layout.flatten(module)), "update must not move the weights"

    half = num_steps // 2
    parts = make()
    assert isinstance(parts, Collector), "a method of the Collector protocol is missing"
    show(parts, range(half))
    file = io.BytesIO()
    torch.save(parts.state_dict(), file)
    show(parts, range(half, num_steps))  # work that a kill makes undone
    whole = result(parts).clone()
    file.seek(0)
    resumed = make()
    try:
        resumed.load_state_dict(torch.load(file, weights_only=True))
    except pickle.UnpicklingError as error:
        raise AssertionError("state_dict must hold tensors and primitives only") from error
    show(resumed, range(half, num_steps))
    assert torch.equal(result(resumed), whole), "a resumed collector must learn the same"
