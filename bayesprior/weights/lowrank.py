"""The matrix diag(d) + W W^T of a million rows and a few columns: products and solves.

Everything K-dimensional and every sum over the rows is accumulated in float64, tile by tile, so
that nothing of the factor's size is ever allocated. The capacitance I + W^T D^-1 W is kept by its
eigendecomposition rather than a Cholesky factor: it exists for collinear columns as well.
"""

import functools
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch._C._functorch import TransformType, get_interpreter_stack
from torch.autograd import Function

from bayesprior.errors import ConfigError

__all__ = ["LowRankCovariance"]

# Rows a tile. On a CPU 2^16 to 2^18 are within 5 % of each other (D = 1e7, 2.5e7; K = 10), 2^15
# and 2^20 cost 30 % more; on a GPU a tile bounds the temporaries.
_TILE = {"cpu": 1 << 17, "cuda": 1 << 24}
# Passes that convert the factor to float64, and the length of a float32 sum.
_FINE = {"cpu": 1 << 15, "cuda": 1 << 21}


class LowRankCovariance:
    """diag(d) + W W^T with constant d and W; the Woodbury identity, cached.

    Parameters
    ----------
    diag
        d, shape (F,), positive.
    rows
        W^T, shape (K, F): the columns of the factor as contiguous rows, which halves the time of
        the products on a CPU.

    Notes
    -----
    Solving costs two passes over W. In float32 the products inside a tile are float32 and the
    sums over tiles float64; along the factor's own directions the difference r/d - V V^T r
    cancels, and the result there loses as many digits as the factor's variance exceeds the
    diagonal's (every form of the Woodbury identity does). `quadratic` and float64 input run
    in float64 throughout.
    """

    def __init__(self, diag: Float[Tensor, " F"], rows: Float[Tensor, "K F"]) -> None:
        self.diag = diag
        self.rows = rows

    @property
    def rank(self) -> int:
        """K."""
        return self.rows.shape[0]

    def tiles(self, step: int | None = None, dim: int | None = None) -> Iterator[slice]:
        """Cut the F rows (or ``dim`` of them) into slices that fit the cache."""
        size = step or _TILE.get(self.diag.device.type, 1 << 24)
        total = self.diag.shape[0] if dim is None else dim
        for start in range(0, total, size):
            yield slice(start, min(start + size, total))

    def _fine(self, dim: int | None = None) -> Iterator[slice]:
        return self.tiles(_FINE.get(self.diag.device.type, 1 << 21), dim)

    @functools.cached_property
    def _eigen(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues s^2 (descending) and vectors R of W^T D^-1 W, float64 on the device."""
        gram = self.rows.new_zeros((self.rank, self.rank), dtype=torch.float64)
        for at in self._fine():
            tile = self.rows[:, at].double()
            gram += (tile / self.diag[at].double()) @ tile.T
        values, vectors = torch.linalg.eigh(gram)
        return values.clamp_min(0.0).flip(0), vectors.flip(1)

    @functools.cached_property
    def log_det(self) -> Float[Tensor, ""]:
        """log|diag(d) + W W^T|, float64."""
        total = torch.log1p(self._eigen[0]).sum()
        for at in self._fine():
            total = total + self.diag[at].double().log().sum()
        return total

    @functools.cached_property
    def capacitance_tril(self) -> Float[Tensor, "K K"]:
        """Cholesky factor of I + W^T D^-1 W, float64, as torch's own class keeps it."""
        values, vectors = self._eigen
        upper = torch.linalg.qr((1 + values).sqrt()[:, None] * vectors.T).R
        sign = torch.where(upper.diagonal() < 0, -1.0, 1.0).to(upper.dtype)
        return (sign[:, None] * upper).T

    def project(self, value: Tensor, shift: Tensor | None = None, *, exact: bool = False) -> Tensor:
        """Return W^T D^-1 (value - shift) in float64, shape (..., K), for value (..., F)."""
        out = value.new_zeros((*value.shape[:-1], self.rank), dtype=torch.float64)
        for at in self._fine() if exact else self.tiles():
            part = value[..., at] if shift is None else value[..., at] - shift[at]
            rows, diag = self.rows[:, at], self.diag[at]
            if exact:
                rows, diag, part = rows.double(), diag.double(), part.double()
            part = part / diag if shift is None else part.div_(diag)
            # short float32 sums: their error grows with the length
            for piece in self._fine(part.shape[-1]):
                out += torch.matmul(part[..., piece], rows[:, piece].T)
        return out

    def _capacitance_solve(self, projected: Tensor) -> Tensor:
        values, vectors = self._eigen
        return ((projected @ vectors) / (1 + values)) @ vectors.T

    def solve(
        self,
        value: Tensor,
        shift: Tensor | None = None,
        *,
        multiplier: float = 1.0,
        out: Tensor | None = None,
    ) -> Tensor:
        """Return multiplier * (diag(d) + W W^T)^-1 (value - shift), shape (..., F).

        Not differentiable; fused per tile, so nothing but the result has F elements. The result
        has the promoted type of value, shift and d.
        """
        kind = value.dtype if shift is None else torch.promote_types(value.dtype, shift.dtype)
        kind = torch.promote_types(kind, self.diag.dtype)
        if out is None:
            out = value.new_empty(value.shape, dtype=kind)
        exact = kind == torch.float64
        inner = self._capacitance_solve(self.project(value, shift, exact=exact)).to(kind)
        for at in self.tiles():
            part, rows = out[..., at], self.rows[:, at].to(kind)
            if shift is None:
                part.copy_(value[..., at])
            else:
                torch.sub(value[..., at], shift[at], out=part)
            if part.dim() == 1:
                part.addmv_(rows.T, inner, beta=multiplier, alpha=-multiplier)
            else:
                part.sub_(inner @ rows).mul_(multiplier)
            part.div_(self.diag[at])
        return out

    def quadratic(self, residual: Tensor) -> Tensor:
        """Return r^T (diag(d) + W W^T)^-1 r in float64, shape (...). Not differentiable."""
        lead = residual.shape[:-1]
        total = residual.new_zeros(lead, dtype=torch.float64)
        projected = residual.new_zeros((*lead, self.rank), dtype=torch.float64)
        for at in self._fine():
            part = residual[..., at].double()
            whitened = part / self.diag[at].double()
            total += (part * whitened).sum(-1)
            if self.rank:
                projected += torch.matmul(whitened, self.rows[:, at].double().T)
        return total - (projected * self._capacitance_solve(projected)).sum(-1)

    @functools.cached_property
    def inverse_diagonal(self) -> Float[Tensor, " F"]:
        """Diagonal of the inverse in float64, shape (F,)."""
        out = self.diag.double().reciprocal()
        values, vectors = self._eigen
        root = vectors / (1 + values).sqrt()
        for at in self._fine():
            scaled = root.T @ (self.rows[:, at].double() / self.diag[at].double())
            out[at] -= scaled.square().sum(0)
        return out

    def whitening(self) -> tuple[Tensor, Tensor]:
        """Return s^2 (descending, K' of them) and R (K, K') of the directions that are not null.

        With r ~ N(0, diag(d) + W W^T), the K' numbers ``R^T W^T D^-1 r / sqrt(s^2 (1 + s^2))``
        are independent standard normals: positions along the factor's own directions.
        """
        values, vectors = self._eigen
        kept = values > values.amax().clamp_min(1e-30) * 1e-12 if self.rank else values > 0
        return values[kept], vectors[:, kept]

    def gram(self) -> Float[Tensor, "K K"]:
        """Return W^T W in float64."""
        out = self.rows.new_zeros((self.rank, self.rank), dtype=torch.float64)
        for at in self._fine():
            tile = self.rows[:, at].double()
            out += tile @ tile.T
        return out

    @functools.cached_property
    def trace(self) -> float:
        """Trace of diag(d) + W W^T."""
        total = self.diag.sum(dtype=torch.float64)
        for at in self._fine():
            total = total + self.rows[:, at].double().square().sum()
        return float(total)

    def shares(self) -> Float[Tensor, " R"]:
        """Return the eigenvalues of W W^T, descending, divided by their sum; empty if W = 0."""
        values = torch.linalg.eigvalsh(self.gram()).clamp_min(0).flip(0)
        return values / values.sum() if values.sum() > 0 else values[:0]

    def differentiable_quadratic(self, residual: Tensor) -> Tensor:
        """Like `quadratic`, with first and second derivatives (also under ``torch.func``).

        Raises
        ------
        ConfigError
            Forward over forward, which torch answers with a silent zero for every custom
            Function (its issue 197867); ``torch.func.hessian`` is right.
        """
        stack = get_interpreter_stack() or []
        if sum(interpreter.key() == TransformType.Jvp for interpreter in stack) > 1:
            raise ConfigError(
                "forward-over-forward derivatives (jacfwd of jacfwd, jvp of jvp) of a log density "
                "are not supported by torch; use torch.func.hessian or jacrev"
            )
        return _Quadratic.apply(residual, self)


class _Solve(Function):
    """r -> Sigma^-1 r, its own adjoint."""

    @staticmethod
    def forward(residual: Tensor, cov: LowRankCovariance) -> Tensor:
        return cov.solve(residual)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, LowRankCovariance], output: Tensor) -> None:
        ctx.cov = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _Solve.apply(grads[0], ctx.cov), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _Solve.apply(tangents[0], ctx.cov)

    @staticmethod
    def vmap(info: Any, in_dims: Any, residual: Tensor, cov: LowRankCovariance) -> Any:
        return _Solve.apply(residual.movedim(in_dims[0], 0), cov), 0


class _Quadratic(Function):
    """r -> r^T Sigma^-1 r in float64; the gradient is 2 Sigma^-1 r."""

    @staticmethod
    def forward(residual: Tensor, cov: LowRankCovariance) -> Tensor:
        return cov.quadratic(residual)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, LowRankCovariance], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])
        ctx.cov = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (residual,) = ctx.saved_tensors
        solved = _Solve.apply(residual, ctx.cov)
        return 2 * grads[0].to(residual.dtype).unsqueeze(-1) * solved, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        (residual,) = ctx.saved_tensors
        solved = _Solve.apply(residual, ctx.cov)
        return 2 * (solved * tangents[0]).sum(-1, dtype=torch.float64)

    @staticmethod
    def vmap(info: Any, in_dims: Any, residual: Tensor, cov: LowRankCovariance) -> Any:
        return _Quadratic.apply(residual.movedim(in_dims[0], 0), cov), 0
