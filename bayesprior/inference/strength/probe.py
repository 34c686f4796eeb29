"""The linear probe: logistic regression on frozen features, its strength by cross-validation."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Integer
from torch import Tensor
from torch.nn import functional as F

from bayesprior.errors import DataError
from bayesprior.inference.strength.confidence import fit_confidence
from bayesprior.inference.strength.features import stratified_folds
from bayesprior.inference.strength.head import fit_logistic

__all__ = ["Probe", "fit_probe"]

_GRID = tuple(10 ** (4 - half / 2) for half in range(13))  # from strong to weak
_GIVEN_UP = 1.15  # times the best NLL: weaker penalties are not tried any more


@dataclass(frozen=True, eq=False)
class Probe:
    """A linear head on frozen features.

    Attributes
    ----------
    weight, bias
        Of the logits, (C, P) and (C,), float64.
    penalty
        Of the weights over features of mean standard deviation 1, chosen out of fold.
    held_out
        Out-of-fold logits (N, C).
    confidence
        Factor on the logits, fitted to the out-of-fold ones.
    nll
        Mean out-of-fold negative log likelihood at that confidence, in nats: to rank with.
    """

    weight: Float[Tensor, "C P"]
    bias: Float[Tensor, " C"]
    penalty: float
    held_out: Float[Tensor, "N C"]
    confidence: float
    nll: float


def fit_probe(
    features: Float[Tensor, "N P"],
    labels: Integer[Tensor, " N"],
    num_classes: int,
    *,
    num_folds: int = 5,
    seed: int = 0,
    penalties: tuple[float, ...] = _GRID,
) -> Probe:
    """Fit a multinomial logistic regression, L2 by stratified cross-validation, bias free.

    Parameters
    ----------
    features, labels
        As of `head_inputs`.
    num_classes
        C.
    num_folds
        At most the size of the smallest class, but 2.
    seed
        Of the folds.
    penalties
        Tried from the first on, until they get clearly worse.

    Raises
    ------
    DataError
        If there are fewer than two examples.

    Examples
    --------
    >>> features = torch.cat([torch.randn(20, 3), torch.randn(20, 3) + 3])
    >>> probe = fit_probe(features, torch.arange(40) // 20, 2)
    >>> probe.weight.shape, probe.nll < math.log(2)
    (torch.Size([2, 3]), True)
    """
    if len(labels) < 2:
        raise DataError("cross-validation needs two examples at least")
    size = float(features.double().std(0).mean())
    if not 0 < size < math.inf:
        raise DataError("the features do not vary, or are not finite")
    inputs = torch.cat([features.double() / size, torch.ones(len(features), 1).double()], 1)
    smallest = int(torch.bincount(labels.long()).clamp_min(1).min())
    num_folds = max(2, min(num_folds, smallest, len(labels)))
    folds = stratified_folds(labels.long(), num_folds, seed)
    free = torch.ones(inputs.shape[1], dtype=torch.float64)
    free[-1] = 0
    best: tuple[float, float, Tensor] | None = None
    starts: list[Tensor | None] = [None] * num_folds
    for penalty in penalties:
        held_out = inputs.new_zeros(len(labels), num_classes)
        for fold in range(num_folds):
            out = folds == fold
            part, own = inputs[~out], labels[~out]
            starts[fold] = fit_logistic(part, own, num_classes, penalty * free, start=starts[fold])
            held_out[out] = inputs[out] @ starts[fold].T  # type: ignore[union-attr]
        nll = float(F.cross_entropy(held_out, labels.long()))
        if best is None or nll < best[0]:
            best = nll, penalty, held_out
        elif nll > _GIVEN_UP * best[0]:
            break
    assert best is not None
    _, penalty, held_out = best
    factors = fit_logistic(inputs, labels, num_classes, penalty * free)
    confidence = fit_confidence(held_out, labels, log_std=1.0)
    nll = float(F.cross_entropy(confidence * held_out, labels.long()))
    return Probe(factors[:, :-1] / size, factors[:, -1], penalty, held_out, confidence, nll)
