r"""The exact MAP head on frozen features, and its prior in units of logits.

Every class has weights N(0, h^2 C) and a bias N(0, h^2). C is a metric of the features, such as
the one that a source file tells, and h is set by the standard deviation that a logit has under
this prior: a weight's own says nothing where features are of any size.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from bayesprior.errors import ConfigError, DivergenceError
from bayesprior.inference.strength.features import WITHIN, second_moment
from bayesprior.weights.blocks import Block
from bayesprior.weights.lowrank import LowRankCovariance
from bayesprior.weights.rows import RowCovariance

__all__ = ["HeadPrior", "fit_logistic", "held_out_logits", "map_head", "within_metric"]

_SHRINKAGE = 0.1
_MAX_STEPS = 200


def within_metric(within: Float[Tensor, "P P"]) -> Float[Tensor, "P P"]:
    r"""Return L, lower, of the metric C = L L^T that scales features down where classes vary.

    :math:`C \propto (S_w + 0.1\,\overline{\mathrm{diag}\,S_w}\,I)^{-1/2}`, its mean diagonal 1.

    Examples
    --------
    >>> within_metric(torch.eye(2)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    within = within.double()
    values, vectors = torch.linalg.eigh((within + within.T) / 2)
    floor = _SHRINKAGE * float(within.diagonal().mean())
    if not floor > 0:
        raise ConfigError("the features do not vary within classes, which gives no metric")
    metric = (vectors * (values.clamp_min(0) + floor).rsqrt()) @ vectors.T
    return torch.linalg.cholesky(metric / metric.diagonal().mean())


@dataclass(frozen=True, eq=False)
class HeadPrior:
    """N(0, h^2 C) on the weights of every class, N(0, h^2) on its bias.

    Attributes
    ----------
    std
        h.
    tril
        L, lower, with C = L L^T, shape (P, P) in float64; None is the identity.
    has_bias
        Whether the head has one.
    """

    std: float
    tril: Float[Tensor, "P P"] | None = None
    has_bias: bool = True

    @classmethod
    def of_features(
        cls,
        features: Float[Tensor, "N P"],
        logit_std: float = 5.0,
        tril: Float[Tensor, "P P"] | None = None,
        *,
        has_bias: bool = True,
    ) -> "HeadPrior":
        """Return the prior under which logits of these features have this rms standard deviation.

        Examples
        --------
        >>> prior = HeadPrior.of_features(torch.tensor([[3.0], [4.0]]), 5.0, has_bias=False)
        >>> round(prior.std * math.sqrt((9 + 16) / 2), 6)
        5.0
        """
        seen = features.double() if tril is None else features.double() @ tril
        squares = float(seen.square().sum(1).mean())
        return cls(_std(logit_std, squares + has_bias), tril, has_bias)

    @classmethod
    def of_statistics(
        cls,
        statistics: Mapping[str, Tensor],
        logit_std: float = 5.0,
        *,
        learned: bool = True,
        has_bias: bool = True,
    ) -> "HeadPrior":
        """Return likewise for the features of a source, of `feature_statistics`."""
        tril = within_metric(statistics[WITHIN]) if learned else None
        moment = second_moment(statistics)
        trace = moment.trace() if tril is None else ((moment @ tril) * tril).sum()
        return cls(_std(logit_std, float(trace) + has_bias), tril, has_bias)

    def units(self, features: Float[Tensor, "N P"]) -> Float[Tensor, "N Q"]:
        """Return h (phi L, 1) in float64: logits are linear in it, with standard normal factors."""
        seen = features.double()
        seen = seen if self.tril is None else seen @ self.tril
        ones = [torch.ones_like(seen[:, :1])] if self.has_bias else []
        return self.std * torch.cat([seen, *ones], 1)

    def weights(
        self, factors: Float[Tensor, "C Q"]
    ) -> tuple[Float[Tensor, "C P"], Float[Tensor, " C"] | None]:
        """Return weight and bias of standard normal factors, those of `units`."""
        scaled = self.std * factors
        weight = scaled[:, :-1] if self.has_bias else scaled
        weight = weight if self.tril is None else weight @ self.tril.T
        return weight, scaled[:, -1] if self.has_bias else None

    def blocks(
        self, weight: str, bias: str | None, shape: tuple[int, ...], dtype: torch.dtype
    ) -> list[Block]:
        """Return the prior as blocks of a `GaussianWeights`.

        Parameters
        ----------
        weight, bias
            Names of the head's parameters.
        shape
            Of the weight, (C, P) or (C, P, 1, 1).
        dtype
            Of the law.
        """
        count, width = shape[0], math.prod(shape[1:])
        if self.tril is None:
            variances = torch.full((count * width,), self.std**2, dtype=dtype)
            blocks = [Block((weight,), LowRankCovariance(variances), new=True)]
        else:
            tril = (self.std * self.tril).to(dtype)
            blocks = [Block((weight,), RowCovariance(tril, count), new=True)]
        if bias is not None:
            variances = torch.full((count,), self.std**2, dtype=dtype)
            blocks.append(Block((bias,), LowRankCovariance(variances), new=True))
        return blocks


def _std(logit_std: float, squares: float) -> float:
    if not 0 < squares < math.inf:
        raise ConfigError("the head's inputs are all zero, or not finite: no logit has a scale")
    return logit_std / math.sqrt(squares)


def map_head(
    features: Float[Tensor, "N P"],
    labels: Integer[Tensor, " N"],
    num_classes: int,
    prior: HeadPrior,
) -> tuple[Float[Tensor, "C P"], Float[Tensor, " C"] | None]:
    """Return weight and bias of the exact MAP head on frozen features, in float64.

    Minimizes the sum of the negative log likelihoods less the prior's log density: a strictly
    convex problem, solved by Newton's method.

    Examples
    --------
    >>> prior = HeadPrior(std=1.0, has_bias=False)
    >>> weight, _ = map_head(torch.tensor([[1.0], [-1.0]]), torch.tensor([0, 1]), 2, prior)
    >>> probability = torch.sigmoid(weight[0] - weight[1])  # of the right class, for both
    >>> bool(torch.isclose(weight[0], 2 * (1 - probability)))
    True
    """
    return prior.weights(fit_logistic(prior.units(features), labels, num_classes))


def held_out_logits(
    features: Float[Tensor, "N P"],
    labels: Integer[Tensor, " N"],
    num_classes: int,
    prior: HeadPrior,
    folds: Integer[Tensor, " N"],
) -> Float[Tensor, "N C"]:
    """Return each example's logits under the MAP head of the other folds.

    Examples of fold -1 are never held out, and their rows are those of the head of all.
    """
    units = prior.units(features)
    full = fit_logistic(units, labels, num_classes)
    logits = units @ full.T
    for fold in range(int(folds.max()) + 1):
        out = folds == fold
        factors = fit_logistic(units[~out], labels[~out], num_classes, start=full)
        logits[out] = units[out] @ factors.T
    return logits


def fit_logistic(
    inputs: Float[Tensor, "N Q"],
    labels: Integer[Tensor, " N"],
    num_classes: int,
    penalty: float | Float[Tensor, " Q"] = 1.0,
    *,
    start: Float[Tensor, "C Q"] | None = None,
) -> Float[Tensor, "C Q"]:
    """Minimize sum_n -log softmax(U x_n)[y_n] + sum_j penalty_j |U_j|^2 / 2 over U (C, Q).

    Newton's method in float64; the linear systems by conjugate gradients, as exactly as the
    outer step deserves. With fewer examples than columns and one penalty the problem is
    turned into the span of the inputs, where the solution lies.

    Parameters
    ----------
    inputs, labels
        Rows and their classes.
    num_classes
        C; classes without an example are only pushed away.
    penalty
        One for all columns, or one for each; 0 leaves a column (of ones, say) free.
    start
        Near the solution.

    Raises
    ------
    DivergenceError
        If no minimum is found: the inputs are not finite.
    """
    x = inputs.double()
    if isinstance(penalty, float) and len(x) < x.shape[1]:
        basis, triangle = torch.linalg.qr(x.T)
        begin = None if start is None else start @ basis
        return fit_logistic(triangle.T, labels, num_classes, penalty, start=begin) @ basis.T
    y = torch.nn.functional.one_hot(labels.long(), num_classes).double()
    u = x.new_zeros(num_classes, x.shape[1]) if start is None else start.double().clone()

    def loss(at: Tensor) -> Tensor:
        logits = x @ at.T
        return (logits.logsumexp(1) - (logits * y).sum(1)).sum() + (penalty * at * at).sum() / 2

    value, first = loss(u), 0.0
    for step in range(_MAX_STEPS):
        probs = (x @ u.T).softmax(1)
        gradient = (probs - y).T @ x + penalty * u
        size = float(gradient.norm())
        first = first if step else max(size, 1e-8)
        if size <= 1e-10 * max(first, 1.0):
            return u
        direction = _solve(x, probs, penalty, -gradient, min(0.1, math.sqrt(size / first)))
        slope, share = float((gradient * direction).sum()), 1.0
        while (tried := loss(u + share * direction)) > value + 1e-4 * share * slope:
            share /= 2
            if share < 1e-6:  # nothing but rounding is left
                break
        if share < 1e-6 and math.isfinite(size) and size <= 1e-6 * max(first, 1.0):
            return u
        if not math.isfinite(float(tried)) or share < 1e-6:
            break
        u, value = u + share * direction, tried
    raise DivergenceError("the head's features are not finite, or too large to fit a head on")


def _solve(
    x: Tensor, probs: Tensor, penalty: float | Tensor, right: Tensor, tolerance: float
) -> Tensor:
    """Solve H d = right by conjugate gradients; H is the curvature at these probabilities."""
    solution, residual = torch.zeros_like(right), right.clone()
    direction, square = residual.clone(), float(residual.square().sum())
    goal = tolerance**2 * square
    for _ in range(2 * right.numel() + 10):
        change = x @ direction.T
        change = probs * (change - (probs * change).sum(1, keepdim=True))
        product = change.T @ x + penalty * direction
        curvature = float((direction * product).sum())
        if not curvature > 0:
            break
        step = square / curvature
        solution += step * direction
        residual -= step * product
        before, square = square, float(residual.square().sum())
        if square <= goal:
            break
        direction = residual + (square / before) * direction
    return solution if bool(solution.any()) else right
