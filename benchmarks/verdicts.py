"""How often each answer of a report is right, in simulated worlds whose truth is known.

    python benchmarks/verdicts.py [--quick] [--worlds 400]

Every world goes through the package's own functions. A *yes* is false where the truth lies at the
edge of what it claims, or beyond: at most 5 % of such worlds may get one. Well inside, 80 % should.
"""

import functools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import _bench
import numpy as np
import torch
import xarray as xr
from scipy.optimize import brentq
from scipy.signal import lfilter
from scipy.stats import binomtest, norm

from bayesprior.diagnostics.calibration import CalibrationBins
from bayesprior.diagnostics.compare import Difference, difference_interval, judge
from bayesprior.diagnostics.convergence import check_temperature, summarize_chains
from bayesprior.diagnostics.predictions import Outcome
from bayesprior.diagnostics.prior import joint_limit, mahalanobis_checks
from bayesprior.diagnostics.shift import shift_table
from bayesprior.prediction.metrics import METRICS
from bayesprior.report.context import Context
from bayesprior.report.sections import prior as prior_section
from bayesprior.report.thresholds import limit
from bayesprior.report.verdicts import (
    Verdict,
    calibration_verdict,
    comparison_verdict,
    convergence_verdict,
    coverage_verdict,
    shift_verdict,
    temperature_verdict,
    width_verdict,
)

LEVELS = {"ok": "yes", "warn": "in between", "fail": "no", "unknown": "unknown"}
World = Callable[[np.random.Generator], Verdict]


@dataclass(frozen=True)
class Cell:
    """Worlds of one kind.

    Attributes
    ----------
    question, truth, size
        What is asked of which worlds.
    make
        Makes one and returns its verdict.
    yes
        "false", "right" (the answer should be yes) or "free" (nothing is demanded).
    """

    question: str
    truth: str
    size: str
    make: World
    yes: str

    def count(self, worlds: int) -> Counter[str]:
        """Return how many worlds got which level; the same worlds in every run."""
        seed = [ord(letter) for letter in self.question + self.truth + self.size]
        rng = np.random.default_rng(seed)
        return Counter(self.make(rng).level for _ in range(worlds))

    def p_value(self, yes: int, worlds: int) -> float:
        """Probability of a count as bad, were the demand just met (exact binomial)."""
        if self.yes == "free":
            return 1.0
        share, side = (0.05, "greater") if self.yes == "false" else (0.8, "less")
        return float(binomtest(yes, worlds, share, side).pvalue)


# ---- Is one method better than another? ----------------------------------------------------------

ACCURACY = 0.8
SPREAD = {"point": 0.8, "method": 0.3}  # standard deviations on the scale of a latent of variance 1


@functools.cache
def mean_nll(location: float, slope: float) -> float:
    """Mean of softplus(-slope z), z of N(location, 1): loss of a point's true class."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    return float(np.logaddexp(0, -slope * (location + nodes)) @ weights / weights.sum())


@functools.cache
def latents(effect: str) -> tuple[float, float]:
    """Location and slope of a method at a known distance from the baseline of slope 2."""
    base = float(norm.ppf(ACCURACY))
    gain = {"none": 0.0, "at the margin": METRICS["accuracy"].margin or 0.0, "large": 0.05}[effect]
    location = float(norm.ppf(ACCURACY + gain))
    if effect != "at the margin":
        return location, 2.0
    wanted = mean_nll(base, 2.0) - (METRICS["nll"].margin or 0.0)
    return location, float(brentq(lambda slope: mean_nll(location, slope) - wanted, 2.0, 4.0))


def outcome(name: str, latent: np.ndarray, slope: float) -> Outcome:
    """Two classes, the true one first; right where the latent is positive."""
    log_score = -np.logaddexp(0, -slope * latent)
    first, zeros = np.exp(log_score), np.zeros(len(latent))
    probs = np.stack([first, 1 - first], 1)
    return Outcome(name, probs, zeros.astype(int), log_score, zeros, zeros)


def comparison(effect: str, seeds: int, points: int, seed_std: float = 0.05) -> World:
    """Crossed effects of points, methods at points, seeds, and noise; the mean effect is exact."""
    rest = np.sqrt(1 - sum(s**2 for s in SPREAD.values()) - seed_std**2)

    def make(rng: np.random.Generator) -> Verdict:
        shared = SPREAD["point"] * rng.normal(size=points)
        outcomes = []
        for kind in (effect, "none"):
            location, slope = latents(kind)
            own = location + shared + SPREAD["method"] * rng.normal(size=points)
            noise = rest * rng.normal(size=(seeds, points))
            rows = own + seed_std * rng.normal(size=(seeds, 1)) + noise
            outcomes.append([outcome("a", row, slope) for row in rows])
        pairs = list(zip(*outcomes, strict=True))
        found = []
        for name in ("accuracy", "nll"):
            row = METRICS[name]
            interval, over, varies = difference_interval(row, pairs)
            word = judge(interval, row, seeds, varies=varies)
            found.append(Difference("a", name, interval, seeds, over, word))
        return comparison_verdict(found, "a", "b")

    return make


# ---- Can the probabilities be trusted? -----------------------------------------------------------

BOUNDS = {"spread": (0.6, 1.0), "high": (0.9, 1.0), "low": (0.5, 0.9)}


def guesses(
    rng: np.random.Generator, points: int, gap: float, kind: str
) -> tuple[np.ndarray, np.ndarray]:
    """Confidences, and right answers whose share in each bin is off by the gap.

    Below the confidence, but above it in every second bin where the confidences are "low".
    """
    confidence = rng.uniform(*BOUNDS[kind], points)
    sign = np.where(np.ceil(15 * confidence) % 2 == 0, 1, -1) if kind == "low" else -1
    return confidence, (rng.random(points) < confidence + sign * gap).astype(float)


def calibration(gap: float, points: int, kind: str = "spread") -> World:
    def make(rng: np.random.Generator) -> Verdict:
        return calibration_verdict(CalibrationBins.of(*guesses(rng, points, gap, kind)))

    return make


def shift(gap: float, points: int, sets: int = 2) -> World:
    """Score changed sets of which only the first is off."""

    def labeled(rng: np.random.Generator, name: str, off: float) -> Outcome:
        confidence, right = guesses(rng, points, off, "spread")
        zeros = np.zeros(points)
        probs = np.stack([confidence, 1 - confidence], 1)
        score = np.log(np.where(right == 1, confidence, 1 - confidence))
        return Outcome(name, probs, (right == 0).astype(int), score, zeros, zeros)

    def make(rng: np.random.Generator) -> Verdict:
        changed = [labeled(rng, f"set-{i}", gap if i == 0 else 0.0) for i in range(sets)]
        return shift_verdict(shift_table(labeled(rng, "test", 0.0), changed))

    return make


def ranks(distance: float, points: int, kind: str = "biased") -> World:
    """Ranks whose law lies at a distance (Kolmogorov-Smirnov) from the uniform one."""
    knots = {
        "biased": ([0, 0.5 + distance, 1], [0, 0.5, 1]),
        "narrow": ([0, 0.25 + distance, 0.5, 0.75 - distance, 1], [0, 0.25, 0.5, 0.75, 1]),
    }[kind]

    def make(rng: np.random.Generator) -> Verdict:
        return coverage_verdict(np.interp(rng.random(points), *knots))

    return make


def ar1(rng: np.random.Generator, rho: float, shape: Sequence[int]) -> np.ndarray:
    """Stationary chains of unit variance along the last axis."""
    noise = np.sqrt(1 - rho**2) * rng.normal(size=shape)
    noise[..., 0] /= np.sqrt(1 - rho**2)
    return np.asarray(lfilter([1], [1, -rho], noise, axis=-1))


def chains(rhat: float, num: int, draws: int, rho: float = 0.0, values: int = 1) -> World:
    """Chains around centers so far apart that more draws would give this split R-hat.

    One chain travels along a line instead. Of several values one is off.
    """
    between = rhat**2 - 1
    apart = np.linspace(-1, 1, num) if num > 1 else np.linspace(-1, 1, draws)
    halves = np.repeat(apart, 2) if num > 1 else apart.reshape(4, -1).mean(1)
    within = 0.0 if num > 1 else apart.reshape(4, -1).var(1).mean()
    apart = apart * np.sqrt(between / (halves.var(ddof=1) - between * within))

    def make(rng: np.random.Generator) -> Verdict:
        x = ar1(rng, rho, (values, num, draws))
        x[0] += apart[:, None] if num > 1 else apart
        found = summarize_chains({"x": np.moveaxis(x, 0, -1)})
        return convergence_verdict(found, num_chains=num, num_draws=draws)

    return make


def temperature(ratio: float, num: int, steps: int, std: float) -> World:
    """Record a temperature, autocorrelated as after SGLD steps."""

    def make(rng: np.random.Generator) -> Verdict:
        values = ratio * (1 + std * ar1(rng, 0.6, (num, steps)))
        check = check_temperature("kinetic", values, 1.0)
        return temperature_verdict([check] if check else [])

    return make


def tree_of(coordinates: np.ndarray, distance: np.ndarray, **rest: np.ndarray) -> xr.DataTree:
    """Make the tree of chains of draws: what is read of the weights."""
    where = ("chain", "draw")
    size = xr.Dataset({"block_size": ("block", [int(rest.pop("dim")[0])])}, {"block": ["w"]})
    posterior = {
        "prior_coordinate": ((*where, "prior_direction"), coordinates),
        "mahalanobis": (where, distance),
        "block_mahalanobis": ((*where, "block"), distance[..., None]),
    }
    coords = {"prior_direction": np.arange(coordinates.shape[-1]), "block": ["w"]}
    groups = {
        "posterior": xr.Dataset(posterior, coords),
        "sample_stats": xr.Dataset({"mixture_weight": (where, np.ones(distance.shape))}),
        "constant_data": size,
    }
    if "log_likelihood" in rest:
        values = ((*where, "train_point"), rest["log_likelihood"][..., None])
        groups["log_likelihood"] = xr.Dataset({"y": values})
    return xr.DataTree.from_dict(groups)


def width(share: float, dim: int, draws: int, outputs: int) -> World:
    """Draws at a share of the least squared distance that so few outputs leave."""
    least = dim - outputs

    def make(rng: np.random.Generator) -> Verdict:
        distance = share * rng.chisquare(least, (2, draws // 2))
        tree = tree_of(np.zeros((2, draws // 2, 1)), distance, dim=np.array([dim]))
        return width_verdict(mahalanobis_checks(tree)[0], outputs, temperature=1.0)

    return make


def conflict(
    where: float | None, draws: int, rank: int, contraction: float, scaled: bool, dim: int = 20_000
) -> World:
    """Exact posterior draws along a prior's directions, of data with a known truth.

    The truth is a draw of the prior; along the first direction it lies ``where``, if that is given.
    Power scaling, which takes long, needs the log likelihood.
    """
    variance = 1 - contraction

    def make(rng: np.random.Generator) -> Verdict:
        truth = rng.normal(size=rank)
        if where is not None:
            truth[0] = where
        alone = truth + np.sqrt(variance / contraction) * rng.normal(size=rank)
        z = contraction * alone + np.sqrt(variance) * rng.normal(size=(4, draws // 4, rank))
        distance = (z**2).sum(-1) + rng.chisquare(dim - rank, z.shape[:2])
        fit = ((z - alone) ** 2).sum(-1) * contraction / variance
        scores = {"log_likelihood": -0.5 * (fit + rng.chisquare(10, z.shape[:2]))}
        tree = tree_of(z, distance, dim=np.array([dim]), **(scores if scaled else {}))
        return prior_section.verdict(Context(tree))

    return make


def cells() -> Iterator[Cell]:
    """Yield every cell of the table."""
    for seeds, points in ((1, 1000), (2, 30), (2, 1000), (3, 300), (5, 1000), (10, 1000)):
        yield from _compared(seeds, points)
    yield from _compared(20, 10_000)
    for seeds in (2, 5):
        size = f"{seeds} seeds x 10,000 points, seeds differ much"
        make = comparison("at the margin", seeds, 10_000, seed_std=0.2)
        yield Cell("better?", "at the margin", size, make, "false")
    edge = limit("ece_fail")
    for points in (30, 100, 300, 1000, 10_000):
        for gap in (0.0, edge, 3 * edge):
            yes = "false" if gap else "right" if points >= 1000 else "free"
            size = f"{points:,} points"
            yield Cell("probabilities?", f"ECE {gap:g}", size, calibration(gap, points), yes)
    for kind in ("high", "low"):
        for points in (100, 1000):
            size, make = f"{points:,} points, {kind} confidence", calibration(edge, points, kind)
            yield Cell("probabilities?", f"ECE {edge:g}", size, make, "false")
    for points in (30, 1000):
        for gap in (0.0, edge, 3 * edge) if points > 30 else (edge,):
            yes = "false" if gap else "right" if points >= 1000 else "free"
            size = f"2 sets of {points:,} points"
            truth = f"one at ECE {gap:g}" if gap else "all honest"
            yield Cell("changed data?", truth, size, shift(gap, points), yes)
    edge = limit("ranks_fail")
    for points in (30, 100, 1000, 10_000):
        for distance in (0.0, edge, 2 * edge):
            yes = "false" if distance else "right" if points >= 1000 else "free"
            size, make = f"{points:,} points", ranks(distance, points)
            yield Cell("intervals?", f"distance {distance:g}", size, make, yes)
    for points in (100, 1000):
        size, make = f"{points:,} points, too narrow", ranks(edge, points, "narrow")
        yield Cell("intervals?", f"distance {edge:g}", size, make, "false")
    yield from _sampled()
    grid = ((200, 2, 0.9, True), (60, 5, 0.9, False), (200, 5, 0.6, False), (200, 20, 0.9, False))
    for draws, rank, contraction, scaled in grid:
        size = f"{draws} draws, {rank} directions of 20,000, contraction {contraction:g}"
        size += ", power scaling" if scaled else ""
        strong = "right" if contraction > 0.8 else "free"
        edge = joint_limit(limit("surprise"), rank)
        truths = {None: "fits", edge: f"one at {edge:.2f} std", 8.0: "one at 8 std"}
        for where, truth in list(truths.items())[: 3 if draws < 200 else 2]:
            yes = "false" if where else strong
            make = conflict(where, draws, rank, contraction, scaled)
            yield Cell("prior?", truth, size, make, yes)


def _compared(seeds: int, points: int) -> Iterator[Cell]:
    size = f"{seeds} seed{'s' * (seeds > 1)} x {points:,} points"
    for effect in ("none", "at the margin", "large"):
        enough = seeds >= 10 and points >= 1000
        yes = "false" if effect != "large" else "right" if enough else "free"
        yield Cell("better?", effect, size, comparison(effect, seeds, points), yes)


def _sampled() -> Iterator[Cell]:
    edge = limit("rhat_fail")
    grid = ((1, 200, 0.0, 1), (2, 50, 0.0, 1), (4, 50, 0.0, 1), (4, 50, 0.3, 1), (4, 200, 0.5, 1))
    for num, draws, rho, values in (*grid, (4, 1000, 0.9, 1), (4, 50, 0.0, 20)):
        size = f"{num} x {draws:,} draws" + (f", autocorrelation {rho:g}" if rho else "")
        size += f", {values} values" if values > 1 else ""
        for rhat in (1.0, edge, 1.5) if (draws, rho, values) == (50, 0.0, 1) else (1.0, edge):
            yes = "false" if rhat > 1 else "right" if num >= 4 else "free"
            make = chains(rhat, num, draws, rho, values)
            yield Cell("sampler?", f"R-hat {rhat:g}", size, make, yes)
    edge = limit("temperature")
    for num, steps, std in ((2, 20, 0.05), (4, 100, 0.05), (4, 100, 0.5), (4, 1000, 0.5)):
        size = f"{num} x {steps:,} steps that vary by {std:.0%}"
        for ratio in (1.0, 1 - edge, 1 + edge, 3.0):
            yes = "false" if ratio != 1 else "free" if (steps, std) == (100, 0.5) else "right"
            make = temperature(ratio, num, steps, std)
            yield Cell("temperature?", f"{ratio:g} T", size, make, yes)
    edge = limit("narrow")
    for dim, draws in ((200, 30), (20_000, 200)):
        size = f"{draws} draws of {dim:,} weights"
        for share in (1.0, edge, 0.2):
            yes = "right" if share == 1 else "false"
            make = width(share, dim, draws, dim // 10)
            yield Cell("width?", f"{share:g} of the least", size, make, yes)


def main(argv: Sequence[str] | None = None) -> None:
    options = _bench.parser(__doc__)
    options.add_argument("--worlds", type=int, default=400, help="in each cell")
    options.add_argument("--only", default="", help="cells whose question begins so")
    arguments = options.parse_args(argv)
    _bench.start(arguments, "Verdicts in worlds whose truth is known")
    torch.set_num_threads(1)
    worlds = 1 if arguments.quick else arguments.worlds
    print(f"{worlds} worlds a cell; shares of them in percent.\n")
    begin = time.process_time()
    header = ["question", "truth", "size", *LEVELS.values(), "demanded of yes"]
    print(_bench.table(header, []), flush=True)
    for cell in cells():
        if cell.question.startswith(arguments.only):
            found = cell.count(worlds)
            shares = [f"{100 * found[level] / worlds:.1f}" for level in LEVELS]
            demand = {"false": "at most 5", "right": "at least 80", "free": ""}[cell.yes]
            bad = " (!)" if cell.p_value(found["ok"], worlds) < 0.01 else ""
            row = [cell.question, cell.truth, cell.size, *shares, demand + bad]
            print(_bench.table(row, []).splitlines()[0], flush=True)
    print(f"\n{time.process_time() - begin:.0f} s of processor time.")


if __name__ == "__main__":
    main()
