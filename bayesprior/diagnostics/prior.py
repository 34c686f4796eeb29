"""What the prior did: how much it says, where the posterior ended in it, and whether they clash."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import arviz_stats as azs
import numpy as np
import xarray as xr
from arviz_stats.base import array_stats
from jaxtyping import Float
from scipy.stats import chi2, norm

from bayesprior.diagnostics.convergence import MIN_DRAWS as DRAWS_OF_A_CHAIN
from bayesprior.diagnostics.intervals import HALF_WIDTH
from bayesprior.errors import DataError

__all__ = [
    "MIN_DRAWS",
    "ChiSquareCheck",
    "Direction",
    "Sensitivity",
    "diagnose",
    "direction_check",
    "directions",
    "joint_limit",
    "mahalanobis_checks",
    "prior_summary",
    "sensitivities",
]


MIN_DRAWS = 50
"""From which on a spread along a direction, or its sensitivity, is taken for known."""


@dataclass(frozen=True)
class ChiSquareCheck:
    """Squared Mahalanobis distance from the prior mean against its law under the prior.

    Attributes
    ----------
    name
        A parameter, or ``all weights``.
    dim
        Degrees of freedom, the number of weights.
    mean
        Average over the draws.
    low, high
        Central 95 % range of a single draw from the prior at the run's temperature; an average
        over draws varies less.
    error
        Standard error of that average: the chains' own, but at least that of independent draws.
    """

    name: str
    dim: int
    mean: float
    low: float
    high: float
    error: float = 0.0

    @property
    def ratio(self) -> float:
        """Mean over its expectation under the prior (1 for a draw from the prior)."""
        return self.mean / self.dim


@dataclass(frozen=True)
class Direction:
    """The posterior along one direction of the prior, in prior standard deviations.

    Attributes
    ----------
    index
        Number of the direction, as in ``prior_direction``.
    mean, std
        Of the draws; 0 and 1 if the data say nothing.
    contraction
        1 - std**2 / T: 0 if the draws are as wide as the prior, near 1 if far narrower.
    surprise
        mean / sqrt(contraction), how far in standard deviations the mean lies from where data that
        the prior expects would put it; NaN where the draws are not narrower than the prior.
    reach
        How far from the prior's mean the data alone would put this direction at most: upper end of
        the 95 % interval; NaN likewise.
    """

    index: int
    mean: float
    std: float
    contraction: float
    surprise: float
    reach: float = np.nan


@dataclass(frozen=True)
class Sensitivity:
    """How the posterior along one direction reacts to a stronger prior and likelihood.

    Attributes
    ----------
    index
        Number of the direction.
    prior, likelihood
        Power-scaling sensitivities.
    prior_floor, likelihood_floor
        What weights that have nothing to do with the direction exceed in 5 of 100 cases: the Monte
        Carlo noise of so few draws.
    """

    index: int
    prior: float
    likelihood: float
    prior_floor: float
    likelihood_floor: float


def prior_summary(tree: xr.DataTree) -> list[dict[str, Any]]:
    """Say how informative a run's prior is about each parameter, for its N training points.

    Returns
    -------
    list of dict
        ``name``; ``size``, its number of weights; ``rms_std``, root mean square of the prior's
        standard deviations; ``weight_decay`` = 1 / (N mean variance), the decay towards the prior
        mean on the mean loss that pulls as strongly on a weight of average width (narrower ones
        are pulled harder).

    Raises
    ------
    DataError
        If the tree holds no prior, or not how many training points there are.
    """
    data = _need(tree, "constant_data", "prior_rms_std")
    num_data = int(tree.attrs.get("num_data", 0))
    if num_data < 1:
        raise DataError("the tree does not say how many training points (num_data) there are")
    columns = (data.block.values, data.block_size.values, data.prior_rms_std.values)
    return [
        {
            "name": str(name),
            "size": int(size),
            "rms_std": std,
            "weight_decay": 1 / num_data / std**2,
        }
        for name, size, std in zip(*columns, strict=True)
    ]


def mahalanobis_checks(tree: xr.DataTree, *, temperature: float = 1.0) -> list[ChiSquareCheck]:
    """Compare the draws' distance from the prior mean with that of draws from the prior.

    Parameters
    ----------
    tree
        From `bayesprior.tree.build.to_datatree`, with prior and draws.
    temperature
        Of the posterior; its square root scales the prior's width.

    Returns
    -------
    list of ChiSquareCheck
        All weights first, then one for each parameter.

    Raises
    ------
    DataError
        If the tree holds no distances.
    """
    posterior = _need(tree, "posterior", "mahalanobis")
    sizes = tree["constant_data"].block_size
    named = {"all weights": (int(sizes.sum()), posterior.mahalanobis)}
    for name, size in zip(sizes.block.values, sizes.values, strict=True):
        named[str(name)] = int(size), posterior.block_mahalanobis.sel(block=name)
    return [_chi_square(tree, name, *row, temperature) for name, row in named.items()]


def directions(tree: xr.DataTree, *, temperature: float = 1.0) -> list[Direction]:
    """Return mean, spread and contraction of the posterior along each direction of the prior.

    Parameters
    ----------
    tree
        From `bayesprior.tree.build.to_datatree`, with prior and draws.
    temperature
        Of the posterior, whose variance it scales.

    Raises
    ------
    DataError
        If the tree holds no prior coordinates, or the prior has none (rank 0).

    Notes
    -----
    Draws of mean m and variance v, under a prior N(0, 1), are those of data that by themselves
    would give m / c with variance v / c, where c = 1 - v is the contraction. The bound ``reach``
    adds to that variance what the draws, by their effective number, leave unknown of m and v.
    """
    z = _need(tree, "posterior", "prior_coordinate").prior_coordinate
    flat, shares = z.values.reshape(-1, z.shape[-1]), _shares(tree).values.ravel()
    mean = shares @ flat
    number = np.full(len(mean), 1 / (shares @ shares))
    if z.shape[1] >= DRAWS_OF_A_CHAIN and np.isfinite(flat).all():
        number = np.fmin(number, azs.ess(z.values, method="mean"))
    with np.errstate(invalid="ignore", divide="ignore"):
        std = np.sqrt(shares @ (flat - mean) ** 2 / (1 - shares @ shares))
        variance = std**2 / temperature
        contraction = np.where(variance < 1, 1 - variance, np.nan)
        alone = mean / contraction
        error = variance / contraction * (1 + 1 / (contraction * number))
        error += (alone * variance / contraction) ** 2 * 2 / number
        reach = np.abs(alone) + HALF_WIDTH * np.sqrt(error)
    surprise = mean / np.sqrt(contraction)
    columns = (z.prior_direction.values, mean, std, 1 - variance, surprise, reach)
    return [
        Direction(int(index), *map(float, numbers))
        for index, *numbers in zip(*columns, strict=True)
    ]


def joint_limit(limit: float, num: int) -> float:
    """Return what a draw of the prior exceeds along any of some directions as rarely as along one.

    A prior of many directions puts one of them beyond a fixed limit in most of its draws, so that
    no data could show that it fits.

    Parameters
    ----------
    limit
        Standard deviations of the prior along one direction.
    num
        Directions that are looked at together; independent under the prior.

    Examples
    --------
    >>> [round(joint_limit(3.0, num), 2) for num in (1, 5, 20)]
    [3.0, 3.46, 3.82]
    """
    return float(norm.isf(-np.expm1(np.log1p(-2 * norm.sf(limit)) / num) / 2))


def direction_check(tree: xr.DataTree, *, temperature: float = 1.0) -> ChiSquareCheck:
    """Compare the draws' distance along the prior's own R directions with its law, chi-square(R).

    The distance over all weights is that of a draw even where every one of these directions is far
    off: there are a thousand times more weights.

    Raises
    ------
    DataError
        If the tree holds no prior coordinates.
    """
    z = _need(tree, "posterior", "prior_coordinate").prior_coordinate
    distance, rank = (z**2).sum("prior_direction"), z.sizes["prior_direction"]
    return _chi_square(tree, "the prior's own directions", rank, distance, temperature)


def _chi_square(
    tree: xr.DataTree, name: str, dim: int, distance: xr.DataArray, temperature: float
) -> ChiSquareCheck:
    """Check the draws' distances against the law of one draw from the prior."""
    shares, values = _shares(tree), distance.transpose("chain", "draw").values
    error = temperature * float(np.sqrt(2 * dim * (shares**2).sum()))
    if values.shape[1] >= DRAWS_OF_A_CHAIN and np.isfinite(values).all() and np.ptp(values) > 0:
        error = max(error, float(azs.mcse(values, method="mean")))
    low, high = (temperature * float(chi2.ppf(q, dim)) for q in (0.025, 0.975))
    return ChiSquareCheck(name, dim, float((distance * shares).sum()), low, high, error)


def sensitivities(tree: xr.DataTree, *, num_permutations: int = 19) -> list[Sensitivity]:
    """Measure how the posterior reacts to a stronger or weaker prior, direction by direction.

    Power scaling with ArviZ's measure: the distance between the draws of one prior coordinate z
    and the same draws weighted for a prior (a likelihood) to the power alpha, by |log2 alpha|. The
    prior is scaled along z *only*: its law there is N(0, 1) and independent of the rest, so that
    the log weights are -(alpha - 1) z^2 / 2. Scaling the log density of all D weights would
    measure noise of 0.29 sqrt(D / 2) / sqrt(S), a hundred times the threshold at D = 20,000.

    Parameters
    ----------
    tree
        With ``posterior/prior_coordinate`` and ``log_likelihood``, of draws of the posterior.
    num_permutations
        Times that the weights are shuffled among the draws for the floor of each number, which is
        the largest of theirs: chance exceeds it once in ``num_permutations`` + 1 times.

    Raises
    ------
    DataError
        If a group is missing, the draws are none of the posterior at temperature 1 (SWAG,
        tempered), or there are fewer than 50 or all alike.

    References
    ----------
    N. Kallioinen et al., Detecting and diagnosing prior and likelihood sensitivity with
    power-scaling, Statistics and Computing 34 (2024), doi:10.1007/s11222-023-10366-5
    """
    z = _need(tree, "posterior", "prior_coordinate").prior_coordinate
    likelihood = _need(tree, "log_likelihood", "y").y
    if tree.attrs.get("independent_draws", 0):
        raise DataError("draws of a fitted Gaussian are not weighted by a likelihood")
    if (temperature := float(tree.attrs.get("temperature", 1.0))) != 1.0:
        raise DataError(f"the draws are those of temperature {temperature:g}, not of the posterior")
    if z.sizes["chain"] * z.sizes["draw"] < MIN_DRAWS:
        raise DataError(f"power scaling needs at least {MIN_DRAWS} draws; ask for more")
    total = likelihood.sum([d for d in likelihood.dims if d not in ("chain", "draw")])
    total = total.transpose("chain", "draw").values.astype(float)
    rng = np.random.default_rng(0)
    out = []
    for index in z.prior_direction.values:
        values = z.sel(prior_direction=index).transpose("chain", "draw").values.astype(float)
        own = _power_scaling(values, -0.5 * values**2, num_permutations, rng)
        data = _power_scaling(values, total, num_permutations, rng)
        out.append(Sensitivity(int(index), own[0], data[0], own[1], data[1]))
    return out


def diagnose(
    directions: Sequence[Direction],
    sensitivity: Sequence[Sensitivity],
    *,
    threshold: float,
    surprise: float,
) -> dict[int, str]:
    """Return what each direction of the prior shows, by its number.

    Parameters
    ----------
    directions, sensitivity
        From `directions` and `sensitivities`.
    threshold
        Sensitivity that counts, if it also exceeds its floor.
    surprise
        That the mean must exceed for a conflict: where prior and data inform a direction alike,
        both sensitivities are high although they agree.

    Returns
    -------
    dict
        ``conflict`` where prior and likelihood both pull and the mean is a surprise to the prior,
        ``prior-driven`` where only the prior pulls, else ``ok``.
    """
    means = {d.index: abs(d.surprise) for d in directions}
    out = {}
    for s in sensitivity:
        by_prior = s.prior > max(threshold, s.prior_floor)
        by_data = s.likelihood > max(threshold, s.likelihood_floor)
        out[s.index] = "prior-driven" if by_prior and not by_data else "ok"
        if by_prior and by_data and means.get(s.index, 0.0) > surprise:
            out[s.index] = "conflict"
    return out


def _power_scaling(
    values: Float[np.ndarray, "chain draw"],
    logs: Float[np.ndarray, "chain draw"],
    num_permutations: int,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Sensitivity of values to a part of the log density, and what chance would show."""
    if not np.ptp(logs) > 0:
        raise DataError("all draws are alike; power scaling cannot weight them")
    step = min(0.01, 0.5 / float(logs.std()))
    alphas = (1 - step, 1 + step)
    scaled = [array_stats.power_scale_lw(logs, alpha, (0, 1)) for alpha in alphas]
    weights = [np.exp(log_weights - log_weights.max()).ravel() for log_weights in scaled]

    def moved(order: np.ndarray) -> float:
        lower, upper = (w[order].reshape(logs.shape) for w in weights)
        return float(array_stats.power_scale_sense(values, lower, upper, *alphas))

    shuffled = [moved(rng.permutation(values.size)) for _ in range(num_permutations)]
    return moved(np.arange(values.size)), max(shuffled)


def _shares(tree: xr.DataTree) -> xr.DataArray:
    """Return each draw's share of all averages, which sum to 1."""
    weight = tree["sample_stats"].mixture_weight
    return weight / weight.sum()


def _need(tree: xr.DataTree, group: str, variable: str | None = None) -> xr.Dataset:
    """Return a group's data set or say which one is missing."""
    if group not in tree.children or (variable and variable not in tree[group].data_vars):
        what = f"{group}/{variable}" if variable else group
        raise DataError(
            f"the tree lacks {what}; give to_datatree the prior, draws and training set"
        )
    return tree[group].dataset
