"""What metrics are functions of: predicted points beside what happened, and sums over them."""

import functools
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Integer, Shaped
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import (
    multiclass_jaccard_index,
    multilabel_average_precision,
)

from bayesprior.errors import ConfigError
from bayesprior.prediction.mixtures import NormalMixture

__all__ = [
    "CalibrationError",
    "Points",
    "bin_sums",
    "calibration_error",
    "mean_overlap",
    "mean_precision",
    "nll",
    "rank_error",
    "risk_curve",
]

NUM_BINS = 15


def nll(log_likelihood: Float[Tensor, "S N"]) -> float:
    """Return the negative log likelihood of the model average, in nats per point.

    -(1 / N) sum_n log[(1 / S) sum_s p(y_n | x_n, w_s)], in float64 and free of underflow.

    Parameters
    ----------
    log_likelihood
        log p(y_n | x_n, w_s) of S draws and N points.

    Examples
    --------
    >>> f"{nll(torch.tensor([[0.2], [0.6]]).log()):.4f}"  # -log 0.4
    '0.9163'
    """
    log_mean = log_likelihood.double().logsumexp(0) - math.log(len(log_likelihood))
    return -log_mean.mean().item()


@dataclass(frozen=True)
class Points:
    """What was predicted of N points beside what happened; what a metric is a function of.

    Attributes
    ----------
    targets
        Labels (N,), several an example (N, C), each 0 or 1, or numbers (N, P).
    log_score
        Log of the averaged likelihood of each target, (N,).
    probs
        Averaged probabilities (N, C), of classes or of several labels; None for numbers.
    mean
        Predictive mean (N, P); None for classes.
    aleatoric, epistemic
        Parts of the entropy, (N,), where they are known.
    variance
        Of the predictive law of numbers, (N, P).
    ranks, crps
        Of numbers, where the targets fall in their predictive laws, (N, P), and the continuous
        ranked probability scores, (N,); None takes those of normal laws with mean and variance.

    Examples
    --------
    >>> points = Points.labeled(torch.tensor([[0.8, 0.2], [0.4, 0.6]]), torch.tensor([0, 0]))
    >>> points.confidence.tolist(), points.is_right.tolist()
    ([0.8, 0.6], [1.0, 0.0])
    """

    targets: Shaped[Tensor, "N *P"]
    log_score: Float[Tensor, " N"]
    probs: Float[Tensor, "N C"] | None = None
    mean: Float[Tensor, "N P"] | None = None
    aleatoric: Float[Tensor, " N"] | None = None
    epistemic: Float[Tensor, " N"] | None = None
    variance: Float[Tensor, "N P"] | None = None
    ranks: Float[Tensor, "N P"] | None = None
    crps: Float[Tensor, " N"] | None = None

    @classmethod
    def labeled(
        cls,
        probs: Float[Tensor, "B C *grid"],
        targets: Integer[Tensor, "B *grid"],
        ignore_index: int | None = None,
    ) -> "Points":
        """Take the labeled points (or pixels) of a batch."""
        rows, labels = probs.movedim(1, 0).flatten(1), targets.flatten().long()
        if ignore_index is not None:
            counts = labels != ignore_index
            rows, labels = rows[:, counts], labels[counts]
        return cls(labels, rows.gather(0, labels[None])[0].log(), rows.T)

    @property
    def known_probs(self) -> Float[Tensor, "N C"]:
        """The averaged probabilities, where there are some."""
        if self.probs is None:
            raise ConfigError("numbers have no class probabilities")
        return self.probs

    @functools.cached_property
    def top(self) -> tuple[Tensor, Tensor]:
        """Largest probability of each point, and its class."""
        return tuple(self.known_probs.max(1))  # type: ignore[return-value]

    @property
    def confidence(self) -> Float[Tensor, " N"]:
        """Largest probability of each point."""
        return self.top[0]

    @property
    def is_right(self) -> Float[Tensor, " N"]:
        """1 where the most probable class is the target, else 0."""
        return (self.top[1] == self.targets).to(self.top[0].dtype)

    @functools.cached_property
    def _normal(self) -> NormalMixture:
        """The normal laws of these moments."""
        if self.mean is None or self.variance is None:
            raise ConfigError("classes have no mean and variance")
        std = self.variance.double().sqrt()
        return NormalMixture(self.mean.double()[None], std[None], torch.ones(1))

    @functools.cached_property
    def known_ranks(self) -> Float[Tensor, "N P"]:
        """Where the targets fall in their predictive laws."""
        return self._normal.cdf(self.targets) if self.ranks is None else self.ranks

    def inside(self, level: float) -> Float[Tensor, " N"]:
        """Return the share of each point's numbers in the central interval of a level."""
        return ((self.known_ranks - 0.5).abs() <= level / 2).double().mean(1)

    @property
    def known_crps(self) -> Float[Tensor, " N"]:
        """Continuous ranked probability scores, the mean over a point's numbers."""
        return self._normal.crps(self.targets) if self.crps is None else self.crps

    @functools.cached_property
    def entropy(self) -> Float[Tensor, " N"]:
        """Entropy of the averaged probabilities, in nats."""
        return torch.special.entr(self.known_probs).sum(1)


def bin_sums(
    values: Float[Tensor, "N *k"], hits: Shaped[Tensor, "N *k"], edges: int | Tensor = NUM_BINS
) -> Float[Tensor, "3 *k M"]:
    """Return each bin's number of points, sum of values and number of hits, by column.

    The one accumulator of every calibration error: sums of parts add up to those of the whole.

    Parameters
    ----------
    values
        Probabilities claimed.
    hits
        1 where the claim came true, else 0.
    edges
        Inner edges of the bins (edge_k, edge_k+1], shape (M - 1,); a number makes that many bins
        of equal width.

    Examples
    --------
    >>> bin_sums(torch.tensor([0.4, 0.9, 0.7]), torch.tensor([1, 1, 0]), 2).tolist()
    [[1.0, 2.0], [0.4, 1.6], [1.0, 1.0]]
    """
    if isinstance(edges, int):
        if edges < 1:
            raise ConfigError(f"num_bins must be at least 1, got {edges}")
        edges = torch.arange(1, edges, device=values.device, dtype=torch.float64) / edges
    values, num_bins = values.double(), len(edges) + 1
    flat = values.reshape(len(values), math.prod(values.shape[1:]))
    where = torch.bucketize(flat.contiguous(), edges)
    where = (where + num_bins * torch.arange(flat.shape[1], device=flat.device)).flatten()
    size = num_bins * flat.shape[1]
    sums = [
        torch.bincount(where, part.flatten(), size).double()
        for part in (torch.ones_like(flat), flat, hits.double().reshape(flat.shape))
    ]
    return torch.stack(sums).reshape(3, *values.shape[1:], num_bins)


def calibration_error(sums: Float[Tensor, "3 M"]) -> Float[Tensor, ""]:
    """Return the mean over points of |hits - values| of their bin; NaN without points."""
    return (sums[2] - sums[1]).abs().sum() / sums[0].sum()


def rank_error(ranks: Float[Tensor, "N P"]) -> Float[Tensor, ""]:
    """Return the Kolmogorov-Smirnov distance of ranks in [0, 1] from uniform ones."""
    ordered = ranks.flatten().sort().values
    steps = torch.arange(len(ordered) + 1, device=ranks.device, dtype=torch.float64) / len(ordered)
    return torch.maximum(steps[1:] - ordered, ordered - steps[:-1]).max()


def risk_curve(uncertainty: Float[Tensor, " N"], loss: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Return the mean loss of the 1 .. N most certain points; ties share their mean loss."""
    _, group, size = uncertainty.unique(return_inverse=True, return_counts=True)
    total = torch.zeros_like(size, dtype=torch.float64).index_add_(0, group, loss.double())
    spread = (total / size).repeat_interleave(size)
    return spread.cumsum(0) / torch.arange(1, len(loss) + 1, device=loss.device)


def mean_precision(probs: Float[Tensor, "N C"], truth: Float[Tensor, "N C"]) -> Float[Tensor, ""]:
    """Return the average precision of each label that occurs, averaged; NaN without any.

    Examples
    --------
    >>> probs = torch.tensor([[0.9, 0.1], [0.2, 0.3], [0.6, 0.2]])
    >>> truth = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    >>> mean_precision(probs, truth).item()
    1.0
    """
    occurs = truth.any(0)
    if not bool(occurs.any()):
        return torch.tensor(torch.nan)
    both = probs[:, occurs], truth[:, occurs].long()
    found: Tensor = multilabel_average_precision(
        *both, both[0].shape[1], average="macro", validate_args=False
    )
    return found


def mean_overlap(labels: Float[Tensor, " N"], targets: Float[Tensor, " N"]) -> Float[Tensor, ""]:
    """Return the mean intersection over union of the classes that occur in either."""
    num_classes = int(max(labels.max(), targets.max())) + 1
    both = labels.long(), targets.long()
    return multiclass_jaccard_index(*both, num_classes, average="macro", validate_args=False)


class CalibrationError(Metric):
    """Expected calibration error of the predicted class, from ``num_bins`` bins of equal width.

    sum_m (n_m / n) |accuracy_m - confidence_m| over bins ((m - 1) / M, m / M] of the largest
    probability. The state is three sums a bin, whatever the number of points: torchmetrics' own
    keeps every confidence, which no set of images fits.

    Parameters
    ----------
    num_bins
        M.
    ignore_index
        Label of points that do not count.

    Raises
    ------
    ConfigError
        If there is not at least one bin.

    References
    ----------
    Guo et al., On Calibration of Modern Neural Networks, arXiv:1706.04599, equation 3.

    Examples
    --------
    >>> metric = CalibrationError()
    >>> metric.update(torch.tensor([[0.8, 0.2], [0.8, 0.2]]), torch.tensor([0, 1]))
    >>> f"{metric.compute():.2f}"
    '0.30'
    """

    full_state_update = False
    higher_is_better = False
    binned: Tensor

    def __init__(self, num_bins: int = NUM_BINS, ignore_index: int | None = None) -> None:
        super().__init__()
        if num_bins < 1:
            raise ConfigError(f"num_bins must be at least 1, got {num_bins}")
        self.num_bins, self.ignore_index = num_bins, ignore_index
        zeros = torch.zeros(3, num_bins, dtype=torch.float64)
        self.add_state("binned", zeros, dist_reduce_fx="sum")

    def update(
        self, probs: Float[Tensor, "B C *grid"], targets: Integer[Tensor, "B *grid"]
    ) -> None:
        """Take in one batch."""
        points = Points.labeled(probs, targets, self.ignore_index)
        self.binned += bin_sums(points.confidence, points.is_right, self.num_bins)

    def sums(self) -> Float[Tensor, "3 M"]:
        """Return each bin's number of points, sum of confidences and number of right answers."""
        return self.binned

    def compute(self) -> Float[Tensor, ""]:
        """Return the error, between 0 and 1; NaN without points."""
        return calibration_error(self.binned)
