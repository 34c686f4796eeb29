"""What the recipes are given by mistake, told in one line before any work."""

import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from bayesprior.data import DataBundle, as_bundle
from bayesprior.errors import ConfigError, LayoutMismatchError
from bayesprior.inference.prior_term import PriorTerm
from bayesprior.tasks.likelihoods import Likelihood
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.selection import Selection, select_names

__all__ = [
    "as_data",
    "check_function",
    "check_law",
    "check_likelihood",
    "check_network",
    "check_prior_fits",
    "head_names",
]


def check_network(module: Any, name: str = "module") -> None:
    """Raise `ConfigError` unless it is a network with something to train."""
    if not isinstance(module, nn.Module):
        hint = {
            str: "; make it with get_model(name)",
            type: "; call the class to make one",
            Mapping: "; load it into a network with load_state_dict",
        }
        raise _wrong(name, "a network (torch.nn.Module)", module, hint)
    if not any(p.requires_grad and p.numel() for p in module.parameters()):
        raise ConfigError(
            f"{name} has no trainable parameter ({type(module).__name__}); "
            "requires_grad_(True) on what is to be inferred"
        )
    for parameter, value in module.named_parameters():
        if value.is_meta:
            raise ConfigError(f"{name}: {parameter} has no values (meta device); load them first")


def check_law(law: Any, name: str = "prior") -> None:
    """Raise `ConfigError` unless it is a `GaussianWeights`."""
    if isinstance(law, GaussianWeights):
        return
    hint = {
        str: f"; load it with GaussianWeights.load({str(law)!r})",
        type: "; load one with GaussianWeights.load(path) or make it with make_prior",
        nn.Module: "; the arguments are fit_map(module, prior, data), and make_prior makes a prior",
        object: "; make_prior makes one, GaussianWeights.load reads one",
    }
    raise _wrong(name, "a GaussianWeights", law, hint)


def as_data(data: Any) -> DataBundle:
    """Return the data as a bundle: a bundle, a data set or a ``DataLoader`` will do.

    Raises
    ------
    ConfigError, DataError
        If it is none of these.
    """
    if isinstance(data, str | os.PathLike | type) or data is None:
        hint = {
            str: f"; load it with get_data({str(data)!r})",
            type: "; make one with from_arrays or get_data",
        }
        raise _wrong("data", "a DataBundle, a data set or a DataLoader", data, hint)
    return as_bundle(data)


def check_likelihood(likelihood: Any) -> None:
    """Raise `ConfigError` unless it is None or a `Likelihood`."""
    if likelihood is None:
        return
    if isinstance(likelihood, type) or not isinstance(likelihood, Likelihood):
        hint = {
            type: "; call it",
            nn.Module: "; Categorical() stands for the cross-entropy, Normal(std) for squares",
            object: "; for example Categorical()",
        }
        raise _wrong("likelihood", "a Likelihood such as Categorical()", likelihood, hint)


def check_function(value: Any, name: str, arguments: str) -> None:
    """Raise `ConfigError` unless it is a function (or a network that is one)."""
    if isinstance(value, type) or not callable(value):
        hint: dict[type, str] = {type: "; call the class to make one"}
        raise _wrong(name, f"a function of ({arguments})", value, hint)


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
    if head is None:
        return set()
    if callable(head):
        return set(select_names(names, head))
    found: set[str] = set()
    patterns = [head] if isinstance(head, str) or not isinstance(head, Iterable) else list(head)
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise _wrong("head", "a name, several, or a predicate", pattern, {})
        try:
            found |= set(select_names(names, pattern))
        except ConfigError:
            raise LayoutMismatchError(
                f"the {owner} has no trainable parameter under the head {pattern!r}; its "
                f"parameters are {', '.join(names[-4:])} (last four)"
            ) from None
    return found


def _wrong(
    name: str, wanted: str, value: Any, hints: Mapping[type, str] | Mapping[Any, str]
) -> ConfigError:
    """Say what was wanted, what came, and the hint of the first kind that the value is of."""
    kinds: list[tuple[Callable[[Any], bool], Any]] = [
        (lambda v: isinstance(v, str | os.PathLike), str),
        (lambda v: isinstance(v, type), type),
    ]
    hint = next((hints[kind] for test, kind in kinds if test(value) and kind in hints), None)
    if hint is None:
        others = (k for k in hints if k not in (str, type) and isinstance(value, k))
        hint = next((hints[k] for k in others), "")
    if isinstance(value, str | os.PathLike):
        came = f"the text {os.fspath(value)!r}"
    elif isinstance(value, type):
        came = f"the class {value.__name__}"
    elif inspect.isroutine(value):
        came = f"the function {value.__name__}"
    else:
        came = type(value).__name__
    return ConfigError(f"{name} must be {wanted}, got {came}{hint}")
