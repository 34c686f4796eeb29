"""What the recipes are given by mistake, told in one line before any work."""

from collections.abc import Iterable
from typing import Any

from torch import nn

from bayesprior.data import DataBundle, as_bundle
from bayesprior.errors import ConfigError, LayoutMismatchError, check, kind_of
from bayesprior.inference.prior_term import PriorTerm
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.selection import Selection, select_names

__all__ = [
    "as_data",
    "check_network",
    "check_prior_fits",
    "head_names",
]


def check_network(module: Any, name: str = "module") -> None:
    """Raise `ConfigError` unless it is a network with something to train."""
    check(module, "network", name)
    if not any(p.requires_grad and p.numel() for p in module.parameters()):
        raise ConfigError(
            f"{name} has no trainable parameter ({type(module).__name__}); "
            "requires_grad_(True) on what is to be inferred"
        )
    for parameter, value in module.named_parameters():
        if value.is_meta:
            raise ConfigError(f"{name}: {parameter} has no values (meta device); load them first")


def as_data(data: Any) -> DataBundle:
    """Return the data as a bundle: a bundle, a data set or a ``DataLoader`` will do.

    Raises
    ------
    ConfigError, DataError
        If it is none of these.
    """
    check(data, "data", "data")
    return as_bundle(data)


def check_prior_fits(module: nn.Module, prior: GaussianWeights, num_data: int) -> None:
    """Raise `LayoutMismatchError` unless the prior covers exactly what the network trains."""
    PriorTerm(module, prior, num_data)
    buffers = dict(module.named_buffers())
    for name, value in prior.buffers.items():
        if name in buffers and buffers[name].shape != value.shape:
            raise LayoutMismatchError(
                f"the prior's statistics {name!r} have shape {tuple(value.shape)}, the network's "
                f"{tuple(buffers[name].shape)}"
            )


def head_names(names: Iterable[str], head: Selection | None, owner: str) -> set[str]:
    """Return the parameters that a head names: prefixes, glob patterns or a predicate.

    Raises
    ------
    LayoutMismatchError
        If a prefix or pattern names no parameter.
    """
    names = tuple(names)
    if head is None or callable(head):
        return set() if head is None else set(select_names(names, head))
    found: set[str] = set()
    for pattern in [head] if isinstance(head, str) or not isinstance(head, Iterable) else head:
        if not isinstance(pattern, str):
            raise ConfigError(f"head must be names or a predicate, got {kind_of(pattern)}")
        try:
            found |= set(select_names(names, pattern))
        except ConfigError:
            raise LayoutMismatchError(
                f"the {owner} has no trainable parameter under the head {pattern!r}; its "
                f"parameters are {', '.join(names[-4:])} (last four)"
            ) from None
    return found
