"""The checker of annotations under pytest: beartype, with an int accepted where a float is due.

That is PEP 484's numeric tower and mypy's view; beartype's own default refuses ``lr=1``.

jaxtyping's hook decorates every function of the package by `jaxtyping.jaxtyped`, which makes two
checkers of each, and binds and checks the arguments twice, call by call: half of the time of all
tests. `decorate` stands for it. It checks the same annotations once, makes a checker when its
function is first called, and gives a call a scope of its own for the letters of shapes, which
must agree within it, only where an annotation speaks of shapes.
"""

import functools
import importlib
import types
from collections.abc import Callable
from typing import Any, get_args

import jaxtyping
from beartype import BeartypeConf, beartype

__all__ = ["check", "decorate", "import_libraries"]

# A TypeError, as what torch itself says of an argument of another type.
check = beartype(conf=BeartypeConf(is_pep484_tower=True, violation_type=jaxtyping.TypeCheckError))
# pytest, which looks for examples everywhere, imports this file a second time.
_jaxtyped = getattr(jaxtyping.jaxtyped, "original", jaxtyping.jaxtyped)


def _shapes(annotation: Any) -> list[str]:
    """Return the names of the arrays in an annotation."""
    if isinstance(annotation, list | tuple):
        return [name for part in annotation for name in _shapes(part)]
    if type(annotation).__module__.startswith("jaxtyping"):
        return [annotation.__name__]
    return _shapes(get_args(annotation))


def _checked(function: types.FunctionType) -> Callable[..., Any]:
    checked = check(function)
    shapes = _shapes([*function.__annotations__.values()])
    if not shapes:
        return checked
    if any("{" in shape for shape in shapes):  # a size that is an argument
        return _jaxtyped(checked, typechecker=None)

    def call(*args: Any, **named: Any) -> Any:
        with _jaxtyped("context"):
            return checked(*args, **named)

    return call


def decorate(function: Any = None, *, typechecker: Callable[..., Any]) -> Any:
    """Return what `jaxtyping.jaxtyped` does."""
    if function is None:
        return functools.partial(decorate, typechecker=typechecker)
    if not isinstance(function, types.FunctionType):  # a class, which a dataclass may be
        return _jaxtyped(function, typechecker=typechecker)
    checked = None

    @functools.wraps(function)
    def wrapper(*args: Any, **named: Any) -> Any:
        nonlocal checked
        __tracebackhide__ = True
        if jaxtyping.config.jaxtyping_disable:
            return function(*args, **named)
        if checked is None:
            checked = _checked(function)
        return checked(*args, **named)

    return wrapper


decorate.original = _jaxtyped
jaxtyping.jaxtyped = decorate


def import_libraries() -> None:
    """Import what takes long, with its compiled files.

    While the hook imports a module of the package, all that is imported on the way is compiled
    from its source: seconds in every process.
    """
    for name in ("lightning_fabric", "pyro", "scipy.stats", "xarray"):
        importlib.import_module(name)
