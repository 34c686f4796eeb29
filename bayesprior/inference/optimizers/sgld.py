"""Stochastic gradient Langevin dynamics."""

import math
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from bayesprior.errors import checked
from bayesprior.inference.optimizers.sampler import Sampler

__all__ = ["SGLD"]


@final
class SGLD(Sampler):
    """Stochastic gradient Langevin dynamics, as a torch optimizer.

    ``w <- w - lr g + sqrt(2 lr T / N) xi``, where g = ``.grad`` estimates ``grad U / N`` with the
    prior in it. The target is ``exp(-U / T)``: T = 1 is the posterior, T = 0 is
    ``torch.optim.SGD`` bit for bit.

    Parameters
    ----------
    params
        Parameters or groups of them; groups may carry their own ``lr``, ``temperature``,
        ``num_data`` and ``seed``.
    lr
        Step on the mean loss, as in SGD; the Langevin step size is ``lr / N``.
    num_data
        N, the size of the whole training set.
    temperature
        T.
    seed
        Of the noise; chains differ in nothing else.
    whiten
        Whether to run in units in which the prior is standard normal; see `Sampler`. It helps
        where the prior's widths differ more than what the data add to them.

    Raises
    ------
    ConfigError
        If ``lr`` or ``num_data`` is not positive, or ``temperature`` is negative.

    Notes
    -----
    On a Gaussian target, along a direction of curvature c of U / N, the stationary variance is
    exactly ``1 / (1 - lr c / 2)`` times too large. Minibatch gradients add their own noise, which
    vanishes against the injected one as lr -> 0.

    References
    ----------
    Welling and Teh, Bayesian Learning via Stochastic Gradient Langevin Dynamics, ICML 2011.

    Examples
    --------
    >>> module = torch.nn.Linear(2, 1)
    >>> sampler = SGLD(module.parameters(), lr=0.01, num_data=1000)
    >>> module(torch.ones(4, 2)).square().mean().backward()
    >>> sampler.step()
    >>> sampler.stability_limit(4.0)
    0.5
    """

    @checked(
        params="parameters", lr="number", num_data="integer", temperature="number", seed="integer"
    )
    def __init__(
        self,
        params: ParamsT,
        *,
        lr: float,
        num_data: int,
        temperature: float = 1.0,
        seed: int = 0,
        whiten: bool = False,
    ) -> None:
        defaults = {"lr": lr, "temperature": temperature, "num_data": num_data, "seed": seed}
        super().__init__(params, {**defaults, "whiten": whiten})

    def update_(
        self,
        group: dict[str, Any],
        params: list[Tensor],
        weights: list[Tensor],
        grads: list[Tensor],
    ) -> None:
        """Move a group's weights in place."""
        lr, noise = group["lr"], self.draw_noise(group, params)
        torch._foreach_add_(weights, grads, alpha=-lr)
        if noise is not None:
            std = math.sqrt(2 * lr * group["temperature"] / group["num_data"])
            torch._foreach_add_(weights, noise, alpha=std)

    def stability_limit(self, curvature: float, group: Mapping[str, Any] | None = None) -> float:
        """Return 2 / curvature, from which on the chain explodes; see `Sampler`."""
        return 2 / curvature if curvature > 0 else math.inf
