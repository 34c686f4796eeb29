"""Every error the package raises on purpose.

Each concrete error also inherits the builtin that a caller would catch, so code that knows
nothing of `bayesprior` still handles it. A message says what is wrong, where, and what fixes it;
`checked` does so for what public functions are given by mistake.
"""

import difflib
import functools
import inspect
import operator
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

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
    "check",
    "checked",
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


F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

_TEXT = (str, os.PathLike)


def _has(*names: str) -> Callable[[Any], bool]:
    return lambda value: all(hasattr(value, name) for name in names)


def _whole(least: float) -> Callable[[Any], bool]:
    def fits(value: Any) -> bool:
        try:
            return not isinstance(value, bool) and operator.index(value) >= least
        except TypeError:
            return False

    return fits


def _is_number(value: Any) -> bool:
    if hasattr(value, "requires_grad") and value.dim() == 0:
        return True  # its value is not read: it may have a gradient, or be mapped by vmap
    try:
        return not isinstance(value, bool | str | bytes) and float(value) is not None
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return False


def _is_device(value: Any) -> bool:
    import torch

    try:
        return torch.device(value) is not None
    except (TypeError, RuntimeError):
        return False


def _is_path(value: Any) -> bool:
    return isinstance(value, _TEXT)


def _each(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda values: (
        isinstance(values, Collection)
        and all(not isinstance(value, type) and fits(value) for value in values)
    )


_HINTS_OF_SOURCE: dict[Any, str] = {
    Mapping: "; load these weights into a network with load_state_dict, and give that as the model",
    object: "; fit_source or collect makes one",
}

# Word -> what is wanted, whether a value is that, and hints by what it may be instead.
_WANTED: dict[str, tuple[str, Callable[[Any], bool], dict[Any, str]]] = {
    "network": (
        "a network (torch.nn.Module)",
        _has("named_parameters", "state_dict"),
        {
            _TEXT: "; make it with get_model(name)",
            type: "; call the class to make one",
            Mapping: "; load it into a network with load_state_dict",
        },
    ),
    "gaussian": (
        "a GaussianWeights",
        _has("layout", "loc", "blocks", "rescale"),
        {
            _TEXT: "; load it with GaussianWeights.load({!r})",
            type: "; load one with GaussianWeights.load(path) or make it with make_prior",
            object: "; make_prior makes one (the arguments are module, prior, data)",
        },
    ),
    "fitted": (
        "a source posterior (a GaussianWeights)",
        _has("layout", "loc", "blocks", "rescale"),
        {_TEXT: "; load it with GaussianWeights.load({!r})", **_HINTS_OF_SOURCE},
    ),
    "source": (
        "a source posterior (a GaussianWeights) or its file",
        lambda value: _is_path(value) or _has("layout", "loc", "blocks", "rescale")(value),
        _HINTS_OF_SOURCE,
    ),
    "weights": (
        "a file of weights or a name that the model's library knows",
        _is_path,
        {
            Mapping: "; load them into a network with load_state_dict, and give that as the model",
            object: "; a network that has its weights is given as the model",
        },
    ),
    "law": (
        "a law of the weights, such as a GaussianWeights",
        _has("layout", "loc", "score"),
        {_TEXT: "; load it with GaussianWeights.load({!r})"},
    ),
    "posterior": (
        "a posterior, such as a GaussianWeights",
        _has("layout", "draws"),
        {_TEXT: "; load it with load_run({!r}).posterior"},
    ),
    "bundle": (
        "a DataBundle",
        _has("train", "loader", "class_names"),
        {_TEXT: "; load it with get_data({!r})", object: "; make one with from_arrays or get_data"},
    ),
    "data": (
        "a DataBundle, a data set or a DataLoader",
        lambda value: value is not None and not isinstance(value, _TEXT),
        {_TEXT: "; load it with get_data({!r})", type: "; make one with from_arrays or get_data"},
    ),
    "batches": (
        "batches, such as a DataLoader's",
        lambda value: hasattr(value, "__iter__") and not isinstance(value, _TEXT),
        {object: "; a bundle's are bundle.loader(split, batch_size)"},
    ),
    "likelihood": (
        "a Likelihood such as Categorical()",
        _has("log_prob", "validate"),
        {
            type: "; call it",
            Callable: "; Categorical() stands for the cross-entropy, Normal(std) for squares",
            object: "; for example Categorical()",
        },
    ),
    "optimizer": ("a torch optimizer", _has("step", "zero_grad"), {}),
    "parameters": (
        "parameters or groups of them",
        lambda value: hasattr(value, "__iter__") and value != [] and not isinstance(value, _TEXT),
        {object: "; a network's are network.parameters()"},
    ),
    "fabric": ("a Fabric", _has("setup", "backward"), {}),
    "layout": ("a ParameterLayout", _has("names", "flatten"), {}),
    "tensor": ("a tensor", _has("shape", "dtype", "device"), {}),
    "metrics": ("metrics by name", _has("items"), {}),
    "gaussians": (
        "a list of GaussianWeights",
        _each(_has("layout", "loc", "blocks")),
        {_TEXT: "; load them with GaussianWeights.load(path)"},
    ),
    "collectors": ("a list of collectors", _each(_has("update")), {}),
    "functions": ("a list of functions", _each(callable), {}),
    "function": ("a function", callable, {type: "; call the class to make one"}),
    "count": ("a whole number of at least 1", _whole(1), {}),
    "index": ("a whole number of at least 0", _whole(0), {}),
    "integer": ("a whole number", _whole(float("-inf")), {}),
    "number": ("a number", _is_number, {}),
    "numbers": (
        "a number or several",
        lambda value: _is_number(value) or hasattr(value, "__len__") and not _is_path(value),
        {},
    ),
    "text": ("text", lambda value: isinstance(value, str), {}),
    "paths": ("a run's folder or those of chains", _each(_is_path), {}),
    "path": ("a path", _is_path, {}),
    "device": ("a device such as 'cpu' or 'cuda:0'", _is_device, {}),
}


def check(value: T, word: str, name: str) -> T:
    """Return the value; raise `ConfigError` unless it is what a word stands for.

    Examples
    --------
    >>> check("net.pt", "network", "module")
    Traceback (most recent call last):
    bayesprior.errors.ConfigError: module must be a network (torch.nn.Module), got the text ...
    """
    wanted, fits, hints = _WANTED[word]
    if isinstance(value, type) or not fits(value):
        hint = next((text for kind, text in hints.items() if isinstance(value, kind)), "")
        given = str(value) if isinstance(value, _TEXT) else ""
        shown = kind_of(value)
        if isinstance(value, bool | int | float):
            shown = repr(value)
        raise ConfigError(f"{name} must be {wanted}, got {shown}{hint.format(given)}")
    return value


def checked(many: str = "", **words: str) -> Callable[[F], F]:
    """Return a decorator: arguments are checked by their word before the function is called.

    None passes where it is the default. Many may be given as text, "name=word name=word".
    """
    words |= dict(pair.split("=") for pair in many.split())

    def decorate(function: F) -> F:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def public(*args: Any, **kwargs: Any) -> Any:
            try:
                given = signature.bind(*args, **kwargs).arguments
            except TypeError:
                given = {}  # the call below says what is missing or too much
            for name, word in words.items():
                if name in given:
                    default = signature.parameters[name].default
                    if given[name] is not None or default is not None:
                        check(given[name], word, name)
            return function(*args, **kwargs)

        return public  # type: ignore[return-value]

    return decorate
