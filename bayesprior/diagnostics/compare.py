"""Several runs side by side: one table, paired differences, and ties called ties."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import arviz_stats as azs
import numpy as np
import xarray as xr
from jaxtyping import Float
from scipy.stats import t as student

from bayesprior.diagnostics.intervals import Interval, bootstrap_interval
from bayesprior.diagnostics.predictions import Outcome
from bayesprior.diagnostics.reliability import CalibrationBins
from bayesprior.diagnostics.uncertainty import risk_coverage
from bayesprior.diagnostics.verdicts import Verdict
from bayesprior.errors import ConfigError, DataError

__all__ = [
    "METRICS",
    "Difference",
    "LooComparison",
    "RunResult",
    "compare_by_loo",
    "comparison_table",
    "paired_differences",
    "paired_t_interval",
    "prior_verdict",
    "verdict",
]

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


def _ece(confidence: np.ndarray, right: np.ndarray, log_score: np.ndarray) -> float:
    bins = CalibrationBins()
    bins.update(confidence, right.astype(bool))
    return bins.ece


METRICS: dict[str, tuple[bool, Callable[..., float]]] = {
    "accuracy": (True, lambda confidence, right, log_score: float(right.mean())),
    "nll": (False, lambda confidence, right, log_score: float(-log_score.mean())),
    "ece": (False, _ece),
    "aurc": (
        False,
        lambda confidence, right, log_score: risk_coverage(-confidence, 1 - right).aurc,
    ),
}
"""``name -> (larger is better, function of confidence, is right and log score)``."""


@dataclass(frozen=True)
class RunResult:
    """One method's results on one test set.

    Attributes
    ----------
    name
        Of the method.
    outcomes
        One for each seed, of the same test points.
    seconds, megabytes
        Time and peak memory of one fit; None if not measured.
    extra
        Further numbers, one for each seed, such as ``ood_auroc``.
    """

    name: str
    outcomes: Sequence[Outcome]
    seconds: float | None = None
    megabytes: float | None = None
    extra: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def metric(self, name: str) -> Float[np.ndarray, " R"]:
        """Return one metric of every seed."""
        function = METRICS[name][1]
        return np.array([function(*_arrays(outcome)) for outcome in self.outcomes])


@dataclass(frozen=True)
class Difference:
    """A method's metric minus the reference's.

    Attributes
    ----------
    method, metric
        Of what.
    over
        ``seeds``: t interval over paired seeds. ``points``: bootstrap over the test points.
    interval
        Difference with its interval.
    verdict
        ``better``, ``worse`` or ``tie``.
    """

    method: str
    metric: str
    over: str
    interval: Interval
    verdict: str


@dataclass(frozen=True)
class LooComparison:
    """ArviZ's comparison by leave-one-out cross-validation on the training points.

    Attributes
    ----------
    rows
        Best first: ``name``, ``elpd``, ``se``, ``elpd_diff``, ``dse`` (of the difference),
        ``weight`` (stacking) and ``num_bad_k``, points where the importance weights fail.
    omitted
        ``name -> reason`` of runs that have no LOO.
    """

    rows: list[dict[str, Any]]
    omitted: dict[str, str]


def verdict(difference: Interval, *, larger_is_better: bool) -> str:
    """Return ``better``, ``worse``, or ``tie`` where the interval holds 0.

    Examples
    --------
    >>> verdict(Interval(-0.1, -0.2, -0.05), larger_is_better=False)
    'better'
    >>> verdict(Interval(0.1, -0.2, 0.4), larger_is_better=True)
    'tie'
    """
    if difference.low <= 0 <= difference.high:
        return "tie"
    return "better" if (difference.low > 0) == larger_is_better else "worse"


def paired_t_interval(
    values: Float[np.ndarray, " R"], reference: Float[np.ndarray, " R"], *, level: float = 0.95
) -> Interval:
    """Return the mean of paired differences with its Student interval.

    Raises
    ------
    DataError
        If there are fewer than two pairs.
    """
    if len(values) != len(reference) or len(values) < 2:
        raise DataError(
            f"a paired interval needs at least 2 pairs, got {len(values)} and {len(reference)}"
        )
    gaps = np.asarray(values) - np.asarray(reference)
    mean = float(gaps.mean())
    error = float(gaps.std(ddof=1) / np.sqrt(len(gaps)))
    half = float(student.ppf((1 + level) / 2, len(gaps) - 1)) * error
    return Interval(mean, mean - half, mean + half)


def comparison_table(runs: Sequence[RunResult]) -> list[dict[str, Any]]:
    """Return one row a run: mean and standard error over seeds of every metric.

    Returns
    -------
    list of dict
        ``method``, ``seeds``, each metric and ``<metric>_se`` (None for one seed), what the runs
        carry as extra, ``seconds`` and ``megabytes``.
    """
    rows = []
    for run in runs:
        row: dict[str, Any] = {"method": run.name, "seeds": len(run.outcomes)}
        values = {name: run.metric(name) for name in METRICS}
        values |= {name: np.asarray(v, dtype=float) for name, v in run.extra.items()}
        for name, found in values.items():
            row[name] = float(found.mean())
            row[f"{name}_se"] = (
                float(found.std(ddof=1) / np.sqrt(len(found))) if len(found) > 1 else None
            )
        rows.append(row | {"seconds": run.seconds, "megabytes": run.megabytes})
    return rows


def paired_differences(
    runs: Sequence[RunResult],
    reference: str,
    *,
    level: float = 0.95,
    num_resamples: int = 500,
    seed: int = 0,
) -> list[Difference]:
    """Compare every run with a reference, pair by pair.

    Over the seeds where there are two or more (what another repetition would give), and over the
    test points, averaged over seeds (what other test points would give).

    Parameters
    ----------
    runs
        All on the same test points, in the same order; as many seeds each for the first kind.
    reference
        Name of the run to compare with.
    level, num_resamples, seed
        Coverage, and number and seed of the bootstrap's resamples.

    Raises
    ------
    ConfigError
        If no run has the reference's name.
    DataError
        If the runs do not share their test points.
    """
    named = {run.name: run for run in runs}
    if reference not in named:
        raise ConfigError(f"no run named {reference!r}; there are {', '.join(named)}")
    base = named.pop(reference)
    out = []
    for name, run in named.items():
        _check_same_points(base, run)
        for metric, (larger, function) in METRICS.items():
            found = {}
            if len(run.outcomes) == len(base.outcomes) > 1:
                pair = run.metric(metric), base.metric(metric)
                found["seeds"] = paired_t_interval(*pair, level=level)
            if not base.outcomes[0].is_dense:  # pixels are no independent sample
                found["points"] = _over_points(run, base, function, level, num_resamples, seed)
            out += [
                Difference(name, metric, over, interval, verdict(interval, larger_is_better=larger))
                for over, interval in found.items()
            ]
    return out


def _arrays(outcome: Outcome) -> Arrays:
    right = outcome.is_right
    return outcome.confidence, right, np.asarray(outcome.log_score)


def _check_same_points(base: RunResult, run: RunResult) -> None:
    expected = base.outcomes[0]
    for outcome in (*base.outcomes, *run.outcomes):
        if outcome.targets is None or expected.targets is None:
            raise DataError(f"{outcome.name!r} has no labels to compare by")
        if (
            outcome.probs.shape != expected.probs.shape
            or (outcome.targets != expected.targets).any()
        ):
            raise DataError(
                f"{run.name!r} and {base.name!r} were not scored on the same test points: "
                f"{outcome.probs.shape} against {expected.probs.shape} (points, classes)"
            )


def _over_points(
    run: RunResult,
    base: RunResult,
    function: Callable[..., float],
    level: float,
    num_resamples: int,
    seed: int,
) -> Interval:
    ours, theirs = ([_arrays(o) for o in r.outcomes] for r in (run, base))

    def gap(picks: np.ndarray) -> float:
        means = [np.mean([function(*(a[picks] for a in p)) for p in s]) for s in (ours, theirs)]
        return float(means[0] - means[1])

    points = np.arange(len(ours[0][0]))
    return bootstrap_interval(gap, points, num_resamples=num_resamples, level=level, seed=seed)


def compare_by_loo(trees: Mapping[str, xr.DataTree]) -> LooComparison:
    """Compare runs by ArviZ's PSIS-LOO on the points they were trained on.

    Runs without a log likelihood or with fewer than 10 draws are left out and named.

    Parameters
    ----------
    trees
        From `bayesprior.tree.build.to_datatree`, of the same training points.
    """
    found, omitted = {}, {}
    for name, tree in trees.items():
        if "log_likelihood" not in tree.children:
            omitted[name] = "no log likelihood of the training points"
            continue
        sizes = tree["log_likelihood"].sizes
        if sizes["chain"] * sizes["draw"] < 10:
            omitted[name] = f"{sizes['chain'] * sizes['draw']} draw(s), LOO needs at least 10"
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # k above its threshold: counted in the table
            found[name] = azs.loo(tree, pointwise=True, var_name="y")
    if len({loo.n_data_points for loo in found.values()}) > 1:
        sizes = {name: loo.n_data_points for name, loo in found.items()}
        raise DataError(f"the runs were trained on different numbers of points: {sizes}")
    if not found:
        return LooComparison([], omitted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside ArviZ on new pandas
        weights = azs.compare(found)["weight"] if len(found) > 1 else dict.fromkeys(found, 1.0)
    best = max(found.values(), key=lambda loo: loo.elpd)
    rows = []
    for name, loo in sorted(found.items(), key=lambda item: -item[1].elpd):
        gaps = np.asarray(best.elpd_i) - np.asarray(loo.elpd_i)
        rows.append(
            {
                "name": name,
                "elpd": float(loo.elpd),
                "se": float(loo.se),
                "elpd_diff": float(gaps.sum()),
                "dse": float(np.sqrt(gaps.size * gaps.var())),
                "weight": float(weights[name]),
                "num_bad_k": int((np.asarray(loo.pareto_k) > loo.good_k).sum()),
            }
        )
    return LooComparison(rows, omitted)


def prior_verdict(differences: Sequence[Difference], method: str, baseline: str) -> Verdict:
    """Say whether the prior helped: a method that has it against a baseline without.

    Parameters
    ----------
    differences
        From `paired_differences` with the baseline as reference; over seeds where there are.
    method, baseline
        Names of the two.
    """
    question = "Did the prior help?"
    mine = [d for d in differences if d.method == method and d.metric in ("accuracy", "nll")]
    over = "seeds" if any(d.over == "seeds" for d in mine) else "points"
    mine = [d for d in mine if d.over == over]
    if not mine:
        reason = "No run without the prior was given to compare with."
        return Verdict(question, "unknown", "Not compared", reason)
    said = {d.metric: d for d in mine}
    parts = []
    for d in mine:
        digits = "+.1%" if d.metric == "accuracy" else "+.3f"
        low, high = (format(v, digits) for v in d.interval[1:])
        label = "accuracy" if d.metric == "accuracy" else "loss per point (NLL)"
        parts.append(f"{label} {format(d.interval.estimate, digits)} [{low}, {high}]")
    reason = f"{method} against {baseline}, 95 % over {over}: {', '.join(parts)}."
    words = {d.verdict for d in said.values()}
    if words == {"tie"}:
        return Verdict(question, "warn", "No measurable difference", reason)
    if "worse" not in words:
        return Verdict(question, "ok", "Yes", reason)
    if "better" not in words:
        return Verdict(question, "fail", "No, it did harm", reason)
    return Verdict(question, "warn", "Mixed", reason)
