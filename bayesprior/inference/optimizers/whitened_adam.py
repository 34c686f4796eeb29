"""Adam in the standard normal coordinates of a law of the weights."""

import math
from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bayesprior.errors import ConfigError, checked
from bayesprior.weights.gaussian import GaussianWeights

__all__ = ["WhitenedAdam"]

_EPSILON = 1e-10


@final
class WhitenedAdam(Optimizer):
    r"""Adam on z where w = loc + R z, :math:`R R^T = \Sigma` of a law: steps in units of its width.

    A coordinate moves by at most about ``lr`` standard deviations a step, whatever the size of
    tensors and gradients. With a cosine over S steps it can drift by lr S / 2 in all, so
    lr = 2 B / S is a *budget* of B. No z is stored: ``g_z = R^T g``, and ``w <- w + R dz``.

    Parameters
    ----------
    module
        Its trainable parameters are those of ``units``.
    units
        The law whose coordinates are meant. Its density plays no part: a prior enters as it does
        for every optimizer, coupled, so that the fixed point is the exact MAP.
    lr
        Of the weights that the source covers, in standard deviations.
    head_lr
        Of the new ones; ``lr`` by default.
    betas
        Of the averages of gradient and squared gradient.

    Raises
    ------
    ConfigError
        If a rate is not positive, or a beta not in [0, 1).
    LayoutMismatchError
        If the module lacks a parameter of the law.

    References
    ----------
    Kingma and Ba, Adam, arXiv:1412.6980.

    Examples
    --------
    >>> from bayesprior.weights.layout import ParameterLayout
    >>> module = nn.Linear(1, 1, bias=False)
    >>> layout = ParameterLayout.from_module(module)
    >>> units = GaussianWeights.point(layout, layout.flatten(module), std=0.5)
    >>> optimizer = WhitenedAdam(module, units, lr=0.1)
    >>> module.weight.grad = torch.full((1, 1), 7.0)
    >>> optimizer.step()
    >>> round((units.loc - module.weight.detach()[0]).item(), 6)  # 0.1 of 0.5
    0.05
    """

    @checked(module="network", units="gaussian", lr="number", head_lr="number")
    def __init__(
        self,
        module: nn.Module,
        units: GaussianWeights,
        *,
        lr: float,
        head_lr: float | None = None,
        betas: tuple[float, float] = (0.9, 0.99),
    ) -> None:
        parameters, new = units.layout.parameters(module), set(units.new_names)
        parts: dict[bool, list[nn.Parameter]] = {False: [], True: []}
        for name, parameter in zip(units.layout.names, parameters, strict=True):
            parts[name in new].append(parameter)
        rates = (lr, lr if head_lr is None else head_lr)
        for rate in rates:
            if not 0 < rate < math.inf:
                raise ConfigError(f"lr must be positive and finite, got {rate}")
        if not all(0 <= beta < 1 for beta in betas):
            raise ConfigError(f"betas must be in [0, 1), got {betas}")
        groups = [
            {"name": label, "params": parts[is_new], "lr": rate, "step": 0}
            for label, is_new, rate in zip(("backbone", "head"), parts, rates, strict=True)
            if parts[is_new]
        ]
        self._parameters = parameters
        self._units = units.to(parameters[0].device, parameters[0].dtype)
        super().__init__(groups, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step from the gradients in ``.grad``; a missing one counts as zero."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        layout = self._units.layout
        given = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters]
        gradient = self._units.gradient_in_z(layout.flatten_tensors(given))
        views = dict(zip(self._parameters, layout.unflatten(gradient).values(), strict=True))
        moves: dict[Tensor, Tensor] = {}
        for group in self.param_groups:
            group["step"] += 1
            first, second = group["betas"]
            for p in group["params"]:
                state, g = self.state[p], views[p]
                if not state:
                    state["mean"], state["square"] = torch.zeros_like(g), torch.zeros_like(g)
                state["mean"].mul_(first).add_(g, alpha=1 - first)
                state["square"].mul_(second).addcmul_(g, g, value=1 - second)
                root = (state["square"] / (1 - second ** group["step"])).sqrt_().add_(_EPSILON)
                rate = -group["lr"] / (1 - first ** group["step"])
                moves[p] = (state["mean"] / root).mul_(rate)
        z = layout.flatten_tensors(moves[p] for p in self._parameters)
        steps = layout.unflatten(self._units.displacement(z)).values()
        for p, move in zip(self._parameters, steps, strict=True):
            p.add_(move)
        return loss
