"""Whether probabilities come true: bins, calibration errors, Brier parts, temperature scaling.

Arrays of class probabilities have shape (N, C) and rows that sum to 1; targets have shape (N,).
"""

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from scipy.optimize import brentq
from scipy.special import log_softmax, softmax
from scipy.stats import binom, binomtest

from bayesprior.diagnostics.intervals import LEVEL
from bayesprior.errors import DataError
from bayesprior.prediction.points import NUM_BINS, bin_sums, calibration_error

__all__ = [
    "BrierParts",
    "CalibrationBins",
    "ReliabilityCurve",
    "apply_temperature",
    "brier",
    "class_wise_ece",
    "fit_temperature",
]

Probs = Float[np.ndarray, "N C"]
Targets = Int[np.ndarray, " N"]


@dataclass(frozen=True)
class ReliabilityCurve:
    """What a reliability diagram shows; one entry per non-empty bin.

    Attributes
    ----------
    confidence, accuracy
        Mean confidence and share of right answers.
    count
        Points in the bin.
    low, high
        Consistency band: where the accuracy would lie were the model perfectly calibrated.
    """

    confidence: Float[np.ndarray, " M"]
    accuracy: Float[np.ndarray, " M"]
    count: Float[np.ndarray, " M"]
    low: Float[np.ndarray, " M"]
    high: Float[np.ndarray, " M"]


@dataclass(frozen=True)
class CalibrationBins:
    """Three sums a bin, and what they say.

    Attributes
    ----------
    sums
        Points, confidence and right answers in M bins (k / M, (k + 1) / M]; 0 is in the first.
    together
        How many of them depend on each other, as the labels of an example may, so that chance
        plays with that many fewer: as if they always came together, which is the safe side.

    Examples
    --------
    >>> bins = CalibrationBins.of(np.array([0.4, 0.9, 0.7]), np.array([1, 1, 0]), 2)
    >>> round(bins.ece, 4), round(bins.mce, 4)
    (0.4, 0.6)
    """

    sums: Float[np.ndarray, "3 M"]
    together: int = 1

    @classmethod
    def of(
        cls,
        confidence: Float[np.ndarray, " N"],
        is_right: Shaped[np.ndarray, " N"],
        num_bins: int = NUM_BINS,
    ) -> "CalibrationBins":
        """Bin points."""
        values, hits = (torch.from_numpy(np.array(v, float)) for v in (confidence, is_right))
        return cls(bin_sums(values, hits, num_bins).numpy())

    @property
    def edges(self) -> Float[np.ndarray, " E"]:
        """Of the bins, from 0 to 1."""
        return np.arange(self.sums.shape[1] + 1) / self.sums.shape[1]

    @property
    def count(self) -> Float[np.ndarray, " M"]:
        """Points in each bin."""
        return self.sums[0]

    @property
    def ece(self) -> float:
        """Expected calibration error: mean over points of |confidence - accuracy| of their bin."""
        return float(calibration_error(torch.from_numpy(self.sums)))

    @property
    def mce(self) -> float:
        """Largest |confidence - accuracy| of a non-empty bin; noisy where bins are nearly empty."""
        return float((np.abs(self.sums[1] - self.sums[2]) / self.count.clip(1)).max())

    @property
    def overconfidence(self) -> float:
        """Mean confidence minus accuracy: positive when the model claims too much."""
        return float((self.sums[1] - self.sums[2]).sum() / max(self.count.sum(), 1))

    @property
    def extremeness(self) -> float:
        """Mean gap away from 1/2: positive where probabilities should be nearer to it."""
        side = np.sign(self.sums[1] - self.count / 2)
        return float((side * (self.sums[1] - self.sums[2])).sum() / max(self.count.sum(), 1))

    def curve(self) -> ReliabilityCurve:
        """Return the reliability curve with 95 % consistency bands (Broecker and Smith, 2007).

        The band is the central interval of Binomial(count, mean confidence) / count, a little
        wider than the exact Poisson-binomial law.

        References
        ----------
        J. Broecker and L. A. Smith, Increasing the reliability of reliability diagrams, Weather
        and Forecasting 22 (2007), doi:10.1175/WAF993.1
        """
        count, confidence, right = self.sums[:, self.count > 0]
        confidence = confidence / count
        sure, alone = confidence.clip(0, 1), np.ceil(count / self.together)
        low, high = (binom.ppf(q, alone, sure) / alone for q in (0.025, 0.975))
        return ReliabilityCurve(confidence, right / count, count, low, high)

    @functools.cached_property
    def chance(self) -> float:
        """ECE that a perfectly calibrated model exceeds by chance on one such set in twenty.

        The plain ECE is never 0 on finite data; this is what to compare it with.
        """
        count = self.count.astype(int)
        mean = (self.sums[1] / count.clip(1)).clip(0, 1)
        alone = np.ceil(count / self.together).astype(int)
        right = np.random.default_rng(0).binomial(alone, mean, (1000, len(mean)))
        right = right * (count / alone.clip(1))
        ece = np.abs(right - self.sums[1]).sum(axis=1) / max(count.sum(), 1)
        return float(np.quantile(ece, 0.95))

    @property
    def bound(self) -> float:
        """Upper end of the 95 % interval of the ECE that ever more points would show.

        The ECE of true gaps g is seen as sum w |g + e| >= ECE + sum w sign(g) e, whatever the
        signs, and the last sum varies no more than the accuracy: its exact bounds are taken.
        """
        sums = (self.count, self.sums[2])
        total, right = (round(float(v.sum()) / self.together) for v in sums)
        if not total:
            return 1.0
        low, high = binomtest(right, total).proportion_ci(LEVEL, method="exact")
        return min(1.0, self.ece + max(high - right / total, right / total - low))


class BrierParts(NamedTuple):
    """The Brier score = reliability - resolution + uncertainty + within_bin.

    Attributes
    ----------
    score
        Mean over points of the squared distance between forecast and one-hot outcome, in [0, 2].
    reliability
        Distance of the binned forecasts from the frequencies; 0 is perfectly calibrated.
    resolution
        How far the frequencies in the bins differ from the base rates; larger is better.
    uncertainty
        Score of the base rates: a property of the data alone.
    within_bin
        What binning leaves out (variance and covariance inside the bins); small.
    """

    score: float
    reliability: float
    resolution: float
    uncertainty: float
    within_bin: float


def _by_class(probs: Probs, targets: Targets) -> Float[np.ndarray, "3 C M"]:
    """Return the sums of every class's probability against its frequency."""
    hits = np.eye(probs.shape[1])[targets]
    return bin_sums(torch.from_numpy(np.array(probs)), torch.from_numpy(hits)).numpy()


def class_wise_ece(probs: Probs, targets: Targets) -> float:
    """Return the gap between every class's probability and its frequency, mean over classes.

    References
    ----------
    M. Kull et al., Beyond temperature scaling, arXiv:1910.12656

    Examples
    --------
    >>> round(class_wise_ece(np.array([[0.8, 0.2], [0.8, 0.2]]), np.array([0, 1])), 4)
    0.3
    """
    _, mean, freq = _by_class(probs, targets)
    return float(np.abs(mean - freq).sum() / probs.size)


def brier(probs: Probs, targets: Targets) -> BrierParts:
    """Return the multi-class Brier score with Murphy's decomposition, summed over classes.

    Each class's probability is binned (15 bins of equal width); ``within_bin`` is what the
    binning leaves out, so that the identity is exact (Stephenson et al., 2008).

    References
    ----------
    A. H. Murphy, A new vector partition of the probability score, J. Appl. Meteorology 12 (1973);
    D. B. Stephenson et al., Two extra components in the Brier score decomposition, Weather and
    Forecasting 23 (2008), doi:10.1175/2007WAF2006116.1

    Examples
    --------
    >>> b = brier(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 1]))
    >>> b.score, b.reliability, b.resolution, b.uncertainty
    (0.0, 0.0, 0.5, 0.5)
    """
    num_points = len(targets)
    picked = probs[np.arange(num_points), targets]
    score = float(((probs**2).sum(axis=1) - 2 * picked + 1).mean())
    count, mean, freq = _by_class(probs, targets)
    base = freq.sum(axis=1, keepdims=True) / num_points
    safe = count.clip(1)
    reliability = float(((mean - freq) ** 2 / safe).sum() / num_points)
    resolution = float((count * (freq / safe - base) ** 2).sum() / num_points)
    uncertainty = float((base * (1 - base)).sum())
    rest = score - reliability + resolution - uncertainty
    return BrierParts(score, reliability, resolution, uncertainty, rest)


def fit_temperature(
    log_probs: Probs, targets: Targets, *, bounds: tuple[float, float] = (0.01, 100.0)
) -> float:
    """Return the temperature T that minimizes the NLL of softmax(log_probs / T).

    The NLL is convex in 1 / T, so the root of its derivative is the optimum; where there is none
    inside the bounds (all right, or worse than uniform) the bound is returned. Fit it on
    validation data; T > 1 says that the model is overconfident.

    Parameters
    ----------
    log_probs
        Shape (N, C); logits or log probabilities, ``-inf`` allowed.
    targets
        Shape (N,).
    bounds
        Lowest and highest T.

    References
    ----------
    C. Guo et al., On calibration of modern neural networks, arXiv:1706.04599
    """
    logits = _finite(log_probs)
    truth = logits[np.arange(len(targets)), targets]

    def slope(log_inverse: float) -> float:
        return float(
            ((softmax(np.exp(log_inverse) * logits, axis=1) * logits).sum(1) - truth).mean()
        )

    ends = -np.log(bounds[1]), -np.log(bounds[0])
    if slope(ends[0]) >= 0:
        return float(bounds[1])
    if slope(ends[1]) <= 0:
        return float(bounds[0])
    return float(np.exp(-brentq(slope, *ends, xtol=1e-10)))


def apply_temperature(log_probs: Probs, temperature: float) -> Probs:
    """Return softmax(log_probs / temperature), shape (N, C)."""
    return np.exp(log_softmax(_finite(log_probs) / temperature, axis=1))


def _finite(log_probs: Any) -> Probs:
    """Shift each row's maximum to 0 and replace ``-inf`` by the log of the least float64."""
    logits = np.asarray(log_probs, dtype=np.float64)
    if np.isnan(logits).any():
        raise DataError("log probabilities hold NaN; the model's outputs overflowed or diverged")
    return np.maximum(logits - logits.max(axis=1, keepdims=True), -745.0)
