"""Streaming calibration bins, reliability curves and the verdict on the probabilities."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import binom

from bayesprior.diagnostics.verdicts import Verdict
from bayesprior.errors import ConfigError

__all__ = ["CalibrationBins", "ReliabilityCurve", "calibration_verdict"]


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
    count: Int[np.ndarray, " M"]
    low: Float[np.ndarray, " M"]
    high: Float[np.ndarray, " M"]


class CalibrationBins:
    """Three sums a bin (points, confidence, right answers): calibration in constant memory.

    A confidence falls into bin (edge_k, edge_k+1]; 0 belongs to the first bin.

    Parameters
    ----------
    edges
        Shape (M + 1,), increasing, from 0 to 1; a number makes that many bins of equal width.

    Raises
    ------
    ConfigError
        If the edges do not increase or there are none.

    Examples
    --------
    >>> bins = CalibrationBins(2)
    >>> bins.update(np.array([0.4, 0.9, 0.7]), np.array([True, True, False]))
    >>> round(bins.ece, 4), round(bins.mce, 4)
    (0.4, 0.6)
    """

    def __init__(self, edges: int | Float[np.ndarray, " E"] = 15) -> None:
        self.edges = np.linspace(0, 1, max(edges, 0) + 1) if isinstance(edges, int) else edges
        if len(self.edges) < 2 or (np.diff(self.edges) <= 0).any():
            raise ConfigError(f"a binning needs at least one bin and rising edges, got {edges}")
        size = len(self.edges) - 1
        self.count = np.zeros(size, np.int64)
        self.confidence = np.zeros(size)
        self.correct = np.zeros(size)

    @classmethod
    def equal_mass(
        cls, confidence: Float[np.ndarray, " N"], num_bins: int = 15
    ) -> "CalibrationBins":
        """Make bins that hold about equally many of these confidences (ties stay together)."""
        inner = np.quantile(confidence, np.linspace(0, 1, num_bins + 1)[1:-1])
        inner = np.unique(inner[(inner > 0) & (inner < 1)])
        return cls(np.concatenate([[0.0], inner, [1.0]]))

    @classmethod
    def from_sums(cls, sums: Float[np.ndarray, "3 M"]) -> "CalibrationBins":
        """Take the sums of M equal bins: points, confidences, right answers."""
        bins = cls(sums.shape[1])
        bins.count, bins.confidence, bins.correct = sums[0].astype(np.int64), sums[1], sums[2]
        return bins

    def update(self, confidence: Float[np.ndarray, "*s"], correct: Bool[np.ndarray, "*s"]) -> None:
        """Add points: confidences in [0, 1] and whether each answer was right."""
        confidence, correct = np.ravel(confidence).astype(float), np.ravel(correct).astype(float)
        where = np.searchsorted(self.edges, confidence).clip(1, len(self.count)) - 1
        self.count += np.bincount(where, minlength=len(self.count))
        self.confidence += np.bincount(where, confidence, len(self.count))
        self.correct += np.bincount(where, correct, len(self.count))

    def merge(self, other: "CalibrationBins") -> None:
        """Add another part's sums (same edges)."""
        if not np.array_equal(self.edges, other.edges):
            raise ConfigError("bins with different edges cannot be merged")
        self.count += other.count
        self.confidence += other.confidence
        self.correct += other.correct

    @property
    def ece(self) -> float:
        """Expected calibration error: mean over points of |confidence - accuracy| of their bin."""
        return float(np.abs(self.confidence - self.correct).sum() / max(int(self.count.sum()), 1))

    @property
    def mce(self) -> float:
        """Largest |confidence - accuracy| of a non-empty bin; noisy where bins are nearly empty."""
        return float((np.abs(self.confidence - self.correct) / self.count.clip(1)).max())

    @property
    def overconfidence(self) -> float:
        """Mean confidence minus accuracy: positive when the model claims too much."""
        return float((self.confidence - self.correct).sum() / max(self.count.sum(), 1))

    def curve(self, level: float = 0.95) -> ReliabilityCurve:
        """Return the reliability curve with consistency bands (Broecker and Smith, 2007).

        The band is the central interval of Binomial(count, mean confidence) / count, a little
        wider than the exact Poisson-binomial law.

        References
        ----------
        J. Broecker and L. A. Smith, Increasing the reliability of reliability diagrams, Weather
        and Forecasting 22 (2007), doi:10.1175/WAF993.1
        """
        kept = self.count > 0
        count = self.count[kept]
        confidence = self.confidence[kept] / count
        tail = (1 - level) / 2
        low, high = (binom.ppf(q, count, confidence.clip(0, 1)) / count for q in (tail, 1 - tail))
        return ReliabilityCurve(confidence, self.correct[kept] / count, count, low, high)

    def chance_ece(self, num_draws: int = 1000, seed: int = 0) -> Float[np.ndarray, " R"]:
        """Draw the ECE that a perfectly calibrated model would show on these points, by chance.

        The plain ECE is never 0 on finite data; this is the law to compare it with.
        """
        mean = (self.confidence / self.count.clip(1)).clip(0, 1)
        correct = np.random.default_rng(seed).binomial(self.count, mean, (num_draws, len(mean)))
        return np.abs(correct - self.confidence).sum(axis=1) / max(self.count.sum(), 1)


def calibration_verdict(bins: CalibrationBins, *, tolerance: float = 0.02) -> Verdict:
    """Say whether the probabilities can be trusted.

    Parameters
    ----------
    bins
        Top-label confidences of held-out points.
    tolerance
        An ECE up to this is no practical matter, however sure it is.

    Returns
    -------
    Verdict
        ``ok`` if the ECE is within the tolerance or within what a perfectly calibrated model shows
        by chance on as many points (95 %), ``fail`` above 0.1, ``warn`` between.
    """
    question = "Can the probabilities be trusted?"
    total = int(bins.count.sum())
    if not total:
        return Verdict(question, "unknown", "No points", "No prediction was scored.")
    chance = float(np.quantile(bins.chance_ece(), 0.95))
    numbers = (
        f"On average confidence and accuracy differ by {bins.ece:.1%} (ECE); a perfectly "
        f"calibrated model would show up to {chance:.1%} on {total} points by chance."
    )
    if bins.ece <= max(tolerance, chance):
        return Verdict(question, "ok", "Yes", numbers)
    way = "overconfident" if bins.overconfidence > 0 else "underconfident"
    headline = f"{'No' if bins.ece > 0.1 else 'Roughly'}, the model is {way}"
    return Verdict(question, "fail" if bins.ece > 0.1 else "warn", headline, numbers)
