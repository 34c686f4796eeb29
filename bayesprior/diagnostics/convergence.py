"""Did the sampler work? Convergence where it means something, and the temperature it runs at.

R-hat, ESS and MCSE are computed in function space (held-out log likelihood, probabilities at
probe points) and on prior coordinates, never on raw weights, which need not converge for the
predictions to.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import arviz_stats as azs
import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import f as f_law
from scipy.stats import norm
from torch import Tensor

from bayesprior.diagnostics.intervals import Interval
from bayesprior.diagnostics.verdicts import Verdict, worst
from bayesprior.weights.gaussian import GaussianWeights

__all__ = [
    "ChainSummary",
    "TemperatureCheck",
    "block_distances",
    "check_temperature",
    "convergence_verdict",
    "summarize_chains",
    "temperature_verdict",
]

MIN_DRAWS = 4
"""What ArviZ needs of a chain."""
QUESTION = "Did the sampler work?"


@dataclass(frozen=True)
class ChainSummary:
    """Convergence of one quantity, or of many values of one kind.

    Attributes
    ----------
    name
        What was followed.
    num_values
        How many of its values vary and were looked at.
    rhat
        Largest rank-normalized split R-hat; of one chain, between its halves.
    rhat_limit
        What R-hat must exceed to be a sign of trouble: 1.1, or where draws are few the value that
        independent draws would exceed one time in a thousand.
    share_high
        Share of the values beyond the limit.
    ess_bulk, ess_tail
        Smallest effective sample size of the center and of the 5 % tails.
    mcse
        Largest Monte Carlo standard error of the mean, in standard deviations of the value.
    """

    name: str
    num_values: int
    rhat: float
    rhat_limit: float
    share_high: float
    ess_bulk: float
    ess_tail: float
    mcse: float


@dataclass(frozen=True)
class TemperatureCheck:
    """A measured temperature against the claimed one.

    Attributes
    ----------
    name
        ``kinetic`` or ``configurational``.
    measured
        Mean with its interval, from the autocorrelation-aware standard error.
    claimed
        What the sampler was set to.
    """

    name: str
    measured: Interval
    claimed: float

    @property
    def ratio(self) -> float:
        """Measured over claimed temperature; infinite where 0 is claimed and more measured."""
        if self.claimed:
            return self.measured.estimate / self.claimed
        return np.inf if self.measured.estimate else 1.0

    def agrees(self, tolerance: float = 0.1) -> bool:
        """Whether the claim lies in the interval or within a relative ``tolerance``."""
        inside = self.measured.low <= self.claimed <= self.measured.high
        return bool(inside or abs(self.ratio - 1) <= tolerance)


def summarize_chains(
    quantities: Mapping[str, Float[np.ndarray, "chain draw *v"]], *, max_values: int = 200
) -> list[ChainSummary]:
    """Return R-hat, ESS and MCSE of named quantities.

    Parameters
    ----------
    quantities
        Arrays (chain, draw) or (chain, draw, ...); values that never vary are left out.
    max_values
        Of a quantity with more values, this many evenly spaced ones are looked at.

    Returns
    -------
    list of ChainSummary
        Without the quantities of which nothing can be said: fewer than 4 draws a chain, no value
        that varies, or one that is not finite.

    References
    ----------
    A. Vehtari et al., Rank-normalization, folding, and localization, arXiv:1903.08008

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> [s] = summarize_chains({"x": rng.normal(size=(4, 500))})
    >>> s.rhat < 1.01, 1500 < s.ess_bulk < 2500
    (True, True)
    """
    out = []
    for name, values in quantities.items():
        flat = np.asarray(values, dtype=float).reshape(*values.shape[:2], prod(values.shape[2:]))
        if flat.shape[1] < MIN_DRAWS or not np.isfinite(flat).all():
            continue
        flat = flat[..., np.ptp(flat, axis=(0, 1)) > 0]
        if not flat.shape[-1]:
            continue
        picks = np.linspace(0, flat.shape[-1] - 1, min(max_values, flat.shape[-1])).astype(int)
        flat = flat[..., picks]
        rhat, limit = np.atleast_1d(_rhat(flat)), max(1.1, _chance_rhat(*flat.shape[:2]))
        bulk, tail = azs.ess(flat, method="bulk"), azs.ess(flat, method="tail", prob=(0.05, 0.95))
        error = azs.mcse(flat, method="mean") / flat.std(axis=(0, 1))
        out.append(
            ChainSummary(
                name,
                flat.shape[-1],
                float(rhat.max()),
                limit,
                float((rhat > limit).mean()),
                float(np.min(bulk)),
                float(np.min(tail)),
                float(np.max(error)),
            )
        )
    return out


def _rhat(values: Float[np.ndarray, "chain draw V"]) -> Float[np.ndarray, " V"]:
    """R-hat per value; one chain is compared with itself, half against half."""
    if values.shape[0] == 1:
        half = values.shape[1] // 2
        if half < MIN_DRAWS:
            return np.full(values.shape[-1], np.nan)
        values = np.concatenate([values[:, :half], values[:, -half:]])
    with np.errstate(divide="ignore", invalid="ignore"):
        rhat = np.asarray(azs.rhat(values))
    # chains that are constant but differ: nothing mixes
    stuck = (np.ptp(values, axis=1).max(axis=0) == 0) & (np.ptp(values, axis=(0, 1)) > 0)
    return np.where(stuck, np.inf, rhat)


def _chance_rhat(num_chains: int, num_draws: int) -> float:
    """Return the split R-hat that independent normal draws exceed one time in a thousand.

    Of m half-chains of n draws, R-hat^2 = (n - 1 + F) / n with F of m - 1 and m (n - 1) degrees
    of freedom.
    """
    parts = max(2 * num_chains, 4)
    length = num_chains * num_draws // parts
    if length < 2:
        return np.inf
    ratio = f_law.ppf(0.999, parts - 1, parts * (length - 1))
    return float(np.sqrt((length - 1 + ratio) / length))


def convergence_verdict(
    summaries: list[ChainSummary],
    *,
    num_chains: int,
    num_draws: int,
    independent: bool = False,
    min_ess: float = 100.0,
) -> Verdict:
    """Say in plain words whether the chains can be relied on.

    Parameters
    ----------
    summaries
        From `summarize_chains`.
    num_chains, num_draws
        Chains and draws in each.
    independent
        Draws made directly from a fitted distribution (SWAG), with nothing to converge.
    min_ess
        Effective draws wanted of the worst quantity.

    Returns
    -------
    Verdict
        ``fail`` if an R-hat says that chains (or a chain's halves) disagree: beyond its limit for
        a single quantity or for more than 5 % of a family; ``warn`` if there are too few effective
        draws or the chains are still drifting (1.05); ``unknown`` if there is nothing to judge.
    """
    if num_chains * num_draws == 1:
        return Verdict(QUESTION, "unknown", "There was no sampler", "The posterior is one point.")
    if independent:
        reason = f"{num_chains * num_draws} draws come straight from a fitted Gaussian."
        return Verdict(QUESTION, "ok", "Nothing to converge", reason)
    if not summaries:
        reason = (
            f"{num_chains} chain(s) of {num_draws} draw(s): R-hat and effective sample size need "
            f"{MIN_DRAWS} draws a chain and finite values."
        )
        return Verdict(QUESTION, "warn", "Too few draws", reason)
    split = "chains" if num_chains > 1 else "halves of the one chain"
    high = [
        s for s in summaries if s.rhat > s.rhat_limit and (s.num_values < 20 or s.share_high > 0.05)
    ]
    if high:
        bad = max(high, key=lambda s: s.rhat)
        reason = (
            f"The {split} disagree on {bad.name}: R-hat is {bad.rhat:.2f} and should be near 1."
        )
        return Verdict(QUESTION, "fail", "Not converged, run longer", reason)
    least = min(summaries, key=lambda s: s.ess_bulk)
    numbers = (
        f"The {num_chains * num_draws} draws are worth {least.ess_bulk:.0f} independent ones "
        f"for {least.name}"
    )
    if least.ess_bulk < min_ess:
        reason = f"{numbers}; {min_ess:.0f} are wanted."
        return Verdict(QUESTION, "warn", "Too few draws", reason)
    top = max(summaries, key=lambda s: s.rhat if s.num_values < 20 else 0.0)
    if top.num_values < 20 and top.rhat > 1.05:
        reason = f"The {split} still drift in {top.name}: R-hat is {top.rhat:.2f}."
        return Verdict(QUESTION, "warn", "Nearly converged", reason)
    one = "" if num_chains > 1 else " One chain cannot show a mode that it never visits."
    return Verdict(QUESTION, "ok", "Yes, the chains agree", f"{numbers}.{one}")


def check_temperature(
    name: str, values: Float[np.ndarray, "chain draw"], claimed: float, *, level: float = 0.95
) -> TemperatureCheck | None:
    """Measure a sampler's temperature; None if there are fewer than 4 finite values a chain.

    Parameters
    ----------
    name
        ``kinetic`` or ``configurational``.
    values
        Its estimate at each recorded step, shape (chain, step).
    claimed
        The temperature the sampler was set to.
    level
        Coverage of the interval.

    Notes
    -----
    At stationarity the expectation of ``w . grad U(w) / D`` is T (configurational, by parts),
    and that of the squared momentum per degree of freedom too (kinetic). The first sees a
    sampler whose step is too large or whose gradient noise heats it; the second need not.
    """
    if values.shape[1] < MIN_DRAWS or not np.isfinite(values).all():
        return None
    mean = float(values.mean())
    error = float(azs.mcse(values, method="mean")) if np.ptp(values) > 0 else 0.0
    half = norm.ppf((1 + level) / 2) * error
    return TemperatureCheck(name, Interval(mean, mean - half, mean + half), float(claimed))


def temperature_verdict(checks: list[TemperatureCheck]) -> Verdict:
    """Say whether the sampler ran at the temperature it claims."""
    if not checks:
        reason = "No temperature was recorded over at least 4 steps."
        return Verdict(QUESTION, "unknown", "Temperature unknown", reason)
    verdicts = []
    for check in checks:
        claim = f"temperature {check.claimed:.3g}"
        m = check.measured
        reason = (
            f"Its {check.name} temperature is {m.estimate:.4g} (95 % interval {m.low:.4g} to "
            f"{m.high:.4g}), it claims {check.claimed:.4g}."
        )
        if check.agrees():
            verdicts.append(Verdict(QUESTION, "ok", f"Yes, at {claim}", reason))
            continue
        way = "Too hot, lower the learning rate" if check.ratio > 1 else "Too cold, run longer"
        level = "fail" if check.ratio > 2 or check.ratio < 0.5 else "warn"
        verdicts.append(Verdict(QUESTION, level, way, reason))  # type: ignore[arg-type]
    return worst(QUESTION, verdicts)


@torch.no_grad()
def block_distances(prior: GaussianWeights, weights: Float[Tensor, " D"]) -> dict[str, float]:
    """Return per parameter how far weights lie from the prior mean, in prior standard deviations.

    The root mean square of (w - loc) / std over the parameter's entries: near 1 for a draw from
    the prior, near 0 where nothing moved.

    Parameters
    ----------
    prior
        The prior over the D weights.
    weights
        One draw, shape (D,).
    """
    standardized = (weights - prior.loc).double().square() / prior.variance.double()
    views = prior.layout.unflatten(standardized)
    return {name: float(view.mean().sqrt()) for name, view in views.items()}
