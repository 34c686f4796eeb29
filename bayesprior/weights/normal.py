"""`BlockNormal`: the Normal of independent blocks as a Pyro distribution."""

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, register_kl

from bayesprior.errors import ConfigError, LayoutMismatchError
from bayesprior.weights import algebra
from bayesprior.weights.blocks import Block, Placed, place, taken
from bayesprior.weights.checks import transformed
from bayesprior.weights.covariance import linear, quadratic
from bayesprior.weights.layout import ParameterLayout
from bayesprior.weights.lowrank import power, tiles

__all__ = ["BlockNormal"]

N = TypeVar("N", bound="BlockNormal")
_MAX_BYTES = 2**30  # of what torch's own class would hold


class BlockNormal(dist.LowRankMultivariateNormal):
    """Density, draws and divergences of `GaussianWeights`, which alone makes one.

    Attributes
    ----------
    layout
        Names and shapes of the D weights.
    loc
        Mean, shape (D,).
    blocks
        The independent blocks, each with its names, covariance and width.
    """

    layout: ParameterLayout
    loc: Tensor
    blocks: tuple[Block, ...]
    _fields: tuple[str, ...] = ("layout", "loc", "blocks", "_batch_shape")

    def _start(self, batch: torch.Size) -> None:
        self._placed = place(self.layout, self.blocks)
        Distribution.__init__(self, batch, self.loc.shape, validate_args=False)

    def _with(self: N, **changes: Any) -> N:
        """Make a copy that shares every tensor not in ``changes``, and nothing torch cached."""
        new = object.__new__(type(self))
        for name in self._fields:
            setattr(new, name, changes.get(name, getattr(self, name)))
        new.blocks = tuple(new.blocks)
        new._start(new._batch_shape)
        return new

    @property
    def dim(self) -> int:
        """D, the number of weights."""
        return self.layout.dim

    @property
    def rank(self) -> int:
        """K, the number of columns of the low-rank blocks' factors."""
        return sum(block.covariance.rank for block in self.blocks)

    def _joined(
        self, part: Callable[[Placed], Tensor], like: Tensor | None = None
    ) -> Float[Tensor, "*batch D"]:
        """Put the blocks' parts (..., F) into the order of the layout; ``like`` where D = 0."""
        pieces = [piece for p in self._placed for piece in p.pieces(part(p))]
        if len(pieces) == 1:
            return pieces[0][1]
        like = self.loc if like is None else like
        parts = [tensor for _, tensor in sorted(pieces, key=lambda piece: piece[0].start)]
        return torch.cat(parts, -1) if parts else like[..., :0].clone()

    @property
    def cov_diag(self) -> Float[Tensor, " D"]:
        """Diagonal part of the covariance, shape (D,), a new tensor."""
        return self._joined(lambda p: p.covariance.diagonal() * p.scale())

    @property
    def cov_factor(self) -> Float[Tensor, "D B"]:
        """Factor of the covariance with zeros outside each block, shape (D, B), a new tensor.

        B = K where all blocks are low-rank; a `RowCovariance` adds a column a weight.
        """
        self._refuse("cov_factor", sum(b.covariance.num_columns for b in self.blocks))

        def column(own: Placed, p: Placed) -> Tensor:
            if p is own:
                return p.covariance.factor().mT * p.scale().sqrt()
            return self.loc.new_zeros((own.covariance.num_columns, p.covariance.dim))

        rows = [self._joined(functools.partial(column, p)) for p in self._placed]
        return torch.cat([self.loc.new_zeros((0, self.dim)), *rows]).mT

    # what torch's code for the parent class reads, computed on demand
    _unbroadcasted_cov_diag, _unbroadcasted_cov_factor = cov_diag, cov_factor

    @property
    def _capacitance_tril(self) -> Tensor:
        """Cholesky factor of I + B^T D^-1 B, from a QR factorization: it exists for any B."""
        scaled = self.cov_factor.double() / self.cov_diag.double().sqrt()[:, None]
        upper = torch.linalg.qr(torch.cat([torch.eye(scaled.shape[1]).to(scaled), scaled])).R
        signs = torch.where(upper.diagonal() < 0, -1.0, 1.0).to(upper)
        return (signs[:, None] * upper).mT.to(self.loc)

    @property
    def covariance_matrix(self) -> Float[Tensor, "*batch D D"]:
        """Sigma, for small D."""
        self._refuse("covariance_matrix", self.dim)
        factor = self.cov_factor
        dense = factor @ factor.mT + torch.diag(self.cov_diag)
        return dense.expand((*self._extended_shape(), self.dim))

    @property
    def precision_matrix(self) -> Float[Tensor, "*batch D D"]:
        """Sigma^-1, for small D."""
        self._refuse("precision_matrix", self.dim)
        dense = self._mapped("solve", torch.eye(self.dim).to(self.loc), -1, -1)
        return dense.expand((*self._extended_shape(), self.dim))

    @property
    def scale_tril(self) -> Float[Tensor, "*batch D D"]:
        """Lower Cholesky factor of Sigma, for small D."""
        return torch.linalg.cholesky(self.covariance_matrix)

    def _refuse(self, name: str, columns: int) -> None:
        size = self.dim * columns * self.loc.element_size()
        if size > _MAX_BYTES:
            raise ConfigError(
                f"{name} of D = {self.dim} weights has {columns} columns, {size / 2**30:.1f} GiB; "
                "take the parameters you need with marginal(names).to_pyro(), or use score, "
                "covariance_product, color and whiten, which form no such matrix"
            )

    @property
    def mean(self) -> Float[Tensor, "*batch D"]:
        """``loc``, expanded to the batch shape."""
        return self.loc.expand(self._extended_shape())

    mode = mean

    @property
    def variance(self) -> Float[Tensor, "*batch D"]:
        """Marginal variances, diagonal plus factor."""
        variance = self._joined(lambda p: p.covariance.variance() * p.scale())
        return variance.expand(self._extended_shape())

    def expand(self: N, batch_shape: Iterable[int], _instance: "BlockNormal | None" = None) -> N:
        """Return the same law with a batch shape; no tensor is copied."""
        shape = torch.Size(batch_shape)
        lead = len(shape) - len(self._batch_shape)
        pairs = zip(self._batch_shape, shape[max(lead, 0) :], strict=lead >= 0)
        if lead < 0 or min(shape, default=0) < 0 or any(old not in (1, new) for old, new in pairs):
            raise ConfigError(
                f"a law of batch shape {tuple(self._batch_shape)} does not expand to {tuple(shape)}"
            )
        return self._with(_batch_shape=shape)

    def _residual(self, value: Tensor) -> Tensor:
        self.layout.check_dim(value)
        return value - self.loc

    def log_normalizer(self) -> Float[Tensor, ""]:
        """Return log|Sigma| + D log 2 pi in float64; differentiable in the width."""
        total = torch.tensor(self.dim * math.log(2 * math.pi), dtype=torch.float64)
        for p in self._placed:
            sizes = torch.tensor(p.sizes, dtype=torch.float64)
            sizes = sizes.to(p.block.scale.device, non_blocking=True)
            total = p.covariance.log_det + (p.block.scale.log() * sizes).sum() + total
        return total

    def mahalanobis(self, value: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch"]:
        """Return (w - loc)^T Sigma^-1 (w - loc) in float64; chi-square(D) under this law."""
        return self._quadratic(self._residual(value))

    def _quadratic(self, residual: Tensor) -> Tensor:
        terms = []
        for p in self._placed:
            part, scale = p.gather(residual), p.block.scale
            if scale.dim():
                terms.append(quadratic(part / p.scale(part).sqrt(), p.covariance))
            else:
                terms.append(quadratic(part, p.covariance) / scale)
        return sum(terms[1:], terms[0]) if terms else residual.double().sum(-1)

    def log_prob(
        self, value: Float[Tensor, "*batch D"], dtype: torch.dtype | None = None
    ) -> Float[Tensor, "*out"]:
        """Return the log density in nats, shape (...), at weights of shape (..., D).

        It has value's ``dtype``, as Pyro's HMC needs, unless told otherwise: energies and
        evidence want float64, since at D = 1e7 one float32 ulp is about a nat.
        """
        out = -0.5 * (self.mahalanobis(value) + self.log_normalizer())
        shape = torch.broadcast_shapes(out.shape, self._batch_shape)
        return out.to(dtype or value.dtype).expand(shape)

    def score(
        self, value: Float[Tensor, "*batch D"], *, out: Tensor | None = None
    ) -> Float[Tensor, "*batch D"]:
        """Return the gradient of the log density, -Sigma^-1 (w - loc); two passes over W.

        Only the result has D elements. ``out`` saves its allocation, a third of the time at D =
        2e7; it may be ``value`` itself.
        """
        self.layout.check_dim(value)
        if transformed():  # vmap knows no writing into parts of a tensor
            score = -self._mapped("solve", value - self.loc, -1, -1)
            return score if out is None else out.copy_(score)
        with torch.no_grad():
            if out is None:
                kind = torch.promote_types(value.dtype, self.loc.dtype)
                out = value.new_empty(value.shape, dtype=kind)
            for p in self._placed:
                p.score_(value, self.loc, out)
        return out

    @torch.no_grad()
    def score_and_log_prob(
        self, value: Float[Tensor, "*batch D"]
    ) -> tuple[Float[Tensor, "*batch D"], Float[Tensor, "*batch"]]:
        """Return the score and the log density in float64 (from the score, so rounded as it is)."""
        score = self.score(value)
        total = self.log_normalizer().to(value.device).expand(value.shape[:-1])
        for at in tiles(value.device, self.dim):
            product = (value[..., at] - self.loc[at]) * score[..., at]
            total = total - product.sum(-1, dtype=torch.float64)
        return score, -0.5 * total

    @torch.no_grad()
    def max_precision(self) -> Float[Tensor, " D"]:
        """Return b, a new tensor of shape (D,), with Sigma^-1 <= diag(b): 1 / cov_diag."""
        return self._joined(lambda p: p.covariance.max_precision() / p.scale())

    def _mapped(
        self, method: str, value: Tensor, before: int, after: int, *, adjoint: bool = False
    ) -> Tensor:
        """A^after f(A^before v) with f of the blocks' covariances; all derivatives."""

        def part(p: Placed) -> Tensor:
            width, call = p.scale().sqrt(), getattr(p.covariance, method)
            given = p.gather(value) * power(width, before)
            symmetric = method in ("solve", "product")
            other = call if symmetric else functools.partial(call, transposed=True)
            maps = (other, call) if adjoint else (call, other)
            return linear(given, *maps) * power(width, after)

        return self._joined(part, value)

    def covariance_product(self, value: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """Return Sigma v; two passes over W."""
        self.layout.check_dim(value)
        return self._mapped("product", value, 1, 1)

    def color(self, z: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """Return loc + R z with R R^T = Sigma: weights of standard normal coordinates.

        In two passes over W, and differentiable: a network as a function of z has an isotropic
        prior. `whiten` is the inverse.
        """
        return self.loc + self.displacement(z)

    def displacement(self, z: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """Return R z: the move of the weights that belongs to one of the coordinates."""
        self.layout.check_dim(z)
        return self._mapped("color", z, 0, 1)

    def gradient_in_z(self, gradient: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """Return R^T g: a gradient with respect to the weights as one to the coordinates."""
        self.layout.check_dim(gradient)
        return self._mapped("color", gradient, 1, 0, adjoint=True)

    def whiten(self, value: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """Return R^-1 (w - loc), standard normal under this law; the inverse of `color`."""
        return self._mapped("whiten", self._residual(value), -1, 0)

    @torch.no_grad()
    def coordinates(self, value: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch R"]:
        """Return the position along the factor's own directions, float64, shape (..., R).

        Under this law the R <= K coordinates are independent standard normals, sorted by how far
        the direction's variance exceeds the diagonal's. R is K less the numerically null ones.
        """
        residual = self._residual(value)
        found = [residual[..., :0].double()]
        for p in self._placed:
            found.append(p.covariance.coordinates(p.gather(residual) / p.scale().sqrt()))
        return torch.cat(found, -1)

    def entropy(self) -> Float[Tensor, "*batch"]:
        """Return the differential entropy in nats, float64."""
        return (0.5 * (self.dim + self.log_normalizer())).expand(self._batch_shape)

    def rsample(
        self, sample_shape: Iterable[int] = (), generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch D"]:
        """Draw, differentiably in ``loc`` and the width, from ``generator`` or the global one."""
        shape = self._extended_shape(torch.Size(sample_shape))

        def normal(*size: int) -> Tensor:
            loc = self.loc
            return torch.randn(size, generator=generator, dtype=loc.dtype, device=loc.device)

        noise, low_rank = normal(*shape), normal(*shape[:-1], self.rank)
        extra = iter(low_rank.split([block.covariance.rank for block in self.blocks], -1))

        def part(p: Placed) -> Tensor:
            return p.covariance.draw(p.gather(noise), next(extra)) * p.scale().sqrt()

        return self.loc + self._joined(part, noise)

    def marginal(self: N, names: Iterable[str]) -> N:
        """Return the law of some parameters, in this layout's order."""
        return self._at(self.layout.select(names))

    def reorder(self: N, layout: ParameterLayout) -> N:
        """Return the same law with the weights in the order of ``layout``; no factor is copied.

        Raises
        ------
        LayoutMismatchError
            If ``layout`` does not have the same names and shapes.
        """
        if layout == self.layout:
            return self
        diff = self.layout.compare(layout)
        if not diff.is_equal:
            raise LayoutMismatchError(f"the laws are of different weights: {diff.describe()}")
        return self._at(layout)

    def _at(self: N, layout: ParameterLayout) -> N:
        parts = [self.loc[self.layout.slice(name)] for name in layout.names]
        loc = torch.cat([self.loc[:0], *parts])
        return self._with(layout=layout, loc=loc, blocks=taken(self._placed, layout))

    def to_pyro(self) -> dist.LowRankMultivariateNormal:
        """Return Pyro's plain `LowRankMultivariateNormal` (rank 0 becomes one zero column)."""
        factor = self.cov_factor
        factor = factor if factor.shape[1] else self.loc.new_zeros((self.dim, 1))
        return dist.LowRankMultivariateNormal(self.loc, factor, self.cov_diag)


def _kl(p_log_normalizer: Tensor, trace: Tensor, shift: Tensor, q: BlockNormal) -> Tensor:
    """KL of a Normal at q's mean + shift to q, given log|P| + D log 2 pi and tr(Q^-1 P)."""
    inner = trace + q._quadratic(shift) - shift.shape[-1]
    divergence = 0.5 * (q.log_normalizer() - p_log_normalizer + inner)
    return divergence.expand(torch.broadcast_shapes(divergence.shape, q.batch_shape))


@register_kl(BlockNormal, BlockNormal)
def _kl_blocks(p: BlockNormal, q: BlockNormal) -> Tensor:
    p = p.reorder(q.layout)
    trace = algebra.trace_of_product(p._placed, q._placed)
    divergence = _kl(p.log_normalizer(), trace, p.loc - q.loc, q)
    return divergence.expand(torch.broadcast_shapes(p.batch_shape, q.batch_shape))


def _kl_to(q: BlockNormal, loc: Tensor, diag: Tensor, factor: Tensor) -> Tensor:
    """Differentiable in the first law's tensors, (*batch, D) and (*batch, D, K)."""
    wide, variances, shift = factor.double(), diag.double(), q._residual(loc)
    trace = (variances * q._joined(_inverse_diagonal, variances)).sum(-1)
    if factor.shape[-1]:
        trace = trace + q._quadratic(factor.mT).sum(-1)
    capacitance = wide.mT @ (wide / variances.unsqueeze(-1)) + torch.eye(wide.shape[-1]).to(wide)
    log_det = torch.logdet(capacitance) + variances.log().sum(-1)
    return _kl(log_det + q.dim * math.log(2 * math.pi), trace, shift, q)


def _inverse_diagonal(p: Placed) -> Tensor:
    inverse = p.covariance.inverse_diagonal
    return inverse / p.scale(inverse)


@register_kl(torch.distributions.LowRankMultivariateNormal, BlockNormal)
def _kl_low_rank_to(p: torch.distributions.LowRankMultivariateNormal, q: BlockNormal) -> Tensor:
    return _kl_to(q, p.loc, p.cov_diag, p.cov_factor)


@register_kl(torch.distributions.Independent, BlockNormal)
def _kl_independent_to(p: dist.Independent, q: BlockNormal) -> Tensor:
    if not isinstance(p.base_dist, torch.distributions.Normal):
        raise NotImplementedError
    return _kl_to(q, p.mean, p.variance, p.variance.new_zeros((*p.variance.shape, 0)))


@register_kl(BlockNormal, torch.distributions.LowRankMultivariateNormal)
def _kl_from(p: BlockNormal, q: torch.distributions.LowRankMultivariateNormal) -> Tensor:
    plain = (
        dist.LowRankMultivariateNormal(*(t.double() for t in moments), validate_args=False)
        for moments in ((law.loc, law.cov_factor, law.cov_diag) for law in (p.to_pyro(), q))
    )
    divergence = torch.distributions.kl_divergence(*plain)
    return divergence.expand(torch.broadcast_shapes(p.batch_shape, q.batch_shape))
