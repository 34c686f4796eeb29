"""I_C (x) S against its Kronecker product in float64."""

import jaxtyping
import pytest
import torch
from dense import FALSE_ALARM, dense_rows, standard_normal_p_value

from bayesprior.errors import ConfigError, LayoutMismatchError
from bayesprior.weights.lowrank import LowRankCovariance
from bayesprior.weights.rows import RowCovariance

close = torch.testing.assert_close
C, P = 3, 4


@pytest.fixture
def tril():
    return torch.randn(P, P, dtype=torch.float64).tril(-1) + torch.diag(torch.rand(P) + 0.5)


@pytest.fixture
def cov(tril):
    return RowCovariance(tril, C)


@pytest.fixture
def dense(tril):
    return dense_rows(tril, C)


def test_everything_equals_the_kronecker_product(cov, dense):
    value, shift = torch.randn(2, 5, C * P, dtype=torch.float64), torch.randn(C * P).double()
    precision = torch.linalg.inv(dense)
    close(cov.log_det, torch.linalg.slogdet(dense).logabsdet)
    assert cov.trace == pytest.approx(float(dense.trace()))
    close(cov.variance(), dense.diagonal())
    close(cov.inverse_diagonal, precision.diagonal())
    close(cov.solve(value, shift, by=-2.0), -2 * (value - shift) @ precision)
    out = value.clone()
    assert cov.solve(out, shift, out=out) is out
    close(out, (value - shift) @ precision)
    close(cov.quadratic(value), ((value @ precision) * value).sum(-1))
    close(cov.product(value), value @ dense)
    identity = torch.eye(C * P, dtype=torch.float64)
    root = cov.color(identity).T
    close(root @ root.T, dense)
    close(cov.color(identity, transposed=True), root)
    close(cov.whiten(identity).T @ root, identity)
    close(cov.whiten(identity, transposed=True) @ root, identity)
    close(torch.diag(cov.diagonal()) + cov.factor() @ cov.factor().T, dense)
    close(cov.least_variance, float(torch.linalg.eigvalsh(dense)[0]))
    assert torch.linalg.eigvalsh(torch.diag(cov.max_precision()) - precision).min() > -1e-9
    jittered = cov.jittered(0.3)
    close(jittered.product(identity), dense + 0.3 * identity)


def test_float32_is_accumulated_in_float64(cov, dense):
    narrow = cov.to(None, torch.float32)
    value = torch.randn(C * P)
    exact = dense_rows(narrow.tril, C)
    assert narrow.solve(value).dtype == torch.float32
    assert narrow.quadratic(value).dtype == torch.float64
    close(narrow.quadratic(value), value.double() @ torch.linalg.solve(exact, value.double()))


def test_traces_of_products(cov, dense, tril):
    ratio = torch.tensor(0.7, dtype=torch.float64)
    others = (
        (RowCovariance(tril + torch.eye(P), C), dense_rows(tril + torch.eye(P), C)),
        (LowRankCovariance(cov.variance()), torch.diag(dense.diagonal())),
    )
    rows = torch.randn(2, C * P, dtype=torch.float64)
    low_rank = LowRankCovariance(cov.variance(), rows)
    others += ((low_rank, torch.diag(dense.diagonal()) + rows.T @ rows),)
    for other, matrix in others:
        expected = 0.7 * torch.trace(torch.linalg.solve(matrix, dense))
        close(cov.trace_of_product(other, ratio), expected)
        back = 0.7 * torch.trace(torch.linalg.solve(dense, matrix))
        close(other.trace_of_product(cov, ratio), back)


@pytest.mark.statistical
def test_draws(cov, dense):
    draws = cov.draw(torch.randn(4000, C * P, dtype=torch.float64), torch.zeros(4000, 0))
    z = torch.linalg.solve_triangular(torch.linalg.cholesky(dense), draws.T, upper=False)
    assert standard_normal_p_value(z.T.numpy()) > FALSE_ALARM


@pytest.mark.parametrize(
    ("tril", "error", "message"),
    [
        (torch.ones(2, 3), LayoutMismatchError, r"takes a Cholesky factor \(P, P\), got \(2, 3\)"),
        (torch.ones(2, 2), ConfigError, "lower Cholesky factor of S"),
        (-torch.eye(2), ConfigError, "its diagonal positive"),
        (torch.eye(2) * torch.nan, ConfigError, "holds NaN"),
        (torch.eye(2).requires_grad_(), ConfigError, "is a constant; detach it"),
    ],
)
def test_what_is_no_cholesky_factor(tril, error, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(error, match=message):
        RowCovariance(tril, 3).check()


def test_a_parameter_is_not_cut(cov):
    assert cov.take([slice(0, C * P)]) is cov
    with pytest.raises(ConfigError, match="cannot be cut inside its parameter"):
        cov.take([slice(0, P)])
