"""Methods side by side: pairs by seed, and the one rule for better, tie and worse."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import sem
from scipy.stats import t as student

from bayesprior.diagnostics.intervals import LEVEL, Interval, error_over_points
from bayesprior.diagnostics.outcomes import NumberOutcome, metric_rows
from bayesprior.diagnostics.predictions import AnyOutcome
from bayesprior.errors import ConfigError, DataError
from bayesprior.prediction.metrics import MetricRow

__all__ = [
    "Difference",
    "MethodResult",
    "compared_metrics",
    "comparison_table",
    "difference_interval",
    "judge",
    "only_prior_differs",
    "paired_differences",
    "pick_baseline",
]

_Pair = tuple[AnyOutcome, AnyOutcome]

FREE = {"out", "device", "progress", "jobs", "checkpoint_every", "seed", "data_seed"}
"""Options that do not make another method."""


@dataclass(frozen=True)
class MethodResult:
    """One method's results on one test set.

    Attributes
    ----------
    name
        Of the method.
    outcomes
        One for each seed, of the same test points.
    seeds
        Of the outcomes, by which methods are paired (numbers of pairs, where the examples have a
        seed of their own); 0, 1, ... if left out.
    seconds
        Time of one fit; None if not measured.
    """

    name: str
    outcomes: Sequence[AnyOutcome]
    seeds: Sequence[int] = ()
    seconds: float | None = None

    def metric(self, name: str) -> Float[np.ndarray, " R"]:
        """Return one metric of every seed."""
        return np.array([outcome.metric(name) for outcome in self.outcomes])

    def by_seed(self) -> dict[int, AnyOutcome]:
        """Return the outcomes by their seeds."""
        seeds = self.seeds or range(len(self.outcomes))
        return dict(zip(seeds, self.outcomes, strict=True))


@dataclass(frozen=True)
class Difference:
    """A method's metric minus the baseline's.

    Attributes
    ----------
    method, metric
        Of what.
    interval
        Mean difference over the pairs, with its 95 % interval.
    num_pairs
        Seeds that both have.
    over
        What the interval says other fits or data could change: ``seeds and points`` (or
        ``images``), ``points`` for one seed, ``seeds`` for pixels, which are no independent sample.
    verdict
        ``better``, ``worse``, ``tie`` or ``unknown``; see `judge`.
    """

    method: str
    metric: str
    interval: Interval
    num_pairs: int
    over: str
    verdict: str


def judge(interval: Interval, row: MetricRow, num_pairs: int, *, varies: bool = True) -> str:
    """Say whether a difference is ``better``, ``worse``, a ``tie`` or ``unknown``.

    A tie unless the whole interval lies beyond the metric's margin of practical equivalence, so
    that a difference of just the margin is called better in at most 2.5 % of all cases. Unknown for
    one seed, which says nothing of another fit, and where the pairs do not vary although they
    differ: fits without any spread are no repetitions.

    Examples
    --------
    >>> from bayesprior.prediction.metrics import METRICS
    >>> accuracy = METRICS["accuracy"]
    >>> judge(Interval(0.03, 0.01, 0.05), accuracy, 5), judge(Interval(0.0, 0.0, 0.0), accuracy, 5)
    ('better', 'tie')
    >>> judge(Interval(0.02, 0.002, 0.04), accuracy, 5), judge(Interval(0.1, 0, 1), accuracy, 1)
    ('tie', 'unknown')
    """
    margin = row.margin or 0.0
    if num_pairs < 2 or not np.isfinite(interval).all():
        return "unknown"
    if not varies or interval.low == interval.high:
        return "tie" if abs(interval.estimate) <= margin else "unknown"
    if interval.low <= margin and interval.high >= -margin:
        return "tie"
    return "better" if (interval.estimate > 0) == row.larger_is_better else "worse"


def compared_metrics(results: Sequence[MethodResult] = ()) -> dict[str, MetricRow]:
    """Return the metrics by which methods are compared: those with a direction and a margin.

    Of the results' own kind; without any, of classes. Of numbers also those whose unit is the
    targets' own, for which no margin is known: then 0.
    """
    rows = results[0].outcomes[0].rows if results else metric_rows("classes")
    numbers = bool(results) and isinstance(results[0].outcomes[0], NumberOutcome)
    rows = {name: row for name, row in rows.items() if row.larger_is_better is not None}
    return {name: row for name, row in rows.items() if row.margin is not None or numbers}


def pick_baseline(names: Sequence[str], baseline: str | None = None) -> tuple[str, str | None]:
    """Return which method a comparison is about and what it is held against.

    It is about the first, held against ``baseline`` or, if none is named, the second.

    Raises
    ------
    ConfigError
        If no method has the baseline's name, or it is the first.

    Examples
    --------
    >>> pick_baseline(["sgld", "map", "l2-sp"]), pick_baseline(["sgld", "map", "l2-sp"], "l2-sp")
    (('sgld', 'map'), ('sgld', 'l2-sp'))
    """
    if baseline is None:
        return names[0], names[1] if len(names) > 1 else None
    if baseline not in names[1:]:
        raise ConfigError(
            f"no baseline named {baseline!r}: {names[0]!r} is compared, and can be held against "
            f"{', '.join(names[1:]) or 'nothing, for it is alone'}"
        )
    return names[0], baseline


def only_prior_differs(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """Whether two fits' options differ in the prior and in nothing else that makes a method.

    Examples
    --------
    >>> map_fit = {"method": "map", "prior": "learned", "lr": 0.1, "seed": 0}
    >>> only_prior_differs(map_fit, map_fit | {"prior": "zero", "seed": 3})
    True
    >>> only_prior_differs(map_fit, map_fit | {"prior": "zero", "lr": 0.2})
    False
    """
    keys = {*ours, *theirs} - FREE
    return {key for key in keys if ours.get(key) != theirs.get(key)} == {"prior"}


def comparison_table(results: Sequence[MethodResult]) -> list[dict[str, Any]]:
    """Return one row a method: mean and standard error over seeds of every compared metric.

    Returns
    -------
    list of dict
        ``method``, ``seeds``, each metric and ``<metric>_se`` (None for one seed), ``seconds``.
    """
    rows = []
    for result in results:
        row: dict[str, Any] = {"method": result.name, "seeds": len(result.outcomes)}
        for name in compared_metrics(results):
            found = result.metric(name)
            error = float(sem(found)) if len(found) > 1 else None
            row |= {name: float(found.mean()), f"{name}_se": error}
        rows.append(row | {"seconds": result.seconds})
    return rows


def paired_differences(results: Sequence[MethodResult], baseline: str) -> list[Difference]:
    """Compare every method with a baseline, in pairs of equal seeds.

    Parameters
    ----------
    results
        All on the same test points, in the same order.
    baseline
        Name of the method to compare with.

    Raises
    ------
    ConfigError
        If no method has the baseline's name.
    DataError
        If the methods do not share their test points, or have no seed in common.

    Notes
    -----
    The interval holds for other seeds and for other test points at once, as crossed random
    effects. Its half-width is the root of the sum of squares of two, Student's over R seeds on
    these points and Student's over N points for these fits: what seed and point do together counts
    twice, so that the interval is a little too wide rather than too narrow. (With degrees of
    freedom pooled by Satterthwaite's rule it is too narrow for two or three seeds.)

    References
    ----------
    W. G. Howe, Approximate confidence limits on the mean of X + Y, JASA 69 (1974)
    """
    named = {result.name: result for result in results}
    if baseline not in named:
        raise ConfigError(f"no method named {baseline!r}; there are {', '.join(named)}")
    base = named.pop(baseline).by_seed()
    out = []
    for name, result in named.items():
        ours = result.by_seed()
        seeds = [seed for seed in ours if seed in base]
        if not seeds:
            raise DataError(
                f"{name!r} (seeds {', '.join(map(str, ours))}) and {baseline!r} (seeds "
                f"{', '.join(map(str, base))}) have no seed in common; fit both with the same"
            )
        pairs = [(ours[seed], base[seed]) for seed in seeds]
        _check_same_points(name, baseline, pairs)
        for metric, row in compared_metrics(results).items():
            interval, over, varies = difference_interval(row, pairs)
            word = judge(interval, row, len(pairs), varies=varies)
            out.append(Difference(name, metric, interval, len(pairs), over, word))
    return out


def _check_same_points(name: str, baseline: str, pairs: Sequence[_Pair]) -> None:
    first = pairs[0][1].labels
    for outcome in (o for pair in pairs for o in pair):
        labels = outcome.labels
        if labels is None or first is None:
            raise DataError(f"{outcome.name!r} has no labels to compare by")
        ours, theirs = outcome.shape, pairs[0][1].shape
        if ours != theirs or (labels != first).any():
            raise DataError(
                f"{name!r} and {baseline!r} were not scored on the same test points: "
                f"{ours} against {theirs} ({outcome.unit}, outputs)"
            )


def difference_interval(row: MetricRow, pairs: Sequence[_Pair]) -> tuple[Interval, str, bool]:
    """Return the mean difference of pairs, its interval, what that is over, and if they vary."""
    values = [tuple(outcome.values(row) for outcome in pair) for pair in pairs]
    gaps = np.array([_summary(row, a) - _summary(row, b) for a, b in values])
    squares: dict[str, float] = {}  # of half-widths

    def add(over: str, squared: float, number: int) -> None:
        squares[over] = squared * float(student.ppf((1 + LEVEL) / 2, number - 1)) ** 2

    if len(pairs) > 1:
        add("seeds", float(gaps.var(ddof=1) / len(gaps)), len(gaps))
    num_points = len(values[0][0])
    if not pairs[0][0].is_dense and num_points > 1:
        if row.summary is None:
            each = np.mean([a - b for a, b in values], axis=0)
            squared = float(each.var(ddof=1) / num_points)
        else:
            squared = _squared_error(row, values)
        add(pairs[0][0].unit, squared, num_points)
    estimate = float(gaps.mean())
    half = float(np.sqrt(sum(squares.values()))) if squares else np.nan
    interval = Interval(estimate, estimate - half, estimate + half)
    return interval, " and ".join(squares), bool(np.ptp(gaps))


def _summary(row: MetricRow, values: np.ndarray) -> float:
    return row.summarize(torch.from_numpy(values))


def _squared_error(row: MetricRow, values: Sequence[tuple[np.ndarray, ...]]) -> float:
    """Variance over points of a metric that is no mean, by resampling them."""

    def gap(picks: np.ndarray) -> float:
        return float(
            np.mean([_summary(row, a[picks]) - _summary(row, b[picks]) for a, b in values])
        )

    return error_over_points(gap, len(values[0][0])) ** 2
