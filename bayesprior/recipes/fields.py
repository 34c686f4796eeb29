"""One option of a recipe: its type, its bounds, and how a value is brought to them."""

import dataclasses
import math
import operator
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar, dataclass_transform

from bayesprior.errors import ConfigError, kind_of, nearest_name

__all__ = ["Options", "option", "values_of"]

T = TypeVar("T")

_LARGEST = {int: 2**31 - 1, float: 1e12}


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


@dataclass_transform(kw_only_default=True, frozen_default=True, eq_default=False)
class Options:
    """A group of options: values brought to their types and checked.

    A subclass is a frozen dataclass with keyword-only fields (``kw_only=False`` in its head allows
    others) without being decorated as one.
    """

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]
    __no_type_check__ = True  # of checkers of annotations: what is given is brought to its type

    def __init_subclass__(cls, *, kw_only: bool = True) -> None:
        dataclass(frozen=True, kw_only=kw_only, eq=False)(cls)

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):
            value = _typed(spec.name, spec.type, getattr(self, spec.name), spec.metadata)
            object.__setattr__(self, spec.name, value)


dataclass(frozen=True, kw_only=True, eq=False)(Options)


def values_of(group: type[Options], options: Options) -> dict[str, Any]:
    """Return the fields of one group among the options of a call or command.

    Examples
    --------
    >>> from bayesprior.recipes.options import ModelOptions
    >>> from bayesprior.recipes.study_options import StudyOptions
    >>> values_of(ModelOptions, StudyOptions(data="digits", model="mlp", source="s"))
    {'model': 'mlp', 'model_options': {}, 'head': None, 'noise': 'learned'}
    """
    return {spec.name: getattr(options, spec.name) for spec in dataclasses.fields(group)}


def _typed(name: str, kind: Any, value: Any, metadata: Mapping[str, Any]) -> Any:
    """Bring a value to a field's type; types that are not plain are the call's own business."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        plain = [a for a in arguments if a is not type(None)]
        if value is None and len(plain) < len(arguments):
            return None
        if len(plain) > 1 and not metadata.get("path"):
            return value
        return _typed(name, plain[0], value, metadata)
    if metadata.get("path") and origin is tuple:
        several = value if isinstance(value, list | tuple) else () if value is None else (value,)
        return tuple(_typed(name, str, one, metadata) for one in several)
    if metadata.get("path") and origin is None:
        if not isinstance(value, str | os.PathLike):
            raise ConfigError(f"{name} must be a path, got {kind_of(value)}")
        return os.path.expanduser(os.fsdecode(value))
    if origin is Literal and value not in arguments:
        hint = nearest_name(str(value), map(str, arguments))
        known = ", ".join(map(repr, arguments))
        raise ConfigError(f"{name} must be one of {known}, got {value!r}{hint}")
    if kind in (int, float):
        return _bounded(name, kind, value, metadata)
    if kind is str and name == "device" and not isinstance(value, bool | float | None):
        # torch.device("cuda:1") and 1 mean the same
        return f"cuda:{value}" if hasattr(value, "__index__") else str(value)
    if kind is str and not isinstance(value, str):
        raise ConfigError(f"{name} must be text, got {value!r}")
    if kind is bool and type(value).__name__ not in ("bool", "bool_"):
        raise ConfigError(f"{name} must be True or False, got {value!r}")
    if origin is dict and not isinstance(value, Mapping):
        raise ConfigError(f"{name} must map names to values, got {value!r}")
    if origin is tuple and isinstance(value, list) or origin is dict:
        return origin(value)
    return bool(value) if kind is bool else value


def _bounded(name: str, kind: type, value: Any, metadata: Mapping[str, Any]) -> Any:
    """Return a number of Python's, within bounds: NumPy's and tensors of one element will do."""
    try:
        if isinstance(value, bool | str | bytes):
            raise TypeError
        number = operator.index(value) if kind is int else float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        wanted = "a whole number" if kind is int else "a number"
        raise ConfigError(f"{name} must be {wanted}, got {value!r}") from None
    if kind is float and not math.isfinite(number):
        raise ConfigError(f"{name} must be finite, got {value!r}")
    least, above, most = (metadata.get(k) for k in ("least", "above", "most"))
    most = _LARGEST[kind] if most is None else most
    if least is not None and number < least:
        raise ConfigError(f"{name} must be at least {least}, got {number}")
    if above is not None and number <= above:
        raise ConfigError(f"{name} must be above {above}, got {number}")
    if number > most:
        raise ConfigError(f"{name} must be at most {most:g}, got {str(number):.20}")
    return number
