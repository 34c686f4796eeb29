"""Network size: the cases on which torch's own class is wrong, and memory."""

import math
import subprocess
import sys

import pyro.distributions as dist
import pytest
import torch

from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout

MILLION = ParameterLayout(("w",), ((1_000_000,),))
RANK = 10


def draw_law(least: float) -> GaussianWeights:
    """SWAG-like moments: tiny variances (weights that barely move) are normal."""
    dim = MILLION.dim
    diag = torch.rand(dim).mul_(1e-2).add_(1e-3)
    if least < 1e-3:
        diag[: int(0.3 * dim)] = least
    rows = torch.randn(RANK, dim).mul_(1e-2)
    return GaussianWeights(MILLION, torch.randn(dim).mul_(0.1), diag, rows.T)


@pytest.mark.parametrize(("least", "nats"), [(1e-3, 0.1), (1e-5, 1000), (1e-8, 1000)])
def test_density_and_score_where_torch_s_class_is_off(least, nats):
    law = draw_law(least)
    value = law.sample()
    stock = law.to_pyro()
    wide = (t.double() for t in (law.loc, law.cov_factor, law.cov_diag))
    stock64 = torch.distributions.LowRankMultivariateNormal(*wide)
    residual = (value - law.loc).double()  # the float32 difference is the common input
    leaf = (law.loc.double() + residual).requires_grad_()
    exact = stock64.log_prob(leaf)
    (gradient,) = torch.autograd.grad(exact, leaf)
    narrow = value.clone().requires_grad_()
    of_stock = stock.log_prob(narrow)
    (gradient_of_stock,) = torch.autograd.grad(of_stock, narrow)
    exact, of_stock = float(exact.detach()), float(of_stock.detach())
    assert abs(of_stock - exact) > nats  # 1 or 4 of the first law, by the machine's BLAS

    # Rounding of D-long float64 sums, the reference's too; the quadratic form is a difference
    # of numbers of this size.
    rounding = torch.finfo(torch.float64).eps * law.dim**0.5
    size = float((residual.square() / law.cov_diag.double()).sum() + law.dim)
    for given in (value, leaf.detach()):
        ours = law.log_prob(given, dtype=torch.float64)
        assert abs(float(ours) - exact) < rounding * size
        assert abs(float(ours) - exact) < abs(of_stock - exact) / 1000

    # Likewise the score is a difference of vectors as long as r / d.
    error = (law.score(value) - gradient).norm()
    length = (residual / law.cov_diag.double()).norm()
    assert error < 8 * torch.finfo(torch.float32).eps * length
    assert error < (gradient_of_stock - gradient).norm() / 20
    assert (law.score(leaf.detach()) - gradient).norm() < rounding * length


@pytest.mark.parametrize("noise", [1e-7, 1e-5])
def test_collinear_columns_which_torch_s_class_refuses(noise):
    """Thirty snapshots of one drift with variances at the floor: finite, and the known density.

    At a noise of 1e-7 the small eigenvalues are rounding (bound: 10 nats of 1.8 million), at 1e-5
    they are known (0.012 nats).
    """
    dim, rank, floor = 100_000, 30, 1e-8
    layout = ParameterLayout(("w",), ((dim,),))
    drift = torch.randn(dim)
    steps = torch.linspace(0.5, 1.5, rank)
    rows = steps[:, None] * drift + noise * torch.randn(rank, dim)
    diag = torch.full((dim,), floor)
    with pytest.raises(RuntimeError, match="positive-definite"):
        dist.LowRankMultivariateNormal(torch.zeros(dim), rows.T, diag)
    law = GaussianWeights(layout, torch.zeros(dim), diag, rows.T)
    value = law.sample()
    # Reference: in the rows' own basis the covariance is K x K plus the floor. Singular values of
    # the triangle have an error of eps times the largest, so the squares of the small ones count.
    triangle = torch.linalg.qr(rows.double().T).R
    ratios = torch.linalg.svdvals(triangle).square() / diag[0].double()
    log_det = torch.log1p(ratios).sum() + dim * diag[0].double().log()
    # Ours are the eigenvalues of the Gram matrix W^T D^-1 W, whose trace is the sum of the ratios.
    # By Weyl's inequality each is off by at most the 2-norm of what K x K roundings of that size
    # add up to, sqrt(K) eps trace if they are independent.
    eps = torch.finfo(torch.float64).eps
    delta = rank**0.5 * eps * ratios.sum()
    bound = torch.log1p(delta / (1 + (ratios - delta).clamp_min(0))).sum()
    bound += dim**0.5 * eps * log_det.abs()  # of the sum over D logarithms
    found = law.log_normalizer() - dim * math.log(2 * math.pi)
    assert abs(found - log_det) < bound
    assert torch.isfinite(law.score(value)).all()
    assert torch.isfinite(law._capacitance_tril).all()
    # chi-square(D), 12 standard deviations wide
    assert abs(float(law.mahalanobis(value)) - dim) < 12 * (2 * dim) ** 0.5
    assert law.coordinates(value).abs().max() < 8


MEMORY = """
import resource, sys, torch
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout

torch.set_num_threads(1)
dim, rank = int(sys.argv[1]), int(sys.argv[2])

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def use(dim, rank):
    layout = ParameterLayout(("w", "head"), ((dim - 10,), (10,)))
    rows = torch.empty(rank, dim - 10).normal_(0, 0.01)
    law = GaussianWeights(layout, torch.zeros(dim), torch.ones(dim), rows.T)
    law = law.rescale(rms_std=0.1)
    value = law.sample()
    law.score(value)
    law.score_and_log_prob(value)
    law.mahalanobis(value), law.coordinates(value), law.entropy(), law.max_precision()
    law.rms_std, law.effective_rank, law.block_rms_std(), repr(law)
    value.requires_grad_()
    law.log_prob(value).backward()

use(1000, rank)
before = peak()
use(dim, rank)
tensors = 4 * dim * (rank + 2)
print((peak() - before - tensors) / (4 * dim))
"""


def extra_vectors(dim: int, rank: int) -> float:
    """Peak memory beyond mean, diagonal and factor, in units of one float32 D-vector."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(dim), str(rank)],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def test_memory_stays_near_the_size_of_the_tensors():
    assert extra_vectors(2_000_000, 20) < 8


@pytest.mark.long
def test_memory_at_the_size_of_a_resnet_50():
    assert extra_vectors(25_000_000, 20) < 8
