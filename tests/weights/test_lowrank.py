"""Low-rank products and solves against dense linear algebra in float64."""

import functools

import pytest
import torch
from dense import FALSE_ALARM, standard_normal_p_value
from torch.autograd import gradcheck, gradgradcheck

from bayesprior.errors import ConfigError
from bayesprior.weights import lowrank
from bayesprior.weights.covariance import quadratic
from bayesprior.weights.lowrank import LowRankCovariance

# torch's own forward-mode differentiation scripts its decompositions
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")

SIZES = {"tall": (11, 3), "no factor": (11, 0), "wide": (3, 5), "empty": (0, 2), "one": (1, 1)}


@pytest.fixture(params=SIZES, autouse=True)
def size(request):
    return SIZES[request.param]


@pytest.fixture(params=["one tile", "many tiles"], autouse=True)
def tiling(request, monkeypatch):
    if request.param == "many tiles":
        monkeypatch.setitem(lowrank._TILE, "cpu", 4)
        monkeypatch.setitem(lowrank._FINE, "cpu", 3)


@pytest.fixture
def cov(size):
    rows, columns = size
    diag = torch.rand(rows, dtype=torch.float64) + 0.1
    return LowRankCovariance(diag, torch.randn(columns, rows, dtype=torch.float64))


@pytest.fixture
def dense(cov):
    return torch.diag(cov.diag) + cov.rows.T @ cov.rows


def test_scalars_equal_the_dense_ones(cov, dense):
    torch.testing.assert_close(cov.log_det, torch.linalg.slogdet(dense).logabsdet)
    assert cov.trace == pytest.approx(float(dense.trace()))
    width = torch.rand(cov.dim, dtype=torch.float64) + 0.5
    torch.testing.assert_close(cov.gram(), cov.rows @ cov.rows.T)
    torch.testing.assert_close(cov.gram(width), (cov.rows * width) @ (cov.rows * width).T)


def test_inverse_diagonal(cov, dense):
    torch.testing.assert_close(cov.inverse_diagonal, torch.linalg.inv(dense).diagonal())


@pytest.mark.parametrize("lead", [(), (4,), (2, 3)])
def test_solve_and_quadratic(cov, dense, lead):
    residual = torch.randn(*lead, cov.diag.shape[0], dtype=torch.float64)
    expected = torch.linalg.solve(dense, residual.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(cov.solve(residual), expected)
    torch.testing.assert_close(cov.quadratic(residual), (residual * expected).sum(-1))
    shift = torch.randn(cov.diag.shape[0], dtype=torch.float64)
    out = torch.empty(*lead, cov.diag.shape[0] + 2, dtype=torch.float64)[..., 1:-1]
    result = cov.solve(residual + shift, shift, by=-3.0, out=out)
    assert result is out
    torch.testing.assert_close(out, -3 * expected)


def test_derivatives_are_right_to_second_order(cov):
    residual = torch.randn(2, cov.diag.shape[0], dtype=torch.float64, requires_grad=True)
    if not residual.numel():
        pytest.skip("nothing to differentiate")
    function = functools.partial(quadratic, cov=cov)
    assert gradcheck(function, residual, check_forward_ad=True)
    assert gradgradcheck(function, residual)


def test_transforms_of_torch_func(cov, dense):
    residual = torch.randn(4, cov.diag.shape[0], dtype=torch.float64)
    if not residual.numel():
        pytest.skip("torch's jacfwd takes no empty tensor")
    precision = torch.linalg.inv(dense)
    function = functools.partial(quadratic, cov=cov)
    expected = 2 * residual @ precision
    torch.testing.assert_close(torch.vmap(function)(residual), cov.quadratic(residual))
    torch.testing.assert_close(torch.vmap(torch.func.grad(function))(residual), expected)
    torch.testing.assert_close(torch.vmap(torch.func.jacfwd(function))(residual), expected)
    for hessian in (
        torch.func.hessian(function),
        torch.func.jacrev(torch.func.jacrev(function)),
        torch.func.jacrev(torch.func.jacfwd(function)),
    ):
        torch.testing.assert_close(hessian(residual[0]), 2 * precision)


def test_forward_over_forward_is_refused_and_never_zero(cov):
    residual = torch.randn(cov.diag.shape[0], dtype=torch.float64)
    if len(residual):
        function = functools.partial(quadratic, cov=cov)
        with pytest.raises(ConfigError, match=r"use torch\.func\.hessian"):
            torch.func.jacfwd(torch.func.jacfwd(function))(residual)


@pytest.mark.statistical
def test_whitened_projections_are_standard_normal(cov, dense):
    draws = torch.randn(2000, len(dense), dtype=torch.float64) @ torch.linalg.cholesky(dense).T
    z = cov.coordinates(draws)
    assert z.shape == (2000, min(cov.rank, cov.dim))
    if cov.rank and cov.dim:
        assert standard_normal_p_value(z.numpy()) > FALSE_ALARM
    whitened = cov.whiten(draws)
    if cov.dim:
        assert standard_normal_p_value(whitened.numpy()) > FALSE_ALARM


def test_products_and_roots(cov, dense):
    """Two passes over W: M v, R z with R R^T = M, its inverse, and their adjoints."""
    value = torch.randn(2, 3, cov.dim, dtype=torch.float64)
    close = torch.testing.assert_close
    close(cov.product(value), value @ dense)
    identity = torch.eye(cov.dim, dtype=torch.float64)
    root = cov.color(identity).T
    close(root @ root.T, dense)
    close(cov.color(identity, transposed=True), root)
    close(cov.whiten(identity).T @ root, identity)
    close(cov.whiten(identity, transposed=True) @ root, identity)
    assert cov.color(value.float()).dtype == torch.float64


def test_a_block_of_the_precision(cov, dense):
    slices = [slice(0, cov.dim // 3), slice(cov.dim // 2, cov.dim)]
    at = [i for s in slices for i in range(cov.dim)[s]]
    precision = torch.linalg.inv(dense)[at][:, at]
    part = cov.take(slices, precision=True)
    residual = torch.randn(len(at), dtype=torch.float64)
    torch.testing.assert_close(part.solve(residual), precision @ residual)
    torch.testing.assert_close(part.quadratic(residual), residual @ precision @ residual)
    torch.testing.assert_close(part.inverse_diagonal, precision.diagonal())
    other = cov.take(slices)
    torch.testing.assert_close(torch.diag(other.diag) + other.rows.T @ other.rows, dense[at][:, at])
    assert cov.take([slice(0, cov.dim)]) is cov
