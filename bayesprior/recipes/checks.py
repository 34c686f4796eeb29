"""What the recipes are given by mistake, told in one line before any work."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

from lightning_fabric import Fabric
from torch import nn

from bayesprior.data import DataBundle, as_bundle
from bayesprior.errors import ConfigError, LayoutMismatchError, kind_of
from bayesprior.inference.prior_term import PriorTerm
from bayesprior.recipes.options import MadeFrom
from bayesprior.tasks.likelihoods import Likelihood
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.selection import Selection, select_names

__all__ = [
    "as_data",
    "check_function",
    "check_kind",
    "check_network",
    "check_prior_fits",
    "head_names",
]

_TEXT = (str, os.PathLike)
# Of each kind: what is wanted, and what helps who gives something else; the first hint counts.
_WANTED: dict[type, tuple[str, dict[Any, str]]] = {
    nn.Module: (
        "a network (torch.nn.Module)",
        {
            _TEXT: "; make it with get_model(name)",
            type: "; call the class to make one",
            Mapping: "; load it into a network with load_state_dict",
        },
    ),
    GaussianWeights: (
        "a GaussianWeights",
        {
            _TEXT: "; load it with GaussianWeights.load({!r})",
            type: "; load one with GaussianWeights.load(path) or make it with make_prior",
            nn.Module: "; the arguments are fit_map(module, prior, data), make_prior makes a prior",
            object: "; make_prior makes one, GaussianWeights.load reads one",
        },
    ),
    DataBundle: (
        "a DataBundle, a data set or a DataLoader",
        {_TEXT: "; load it with get_data({!r})", type: "; make one with from_arrays or get_data"},
    ),
    Likelihood: (
        "a Likelihood such as Categorical()",
        {
            type: "; call it",
            nn.Module: "; Categorical() stands for the cross-entropy, Normal(std) for squares",
            object: "; for example Categorical()",
        },
    ),
    Fabric: ("a Fabric", {}),
    MadeFrom: ("a MadeFrom", {}),
}


def check_kind(value: Any, kind: type, name: str) -> None:
    """Raise `ConfigError` unless the value is of a kind that the recipes know."""
    if isinstance(value, type) or not isinstance(value, kind):
        wanted, hints = _WANTED[kind]
        hint = next((text for of, text in hints.items() if isinstance(value, of)), "")
        given = str(value) if isinstance(value, _TEXT) else ""
        raise ConfigError(f"{name} must be {wanted}, got {kind_of(value)}{hint.format(given)}")


def check_network(module: Any, name: str = "module") -> None:
    """Raise `ConfigError` unless it is a network with something to train."""
    check_kind(module, nn.Module, name)
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
    if data is None or isinstance(data, type | str | os.PathLike):
        check_kind(data, DataBundle, "data")
    return as_bundle(data)


def check_function(value: Any, name: str, arguments: str) -> None:
    """Raise `ConfigError` unless it is a function (or a network that is one)."""
    if isinstance(value, type) or not callable(value):
        hint = "; call the class to make one" if isinstance(value, type) else ""
        raise ConfigError(f"{name} must be a function of ({arguments}), got {kind_of(value)}{hint}")


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
