"""Several source posteriors as one: the Gaussian with the moments of their mixture."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from bayesprior.errors import ConfigError, LayoutMismatchError, checked
from bayesprior.weights.checks import check_positive
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.lowrank import LowRankCovariance

__all__ = ["pool"]

_MEAN, _VAR = "running_mean", "running_var"


@checked(laws="gaussians")
@torch.no_grad()
def pool(
    laws: Sequence[GaussianWeights], weights: Sequence[float] | None = None
) -> GaussianWeights:
    r"""Return the Gaussian whose mean and covariance are those of a mixture of sources.

    .. math:: m = \sum_i w_i m_i, \qquad
        \Sigma = \sum_i w_i \Sigma_i + \sum_i w_i (m_i - m)(m_i - m)^T

    Of all Gaussians it is the nearest to the mixture, in KL divergence from the mixture. It stays
    low-rank: diagonals are averaged, factors stand side by side, and the spread of n means adds up
    to n - 1 columns, so the rank is that of all sources together and n - 1 more (`truncate` it).

    Parameters
    ----------
    laws
        Sources of the same weights, in any order of the layout; low-rank blocks, none of them new.
    weights
        Of the sources, positive; shares of their sum. Equal by default.

    Returns
    -------
    GaussianWeights
        One block over all weights, in the first law's layout, type and device. Floating-point
        buffers have the mixture's moments too (running variances gain the spread of the running
        means); at the pooled mean they are an approximation, see
        `bayesprior.inference.batch_norm.reestimate_`. Statistics of features are left out: each
        source has features of its own.

    Raises
    ------
    ConfigError
        If there is no law, a weight is not positive, or a block is new or not low-rank.
    LayoutMismatchError
        If the laws are of different weights.

    Notes
    -----
    Weights of networks trained from different starts mean different things: the pooled mean is
    then no good network. Pool sources that began at the same weights.

    Examples
    --------
    >>> from bayesprior.weights.layout import ParameterLayout
    >>> layout = ParameterLayout(("w",), ((1,),))
    >>> low, high = (GaussianWeights.point(layout, torch.tensor([m]), 1.0) for m in (0.0, 4.0))
    >>> both = pool([low, high], weights=[3, 1])
    >>> both.loc.item(), both.variance.item(), both.rank
    (1.0, 4.0, 1)
    """
    laws, shares = _checked(laws, weights)
    first = laws[0]
    means = torch.stack([law.loc.double() for law in laws])
    loc = shares.to(means) @ means
    spread = means.sub_(loc).mul_(shares.to(means).sqrt()[:, None])
    values, vectors = torch.linalg.eigh(spread @ spread.T)
    kept = values > values.amax().clamp_min(0) * 1e-12  # weighted, the n deviations sum to zero
    between = vectors[:, kept].T.flip(0) @ spread
    rows = first.loc.new_zeros((sum(law.rank for law in laws) + len(between), first.dim))
    at = 0
    for law, share in zip(laws, shares.tolist(), strict=True):
        for placed in law._placed:
            own = placed.covariance.factor().mT * (placed.scale() * share).sqrt()
            for where, piece in placed.pieces(own):
                rows[at : at + len(own), where] = piece
            at += len(own)
    rows[at:] = between
    diag = sum(s * law.cov_diag.double() for law, s in zip(laws, shares.tolist(), strict=True))
    return GaussianWeights(
        first.layout,
        loc.to(first.loc),
        torch.as_tensor(diag).to(first.loc),
        rows.T,
        buffers=_pooled_buffers([law.buffers for law in laws], shares.tolist()),
        provenance={
            "role": "source posterior",
            "pooled": [law.provenance for law in laws],
            "pooled_shares": shares.tolist(),
        },
    )


def _checked(
    laws: Sequence[GaussianWeights], weights: Sequence[float] | None
) -> tuple[list[GaussianWeights], Tensor]:
    """Return the laws in one layout, type and device, and float64 shares that sum to one."""
    given = [1.0] * len(laws) if weights is None else list(weights)
    if not laws or len(given) != len(laws):
        raise ConfigError(
            f"pool takes laws, and one weight for each of them; got {len(laws)} laws"
            + ("" if weights is None else f" and {len(given)} weights")
        )
    for i, weight in enumerate(given):
        check_positive(f"weights[{i}]", weight)
    first = laws[0]
    for i, law in enumerate(laws):
        diff = first.layout.compare(law.layout)
        if not diff.is_equal:
            raise LayoutMismatchError(
                f"laws[0] and laws[{i}] are of different weights ({diff.describe()}); rename() "
                "them, or pool what they share: marginal(names)"
            )
        for block in law.blocks:
            if block.new or not isinstance(block.covariance, LowRankCovariance):
                what = "is new" if block.new else f"has a covariance of {block.covariance.kind}"
                raise ConfigError(
                    f"laws[{i}]: {block.names[0]} {what}; pool the sources, without a head, and "
                    "give the pool to make_prior"
                )
    shares = torch.tensor([float(weight) for weight in given], dtype=torch.float64)
    moved = [law.reorder(first.layout).to(first.loc.device, first.loc.dtype) for law in laws]
    return moved, shares / shares.sum()


def _pooled_buffers(
    buffers: Sequence[Mapping[str, Tensor]], shares: Sequence[float]
) -> dict[str, Tensor]:
    """Average what all laws have; variances gain the spread of means, counters are the first's."""

    def average(name: str) -> Tensor:
        return torch.stack(
            [s * b[name].double() for b, s in zip(buffers, shares, strict=True)]
        ).sum(0)

    out: dict[str, Tensor] = {}
    for name, value in buffers[0].items():
        if not all(name in other and other[name].shape == value.shape for other in buffers):
            continue
        out[name] = value
        if value.is_floating_point():
            pooled, mean = average(name), name.removesuffix(_VAR) + _MEAN
            if name.endswith(_VAR) and all(mean in other for other in buffers):
                center = average(mean)
                for other, share in zip(buffers, shares, strict=True):
                    pooled += share * (other[mean].double() - center).square()
            out[name] = pooled.to(value)
    return out
