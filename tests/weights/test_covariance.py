"""A kind of block made here, of the abstract methods alone: what the base class adds is right."""

import copy

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from bayesprior.errors import ConfigError
from bayesprior.testing import check_weight_distribution
from bayesprior.weights.blocks import Block
from bayesprior.weights.covariance import KINDS, Covariance, constant, linear, quadratic
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout
from bayesprior.weights.lowrank import LowRankCovariance

close = torch.testing.assert_close
F = 4
LAYOUT = ParameterLayout(("body", "dense"), ((3,), (F,)))


@pytest.fixture(scope="module", autouse=True)
def dense():
    """Register a kind for the tests of this file."""

    class Dense(Covariance):
        """Any matrix M, by dense linear algebra."""

        kind = "dense"

        def __init__(self, matrix):
            self.matrix = self.anchor = matrix
            self.dim = self.num_columns = len(matrix)

        @constant
        def tril(self):
            return torch.linalg.cholesky(self.matrix)

        @constant
        def log_det(self):
            return torch.logdet(self.matrix.double())

        @constant
        def inverse_diagonal(self):
            return torch.linalg.inv(self.matrix.double()).diagonal()

        @constant
        def least_variance(self):
            return float(torch.linalg.eigvalsh(self.matrix)[0])

        def variance(self):
            return self.matrix.diagonal().clone()

        def diagonal(self):
            return torch.full((self.dim,), self.least_variance / 2).to(self.matrix)

        def factor(self):
            return torch.linalg.cholesky(self.matrix - torch.diag(self.diagonal()))

        def max_precision(self):
            return torch.full((self.dim,), 1 / self.least_variance).to(self.matrix)

        def quadratic(self, residual):
            return (residual * self.solve(residual)).sum(-1).double()

        def solve(self, value, shift=None, by=1.0, out=None):
            residual = value if shift is None else value - shift
            solved = by * torch.linalg.solve(self.matrix, residual.unsqueeze(-1)).squeeze(-1)
            return solved if out is None else out.copy_(solved)

        def product(self, value):
            return value @ self.matrix

        def color(self, noise, *, transposed=False):
            return noise @ (self.tril if transposed else self.tril.mT)

        def whiten(self, value, *, transposed=False):
            inverse = torch.linalg.inv(self.tril)
            return value @ (inverse if transposed else inverse.mT)

        def take(self, slices, *, precision=False):
            return self

        def jittered(self, variance):
            return Dense(self.matrix + variance * torch.eye(self.dim).to(self.matrix))

        def tensors(self):
            return {"matrix": self.matrix}

        @classmethod
        def from_tensors(cls, tensors, dim):
            return cls(tensors["matrix"])

        def check(self):
            if not self.least_variance > 0:
                raise ConfigError("M must be positive definite")

    yield Dense
    del KINDS["dense"]


@pytest.fixture
def matrix():
    root = torch.randn(F, F, dtype=torch.float64)
    return root @ root.T + 0.3 * torch.eye(F, dtype=torch.float64)


@pytest.fixture
def law(dense, matrix):
    body = LowRankCovariance(torch.rand(3).double() + 0.2, torch.randn(1, 3).double())
    blocks = [Block(("dense",), dense(matrix)), Block(("body",), body)]
    return GaussianWeights.from_blocks(LAYOUT, torch.randn(7).double(), blocks)


@pytest.mark.statistical
def test_a_new_kind_makes_a_law_that_keeps_the_contract(law, matrix):
    close(law.covariance_matrix[3:, 3:], matrix)
    check_weight_distribution(law)


def test_a_new_kind_is_found_in_files_and_by_the_algebra(law, matrix, tmp_path):
    law.rescale(cov_scale=0.5).save(tmp_path / "law.safetensors")
    again = GaussianWeights.load(tmp_path / "law.safetensors")
    close(again.covariance_matrix, 0.5 * law.covariance_matrix)
    assert again.truncate(0).blocks[0].covariance is again.blocks[0].covariance
    close(law.marginal(["dense"]).covariance_matrix, matrix)
    close(law.jitter(0.1).covariance_matrix[3:, 3:].trace(), 1.1 * matrix.trace())


def test_what_the_base_class_derives(dense, matrix):
    """Traces from the matrix's diagonal and factor, and no learned directions."""
    cov, ratio = dense(matrix), torch.rand(F).double() + 0.5
    other = LowRankCovariance(torch.rand(F).double() + 0.2, torch.randn(2, F).double())
    widths = ratio.sqrt()
    low_rank = torch.diag(other.diag) + other.rows.T @ other.rows
    assert cov.trace == pytest.approx(float(matrix.trace()))
    wide = widths[:, None] * matrix * widths
    close(cov.trace_of_product(other, ratio), torch.linalg.solve(low_rank, wide).trace())
    number = torch.tensor(0.7).double()
    narrow = torch.linalg.solve(matrix, number * low_rank).trace()
    close(other.trace_of_product(cov, number), narrow)
    close(cov.trace_of_solve(other), torch.linalg.solve(matrix, low_rank).trace())
    noise = torch.randn(2, F).double()
    close(cov.draw(noise, noise[:, :0]), cov.color(noise))
    assert cov.coordinates(noise).shape == (2, 0)
    assert cov.gram().shape == (0, 0)
    assert cov.truncated(0) is cov
    close(cov.to("cpu", torch.float32).matrix, matrix.float())


def test_linear_and_quadratic_have_all_derivatives(dense, matrix):
    cov = dense(matrix)
    value = torch.randn(3, F, dtype=torch.float64, requires_grad=True)
    precision = torch.linalg.inv(matrix)

    def color(v):
        return linear(v, cov.color, lambda g: cov.color(g, transposed=True))

    for map in (color, lambda v: quadratic(v, cov)):
        assert gradcheck(map, (value,), check_forward_ad=True)
        assert gradgradcheck(map, (value,))
    found = quadratic(value, cov)
    close(found, ((value @ precision) * value).sum(-1))
    close(torch.vmap(lambda v: quadratic(v, cov))(value), found)
    close(torch.func.hessian(lambda v: quadratic(v, cov))(value[0].detach()), 2 * precision)


def test_a_constant_is_made_once_and_survives_copies(dense, matrix):
    cov = dense(matrix)
    first = torch.vmap(lambda v: v * cov.log_det)(torch.ones(2).double())
    assert cov.log_det is cov.log_det
    close(first, cov.log_det.expand(2))
    assert torch.equal(copy.deepcopy(cov).log_det, cov.log_det)
