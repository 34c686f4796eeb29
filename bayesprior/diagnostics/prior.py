"""What the prior did: how much it says, where the posterior ended in it, and whether they clash."""

from dataclasses import dataclass

import arviz_stats as azs
import numpy as np
import xarray as xr
from scipy.stats import chi2

from bayesprior.diagnostics.verdicts import Verdict
from bayesprior.errors import ConfigError, DataError
from bayesprior.weights.gaussian import GaussianWeights

__all__ = [
    "BlockPrior",
    "ChiSquareCheck",
    "Direction",
    "PriorSummary",
    "Sensitivity",
    "conflict_verdict",
    "directions",
    "mahalanobis_checks",
    "prior_summary",
    "sensitivities",
    "width_verdict",
]

QUESTION = "Does the prior fit the data?"


@dataclass(frozen=True)
class BlockPrior:
    """How much the prior says about one parameter.

    Attributes
    ----------
    name, size
        The parameter and its number of weights.
    rms_std
        Root mean square of the prior's standard deviations.
    weight_decay
        1 / (N variance): the decay towards the prior mean that an ordinary optimizer would need
        on the mean loss for an equally strong pull.
    """

    name: str
    size: int
    rms_std: float
    weight_decay: float


@dataclass(frozen=True)
class PriorSummary:
    """How informative a prior is.

    Attributes
    ----------
    blocks
        One entry for each parameter.
    rank, effective_rank
        Columns of the factor, and how many directions it really uses.
    drift_share
        Share of the factor's variance in its first direction; near 1 the source run was still
        travelling when its posterior was taken.
    jitter_share
        Share of the width that a constant added variance makes up; None if not recorded.
    """

    blocks: tuple[BlockPrior, ...]
    rank: int
    effective_rank: float
    drift_share: float
    jitter_share: float | None


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
        Central 95 % range of a draw from the prior at the run's temperature.
    """

    name: str
    dim: int
    mean: float
    low: float
    high: float

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
        1 - std**2: 0 if the data say nothing, near 1 if they decide.
    """

    index: int
    mean: float
    std: float
    contraction: float


@dataclass(frozen=True)
class Sensitivity:
    """Power-scaling sensitivity of one quantity.

    Attributes
    ----------
    name
        The quantity.
    prior, likelihood
        How fast it moves when the prior or the likelihood is raised to a power near 1.
    diagnosis
        ``conflict`` if both exceed the threshold, ``prior-driven`` if only the prior does, ``ok``.
    """

    name: str
    prior: float
    likelihood: float
    diagnosis: str


def prior_summary(prior: GaussianWeights, num_data: int) -> PriorSummary:
    """Say how informative a prior is for N training points.

    Parameters
    ----------
    prior
        The prior.
    num_data
        N, the size of the training set.

    Raises
    ------
    ConfigError
        If N is not positive.

    Examples
    --------
    >>> import torch
    >>> from bayesprior.weights.layout import ParameterLayout
    >>> layout = ParameterLayout(("w",), ((4,),))
    >>> prior = GaussianWeights.point(layout, torch.zeros(4), 0.5)
    >>> [block] = prior_summary(prior, num_data=100).blocks
    >>> round(block.weight_decay, 6)
    0.04
    """
    if num_data < 1:
        raise ConfigError(f"num_data must be positive, got {num_data}")
    blocks = []
    for name, rms_std in prior.block_rms_std().items():
        where = prior.layout.slice(name)
        blocks.append(
            BlockPrior(name, where.stop - where.start, rms_std, 1 / num_data / rms_std**2)
        )
    share = prior.provenance.get("jitter_share")
    return PriorSummary(tuple(blocks), prior.rank, prior.effective_rank, prior.drift_share, share)


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
    distances = posterior.block_mahalanobis.mean(("chain", "draw"))
    rows = [("all weights", int(sizes.sum()), float(posterior.mahalanobis.mean()))]
    rows += [
        (str(name), int(size), float(value))
        for name, size, value in zip(
            sizes.block.values, sizes.values, distances.values, strict=True
        )
    ]
    return [
        ChiSquareCheck(name, dim, mean, *(temperature * chi2.ppf([0.025, 0.975], dim)))
        for name, dim, mean in rows
    ]


def directions(tree: xr.DataTree) -> list[Direction]:
    """Return mean, spread and contraction of the posterior along each direction of the prior.

    Raises
    ------
    DataError
        If the tree holds no prior coordinates, or the prior has none (rank 0).
    """
    z = _need(tree, "posterior", "prior_coordinate").prior_coordinate
    if not z.shape[-1]:
        raise DataError("the prior has rank 0: no directions of its own")
    flat = z.values.reshape(-1, z.shape[-1])
    std = flat.std(axis=0, ddof=1) if len(flat) > 1 else np.full(flat.shape[1], np.nan)
    return [
        Direction(int(i), float(m), float(s), float(1 - s**2))
        for i, m, s in zip(z.prior_direction.values, flat.mean(axis=0), std, strict=True)
    ]


def sensitivities(
    tree: xr.DataTree, *, var_names: list[str] | None = None, threshold: float = 0.05
) -> list[Sensitivity]:
    """Measure how the posterior reacts to a stronger or weaker prior and likelihood.

    ArviZ's power scaling, with powers so near 1 that the importance weights stay even however
    many weights the prior speaks of.

    Parameters
    ----------
    tree
        With ``posterior``, ``log_prior`` and ``log_likelihood``.
    var_names
        Variables of ``posterior``; by default the prior coordinates (of a prior without, the
        tracked weights).
    threshold
        Above it a sensitivity counts.

    Raises
    ------
    DataError
        If a group is missing, there are fewer than 50 draws, or none of them differ.

    References
    ----------
    N. Kallioinen et al., Detecting and diagnosing prior and likelihood sensitivity with
    power-scaling, Statistics and Computing 34 (2024), doi:10.1007/s11222-023-10366-5
    """
    if var_names is None:
        z = _need(tree, "posterior", "prior_coordinate").prior_coordinate
        var_names = ["prior_coordinate" if z.size else "weight"]
    for name in var_names:
        _need(tree, "posterior", name)
    sums = {}
    for group, data in [(g, _need(tree, g)) for g in ("log_prior", "log_likelihood")]:
        if data.sizes["chain"] * data.sizes["draw"] < 50:
            raise DataError("power scaling needs at least 50 draws; ask for more")
        sums[group] = np.sum(
            [v.sum([d for d in v.dims if d not in ("chain", "draw")]) for v in data.values()], 0
        )
    parts = []
    for group, kind in (("log_prior", "prior"), ("log_likelihood", "likelihood")):
        spread = float(sums[group].std())
        if not spread > 0:
            raise DataError(f"all draws have the same {group}; power scaling cannot weight them")
        step = min(0.01, 0.5 / spread)
        found = azs.psense(tree, var_names=var_names, group=kind, alphas=(1 - step, 1 + step))
        parts.append(_flatten(found))
    return [
        Sensitivity(name, value, parts[1][name], _diagnose(value, parts[1][name], threshold))
        for name, value in parts[0].items()
    ]


def conflict_verdict(
    checks: list[ChiSquareCheck], sensitivity: list[Sensitivity], *, num_draws: int
) -> Verdict:
    """Say whether prior and data clash.

    Parameters
    ----------
    checks
        From `mahalanobis_checks`; may be empty.
    sensitivity
        From `sensitivities`; may be empty.
    num_draws
        Draws in all; one is a point estimate, which lies closer to the mean than any draw would.
    """
    if not checks:
        return Verdict(QUESTION, "unknown", "Not measured", "The run holds no prior or no draws.")
    total = checks[0]
    numbers = (
        f"The weights lie {total.ratio**0.5:.2f} times as far from the prior mean as a draw from "
        "the prior would."
    )
    clashes = [s.name for s in sensitivity if s.diagnosis == "conflict"]
    far = [c for c in checks[1:] if c.mean > 2 * c.high]
    if total.mean > 2 * total.high:
        return Verdict(QUESTION, "fail", "No, the data pull far outside it", numbers)
    if clashes:
        share = f"{len(clashes)} of {len(sensitivity)} directions"
        reason = f"{numbers} Prior and data pull against each other in {share} looked at."
        return Verdict(QUESTION, "warn", "They partly conflict", reason)
    if far:
        reason = f"{numbers} Outside its range: {', '.join(c.name for c in far[:3])}."
        return Verdict(QUESTION, "warn", "Not in every layer", reason)
    if num_draws == 1:
        numbers += " A point estimate is expected to lie closer than a draw."
    return Verdict(QUESTION, "ok", "Yes, no sign of conflict", numbers)


def width_verdict(
    total: ChiSquareCheck, num_constraints: int, *, temperature: float = 1.0
) -> Verdict:
    """Say whether several draws are as wide as a posterior of so few data must be.

    N points with C outputs can narrow at most N C of the D directions (in the linear
    approximation); along the others the posterior is the prior, so that the squared distance of
    its draws from the prior mean is at least T (D - N C). SWAG's draws, and those of a chain that
    has not travelled, are often far narrower.

    Parameters
    ----------
    total
        The first of `mahalanobis_checks`.
    num_constraints
        N C.
    temperature
        T.
    """
    question = "Did the sampler work?"
    least = temperature * (total.dim - num_constraints)
    numbers = (
        f"The draws' squared distance from the prior mean is {total.mean:.3g}; "
        f"{num_constraints:,} observed outputs leave at least {max(least, 0):.3g} of "
        f"{total.dim:,} free."
    )
    if total.mean >= 0.8 * least:
        return Verdict(question, "ok", "The draws are wide enough", numbers)
    return Verdict(question, "warn", "The draws are narrower than the posterior", numbers)


def _need(tree: xr.DataTree, group: str, variable: str | None = None) -> xr.Dataset:
    """Return a group's data set or say which one is missing."""
    if group not in tree.children or (variable and variable not in tree[group].data_vars):
        what = f"{group}/{variable}" if variable else group
        raise DataError(
            f"the tree lacks {what}; give to_datatree the prior, draws and training set"
        )
    return tree[group].dataset


def _flatten(dataset: xr.Dataset) -> dict[str, float]:
    """``name[i]`` -> value for every entry of every variable."""
    out = {}
    for name, values in dataset.data_vars.items():
        for index, value in np.ndenumerate(values.values):
            label = f"{name}[{','.join(map(str, index))}]" if index else str(name)
            out[label] = float(value)
    return out


def _diagnose(prior: float, likelihood: float, threshold: float) -> str:
    if prior >= threshold and likelihood >= threshold:
        return "conflict"
    return "prior-driven" if prior >= threshold else "ok"
