"""Every error the package raises on purpose.

Each concrete error also inherits the builtin that a caller would catch, so code that knows
nothing of `bayesprior` still handles it. A message says what is wrong, where, and what fixes it.
"""

import difflib
import os
from collections.abc import Iterable
from typing import Any

__all__ = [
    "BayesPriorError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DivergenceError",
    "LayoutMismatchError",
    "MissingDependencyError",
    "PriorFileError",
    "StorageError",
    "kind_of",
    "nearest_name",
]


class BayesPriorError(Exception):
    """Base class of all errors raised by `bayesprior`."""


class ConfigError(BayesPriorError, ValueError):
    """An argument, option or combination of them that cannot work."""


class DataError(BayesPriorError, ValueError):
    """A data set that is missing, malformed or too small for what was asked."""


class LayoutMismatchError(BayesPriorError, ValueError):
    """Parameter names or shapes of two layouts (or of a module and a layout) disagree."""


class PriorFileError(BayesPriorError, ValueError):
    """A weight-distribution file that is truncated, corrupt, foreign or of an unknown version."""


class StorageError(BayesPriorError, OSError):
    """The operating system refused a write (a full disk, a read-only folder)."""


class CheckpointError(BayesPriorError, RuntimeError):
    """A checkpoint that is missing, belongs to another run or lacks keys."""


class DivergenceError(BayesPriorError, ArithmeticError):
    """The loss or the weights became NaN or infinite."""


class MissingDependencyError(BayesPriorError, ImportError):
    """An optional dependency is not installed; the message names the extra."""


def nearest_name(name: str, candidates: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest candidate, or an empty string.

    Parameters
    ----------
    name
        What the user wrote.
    candidates
        The valid names.

    Examples
    --------
    >>> nearest_name("fc.wieght", ["fc.weight", "fc.bias"])
    "; did you mean 'fc.weight'?"
    >>> nearest_name("zzz", ["fc.weight"])
    ''
    """
    match = difflib.get_close_matches(name, list(candidates), n=1)
    return f"; did you mean {match[0]!r}?" if match else ""


def kind_of(value: Any) -> str:
    """Return what was given instead of what was wanted, for messages.

    Examples
    --------
    >>> kind_of("net.pt"), kind_of(dict), kind_of(len), kind_of(3)
    ("the text 'net.pt'", 'the class dict', 'the function len', 'int')
    """
    if isinstance(value, str | os.PathLike):
        return f"the text {os.fspath(value)!r}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name = getattr(value, "__name__", "")
    return f"the function {name}" if name and callable(value) else type(value).__name__
