"""The matrix diag(d) + W W^T of a million rows and a few columns: products and solves.

Everything K-dimensional and every sum over the rows is accumulated in float64, tile by tile, so
that nothing of the factor's size is ever allocated. The capacitance I + W^T D^-1 W is kept by its
eigendecomposition rather than a Cholesky factor: it exists for collinear columns as well.
"""

from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from bayesprior.errors import ConfigError, LayoutMismatchError
from bayesprior.weights.checks import check_finite
from bayesprior.weights.covariance import Covariance, constant

__all__ = ["LowRankCovariance", "power", "take", "tiles"]

# Rows a tile. On a CPU 2^16 to 2^18 are within 5 % of each other (D = 1e7, 2.5e7; K = 10), 2^15
# and 2^20 cost 30 % more; on a GPU a tile bounds the temporaries.
_TILE = {"cpu": 1 << 17, "cuda": 1 << 24}
# Passes that convert the factor to float64, and the length of a float32 sum.
_FINE = {"cpu": 1 << 15, "cuda": 1 << 21}


class LowRankCovariance(Covariance):
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

    kind = "low-rank"

    def __init__(self, diag: Float[Tensor, " F"], rows: Float[Tensor, "K F"] | None = None) -> None:
        self.diag = self.anchor = diag
        self.rows = diag.new_zeros((0, len(diag))) if rows is None else rows
        # numbers, where a tracer watches tensors
        self.rank, self.dim = map(int, self.rows.shape)
        self.num_columns = self.rank

    def tiles(self) -> Iterator[slice]:
        """Cut the F rows into slices that fit the cache."""
        return tiles(self.diag.device, self.dim)

    def _fine(self, dim: int | None = None) -> Iterator[slice]:
        return tiles(self.diag.device, self.dim if dim is None else dim, _FINE)

    @constant
    def _eigen(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues s^2 (descending) and vectors R of W^T D^-1 W, float64 on the device."""
        gram = self.rows.new_zeros((self.rank, self.rank), dtype=torch.float64)
        for at in self._fine():
            tile = self.rows[:, at].double()
            gram += (tile / self.diag[at].double()) @ tile.T
        values, vectors = torch.linalg.eigh(gram)
        return values.clamp_min(0.0).flip(0), vectors.flip(1)

    @constant
    def log_det(self) -> Float[Tensor, ""]:
        """log|diag(d) + W W^T|, float64."""
        total = torch.log1p(self._eigen[0]).sum()
        for at in self._fine():
            total = total + self.diag[at].double().log().sum()
        return total

    def project(self, value: Tensor, shift: Tensor | None = None, *, exact: bool = False) -> Tensor:
        """Return W^T D^-1 (value - shift) in float64, shape (..., K), for value (..., F)."""
        out = value.new_zeros((*value.shape[:-1], self.rank), dtype=torch.float64)
        if not self.rank:
            return out
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
        self, value: Tensor, shift: Tensor | None = None, by: float = 1.0, out: Tensor | None = None
    ) -> Tensor:
        """Return by * (diag(d) + W W^T)^-1 (value - shift), shape (..., F).

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
                part.addmv_(rows.T, inner, beta=by, alpha=-by)
            else:
                part.sub_(inner @ rows).mul_(by)
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

    @constant
    def inverse_diagonal(self) -> Float[Tensor, " F"]:
        """Diagonal of the inverse in float64, shape (F,)."""
        out = self.diag.double().reciprocal()
        values, vectors = self._eigen
        root = vectors / (1 + values).sqrt()
        for at in self._fine():
            scaled = root.T @ (self.rows[:, at].double() / self.diag[at].double())
            out[at] -= scaled.square().sum(0)
        return out

    def coordinates(self, residual: Tensor) -> Float[Tensor, "*batch R"]:
        """Positions along the R <= K directions that are not null, float64.

        With r ~ N(0, diag(d) + W W^T), the numbers ``R^T W^T D^-1 r / sqrt(s^2 (1 + s^2))`` are
        independent standard normals.
        """
        values, vectors = self._eigen
        kept = values > values.amax().clamp_min(1e-30) * 1e-12 if self.rank else values > 0
        values = values[kept]
        projected = self.project(residual, exact=True) @ vectors[:, kept]
        return projected / (values * (1 + values)).sqrt()

    def _map(self, value: Tensor, base: float, left: float, right: float, inner: Tensor) -> Tensor:
        """D^base v + D^left W inner W^T D^right v, tile by tile: `product`, `color`, `whiten`."""
        kind = torch.promote_types(value.dtype, self.diag.dtype)
        small = value.new_zeros((*value.shape[:-1], self.rank), dtype=torch.float64)
        if self.rank:
            for at in self._fine():
                scaled = value[..., at].to(kind) * power(self.diag[at].to(kind), right)
                small += torch.matmul(scaled, self.rows[:, at].to(kind).T)
        small = (small @ inner).to(kind)
        out = torch.empty(value.shape, dtype=kind, device=value.device)
        for at in self.tiles():
            diag = self.diag[at].to(kind)
            torch.mul(value[..., at].to(kind), power(diag, base), out=out[..., at])
            if self.rank:
                out[..., at] += power(diag, left) * (small @ self.rows[:, at].to(kind))
        return out

    def product(self, value: Tensor) -> Tensor:
        """Return (diag(d) + W W^T) v; two passes over W."""
        return self._map(value, 1, 0, 0, torch.eye(self.rank, out=torch.empty_like(self._eigen[1])))

    def color(self, noise: Tensor, *, transposed: bool = False) -> Tensor:
        r"""Return R z or R^T z with R R^T = diag(d) + W W^T; two passes over W.

        With U = D^(-1/2) W and U^T U = Q diag(s) Q^T, R = D^(1/2) (I + U Q diag(g) Q^T U^T)
        where g = (sqrt(1 + s) - 1) / s.
        """
        values, vectors = self._eigen
        inner = (vectors / ((1 + values).sqrt() + 1)) @ vectors.T
        left, right = (-0.5, 0.0) if transposed else (0.0, -0.5)
        return self._map(noise, 0.5, left, right, inner)

    def whiten(self, value: Tensor, *, transposed: bool = False) -> Tensor:
        """Return R^-1 r or R^-T r: as `color` with (1 / sqrt(1 + s) - 1) / s."""
        values, vectors = self._eigen
        root = (1 + values).sqrt()
        inner = -(vectors / (root * (root + 1))) @ vectors.T
        left, right = (-1.0, -0.5) if transposed else (-0.5, -1.0)
        return self._map(value, -0.5, left, right, inner)

    def draw(self, noise: Tensor, low_rank: Tensor) -> Tensor:
        """Turn F + K standard normals into a draw from N(0, diag(d) + W W^T)."""
        out = noise * self.diag.sqrt()
        return out + low_rank @ self.rows if self.rank else out

    def gram(self, width: Tensor | None = None) -> Float[Tensor, "K K"]:
        """Return W^T A^2 W in float64; ``width`` is A's diagonal (F,), None for the identity."""
        out = self.rows.new_zeros((self.rank, self.rank), dtype=torch.float64)
        for at in self._fine():
            tile = self.rows[:, at].double()
            if width is not None:
                tile = tile * width[at]
            out += tile @ tile.T
        return out

    @constant
    def least_variance(self) -> float:
        """Least entry of d."""
        return float(self.diag.amin()) if self.dim else 1.0

    def diagonal(self) -> Float[Tensor, " F"]:
        """Return d itself."""
        return self.diag

    def factor(self) -> Float[Tensor, "F K"]:
        """Return W, a view."""
        return self.rows.T

    def max_precision(self) -> Float[Tensor, " F"]:
        """Return 1 / d: the low-rank part only widens."""
        return self.diag.reciprocal()

    def variance(self) -> Float[Tensor, " F"]:
        """Return the marginal variances."""
        out = self.diag.clone()
        if self.rank:
            for at in self.tiles():
                out[at] += self.rows[:, at].square().sum(0)
        return out

    def trace_of_solve(self, other: Covariance) -> Float[Tensor, ""]:
        """Trace of M^-1 ``other``: M^-1 = D^-1 - V V^T, V = D^-1 W R / sqrt(1 + s^2)."""
        values, vectors = self._eigen
        diag = self.diag.double()
        columns = (vectors / (1 + values).sqrt()).T @ (self.rows.double() / diag)
        products = other.product(columns)
        return (other.variance().double() / diag).sum() - (columns * products).sum()

    def take(self, slices: list[slice], *, precision: bool = False) -> "LowRankCovariance":
        """Return the block of some positions; a view where they are one slice."""
        if slices == [slice(0, self.dim)]:
            return self
        new = LowRankCovariance(take(self.diag, slices), take(self.rows, slices))
        if precision:  # D^-1 - D^-1 W C^-1 W^T D^-1 in those rows: C is that of all of them
            new.__dict__["_eigen"] = self._eigen
        return new

    def jittered(self, variance: float) -> "LowRankCovariance":
        """Widen the diagonal part."""
        return LowRankCovariance(self.diag + variance, self.rows)

    def truncated(self, rank: int) -> "LowRankCovariance":
        """Keep the leading ``rank`` directions of W W^T; the others join the diagonal."""
        if rank >= self.rank:
            return self
        vectors = torch.linalg.eigh(self.gram()).eigenvectors.flip(1).to(self.diag.dtype)
        diag = self.diag.clone()
        for at in self.tiles():
            diag[at] += (vectors[:, rank:].T @ self.rows[:, at]).square().sum(0)
        return LowRankCovariance(diag, vectors[:, :rank].T @ self.rows)

    def tensors(self) -> dict[str, Tensor]:
        """Return ``diag`` (F,) and ``rows`` (K, F)."""
        return {"diag": self.diag, "rows": self.rows}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], dim: int) -> "LowRankCovariance":
        """Make it of ``diag`` and ``rows``."""
        return cls(tensors["diag"], tensors["rows"])

    def check(self) -> None:
        """Raise unless d is positive, W has as many rows, all is finite and constant."""
        diag, rows = self.diag, self.rows
        if diag.dim() != 1 or rows.dim() != 2 or rows.shape[1] != diag.shape[0]:
            raise LayoutMismatchError(
                "a low-rank block takes diag (F,) and rows (K, F), the factor's columns; got "
                f"{tuple(diag.shape)} and {tuple(rows.shape)}"
            )
        if diag.requires_grad or rows.requires_grad:
            raise ConfigError(
                "cov_diag and cov_factor of GaussianWeights are constants; detach them, learn the "
                "width with rescale(cov_scale=tensor), or use pyro's LowRankMultivariateNormal"
            )
        check_finite("cov_diag", diag)
        check_finite("cov_factor", rows)
        if diag.numel() and not self.least_variance > 0:
            raise ConfigError(f"cov_diag must be positive, its least is {self.least_variance:.3g}")


def tiles(device: torch.device, dim: int, sizes: Mapping[str, int] = _TILE) -> Iterator[slice]:
    """Cut an axis into slices that fit the cache of a device."""
    size = sizes.get(device.type, sizes["cuda"])
    for start in range(0, dim, size):
        yield slice(start, min(start + size, dim))


def take(tensor: Tensor, slices: list[slice]) -> Tensor:
    """Join some slices of the last axis; a view where it is one, else a copy."""
    if slices == [slice(0, tensor.shape[-1])]:
        return tensor
    parts = [tensor[..., s] for s in slices or [slice(0)]]
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def power(diag: Tensor, exponent: float) -> Tensor | float:
    """Raise to a power, at no cost where it is 0 or 1."""
    return 1.0 if exponent == 0 else diag if exponent == 1 else diag.pow(exponent)
