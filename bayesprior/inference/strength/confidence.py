"""Confidence: the factor on logits that held-out examples ask for."""

import math

import torch
from jaxtyping import Float, Integer
from torch import Tensor
from torch.nn import functional as F

from bayesprior.errors import DataError

__all__ = ["fit_confidence"]

_LARGEST = 3.0  # log confidence, on either side of the center
_GOLDEN = (math.sqrt(5) - 1) / 2


def fit_confidence(
    logits: Float[Tensor, "N C"],
    labels: Integer[Tensor, " N"],
    *,
    center: float = 1.0,
    log_std: float = 0.3,
) -> float:
    r"""Return the factor b on held-out logits that makes them honest.

    :math:`\arg\min_b \sum_n -\log \mathrm{softmax}(b f_n)_{y_n} + (\log(b/c)/s)^2 / 2`: temperature
    scaling (b = 1 / T) with a log-normal prior, which carries the day where examples are few.

    Parameters
    ----------
    logits, labels
        Of examples that the fit has *not* seen: training logits ask for far too much. They must
        be out of fold for the very kind of fit that the factor will be used with; it does not
        carry over to another, or to another number of steps.
    center, log_std
        c and s. A standard deviation of infinity leaves it to the examples.

    Raises
    ------
    DataError
        If there are no examples, or logits are not finite.

    References
    ----------
    Guo et al., On Calibration of Modern Neural Networks, arXiv:1706.04599.

    Examples
    --------
    >>> logits = torch.tensor([[4.0, 0.0], [4.0, 0.0], [0.0, 4.0], [4.0, 0.0]])
    >>> labels = torch.tensor([0, 0, 1, 1])  # three of four right: odds of 3
    >>> round(4 * fit_confidence(logits, labels, log_std=math.inf), 4) == round(math.log(3), 4)
    True
    """
    logits, labels = logits.double(), labels.long()
    if not len(logits) or not bool(logits.isfinite().all()):
        raise DataError("a confidence needs held-out logits, all of them finite")

    def loss(t: float) -> float:
        fit = F.cross_entropy(math.exp(t) * logits, labels, reduction="sum")
        return float(fit) + (((t - math.log(center)) / log_std) ** 2) / 2

    middle = math.log(center)
    grid = [middle + x for x in torch.linspace(-_LARGEST, _LARGEST, 61).tolist()]
    values = [loss(t) for t in grid]
    best = min(range(len(grid)), key=values.__getitem__)
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    while high - low > 1e-7:
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    return math.exp((low + high) / 2)
