"""The largest curvature of a loss, which bounds the steps of descent and sampling."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from bayesprior.errors import DataError
from bayesprior.inference.generators import generator
from bayesprior.inference.protocols import Batch, LossFn
from bayesprior.inference.wrappers import modes_kept
from bayesprior.tasks.protocols import batch_size, to_device
from bayesprior.weights.gaussian import GaussianWeights

__all__ = ["largest_curvature"]


def largest_curvature(
    module: nn.Module,
    loss_fn: LossFn,
    batches: Iterable[Batch],
    law: GaussianWeights,
    *,
    num_products: int = 8,
    step: float = 0.1,
    seed: int = 0,
) -> float:
    r"""Return the largest curvature of the mean loss, in the standard normal coordinates of a law.

    The spectral norm of :math:`R^T H R`, H the Hessian at the module's weights and
    :math:`R R^T = \Sigma`, by power iteration. Products are differences of gradients, so layers
    need no second derivative.

    Parameters
    ----------
    module
        At the weights in question; run in evaluation mode, and left as it was.
    loss_fn
        As `bayesprior.inference.engine.train` takes it.
    batches
        Examples; read ``num_products`` + 1 times.
    law
        Of the module's trainable weights.
    num_products
        Iterations; the norm is approached from below.
    step
        Length of the difference, in standard deviations.
    seed
        Of the direction that it starts from.

    Raises
    ------
    DataError
        If there are no batches.

    Examples
    --------
    >>> from bayesprior.weights.layout import ParameterLayout
    >>> module = nn.Linear(2, 1, bias=False)
    >>> layout = ParameterLayout.from_module(module)
    >>> law = GaussianWeights.point(layout, torch.zeros(2), std=0.5)
    >>> loss = lambda net, batch: (net(batch).square().mean() / 2, {})
    >>> round(largest_curvature(module, loss, [torch.tensor([[3.0, 4.0]])], law), 3)  # 25 / 4
    6.25
    """
    layout, batches = law.layout, list(batches)
    if not batches:
        raise DataError("the loader gave no batches")
    parameters = layout.parameters(module)
    device, kept = parameters[0].device, layout.flatten(module)

    def gradient() -> Tensor:
        total, count = torch.zeros_like(kept), 0
        for batch in batches:
            loss, _ = loss_fn(module, to_device(batch, device))
            parts = torch.autograd.grad(loss, parameters, materialize_grads=True)
            total.add_(layout.flatten_tensors(parts), alpha=batch_size(batch))
            count += batch_size(batch)
        return law.gradient_in_z(total / count)

    start = generator("cpu", seed, "curvature")
    direction = torch.randn(kept.shape, generator=start).to(kept)
    norm = direction.norm()
    with modes_kept(module):
        module.eval()
        try:
            here = gradient()
            for _ in range(num_products):
                move = law.displacement(direction * (step / norm))
                layout.load_(module, kept + move)
                direction = (gradient() - here) / step
                norm = direction.norm()
                if not norm > 0:
                    break
        finally:
            layout.load_(module, kept)
    return float(norm)
