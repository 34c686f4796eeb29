"""What the uncertainty is made of and whether it is useful: rejection and detection.

Scores of uncertainty are larger where the model is less sure. Ties never depend on the order of
the points: equal scores are accepted or rejected together, at their mean risk.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import entr
from scipy.stats import binom

from bayesprior.diagnostics.intervals import LEVEL
from bayesprior.errors import DataError
from bayesprior.prediction.points import risk_curve

__all__ = [
    "Detection",
    "RiskCoverage",
    "detection",
    "entropy",
    "guaranteed_limit",
    "ood_scores",
    "risk_coverage",
]

Points = Float[np.ndarray, " N"]
NUM_COVERAGES = 20


class Detection(NamedTuple):
    """How well a score tells further data (positive) from the data of the task (negative).

    Attributes
    ----------
    auroc
        Probability that a further point scores higher than a point of the task; 0.5 is chance.
    aupr
        Average precision; chance is the share of further points.
    fpr95
        Share of the task's points flagged when 95 % of the further ones are.
    """

    auroc: float
    aupr: float
    fpr95: float


@dataclass(frozen=True)
class RiskCoverage:
    """Risk among the points kept when the least certain ones are rejected.

    Attributes
    ----------
    coverage
        Share of points kept, 1/N .. 1.
    risk
        Mean loss among them.
    """

    coverage: Points
    risk: Points

    @property
    def aurc(self) -> float:
        """Area under the curve, the mean risk over all coverages; smaller is better.

        References
        ----------
        Y. Geifman et al., Bias-reduced uncertainty estimation for deep neural classifiers,
        arXiv:1805.08206
        """
        return float(self.risk.mean())

    def coverage_at(self, risk: float) -> float:
        """Return the largest share of points that can be kept at no more than this risk, or 0."""
        kept = np.flatnonzero(self.risk <= risk + 1e-12)
        return float(self.coverage[kept[-1]]) if kept.size else 0.0


def entropy(probs: Float[np.ndarray, "*s C"]) -> Float[np.ndarray, "*s"]:
    """Return the entropy of the last axis, in nats (0 log 0 = 0)."""
    return entr(probs).sum(axis=-1)


def risk_coverage(uncertainty: Points, loss: Points) -> RiskCoverage:
    """Return the risk-coverage curve.

    Parameters
    ----------
    uncertainty
        Larger is less certain, shape (N,).
    loss
        Any loss of each point, shape (N,); 0 for a right and 1 for a wrong answer, say.

    Raises
    ------
    DataError
        If the shapes differ, there is no point, or an uncertainty is NaN.

    Examples
    --------
    >>> curve = risk_coverage(np.array([0.1, 0.9, 0.5]), np.array([0.0, 1.0, 0.0]))
    >>> curve.coverage_at(0.0), round(curve.aurc, 4)
    (0.6666666666666666, 0.1111)
    """
    if uncertainty.shape != loss.shape or not loss.size or np.isnan(uncertainty).any():
        raise DataError(
            f"selective prediction needs one finite uncertainty per loss, got shapes "
            f"{uncertainty.shape} and {loss.shape}, {int(np.isnan(uncertainty).sum())} NaN"
        )
    risk = risk_curve(*(torch.from_numpy(np.array(v, float)) for v in (uncertainty, loss)))
    return RiskCoverage(np.arange(1, len(loss) + 1) / len(loss), risk.numpy())


def guaranteed_limit(uncertainty: Points, wrong: Points, risk: float) -> float:
    """Return up to which uncertainty *other* points may be kept at no more than this risk.

    In at least 95 % of all samples of N points the error rate of the law they come from, below the
    limit, is at most ``risk``. Tried are 20 limits, each the uncertainty of the point of a fixed
    rank; the n points below it are independent ones of that law, so that the limit counts where
    P(Binomial(n, risk) <= errors) <= 0.05 / 20.

    Parameters
    ----------
    uncertainty
        Larger is less certain, shape (N,); nothing else was chosen on these points.
    wrong
        1 for a wrong answer, 0 for a right one, shape (N,).
    risk
        Share of wrong answers among those kept, in [0, 1].

    Returns
    -------
    float
        Keep what is less uncertain; infinity keeps all, minus infinity nothing.

    Notes
    -----
    The paper searches by bisection with a bound of delta / log2 N. The steps of that depend on the
    points, so that it holds only where the risk grows with coverage; fixed ranks hold always.

    References
    ----------
    Y. Geifman and R. El-Yaniv, Selective classification for deep neural networks, arXiv:1705.08500

    Examples
    --------
    >>> uncertainty = np.linspace(0, 1, 500)
    >>> limit = guaranteed_limit(uncertainty, (uncertainty > 0.6).astype(float), risk=0.05)
    >>> f"{limit:.2f}"  # the 300 points below it are right, those above it wrong
    '0.60'
    """
    ranks = len(uncertainty) * np.arange(1, NUM_COVERAGES) // NUM_COVERAGES
    limits = np.append(np.sort(uncertainty)[ranks], np.inf)
    below = uncertainty < limits[:, None]
    chance = binom.cdf(below @ wrong, below.sum(1), risk)
    good = np.flatnonzero(chance <= (1 - LEVEL) / NUM_COVERAGES)
    return float(limits[good[-1]]) if good.size else -np.inf


def ood_scores(
    probs: Float[np.ndarray, "N C"],
    *,
    mutual_information: Points | None = None,
    energy: Points | None = None,
) -> dict[str, Points]:
    """Return the usual scores of being out of distribution; larger means further out.

    Parameters
    ----------
    probs
        Averaged probabilities, shape (N, C).
    mutual_information
        Epistemic part in nats, if there were several draws.
    energy
        -logsumexp of the logits averaged over draws, as
        `bayesprior.prediction.results.Prediction` keeps.

    Returns
    -------
    dict
        ``max_probability`` (1 - max p), ``entropy``, and where given ``mutual_information`` and
        ``energy``.

    References
    ----------
    D. Hendrycks and K. Gimpel, arXiv:1610.02136; W. Liu et al., Energy-based out-of-distribution
    detection, arXiv:2010.03759
    """
    scores = {"max_probability": 1 - probs.max(axis=1), "entropy": entropy(probs)}
    known = {"mutual_information": mutual_information, "energy": energy}
    return scores | {k: np.asarray(v, dtype=float) for k, v in known.items() if v is not None}


def detection(inside: Points, outside: Float[np.ndarray, " M"]) -> Detection:
    """Score the separation of further data from the task's own.

    Parameters
    ----------
    inside, outside
        One kind of score for the task's test points (N,) and for the further points (M,).

    Raises
    ------
    DataError
        If either is empty or holds NaN.

    Examples
    --------
    >>> detection(np.array([0.1, 0.2]), np.array([0.8, 0.9]))
    Detection(auroc=1.0, aupr=1.0, fpr95=0.0)
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    if not (len(inside) and len(outside)):
        raise DataError("detection needs points on both sides; one of the sets is empty")
    scores = np.concatenate([inside, outside]).astype(float)
    if np.isnan(scores).any():
        raise DataError(f"{int(np.isnan(scores).sum())} out-of-distribution scores are NaN")
    labels = np.repeat([0, 1], [len(inside), len(outside)])
    # the highest threshold that still flags 95 % of the further points
    threshold = np.sort(outside)[len(outside) - int(np.ceil(0.95 * len(outside)))]
    return Detection(
        float(roc_auc_score(labels, scores)),
        float(average_precision_score(labels, scores)),
        float((inside >= threshold).mean()),
    )
