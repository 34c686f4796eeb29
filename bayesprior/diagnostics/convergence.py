"""Convergence where it means something, and the temperature that a sampler runs at.

R-hat, ESS and MCSE are computed in function space (held-out log likelihood, probabilities at
probe points) and on prior coordinates, never on raw weights, which need not converge for the
predictions to.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import arviz_stats as azs
import numpy as np
import xarray as xr
from jaxtyping import Float
from scipy.optimize import brentq
from scipy.stats import f as f_law
from scipy.stats import ncf, sem
from scipy.stats import t as student

from bayesprior.diagnostics.intervals import LEVEL, Interval

__all__ = [
    "ChainSummary",
    "TemperatureCheck",
    "chain_summaries",
    "check_temperature",
    "claimed_temperatures",
    "summarize_chains",
    "temperature_checks",
]

MIN_DRAWS = 4
"""What ArviZ needs of a chain."""


@dataclass(frozen=True)
class ChainSummary:
    """Convergence of one quantity, or of a family of values of one kind.

    Of a family every number is that of its worst twentieth: the 95 % quantile of R-hat and of the
    Monte Carlo error, the 5 % quantile of the effective sample sizes (of up to 20 values, of the
    very worst). The worst of hundreds would be an alarm by chance.

    Attributes
    ----------
    name
        What was followed.
    num_values
        How many of its values vary and were looked at.
    num_chains
        Chains that were compared.
    rhat
        Rank-normalized split R-hat; of one chain, between its parts.
    rhat_chance
        Value that chains which agree, of as few effective draws, exceed one time in a thousand.
    rhat_bound
        Upper end of the 95 % interval of the R-hat that ever longer chains would show.
    ess_bulk, ess_tail
        Effective sample size of the center and of the 5 % tails.
    mcse
        Monte Carlo standard error of the mean, in standard deviations of the value.
    """

    name: str
    num_values: int
    num_chains: int
    rhat: float
    rhat_chance: float
    rhat_bound: float
    ess_bulk: float
    ess_tail: float
    mcse: float


@dataclass(frozen=True)
class TemperatureCheck:
    """A measured temperature against the claimed one.

    Attributes
    ----------
    name
        Kinetic or configurational, and of which parameter group.
    measured
        Mean with its 95 % interval.
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

    def agrees(self, tolerance: float) -> bool | None:
        """Whether the temperature is the claimed one, up to a relative ``tolerance``.

        True if the whole interval lies within the tolerance; False if it leaves out the claim and
        the estimate lies beyond the tolerance; None where so few steps cannot tell.
        """
        margin = tolerance * self.claimed
        _, low, high = self.measured
        if self.claimed - margin <= low and high <= self.claimed + margin:
            return True
        inside = low <= self.claimed <= high or abs(self.ratio - 1) <= tolerance
        return None if inside else False


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
        bulk, tail = azs.ess(flat, method="bulk"), azs.ess(flat, method="tail", prob=(0.05, 0.95))
        error = azs.mcse(flat, method="mean") / flat.std(axis=(0, 1))
        rhat, mcse = (float(np.quantile(v, 0.95, method="higher")) for v in (_rhat(flat), error))
        parts = _parts(flat)
        lows = (bulk, tail, _effective_length(parts))
        center, tails, length = (float(np.quantile(v, 0.05, method="lower")) for v in lows)
        chance, bound = _chance_and_bound(len(parts), parts.shape[1], length, rhat)
        numbers = (rhat, chance, bound, center, tails, mcse)
        out.append(ChainSummary(name, flat.shape[-1], len(flat), *numbers))
    return out


def _parts(values: Float[np.ndarray, "chain draw *v"]) -> Float[np.ndarray, "part length *v"]:
    """Cut chains in halves, but one chain in quarters: what R-hat compares."""
    each = 2 if len(values) > 1 else 4
    length = values.shape[1] // each
    cut = values[:, : each * length].reshape(-1, length, *values.shape[2:])
    return np.asarray(cut)


def _effective_length(parts: Float[np.ndarray, "part draw V"]) -> Float[np.ndarray, " V"]:
    """Effective draws of a part by itself, whether or not the parts agree."""
    length = parts.shape[1]
    if length < MIN_DRAWS:
        return np.full(parts.shape[-1], float(length))
    found = azs.ess(parts - parts.mean(axis=1, keepdims=True), method="mean") / len(parts)
    return np.clip(np.nan_to_num(found, nan=length), 1.0, length)


def _rhat(values: Float[np.ndarray, "chain draw V"]) -> Float[np.ndarray, " V"]:
    """R-hat per value; one chain is cut in half, and ArviZ splits each half again."""
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


def _chance_and_bound(
    num_parts: int, length: int, effective: float, rhat: float
) -> tuple[float, float]:
    """Return the R-hat that agreement exceeds one time in a thousand, and a bound of the true one.

    Of m parts of n draws worth k, R-hat^2 = 1 - 1 / n + F / (k - 1 + k / n), with F of m - 1 and
    m (k - 1) degrees of freedom and of noncentrality (m - 1) k (R^2 - 1) where ever more draws
    would give R: exact for independent normal draws, k = n.
    """
    if effective <= 1 or not np.isfinite(rhat):
        return np.inf, np.inf
    freedom = num_parts - 1, num_parts * (effective - 1)
    scale = effective - 1 + effective / length
    chance = np.sqrt(1 - 1 / length + f_law.ppf(0.999, *freedom) / scale)
    seen = (rhat**2 - 1 + 1 / length) * scale

    def excess(power: float) -> float:
        return float(ncf.cdf(seen, *freedom, power)) - (1 - LEVEL) / 2

    most = freedom[0] * (4 * seen + 40)
    if excess(0) <= 0 or not excess(most) < 0:
        return float(chance), 1.0 if excess(0) <= 0 else np.inf
    power = brentq(excess, 0, most)
    return float(chance), float(np.sqrt(1 + power / (freedom[0] * effective)))


def check_temperature(
    name: str, values: Float[np.ndarray, "chain draw"], claimed: float, *, level: float = LEVEL
) -> TemperatureCheck | None:
    """Measure a sampler's temperature; None if there are fewer than 4 finite values a chain.

    Parameters
    ----------
    name
        Of what is measured.
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
    sampler whose step is too large or whose gradient noise heats it; the second need not. The
    interval is Student's of the means of half-chains (quarters of one chain): where the records
    are few, estimates of their autocorrelation are too low.
    """
    if values.shape[1] < MIN_DRAWS or not np.isfinite(values).all():
        return None
    mean, means = float(values.mean()), _parts(values).mean(axis=1)
    half = float(student.ppf((1 + level) / 2, len(means) - 1) * sem(means))
    return TemperatureCheck(name, Interval(mean, mean - half, mean + half), float(claimed))


def chain_summaries(tree: xr.DataTree) -> list[ChainSummary]:
    """Summarize a run's chains in function space and along the prior's directions."""
    quantities: dict[str, np.ndarray] = {}
    if "predictions" in tree.children and "log_likelihood" in tree["predictions"]:
        held_out = tree["predictions"].log_likelihood.transpose("chain", "draw", ...)
        quantities["held-out log likelihood"] = held_out.mean("point").values
        if "probs" in tree["predictions"] and "row" not in tree["predictions"].dims:
            quantities["probability of the true class"] = np.exp(held_out.values)
    if "sample_stats" in tree.children and "lp" in tree["sample_stats"]:
        quantities["log posterior"] = tree["sample_stats"].lp.values
    if "posterior" in tree.children and "prior_coordinate" in tree["posterior"]:
        coordinates = tree["posterior"].prior_coordinate
        quantities["position along the prior's directions"] = coordinates.values
    return summarize_chains({name: np.asarray(v, float) for name, v in quantities.items()})


def claimed_temperatures(tree: xr.DataTree) -> dict[str, float]:
    """Return the last temperature of each parameter group in the trace; ``""`` is all weights."""
    if "trace" not in tree.children:
        return {}
    trace = tree["trace"].dataset
    ends = [str(n).removeprefix("temperature") for n in trace if str(n).startswith("temperature")]
    by_group = [end for end in ends if end] or ends
    return {end[1:]: float(trace[f"temperature{end}"][0, -1]) for end in by_group}


def temperature_checks(tree: xr.DataTree) -> list[TemperatureCheck]:
    """Compare the recorded temperatures with those claimed, by parameter group if so recorded.

    Over the later half of the steps that ran at the last step's temperature, without the
    exploring phases of a cyclical schedule. Columns ``temperature.<label>`` of the trace claim for
    the group of that name or number, ``kinetic_temperature.<label>`` and
    ``configurational_temperature.<label>`` are measured in it.
    """
    out = []
    for group, claimed in claimed_temperatures(tree).items():
        trace, end = tree["trace"].dataset, f".{group}" if group else ""
        at_claim = np.flatnonzero((trace[f"temperature{end}"] == claimed).all("chain").values)
        later = at_claim[len(at_claim) // 2 :]
        for kind in ("kinetic", "configurational"):
            if f"{kind}_temperature{end}" in trace and later.size:
                name = f"{kind} temperature" + (f" of group {group}" if group else "")
                values = trace[f"{kind}_temperature{end}"].values[:, later]
                check = check_temperature(name, values, claimed)
                out += [check] if check is not None else []
    return out
