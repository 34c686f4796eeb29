"""Names and import paths -> what they stand for, with errors that name the nearest valid name."""

import ast
import importlib
import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bayesprior.errors import (
    BayesPriorError,
    ConfigError,
    MissingDependencyError,
    nearest_name,
)

__all__ = ["call", "lazy", "resolve"]


def resolve(
    kind: str, name: str, table: Mapping[str, str], *, trusted: bool = True
) -> Callable[..., Any]:
    """Return what a short name of the table, or an import path, stands for.

    Outside code needs no registration: its import path is its name.

    Parameters
    ----------
    kind
        What is looked for, for messages: ``"data set"``, ``"model"``.
    name
        A key of the table, or ``"pkg.module:callable"``, such as ``"pkg.module:Class.method"``.
    table
        ``short name -> import path``.
    trusted
        Whether the user wrote the name. One that came out of a file would run whatever code the
        file's author chose, so its import paths are refused.

    Raises
    ------
    ConfigError
        If there is no such name, module or attribute, it cannot be called, or it is not trusted.

    Examples
    --------
    >>> resolve("function", "math:sqrt", {})(9.0)
    3.0
    """
    path = table.get(name, name)
    module_name, colon, attribute = path.partition(":")
    if not colon:
        known = ", ".join(table)
        raise ConfigError(
            f"no {kind} {name!r}; use one of {known}, or an import path 'pkg.module:callable'"
            + nearest_name(name, table)
        )
    if name not in table and not trusted:
        raise ConfigError(
            f"{kind} {name!r} is an import path out of a file, which could run any code; if you "
            "trust the file, say so with trust=True"
        )
    try:
        target = importlib.import_module(module_name)
    except (ImportError, ValueError) as error:
        told = f"({error}){_remedy(error)}"
        raise ConfigError(f"{kind} {name!r}: cannot import {module_name!r} {told}") from error
    for step in attribute.split("."):
        if not hasattr(target, step):
            where = getattr(target, "__name__", module_name)
            raise ConfigError(
                f"{kind} {name!r}: {where!r} has no {step!r}{nearest_name(step, dir(target))}"
            )
        target = getattr(target, step)
    if not callable(target):
        raise ConfigError(f"{kind} {name!r}: {path!r} cannot be called")
    return target


def call(
    kind: str,
    name: str,
    table: Mapping[str, str],
    options: Mapping[str, Any],
    *,
    trusted: bool = True,
) -> Any:
    """Call what a name stands for, refusing unknown and missing options first.

    Parameters
    ----------
    kind, name, table, trusted
        As in `resolve`.
    options
        Keyword arguments.

    Raises
    ------
    ConfigError
        As in `resolve`; if an option is unknown or a required one is missing.
    MissingDependencyError
        If what it stands for imports what is not installed.

    Examples
    --------
    >>> call("number", "half", {"half": "fractions:Fraction"}, {"numerator": 1, "denominator": 2})
    Fraction(1, 2)
    """
    target = resolve(kind, name, table, trusted=trusted)
    try:
        parameters = inspect.signature(target).parameters
    except ValueError:  # some callables written in C tell nothing of their parameters
        return target(**options)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = [n for n, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    for option, value in options.items():
        if option not in named and not open_ended:
            raise ConfigError(
                f"{kind} {name!r} has no option {option!r}{nearest_name(option, named)}; "
                f"it takes {', '.join(named) or 'none'}"
            )
        if option in named and _is_no_list(parameters[option].annotation, value):
            raise ConfigError(
                f"{kind} {name!r}: its option {option!r} takes a list, such as [{value}], not "
                f"{value!r}"
            )
    missing = [n for n in named if parameters[n].default is inspect._empty and n not in options]
    if missing:
        raise ConfigError(f"{kind} {name!r} needs the option {', '.join(missing)}")
    try:
        return target(**options)
    except ImportError as error:
        raise MissingDependencyError(
            f"{kind} {name!r} needs what cannot be imported ({error}){_remedy(error)}"
        ) from error
    except (TypeError, ValueError, RuntimeError, AttributeError, LookupError) as error:
        if isinstance(error, BayesPriorError):
            raise
        told = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{kind} {name!r} fails with {dict(options)} ({told})") from error


def _is_no_list(annotation: Any, value: Any) -> bool:
    """Whether one value is given where a signature asks for several."""
    kinds = (list, tuple, Sequence)
    parts = [part for part in typing.get_args(annotation) if part is not type(None)]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType) and len(parts) == 1:
        annotation = parts[0]
    is_asked = (typing.get_origin(annotation) or annotation) in kinds
    return is_asked and value is not None and isinstance(value, str | bool | int | float)


_OF_EXTRAS = ("timm", "transformers", "peft", "segmentation_models_pytorch")


def _remedy(error: Exception) -> str:
    """Return which extra has what is missing, if one has."""
    known = str(getattr(error, "name", None)).partition(".")[0] in _OF_EXTRAS
    return ": pip install 'bayesprior[models]'" if known else ""


def lazy(package: str, file: str) -> Callable[[str], Any]:
    """Return a package's ``__getattr__``, which imports each public name when it is first used.

    Where a name lives is read from the imports that type checkers read.

    Parameters
    ----------
    package, file
        Name and file of the package; the file imports its names under ``if TYPE_CHECKING:``.
    """
    body = ast.parse(Path(file).read_text(encoding="utf-8")).body
    imports = next(node for node in body if isinstance(node, ast.If)).body
    homes = {a.name: n.module for n in imports if isinstance(n, ast.ImportFrom) for a in n.names}

    def find(name: str) -> Any:
        home = homes.get(name)
        if home is None:
            near = nearest_name(name, homes)
            raise AttributeError(f"module {package!r} has no attribute {name!r}{near}")
        found = getattr(importlib.import_module(home), name, None)
        if found is None:  # it is a module
            found = importlib.import_module(f"{home}.{name}")
        vars(sys.modules[package])[name] = found
        return found

    return find
