"""The covariance of `GaussianWeights` without names: a shared block and an independent tail."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from bayesprior.errors import ConfigError, LayoutMismatchError
from bayesprior.weights.lowrank import LowRankCovariance

__all__ = ["BlockCovariance", "check_positive", "check_vector", "take"]


def check_positive(name: str, value: float | Tensor | None) -> None:
    """Raise `ConfigError` unless the value is a finite positive number."""
    if isinstance(value, Tensor):
        value = value.detach().item() if value.numel() == 1 else None
    if value is None or not 0 < value < math.inf:
        raise ConfigError(f"{name} must be a positive number, got {value}")


def check_vector(name: str, tensor: Tensor, dim: int) -> None:
    """Raise unless the tensor holds ``dim`` finite floating-point numbers in one axis."""
    if tensor.shape != (dim,):
        raise LayoutMismatchError(
            f"{name} must have shape ({dim},), a number for each weight of the layout, "
            f"got {tuple(tensor.shape)}"
        )
    check_finite(name, tensor)


def check_finite(name: str, tensor: Tensor) -> None:
    """Raise `ConfigError` on NaN, infinite values or integers (no temporary is made)."""
    if not tensor.is_floating_point():
        raise ConfigError(f"{name} must be floating-point, got {tensor.dtype}")
    if tensor.numel():
        low, high = torch.aminmax(tensor.detach())
        if not torch.isfinite(low) & torch.isfinite(high):
            raise ConfigError(f"{name} holds NaN or infinite values")


@dataclass(frozen=True, eq=False)
class BlockCovariance:
    """s (diag(d) + W W^T) on the first F of D positions, independent variances on the others.

    Attributes
    ----------
    shared
        diag(d) + W W^T, F x F, constant.
    tail
        Variances of the other D - F positions, shape (D - F,).
    scale
        s, a 0-dim float64 tensor on the CPU (so that no step waits for a device); may require a
        gradient.
    """

    shared: LowRankCovariance
    tail: Float[Tensor, " T"]
    scale: Float[Tensor, ""]

    @classmethod
    def from_tensors(
        cls,
        diag: Float[Tensor, " D"],
        factor: Float[Tensor, "F K"] | None,
        *,
        dtype: torch.dtype,
        scale: float = 1.0,
    ) -> "BlockCovariance":
        """Check and take in a diagonal (D,), a factor (F, K), F <= D (None: rank 0) and s.

        Raises
        ------
        ConfigError
            If a variance is not positive, anything is not finite, or a tensor wants a gradient.
        LayoutMismatchError
            If the factor has more than D rows.
        """
        if factor is None:
            factor = diag.new_zeros((diag.shape[0], 0))
        if factor.dim() != 2 or factor.shape[0] > diag.shape[0]:
            raise LayoutMismatchError(
                f"cov_factor must have shape (F, K) with F at most D = {diag.shape[0]}, one row a "
                f"weight; got {tuple(factor.shape)}"
            )
        if diag.requires_grad or factor.requires_grad:
            raise ConfigError(
                "cov_diag and cov_factor of GaussianWeights are constants; detach them, learn the "
                "width with rescale(cov_scale=tensor), or use pyro's LowRankMultivariateNormal"
            )
        rows = factor.T.to(dtype).contiguous()
        check_finite("cov_factor", rows)  # on other strides torch would copy
        if diag.numel() and not diag.min() > 0:
            raise ConfigError(f"cov_diag must be positive, its least is {diag.min().item():.3g}")
        split = factor.shape[0]
        shared = LowRankCovariance(diag[:split].to(dtype).contiguous(), rows)
        check_positive("cov_scale", scale)
        width = torch.tensor(scale, dtype=torch.float64)
        return cls(shared, diag[split:].to(dtype), width)

    @property
    def shared_dim(self) -> int:
        """F."""
        return self.shared.diag.shape[0]

    def _cast_scale(self) -> Tensor:
        return self.scale.to(self.tail.dtype)

    def diagonal(self) -> Float[Tensor, " D"]:
        """Diagonal part, shape (D,), a new tensor."""
        return torch.cat([self.shared.diag * self._cast_scale(), self.tail])

    def factor(self) -> Float[Tensor, "D K"]:
        """Factor padded with zero rows, shape (D, K), a new tensor."""
        rows = self.shared.rows * self._cast_scale().sqrt()
        return torch.nn.functional.pad(rows, (0, self.tail.shape[0])).T

    def variance(self) -> Float[Tensor, " D"]:
        """Marginal variances, shape (D,)."""
        shared = self.shared.diag.clone()
        for at in self.shared.tiles():
            shared[at] += self.shared.rows[:, at].square().sum(0)
        return torch.cat([shared * self._cast_scale(), self.tail])

    def log_det(self) -> Float[Tensor, ""]:
        """Log-determinant in float64; differentiable in s."""
        shared = self.shared.log_det + self.shared_dim * self.scale.log()
        return shared + self.tail.double().log().sum()

    def quadratic(self, residual: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch"]:
        """r^T Sigma^-1 r in float64; twice differentiable in r and s."""
        shared, tail = residual[..., : self.shared_dim], residual[..., self.shared_dim :]
        inner = self.shared.differentiable_quadratic(shared) / self.scale
        return inner + (tail.double().square() / self.tail.double()).sum(-1)

    def score(
        self, value: Float[Tensor, "*batch D"], loc: Float[Tensor, " D"], out: Tensor | None = None
    ) -> Float[Tensor, "*batch D"]:
        """-Sigma^-1 (value - loc), the only new tensor of D elements; not differentiable."""
        split, width = self.shared_dim, float(self.scale.detach())
        if out is None:
            out = value.new_empty(value.shape, dtype=torch.promote_types(value.dtype, loc.dtype))
        shared, tail = out[..., :split], out[..., split:]
        self.shared.solve(value[..., :split], loc[:split], multiplier=-1 / width, out=shared)
        torch.sub(loc[split:], value[..., split:], out=tail).div_(self.tail)
        return out

    def quadratic_of_score(
        self, value: Float[Tensor, "*batch D"], loc: Float[Tensor, " D"], score: Tensor
    ) -> Float[Tensor, "*batch"]:
        """(value - loc)^T Sigma^-1 (value - loc) where ``score`` is already known."""
        total = value.new_zeros(value.shape[:-1], dtype=torch.float64)
        for at in self.shared.tiles(dim=loc.shape[0]):
            product = (value[..., at] - loc[at]) * score[..., at]
            total -= product.sum(-1, dtype=torch.float64)
        return total

    def inverse_diagonal(self) -> Float[Tensor, " D"]:
        """Diagonal of Sigma^-1 in float64, shape (D,)."""
        shared = self.shared.inverse_diagonal / self.scale
        return torch.cat([shared, self.tail.double().reciprocal()])

    def coordinates(self, residual: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch R"]:
        """Positions along the factor's own directions, standard normal for r ~ N(0, Sigma)."""
        values, vectors = self.shared.whitening()
        projected = self.shared.project(residual[..., : self.shared_dim], exact=True)
        return (projected @ vectors) / (self.scale * values * (1 + values)).sqrt()

    def color(
        self, noise: Float[Tensor, "*batch D"], low_rank: Float[Tensor, "*batch K"]
    ) -> Float[Tensor, "*batch D"]:
        """Turn standard normals into a draw from N(0, Sigma); differentiable in s."""
        shared = noise[..., : self.shared_dim] * self.shared.diag.sqrt()
        if self.shared.rank:
            shared = shared + low_rank @ self.shared.rows
        shared = shared * self._cast_scale().sqrt()
        return torch.cat([shared, noise[..., self.shared_dim :] * self.tail.sqrt()], -1)

    def take(self, slices: Iterable[slice]) -> "BlockCovariance":
        """Return the covariance of some positions, given by ascending slices."""
        slices, split = list(slices), self.shared_dim
        inside = [slice(s.start, min(s.stop, split)) for s in slices if s.start < split]
        outside = [slice(max(s.start - split, 0), s.stop - split) for s in slices if s.stop > split]
        shared = LowRankCovariance(take(self.shared.diag, inside), take(self.shared.rows, inside))
        return replace(self, shared=shared, tail=take(self.tail, outside))

    def rescale(
        self, cov_scale: float | Tensor | None = None, rms_std: float | Tensor | None = None
    ) -> "BlockCovariance":
        """Multiply the shared block, or set sqrt(trace / F) of it; exactly one of the two."""
        if (cov_scale is None) == (rms_std is None):
            raise ConfigError("rescale takes exactly one of cov_scale and rms_std")
        if rms_std is not None and self.shared_dim == 0:
            raise ConfigError("rms_std sets the width of the shared block, which is empty here")
        name, given = ("cov_scale", cov_scale) if rms_std is None else ("rms_std", rms_std)
        check_positive(name, given)
        factor = torch.as_tensor(given, dtype=torch.float64, device="cpu").reshape(())
        if rms_std is None:
            return replace(self, scale=self.scale * factor)
        return replace(self, scale=factor.square() * self.shared_dim / self.shared.trace)

    def append(self, count: int, variance: float) -> "BlockCovariance":
        """Add ``count`` independent positions at the end."""
        return replace(self, tail=torch.cat([self.tail, self.tail.new_full((count,), variance)]))

    def isotropic(self) -> "BlockCovariance":
        """Replace the shared block by a multiple of the identity with equal trace."""
        variance = self.shared.trace / max(self.shared_dim, 1)
        return self._reshaped(torch.full_like(self.shared.diag, variance), self.shared.rows[:0])

    def jittered(self, share: float) -> "BlockCovariance":
        """Add ``share`` times the shared block's mean variance to its diagonal."""
        if not 0 <= share < math.inf:
            raise ConfigError(f"jitter must be 0 or more, got {share}")
        extra = share * self.shared.trace / max(self.shared_dim, 1)
        return self._reshaped(self.shared.diag + extra, self.shared.rows)

    def truncate(self, rank: int) -> "BlockCovariance":
        """Keep the leading ``rank`` directions of W W^T; the others join the diagonal."""
        if not 0 <= rank <= self.shared.rank:
            raise ConfigError(f"rank must be between 0 and {self.shared.rank}, got {rank}")
        if rank == self.shared.rank:
            return self
        vectors = torch.linalg.eigh(self.shared.gram()).eigenvectors.flip(1).to(self.tail.dtype)
        diag = self.shared.diag.clone()
        for at in self.shared.tiles():
            diag[at] += (vectors[:, rank:].T @ self.shared.rows[:, at]).square().sum(0)
        return self._reshaped(diag, vectors[:, :rank].T @ self.shared.rows)

    def _reshaped(self, diag: Tensor, rows: Tensor) -> "BlockCovariance":
        return replace(self, shared=LowRankCovariance(diag, rows))

    def to(self, device: str | torch.device | None, dtype: torch.dtype | None) -> "BlockCovariance":
        """Return the same covariance elsewhere or in another type; s stays float64."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device=device, dtype=dtype)

        shared = LowRankCovariance(move(self.shared.diag), move(self.shared.rows))
        return BlockCovariance(shared, move(self.tail), self.scale)

    def kl_divergence_from(
        self,
        shift: Float[Tensor, "*batch D"],
        diag: Float[Tensor, "*batch D"],
        factor: Float[Tensor, "*batch D K"],
        log_det: Tensor | None = None,
    ) -> Float[Tensor, "*batch"]:
        """KL(N(m + shift, diag(d) + W W^T) || N(m, Sigma)) in nats, in float64 sums.

        Differentiable in the first law's tensors and this one's width. ``log_det`` is the first
        law's log-determinant; None to compute it here, differentiably.
        """
        trace = (diag.double() * self.inverse_diagonal()).sum(-1)
        if factor.shape[-1]:
            trace = trace + self.quadratic(factor.mT).sum(-1)
        if log_det is None:
            wide, variances = factor.double(), diag.double()
            capacitance = wide.mT @ (wide / variances.unsqueeze(-1))
            identity = torch.eye(factor.shape[-1]).to(capacitance)
            log_det = torch.logdet(capacitance + identity) + variances.log().sum(-1)
        return 0.5 * (self.log_det() - log_det + trace + self.quadratic(shift) - shift.shape[-1])


def take(tensor: Tensor, slices: list[slice]) -> Tensor:
    """Join some slices of the last axis; a copy."""
    parts = [tensor[..., s] for s in slices]
    return torch.cat(parts, -1) if parts else tensor[..., :0]
