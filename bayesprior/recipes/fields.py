"""One option of a recipe: its type, its bounds, and how a value is brought to them."""

import dataclasses
import math
import operator
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from bayesprior.errors import ConfigError, nearest_name

__all__ = ["Options", "option"]

T = TypeVar("T")

_LARGEST_INT = 2**31 - 1
_LARGEST_FLOAT = 1e12


def option(
    default: T,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    shown: str = "",
    path: bool = False,
) -> T:
    """Return a field with bounds; ``shown`` says what a default of None stands for."""
    metadata = {"least": least, "above": above, "most": most, "shown": shown, "path": path}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True, eq=False)
class Options:
    """A group of options: values brought to their types and checked."""

    __no_type_check__ = True  # of checkers of annotations: what is given is brought to its type

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):
            value = _typed(spec.name, spec.type, getattr(self, spec.name), spec.metadata)
            object.__setattr__(self, spec.name, value)


def _typed(name: str, kind: Any, value: Any, metadata: Mapping[str, Any]) -> Any:
    """Bring a value to a field's type; types that are not plain are the call's own business."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        if metadata.get("path"):
            return _text(name, value, path=True)
        plain = [a for a in arguments if a is not type(None)]
        return _typed(name, plain[0], value, metadata) if len(plain) == 1 else value
    if origin is Literal:
        if value not in arguments:
            hint = nearest_name(str(value), map(str, arguments))
            known = ", ".join(map(repr, arguments))
            raise ConfigError(f"{name} must be one of {known}, got {value!r}{hint}")
        return value
    if kind is bool:
        if type(value).__name__ not in ("bool", "bool_"):
            raise ConfigError(f"{name} must be True or False, got {value!r}")
        return bool(value)
    if kind is int:
        return _bounded(name, _whole(name, value), metadata, _LARGEST_INT)
    if kind is float:
        return _bounded(name, _real(name, value), metadata, _LARGEST_FLOAT)
    if kind is str:
        return _text(name, value, path=metadata.get("path", False))
    if origin is tuple and isinstance(value, list):
        return tuple(value)
    if origin is dict and not isinstance(value, Mapping):
        raise ConfigError(f"{name} must map names to values, got {value!r}")
    return dict(value) if origin is dict else value


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool):
        raise ConfigError(f"{name} must be a whole number, got {value!r}")
    try:
        return operator.index(value)
    except TypeError:
        raise ConfigError(f"{name} must be a whole number, got {value!r}") from None


def _real(name: str, value: Any) -> float:
    if isinstance(value, bool | str | bytes):
        raise ConfigError(f"{name} must be a number, got {value!r}")
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise ConfigError(f"{name} must be a number, got {value!r}") from None
    if not math.isfinite(number):
        raise ConfigError(f"{name} must be finite, got {value!r}")
    return number


def _text(name: str, value: Any, *, path: bool) -> str:
    if path:
        if not isinstance(value, str | os.PathLike):
            raise ConfigError(f"{name} must be a path, got {type(value).__name__}")
        return os.path.expanduser(os.fsdecode(value))
    if name == "device":  # torch.device("cuda:1") and 1 mean the same
        return f"cuda:{value}" if isinstance(value, int) else str(value)
    if not isinstance(value, str):
        raise ConfigError(f"{name} must be text, got {value!r}")
    return value


def _bounded(name: str, value: Any, metadata: Mapping[str, Any], largest: float) -> Any:
    least, above, most = (metadata.get(k) for k in ("least", "above", "most"))
    if least is not None and value < least:
        raise ConfigError(f"{name} must be at least {least}, got {value}")
    if above is not None and value <= above:
        raise ConfigError(f"{name} must be above {above}, got {value}")
    most = largest if most is None else most
    if value > most:
        raise ConfigError(f"{name} must be at most {most:g}, got {value:g}")
    return value
