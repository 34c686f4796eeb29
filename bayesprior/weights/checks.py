"""What every number of a distribution of weights must be, checked before one exists."""

import math

import torch
from torch import Tensor
from torch._C._functorch import get_interpreter_stack

from bayesprior.errors import ConfigError, LayoutMismatchError

__all__ = [
    "check_device",
    "check_finite",
    "check_positive",
    "check_range",
    "check_vector",
    "transformed",
]


def transformed() -> bool:
    """Whether a transform of ``torch.func`` is at work, whose tensors have no value to look at."""
    return not torch.compiler.is_compiling() and bool(get_interpreter_stack())


def check_positive(name: str, value: float | Tensor | None) -> None:
    """Raise `ConfigError` unless the value is a finite positive number.

    A number inside a transform of ``torch.func`` passes.
    """
    if isinstance(value, Tensor):
        if value.numel() == 1 and transformed():
            return
        value = value.detach().item() if value.numel() == 1 else None
    if value is None or not 0 < value < math.inf:
        raise ConfigError(f"{name} must be a positive number, got {value}")


def check_device(device: str | torch.device | None) -> None:
    """Raise `ConfigError` where there is no such device."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):  # torch built without it asserts
        text = f"device {str(device)!r} was asked for but torch sees none; use 'cpu'"
        raise ConfigError(text) from None


def check_range(name: str, least: float, largest: float, dtype: torch.dtype) -> None:
    """Raise `ConfigError` unless the type holds variances between the two."""
    limits = torch.finfo(dtype)
    if not (math.isfinite(largest) and limits.tiny <= least and largest <= limits.max):
        raise ConfigError(
            f"{name} makes variances of {least:.3g} to {largest:.3g}, which {dtype} cannot hold "
            f"(from {limits.tiny:.3g} to {limits.max:.3g})"
        )


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
