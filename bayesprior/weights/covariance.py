"""What a block of a `GaussianWeights` is: a covariance matrix known by its products and solves.

A new kind of block is one subclass of `Covariance` with a ``kind`` of its own; files, algebra and
derivatives find it by that. No method forms a matrix of all pairs of weights.
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch._C._functorch import TransformType, get_interpreter_stack
from torch.autograd import Function

from bayesprior.errors import ConfigError
from bayesprior.weights.checks import transformed

__all__ = ["KINDS", "Covariance", "constant", "linear", "quadratic"]

KINDS: "dict[str, type[Covariance]]" = {}
"""Every kind of block, by the name that files give it."""

T = TypeVar("T")
C = TypeVar("C", bound="Covariance")


class constant(functools.cached_property[T]):  # noqa: N801 - a decorator, as its parent
    """A cached property whose value is plain, whatever transform or mode asks for it first.

    Inside ``torch.func`` and ``torch.jit.trace`` every operation gives tensors of that transform,
    which are dead (or crash torch) when it ends; a tensor of inference mode fails in autograd.
    All of these belong to a thread, so the value is made in another one.
    """

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None or self.attrname in instance.__dict__:
            return super().__get__(instance, owner)
        if torch.compiler.is_compiling():  # part of the graph
            return self.func(instance)
        get = functools.partial(super().__get__, instance, owner)
        if transformed() or torch.jit.is_tracing() or torch.is_inference_mode_enabled():
            with ThreadPoolExecutor(1) as elsewhere:
                return elsewhere.submit(get).result()
        with torch.no_grad():
            return get()


class Covariance(ABC):
    """A constant F x F covariance M. Nothing here is differentiable; `linear` makes it so.

    Sums over weights and everything of the rank's size are accumulated in float64.
    """

    kind: ClassVar[str]
    anchor: Tensor
    """A tensor of the law's floating-point type on its device."""

    def __init_subclass__(cls) -> None:
        """Register the kind, so that files with such a block can be read."""
        KINDS[cls.kind] = cls

    dim: int
    """F."""
    rank: int = 0
    """Number of learned directions."""
    num_columns: int
    """Number of columns of `factor`."""

    @property
    @abstractmethod
    def log_det(self) -> Float[Tensor, ""]:
        """log|M|, float64."""

    @property
    @abstractmethod
    def inverse_diagonal(self) -> Float[Tensor, " F"]:
        """Diagonal of the inverse, float64."""

    @property
    @abstractmethod
    def least_variance(self) -> float:
        """Lower bound of M's eigenvalues that M's type must be able to hold."""

    @abstractmethod
    def variance(self) -> Float[Tensor, " F"]:
        """Diagonal of M, a new tensor."""

    @constant
    def trace(self) -> float:
        """Trace of M."""
        return float(self.variance().sum(dtype=torch.float64))

    @abstractmethod
    def diagonal(self) -> Float[Tensor, " F"]:
        """D of M = D + B B^T with B the `factor`."""

    @abstractmethod
    def factor(self) -> Float[Tensor, "F B"]:
        """B of M = D + B B^T; for small F only where the kind has no low rank."""

    @abstractmethod
    def max_precision(self) -> Float[Tensor, " F"]:
        """Variances' reciprocals, a new tensor b with M^-1 <= diag(b)."""

    @abstractmethod
    def quadratic(self, residual: Tensor) -> Tensor:
        """r^T M^-1 r in float64, shape (...)."""

    @abstractmethod
    def solve(
        self, value: Tensor, shift: Tensor | None = None, by: float = 1.0, out: Tensor | None = None
    ) -> Tensor:
        """Return by * M^-1 (value - shift), shape (..., F), in ``out`` where given.

        ``out`` may be ``value``; the result has the promoted type of value, shift and M.
        """

    @abstractmethod
    def product(self, value: Tensor) -> Tensor:
        """M v."""

    @abstractmethod
    def color(self, noise: Tensor, *, transposed: bool = False) -> Tensor:
        """R z with R R^T = M, or R^T z."""

    @abstractmethod
    def whiten(self, value: Tensor, *, transposed: bool = False) -> Tensor:
        """R^-1 r, or R^-T r."""

    def draw(self, noise: Tensor, low_rank: Tensor) -> Tensor:
        """Turn F (and `rank`) standard normals into a draw from N(0, M), in one pass."""
        return self.color(noise)

    def coordinates(self, residual: Tensor) -> Float[Tensor, "*batch R"]:
        """Positions along the learned directions, standard normal for r ~ N(0, M); float64."""
        return residual.new_zeros((*residual.shape[:-1], 0), dtype=torch.float64)

    def gram(self, width: Tensor | None = None) -> Float[Tensor, "K K"]:
        """W^T A^2 W of the learned directions W, float64; ``width`` is A (F,), None for I."""
        return torch.zeros((0, 0), dtype=torch.float64)

    def trace_of_product(self, other: "Covariance", ratio: Tensor) -> Float[Tensor, ""]:
        """Trace of ``other``^-1 A M A with A^2 = diag(ratio) (F,), or ratio ().

        From D's part and one quadratic form a column of the `factor`.
        """
        total = (self.diagonal().double() * ratio * other.inverse_diagonal).sum()
        if not self.num_columns:
            return total
        if ratio.dim():
            return total + quadratic(self.factor().mT * ratio.sqrt(), other).sum()
        return total + ratio * other.quadratic(self.factor().mT).sum()

    def trace_of_solve(self, other: "Covariance") -> Float[Tensor, ""]:
        """Trace of M^-1 ``other``, where that one's `factor` has too many columns to be formed.

        This default forms it; a kind with few columns of its own needs one product a column.
        """
        return Covariance.trace_of_product(other, self, torch.ones((), dtype=torch.float64))

    @abstractmethod
    def take(self, slices: list[slice], *, precision: bool = False) -> "Covariance":
        """Return the covariance of some positions; with ``precision`` that block of M^-1.

        The latter is again an object whose `solve`, `quadratic` and `inverse_diagonal` are those
        of the block; it has no other use.
        """

    @abstractmethod
    def jittered(self, variance: float) -> "Covariance":
        """M + variance I."""

    def truncated(self, rank: int) -> "Covariance":
        """Keep the leading ``rank`` directions; the others join the diagonal."""
        return self

    def to(self: C, device: str | torch.device | None, dtype: torch.dtype | None) -> C:
        """Return the same covariance elsewhere or in another type."""
        moved = {n: t.to(device=device, dtype=dtype) for n, t in self.tensors().items()}
        return self.from_tensors(moved, self.dim)

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return what a file keeps; `from_tensors` is the inverse."""

    @classmethod
    @abstractmethod
    def from_tensors(cls: type[C], tensors: Mapping[str, Tensor], dim: int) -> C:
        """Make it of what a file keeps."""

    @abstractmethod
    def check(self) -> None:
        """Raise `ConfigError` unless the tensors are finite and make a covariance."""


class _Linear(Function):
    """A linear map given by itself and its adjoint."""

    @staticmethod
    def forward(value: Tensor, call: Callable[..., Any], adjoint: Callable[..., Any]) -> Tensor:
        return call(value)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.maps = inputs[1:]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        call, adjoint = ctx.maps
        return linear(grads[0], adjoint, call), None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, value: Tensor, *maps: Callable[..., Any]) -> Any:
        return linear(value.movedim(in_dims[0], 0), *maps), 0


class _LinearForward(_Linear):
    """With forward mode, which torch.compile takes from no custom function."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return linear(tangents[0], *ctx.maps)


def linear(
    value: Float[Tensor, "*batch F"],
    call: Callable[[Tensor], Tensor],
    adjoint: Callable[[Tensor], Tensor] | None = None,
) -> Float[Tensor, "*batch F"]:
    """Apply a linear map with all derivatives (also under ``torch.func``); self-adjoint if None."""
    kind = _Linear if torch.compiler.is_compiling() else _LinearForward
    return kind.apply(value, call, adjoint or call)


class _Quadratic(Function):
    """r -> r^T M^-1 r in float64; the gradient is 2 M^-1 r."""

    @staticmethod
    def forward(residual: Tensor, cov: Covariance) -> Tensor:
        return cov.quadratic(residual)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Covariance], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])
        ctx.cov = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (residual,) = ctx.saved_tensors
        solved = linear(residual, ctx.cov.solve)
        return 2 * grads[0].to(residual.dtype).unsqueeze(-1) * solved, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, residual: Tensor, cov: Covariance) -> Any:
        return quadratic(residual.movedim(in_dims[0], 0), cov), 0


class _QuadraticForward(_Quadratic):
    """With forward mode."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        (residual,) = ctx.saved_tensors
        solved = linear(residual, ctx.cov.solve)
        return 2 * (solved * tangents[0]).sum(-1, dtype=torch.float64)


def quadratic(residual: Float[Tensor, "*batch F"], cov: Covariance) -> Float[Tensor, "*batch"]:
    """Return r^T M^-1 r in float64 with first and second derivatives (also under ``torch.func``).

    Raises
    ------
    ConfigError
        Forward over forward, which torch answers with a silent zero for every custom
        Function (its issue 197867); ``torch.func.hessian`` is right.
    """
    if torch.compiler.is_compiling():
        return _Quadratic.apply(residual, cov)
    stack = get_interpreter_stack() or []
    if sum(interpreter.key() == TransformType.Jvp for interpreter in stack) > 1:
        raise ConfigError(
            "forward-over-forward derivatives (jacfwd of jacfwd, jvp of jvp) of a log density "
            "are not supported by torch; use torch.func.hessian or jacrev"
        )
    return _QuadraticForward.apply(residual, cov)
