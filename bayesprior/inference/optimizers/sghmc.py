"""Stochastic gradient Hamiltonian Monte Carlo: underdamped Langevin dynamics."""

import math
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from bayesprior.errors import ConfigError, checked
from bayesprior.inference.optimizers.sampler import Sampler

__all__ = ["SGHMC"]


@final
class SGHMC(Sampler):
    """Stochastic gradient Hamiltonian Monte Carlo, as a torch optimizer.

    Langevin dynamics with a velocity, by the BAOAB integrator. A step is ::

        u <- u - sqrt(lr) g
        w <- w + sqrt(lr) u / 2
        u <- (1 - f) u + sqrt(f (2 - f) T / N) xi
        w <- w + sqrt(lr) u / 2

    with g = ``.grad`` an estimate of ``grad U / N`` and xi standard normals. In physical units
    (unit mass, potential U, step h) the momentum is ``sqrt(N) u``, and

    * ``lr = N h^2``, so ``lr g`` is the displacement that one kick causes, as in SGD;
    * ``friction`` f = 1 - exp(-gamma h) is the share of velocity that a step destroys, what 1 -
      momentum is in SGD. Over 1 / f steps the drift adds up to ``lr (1 / f - 1 / 2)`` a step.

    The stationary law of u is N(0, T / N) whatever ``lr`` is, so a schedule that changes ``lr``
    neither heats nor cools; initial velocities are drawn from it. (The textbook's
    v = sqrt(lr) u equals ours while ``lr`` is constant.)

    Parameters
    ----------
    params
        Parameters or groups of them; groups may carry their own ``lr``, ``friction``,
        ``temperature``, ``num_data`` and ``seed``.
    lr
        Step on the mean loss, as in SGD with momentum.
    num_data
        N, the size of the whole training set.
    friction
        f in (0, 1]. With f = 1 no velocity outlives a step.
    temperature
        T; the target is ``exp(-U / T)``.
    seed
        Of the noise; chains differ in nothing else.
    whiten
        Whether to run in units in which the prior is standard normal; see `Sampler`. It helps
        where the prior's widths differ more than what the data add to them.

    Raises
    ------
    ConfigError
        If ``lr`` or ``num_data`` is not positive, ``temperature`` is negative, or ``friction`` is
        not in (0, 1].

    Notes
    -----
    The two half kicks of BAOAB that meet at one position, hence share a gradient, are made as one.
    The step so begins and ends where BAOAB's positions are: with exact gradients of a Gaussian
    target the laws of weights and velocities are exact at any stable step. Minibatch gradients
    widen both: choose ``friction`` large or ``lr`` small.

    References
    ----------
    Chen, Fox and Guestrin, Stochastic Gradient Hamiltonian Monte Carlo, arXiv:1402.4102.
    Leimkuhler and Matthews, Rational Construction of Stochastic Numerical Methods for Molecular
    Sampling, arXiv:1203.5428 (BAOAB).
    Zhang et al., Cyclical Stochastic Gradient MCMC, arXiv:1902.03932 (the textbook's v).

    Examples
    --------
    >>> module = torch.nn.Linear(2, 1)
    >>> sampler = SGHMC(module.parameters(), lr=0.01, num_data=1000, friction=0.1)
    >>> module(torch.ones(4, 2)).square().mean().backward()
    >>> sampler.step()
    >>> sampler.stability_limit(4.0)
    1.0
    """

    @checked(
        params="parameters",
        lr="number",
        num_data="integer",
        friction="number",
        temperature="number",
        seed="integer",
    )
    def __init__(
        self,
        params: ParamsT,
        *,
        lr: float,
        num_data: int,
        friction: float,
        temperature: float = 1.0,
        seed: int = 0,
        whiten: bool = False,
    ) -> None:
        defaults = {"lr": lr, "temperature": temperature, "num_data": num_data, "seed": seed}
        super().__init__(params, {**defaults, "friction": friction, "whiten": whiten})

    def check_group(self, group: Mapping[str, Any]) -> None:
        """Raise `ConfigError` unless a group's values can work."""
        super().check_group(group)
        if not 0 < group["friction"] <= 1:
            raise ConfigError(
                "friction must be in (0, 1] (the share of velocity lost in a step, 1 - momentum), "
                f"got {group['friction']}"
            )

    def update_(
        self,
        group: dict[str, Any],
        params: list[Tensor],
        weights: list[Tensor],
        grads: list[Tensor],
    ) -> None:
        """Move a group's weights and velocities in place."""
        temperature, num_data = group["temperature"], group["num_data"]
        if new := [p for p in params if p not in self.state]:
            velocities = self.draw_noise(group, new) or [torch.zeros_like(p) for p in new]
            torch._foreach_mul_(velocities, math.sqrt(temperature / num_data))
            for p, velocity in zip(new, velocities, strict=True):
                self.state[p]["velocity"] = velocity
        velocities = [self.state[p]["velocity"] for p in params]
        noise = self.draw_noise(group, params)
        step, friction = math.sqrt(group["lr"]), group["friction"]
        torch._foreach_add_(velocities, grads, alpha=-step)
        torch._foreach_add_(weights, velocities, alpha=step / 2)
        torch._foreach_mul_(velocities, 1 - friction)
        if noise is not None:
            std = math.sqrt(friction * (2 - friction) * temperature / num_data)
            torch._foreach_add_(velocities, noise, alpha=std)
        torch._foreach_add_(weights, velocities, alpha=step / 2)

    def stability_limit(self, curvature: float, group: Mapping[str, Any] | None = None) -> float:
        """Return 4 / curvature, from which on the chain explodes; see `Sampler`."""
        return 4 / curvature if curvature > 0 else math.inf

    def kinetic_temperature(self, group: Mapping[str, Any] | None = None) -> float | None:
        """Return the mean of N u^2 over the weights, whose expectation is T; None before a step.

        Exact on Gaussian targets. A value above T means that minibatch noise or too large a step
        heats the chain.
        """
        total, count = 0.0, 0
        for some in self.param_groups if group is None else (group,):
            velocities = [self.state[p]["velocity"] for p in some["params"] if p in self.state]
            if velocities:
                norms = torch.stack(torch._foreach_norm(velocities)).double()
                total += some["num_data"] * float(norms.square().sum())
                count += sum(v.numel() for v in velocities)
        return total / count if count else None
