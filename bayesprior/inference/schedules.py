"""Schedules: pure functions of the step.

A schedule multiplies every parameter group's own ``lr`` and ``temperature``
(`bayesprior.inference.protocols.Phase`), so resuming needs only the step counter.
"""

import math

from bayesprior.errors import ConfigError
from bayesprior.inference.protocols import Phase, Schedule

__all__ = ["chain", "constant", "cosine", "cyclical", "scaled", "spread"]


def _check(name: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"{name} must be at least {least}, got {value}")


def _check_factor(final: float) -> None:
    if not 0.0 <= final <= 1.0:
        raise ConfigError(f"final_factor must be in [0, 1], got {final}")


def _half_cosine(progress: float, final: float) -> float:
    return final + (1 - final) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


def constant(*, burn_in: int = 0, thin: int = 1) -> Schedule:
    """Keep the learning rate; collect every ``thin``-th step after ``burn_in``.

    Parameters
    ----------
    burn_in
        Number of first steps that are not collected.
    thin
        Steps between two collected ones.

    Examples
    --------
    >>> schedule = constant(burn_in=10, thin=5)
    >>> [step for step in range(22) if schedule(step).collect]
    [14, 19]
    """
    _check("burn_in", burn_in, 0)
    _check("thin", thin, 1)

    def schedule(step: int) -> Phase:
        done = step + 1 - burn_in
        return Phase(1.0, 1.0, done > 0 and done % thin == 0)

    return schedule


def cosine(*, num_steps: int, warm_up: int = 0, final_factor: float = 0.0) -> Schedule:
    """Rise linearly over ``warm_up`` steps, then fall along half a cosine; collect the last step.

    Step t of T (0-based), after the warm-up, has factor
    ``f + (1 - f) (1 + cos(pi (t - warm_up) / (T - warm_up))) / 2``.

    Parameters
    ----------
    num_steps
        T, the length of the whole run. Later steps keep ``final_factor``.
    warm_up
        Steps of linear rise; the first has factor ``1 / warm_up``.
    final_factor
        f, the factor approached at the end.

    References
    ----------
    Loshchilov and Hutter, SGDR, arXiv:1608.03983.

    Examples
    --------
    >>> [round(cosine(num_steps=4)(t).lr_factor, 3) for t in range(4)]
    [1.0, 0.854, 0.5, 0.146]
    """
    _check_factor(final_factor)
    _check("num_steps", num_steps, 1)
    _check("warm_up", warm_up, 0)
    if warm_up >= num_steps:
        raise ConfigError(f"warm_up = {warm_up} leaves nothing of num_steps = {num_steps}")

    def schedule(step: int) -> Phase:
        if step < warm_up:
            factor = (step + 1) / warm_up
        else:
            factor = _half_cosine((step - warm_up) / (num_steps - warm_up), final_factor)
        return Phase(factor, 1.0, step == num_steps - 1)

    return schedule


def cyclical(
    *,
    num_steps: int,
    num_cycles: int,
    exploration: float = 0.5,
    burn_in: int | None = None,
    draws_per_cycle: int = 3,
    final_factor: float = 0.0,
) -> Schedule:
    """Run cosine cycles that first explore at temperature 0, then sample.

    Parameters
    ----------
    num_steps
        Length of the run; must hold ``num_cycles`` cycles of at least ``draws_per_cycle``
        sampling steps. Steps beyond the last whole cycle belong to it.
    num_cycles
        Number of cycles M; each has ``num_steps // num_cycles`` steps.
    exploration
        Share of each cycle spent at temperature 0 (no noise, nothing collected), in whole steps.
    burn_in
        The same as a number of steps, in place of ``exploration``.
    draws_per_cycle
        Collected steps, evenly spread over the sampling phase, the last one at the cycle's end.
    final_factor
        The learning-rate factor approached at a cycle's end; with 0 (as published) the last
        draws of a cycle barely move, with a positive value they decorrelate faster.

    References
    ----------
    Zhang et al., Cyclical Stochastic Gradient MCMC, arXiv:1902.03932, equation 1.

    Examples
    --------
    >>> schedule = cyclical(num_steps=20, num_cycles=2, draws_per_cycle=2)
    >>> [t for t in range(20) if schedule(t).collect]
    [6, 9, 16, 19]
    >>> [schedule(t).temperature_factor for t in (0, 4, 5, 10, 15)]
    [0.0, 0.0, 1.0, 0.0, 1.0]
    """
    _check_factor(final_factor)
    _check("num_cycles", num_cycles, 1)
    _check("draws_per_cycle", draws_per_cycle, 1)
    _check("burn_in", burn_in or 0, 0)
    if not 0.0 <= exploration < 1.0:
        raise ConfigError(f"exploration must be in [0, 1), got {exploration}")
    length = num_steps // num_cycles
    # A share that was computed as steps / length must give these very steps again.
    explore = math.floor(length * exploration + 1e-9) if burn_in is None else burn_in
    sampling = length - explore
    if sampling < draws_per_cycle:
        raise ConfigError(
            f"{num_steps} steps in {num_cycles} cycles leave {max(sampling, 0)} sampling steps a "
            f"cycle, fewer than draws_per_cycle = {draws_per_cycle}; use more steps"
        )
    collected = {
        explore + (k + 1) * sampling // draws_per_cycle - 1 for k in range(draws_per_cycle)
    }

    def schedule(step: int) -> Phase:
        position = step - min(step // length, num_cycles - 1) * length
        factor = _half_cosine(position / length, final_factor)
        return Phase(factor, float(position >= explore), position in collected)

    return schedule


def chain(first: Schedule, switch: int, second: Schedule) -> Schedule:
    """Follow ``first`` for ``switch`` steps without collecting, then ``second`` from its step 0.

    Examples
    --------
    >>> schedule = chain(cosine(num_steps=4, final_factor=0.5), 4, constant(thin=2))
    >>> [schedule(t).collect for t in range(8)]
    [False, False, False, False, False, True, False, True]
    """
    _check("switch", switch, 0)

    def schedule(step: int) -> Phase:
        if step < switch:
            return first(step)._replace(collect=False)
        return second(step - switch)

    return schedule


def scaled(schedule: Schedule, factor: float) -> Schedule:
    """Multiply a schedule's learning-rate factor.

    Examples
    --------
    >>> scaled(constant(), 0.5)(0).lr_factor
    0.5
    """

    def scaled_schedule(step: int) -> Phase:
        phase = schedule(step)
        return phase._replace(lr_factor=phase.lr_factor * factor)

    return scaled_schedule


def spread(schedule: Schedule, count: int, num_steps: int) -> Schedule:
    """Collect ``count`` steps at equal intervals, the last of ``num_steps`` among them.

    Examples
    --------
    >>> schedule = spread(cosine(num_steps=10), 4, 10)
    >>> [step for step in range(10) if schedule(step).collect]
    [2, 4, 7, 9]
    """

    def with_collected(step: int) -> Phase:
        collect = (step + 1) * count // num_steps > step * count // num_steps
        return schedule(step)._replace(collect=collect)

    return with_collected
