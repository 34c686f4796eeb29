"""Independent references of the Gaussian tests: dense float64 Normals and exact p-values."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout

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
