"""Independent references of the Gaussian tests: dense float64 Normals and exact p-values."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from bayesprior.weights.blocks import Block
from bayesprior.weights.covariance import Covariance
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout
from bayesprior.weights.lowrank import LowRankCovariance
from bayesprior.weights.rows import RowCovariance

LAYOUT = ParameterLayout(("conv.weight", "conv.bias", "head.weight"), ((2, 2), (1,), (3,)))
FALSE_ALARM = 1e-6  # of one test, split over its checks

# F, K and the width: a backbone with a head, all weights shared, no factor, more columns than
# rows, no shared block, a block that ends inside a parameter, two other widths.
SHAPES = {
    "head": (5, 2, None),
    "all shared": (8, 3, None),
    "no factor": (5, 0, None),
    "wide factor": (2, 4, None),
    "nothing shared": (0, 2, None),
    "split parameter": (3, 2, None),
    "narrow": (5, 2, 0.01),
    "wide": (8, 3, 40.0),
}


class Case(NamedTuple):
    """A law and its moments, computed apart from it."""

    law: GaussianWeights
    loc: Tensor
    cov: Tensor

    @property
    def dense(self) -> torch.distributions.MultivariateNormal:
        return torch.distributions.MultivariateNormal(self.loc, self.cov)


def make_case(
    kind: str = "head", dtype: torch.dtype = torch.float64, seed: int = 0, **extra: Any
) -> Case:
    """Draw a law of the given shape and its dense moments in float64."""
    split, rank, cov_scale = SHAPES[kind]
    generator = torch.Generator().manual_seed(seed)
    dim = LAYOUT.dim
    loc = torch.randn(dim, generator=generator, dtype=dtype)
    diag = torch.rand(dim, generator=generator, dtype=dtype) + 0.2
    factor = torch.randn(split, rank, generator=generator, dtype=dtype)
    law = GaussianWeights(LAYOUT, loc, diag, factor, **extra)
    cov = torch.diag(diag.double())
    cov[:split, :split] += factor.double() @ factor.double().T
    if cov_scale is not None:
        law = law.rescale(cov_scale=cov_scale)
        cov[:split, :split] *= cov_scale
    return Case(law, loc.double(), cov)


BLOCK_LAYOUT = ParameterLayout(
    ("conv.weight", "norm.weight", "conv.bias", "head.weight"), ((2, 2), (3,), (2,), (3, 2))
)
# Names, columns (None: a row covariance), widths and whether new; parameters in any order.
BLOCKS: dict[str, list[tuple[tuple[str, ...], int | None, tuple[float, ...], bool]]] = {
    "two towers": [
        (("conv.bias", "conv.weight"), 2, (), False),
        (("head.weight", "norm.weight"), 3, (0.3,), False),
    ],
    "row head": [
        (("norm.weight", "conv.weight", "conv.bias"), 2, (2.0,), False),
        (("head.weight",), None, (0.5,), True),
    ],
    "widths inside": [
        (("conv.weight", "conv.bias", "norm.weight"), 2, (2.0, 0.1, 30.0), False),
        (("head.weight",), 0, (), True),
    ],
    "rows only learned": [
        (("head.weight",), None, (), False),
        (("conv.bias", "conv.weight", "norm.weight"), 1, (0.2,), False),
    ],
}


def dense_low_rank(diag: Tensor, rows: Tensor) -> Tensor:
    """diag(d) + W W^T, from the tensors alone."""
    return torch.diag(diag.double()) + rows.double().T @ rows.double()


def dense_rows(tril: Tensor, count: int) -> Tensor:
    """I_C (x) S, from the Cholesky factor of S alone."""
    rows = tril.double() @ tril.double().T
    return torch.kron(torch.eye(count, dtype=torch.float64), rows)


def make_block_case(kind: str, dtype: torch.dtype = torch.float64, **extra: Any) -> Case:
    """Draw a law of several blocks and its dense moments in float64."""
    layout, dim = BLOCK_LAYOUT, BLOCK_LAYOUT.dim
    loc = torch.randn(dim, dtype=dtype)
    cov = torch.zeros(dim, dim, dtype=torch.float64)
    blocks = []
    for names, rank, widths, new in BLOCKS[kind]:
        at = [i for name in names for i in range(dim)[layout.slice(name)]]
        if rank is None:
            tril = torch.randn(2, 2, dtype=dtype).tril(-1) + torch.diag(torch.rand(2) + 0.5)
            block: Covariance = RowCovariance(tril.to(dtype), 3)
            part = dense_rows(tril, 3)
        else:
            diag = torch.rand(len(at), dtype=dtype) + 0.2
            rows = torch.randn(rank, len(at), dtype=dtype)
            block, part = LowRankCovariance(diag, rows), dense_low_rank(diag, rows)
        scale = torch.tensor(widths if len(widths) > 1 else (*widths, 1.0)[0]).double()
        sizes = [layout.slice(n).stop - layout.slice(n).start for n in names]
        width = scale.expand(len(names)).repeat_interleave(torch.tensor(sizes)).sqrt()
        cov[torch.tensor(at)[:, None], torch.tensor(at)] = width[:, None] * part * width
        blocks.append(Block(names, block, scale, new))
    law = GaussianWeights.from_blocks(layout, loc, blocks, **extra)
    return Case(law, loc.double(), cov)


def covariance_of(law: GaussianWeights) -> Tensor:
    """The dense covariance that a law reports, in float64."""
    factor = law.cov_factor.detach().double()
    return torch.diag(law.cov_diag.detach().double()) + factor @ factor.T


def standard_normal_p_value(z: NDArray[np.float64]) -> float:
    """Smallest p-value, corrected for their number, of exact tests that rows of z are N(0, I).

    Mean (chi-square), each variance (chi-square), each correlation (t) and the pooled marginal
    (Kolmogorov-Smirnov); z has shape (S, D).
    """
    count, dim = z.shape
    p_values = [stats.chi2.sf(count * (z.mean(0) ** 2).sum(), dim)]
    p_values.append(stats.kstest(z.ravel(), "norm").pvalue)
    squares = (z**2).sum(0)
    p_values += list(2 * np.minimum(stats.chi2.cdf(squares, count), stats.chi2.sf(squares, count)))
    if dim > 1:
        r = np.corrcoef(z.T)[np.triu_indices(dim, 1)]
        t = r * np.sqrt((count - 2) / (1 - r**2))
        p_values += list(2 * stats.t.sf(np.abs(t), count - 2))
    return float(min(p_values)) * len(p_values)
