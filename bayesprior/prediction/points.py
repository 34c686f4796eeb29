"""What metrics are functions of: predicted points beside what happened, and sums over them."""

import functools
import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from jaxtyping import Float, Integer, Shaped
from torch import Tensor
from torchmetrics.functional.classification import multiclass_jaccard_index

from bayesprior.errors import ConfigError

__all__ = [
    "Points",
    "bin_sums",
    "calibration_error",
    "mean_overlap",
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
        Labels (N,), or numbers (N, P).
    log_score
        Log of the averaged likelihood of each target, (N,).
    probs
        Averaged probabilities (N, C); None for numbers.
    mean
        Predictive mean (N, P); None for classes.
    aleatoric, epistemic
        Parts of the entropy, (N,), where they are known.
    variance
        Of the predictive law of numbers, (N, P).

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

    @functools.cached_property
    def top(self) -> tuple[Tensor, Tensor]:
        """Largest probability of each point, and its class."""
        if self.probs is None:
            raise ConfigError("numbers have no class probabilities")
        return tuple(self.probs.max(1))  # type: ignore[return-value]

    @property
    def confidence(self) -> Float[Tensor, " N"]:
        """Largest probability of each point."""
        return self.top[0]

    @property
    def is_right(self) -> Float[Tensor, " N"]:
        """1 where the most probable class is the target, else 0."""
        return (self.top[1] == self.targets).to(self.top[0].dtype)

    @functools.cached_property
    def errors(self) -> tuple[Tensor, Tensor]:
        """Targets minus means in predictive standard deviations, and these: (N, P) each."""
        if self.mean is None or self.variance is None:
            raise ConfigError("classes have no mean and variance")
        std = self.variance.double().sqrt()
        return (self.targets - self.mean.double()) / std, std

    def inside(self, level: float) -> Float[Tensor, " N"]:
        """Return the share of each point's numbers in the central interval of a level."""
        half = NormalDist().inv_cdf(0.5 + level / 2)
        return (self.errors[0].abs() <= half).double().mean(1)

    @functools.cached_property
    def crps(self) -> Float[Tensor, " N"]:
        """Continuous ranked probability score of a normal law, the mean over its numbers."""
        z, std = self.errors
        density = (-(z**2) / 2).exp() / math.sqrt(2 * math.pi)
        return (std * (z * torch.erf(z / math.sqrt(2)) + 2 * density - math.pi**-0.5)).mean(1)

    @functools.cached_property
    def entropy(self) -> Float[Tensor, " N"]:
        """Entropy of the averaged probabilities, in nats."""
        if self.probs is None:
            raise ConfigError("numbers have no class probabilities")
        return torch.special.entr(self.probs).sum(1)


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


def mean_overlap(labels: Float[Tensor, " N"], targets: Float[Tensor, " N"]) -> Float[Tensor, ""]:
    """Return the mean intersection over union of the classes that occur in either."""
    num_classes = int(max(labels.max(), targets.max())) + 1
    both = labels.long(), targets.long()
    return multiclass_jaccard_index(*both, num_classes, average="macro", validate_args=False)
