"""Proper scores and calibration errors of class probabilities.

Everything works on NumPy arrays: ``probs`` (N, C), rows that sum to 1, and ``targets`` (N,).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from bayesprior.diagnostics.checks import Probs, Targets, check_probs, top_label
from bayesprior.diagnostics.reliability import CalibrationBins
from bayesprior.errors import ConfigError

__all__ = ["BrierScore", "brier", "ece", "mce", "nll"]


class BrierScore(NamedTuple):
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


def nll(probs: Probs, targets: Targets) -> float:
    """Return the mean negative log-likelihood, in nats; infinite if a true class got 0.

    Examples
    --------
    >>> round(nll(np.array([[0.5, 0.5], [0.9, 0.1]]), np.array([0, 0])), 4)
    0.3993
    """
    probs, targets = check_probs(probs, targets)
    with np.errstate(divide="ignore"):
        return float(-np.log(probs[np.arange(len(targets)), targets]).mean())


def ece(
    probs: Probs,
    targets: Targets,
    *,
    num_bins: int = 15,
    kind: str = "top_label",
) -> float:
    """Return the expected calibration error.

    Parameters
    ----------
    probs, targets
        Shapes (N, C) and (N,).
    num_bins
        Number of bins.
    kind
        ``top_label``: confidence of the predicted class, bins of equal width (Guo et al., 2017).
        ``adaptive``: the same with bins of equal mass. ``class_wise``: every class's probability
        against its frequency, mean over classes (Kull et al., 2019).

    Raises
    ------
    ConfigError
        If ``kind`` is none of the three.

    References
    ----------
    C. Guo et al., On calibration of modern neural networks, arXiv:1706.04599;
    M. Kull et al., Beyond temperature scaling, arXiv:1910.12656

    Examples
    --------
    >>> round(ece(np.array([[0.8, 0.2], [0.8, 0.2]]), np.array([0, 1])), 4)
    0.3
    """
    if kind == "class_wise":
        probs, targets = check_probs(probs, targets)
        _, mean, freq = binned_classes(probs, targets, num_bins)
        return float(np.abs(mean - freq).sum() / probs.size)
    if kind not in ("top_label", "adaptive"):
        raise ConfigError(f"kind must be top_label, class_wise or adaptive, got {kind!r}")
    confidence, correct = top_label(probs, targets)
    bins = (
        CalibrationBins(num_bins)
        if kind == "top_label"
        else CalibrationBins.equal_mass(confidence, num_bins)
    )
    bins.update(confidence, correct)
    return bins.ece


def mce(probs: Probs, targets: Targets, *, num_bins: int = 15) -> float:
    """Return the maximum calibration error: the worst bin's |confidence - accuracy|."""
    bins = CalibrationBins(num_bins)
    bins.update(*top_label(probs, targets))
    return bins.mce


def binned_classes(
    probs: Probs, targets: Targets, num_bins: int
) -> tuple[Int[np.ndarray, "C M"], Float[np.ndarray, "C M"], Float[np.ndarray, "C M"]]:
    """Return per class and bin: points, sum of probabilities, number of true outcomes."""
    num_classes = probs.shape[1]
    bins = np.searchsorted(np.linspace(0, 1, num_bins + 1), probs).clip(1, num_bins) - 1
    flat = bins + num_bins * np.arange(num_classes)
    size = num_classes * num_bins
    hit = flat[np.arange(len(targets)), targets]
    sums = (
        np.bincount(flat.ravel(), minlength=size),
        np.bincount(flat.ravel(), probs.ravel(), size),
        np.bincount(hit, minlength=size).astype(float),
    )
    return tuple(s.reshape(num_classes, num_bins) for s in sums)  # type: ignore[return-value]


def brier(probs: Probs, targets: Targets, *, num_bins: int = 15) -> BrierScore:
    """Return the multi-class Brier score with Murphy's decomposition, summed over classes.

    Each class's probability is binned (``num_bins`` of equal width); ``within_bin`` is what the
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
    probs, targets = check_probs(probs, targets)
    num_points = len(targets)
    picked = probs[np.arange(num_points), targets]
    score = float(((probs**2).sum(axis=1) - 2 * picked + 1).mean())
    count, mean, freq = binned_classes(probs, targets, num_bins)
    base = freq.sum(axis=1, keepdims=True) / num_points
    safe = count.clip(1)
    reliability = float(((mean - freq) ** 2 / safe).sum() / num_points)
    resolution = float((count * (freq / safe - base) ** 2).sum() / num_points)
    uncertainty = float((base * (1 - base)).sum())
    rest = score - reliability + resolution - uncertainty
    return BrierScore(score, reliability, resolution, uncertainty, rest)
