"""I_C (x) S: the rows of a head's weight are independent, each with the covariance S."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from bayesprior.errors import ConfigError, LayoutMismatchError
from bayesprior.weights.checks import check_finite
from bayesprior.weights.covariance import Covariance, constant

__all__ = ["RowCovariance"]


class RowCovariance(Covariance):
    """I_C (x) S over a weight of shape (C, P): one covariance S (P x P) for each of its C rows.

    Parameters
    ----------
    tril
        Cholesky factor L of S = L L^T, shape (P, P): a constant.
    count
        C, the number of rows; classes or outputs of a linear head.

    Notes
    -----
    Solves are triangular and in float64; they cost C P^2, nothing of (C P)^2 is formed. S has no
    low rank: `factor`, which torch's own class would need, has C P columns.

    Examples
    --------
    >>> head = RowCovariance(torch.tensor([[1.0, 0.0], [0.5, 1.0]]), count=3)
    >>> head.dim, head.variance()[:2].tolist()
    (6, [1.0, 1.25])
    """

    kind = "rows"

    def __init__(self, tril: Float[Tensor, "P P"], count: int) -> None:
        self.tril = self.anchor = tril
        self.count = count
        self.dim = self.num_columns = count * len(tril)

    @constant
    def _wide(self) -> Tensor:
        """L in float64."""
        return self.tril.double()

    @constant
    def log_det(self) -> Float[Tensor, ""]:
        """C log|S|."""
        return 2 * self.count * self._wide.diagonal().log().sum()

    @constant
    def inverse_diagonal(self) -> Float[Tensor, " F"]:
        """Diagonal of S^-1, C times."""
        inverse = torch.cholesky_inverse(self._wide)
        return inverse.diagonal().repeat(self.count)

    @constant
    def least_variance(self) -> float:
        """Least eigenvalue of S, from the largest singular value of L^-1."""
        inverse = self._divide(torch.eye(len(self._wide)).to(self._wide))
        return float(1 / torch.linalg.matrix_norm(inverse, 2).square()) if self.dim else 1.0

    def variance(self) -> Float[Tensor, " F"]:
        """Diagonal of S, C times."""
        return self._wide.square().sum(1).to(self.tril.dtype).repeat(self.count)

    def diagonal(self) -> Float[Tensor, " F"]:
        """Half the least eigenvalue of S: what a low-rank form can split off."""
        return torch.full_like(self.tril[0, 0], self.least_variance / 2).repeat(self.dim)

    def factor(self) -> Float[Tensor, "F B"]:
        """I_C (x) B with B B^T the rest of S; C P columns."""
        rest = self.jittered(-self.least_variance / 2).tril.contiguous()
        return torch.kron(torch.eye(self.count).to(rest), rest)

    def max_precision(self) -> Float[Tensor, " F"]:
        """Largest eigenvalue of S^-1, for every weight."""
        return torch.full_like(self.tril[0, 0], 1 / self.least_variance).repeat(self.dim)

    def _rows(self, value: Tensor) -> Tensor:
        return value.double().unflatten(-1, (self.count, len(self.tril)))

    def _back(self, rows: Tensor, value: Tensor) -> Tensor:
        kind = torch.promote_types(value.dtype, self.tril.dtype)
        return rows.flatten(-2).to(kind)

    def _divide(self, rows: Tensor, *, transposed: bool = False) -> Tensor:
        """L^-1 r, or L^-T r, for every row r."""
        # X with X L^T = rows, X L = rows
        tril = self._wide if transposed else self._wide.mT
        return torch.linalg.solve_triangular(tril, rows, upper=not transposed, left=False)

    def quadratic(self, residual: Tensor) -> Tensor:
        """Sum over rows of r^T S^-1 r, float64."""
        return self._divide(self._rows(residual)).square().sum((-2, -1))

    def solve(
        self, value: Tensor, shift: Tensor | None = None, by: float = 1.0, out: Tensor | None = None
    ) -> Tensor:
        """Return by * S^-1 (value - shift) for every row."""
        residual = value if shift is None else value - shift
        rows = self._divide(self._divide(self._rows(residual)), transposed=True)
        solved = self._back(rows * by, residual)
        return solved if out is None else out.copy_(solved)

    def product(self, value: Tensor) -> Tensor:
        """S v for every row."""
        return self._back(self._rows(value) @ self._wide @ self._wide.mT, value)

    def color(self, noise: Tensor, *, transposed: bool = False) -> Tensor:
        """L z, or L^T z, for every row."""
        root = self._wide if transposed else self._wide.mT
        return self._back(self._rows(noise) @ root, noise)

    def whiten(self, value: Tensor, *, transposed: bool = False) -> Tensor:
        """L^-1 r, or L^-T r, for every row."""
        return self._back(self._divide(self._rows(value), transposed=transposed), value)

    def trace_of_product(self, other: Covariance, ratio: Tensor) -> Float[Tensor, ""]:
        """Trace of other^-1 A (I (x) S) A: closed for another of this kind, else by low rank."""
        ratio = ratio.reshape(-1)[0]  # a block of this kind holds one parameter
        if isinstance(other, RowCovariance):
            return ratio * self.count * other._divide(self._wide.mT).square().sum()
        return ratio * other.trace_of_solve(self)

    def take(self, slices: list[slice], *, precision: bool = False) -> "RowCovariance":
        """Return itself: the parameter of this block is not divisible."""
        if sum(s.stop - s.start for s in slices) != self.dim:
            raise ConfigError("a block of row covariances cannot be cut inside its parameter")
        return self

    def jittered(self, variance: float) -> "RowCovariance":
        """S + variance I."""
        rows = self._wide @ self._wide.T + variance * torch.eye(len(self.tril)).to(self._wide)
        return RowCovariance(torch.linalg.cholesky(rows).to(self.tril.dtype), self.count)

    def tensors(self) -> dict[str, Tensor]:
        """Return ``tril`` (P, P)."""
        return {"tril": self.tril}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], dim: int) -> "RowCovariance":
        """Make it of ``tril``, repeated as often as ``dim`` holds it."""
        tril = tensors["tril"]
        return cls(tril, dim // max(tril.shape[-1], 1))

    def check(self) -> None:
        """Raise unless L is finite, lower triangular and of positive diagonal."""
        tril = self.tril
        if tril.dim() != 2 or tril.shape[0] != tril.shape[1] or not tril.numel():
            raise LayoutMismatchError(
                f"a row covariance takes a Cholesky factor (P, P), got {tuple(tril.shape)}"
            )
        if tril.requires_grad:
            raise ConfigError("the Cholesky factor of a row covariance is a constant; detach it")
        check_finite("the Cholesky factor of a row covariance", tril)
        if torch.triu(tril, 1).any() or not tril.diagonal().min() > 0:
            raise ConfigError(
                "a row covariance takes the lower Cholesky factor of S, its diagonal positive: "
                "torch.linalg.cholesky(S)"
            )
