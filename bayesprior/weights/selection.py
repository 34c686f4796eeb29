"""Which parameters are meant: prefixes, glob patterns or a predicate of the name."""

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

from bayesprior.errors import ConfigError, nearest_name

__all__ = ["Selection", "is_selected", "select_names"]

Selection = str | Iterable[str] | Callable[[str], bool]
"""A module's name such as ``"head"``, a pattern such as ``"*.bias"``, several, or a predicate."""


def is_selected(name: str, selection: Selection) -> bool:
    """Whether one name matches; unlike `select_names`, a selection may match nothing.

    Examples
    --------
    >>> is_selected("head.weight", ["head"]), is_selected("header.weight", ["head"])
    (True, False)
    """
    if callable(selection):
        return bool(selection(name))
    patterns = [selection] if isinstance(selection, str) else selection
    return any(_matches(name, pattern) for pattern in patterns)


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or name.startswith(pattern.rstrip(".") + ".")


def select_names(names: Iterable[str], selection: Selection) -> tuple[str, ...]:
    """Return the names that match, in their order.

    Parameters
    ----------
    names
        Parameter names.
    selection
        The name of a module, whose parameters it selects, or a pattern (case-sensitive; ``*``
        matches dots too), several of them, or a predicate.

    Raises
    ------
    ConfigError
        If a pattern, or the predicate, matches nothing.

    Examples
    --------
    >>> select_names(["body.weight", "head.weight", "head.bias"], "head")
    ('head.weight', 'head.bias')
    >>> select_names(["body.weight", "head.weight"], lambda name: not name.startswith("head"))
    ('body.weight',)
    """
    names = tuple(names)
    if callable(selection):
        found = {name for name in names if selection(name)}
        if not found:
            raise ConfigError(f"the predicate selects none of the {len(names)} parameters")
    else:
        found = set()
        for pattern in [selection] if isinstance(selection, str) else selection:
            matched = {name for name in names if _matches(name, pattern)}
            if not matched:
                hint = nearest_name(pattern, _patterns(names))
                raise ConfigError(f"the pattern {pattern!r} matches no parameter{hint}")
            found |= matched
        if not found:
            raise ConfigError("no pattern is given, so none of the parameters would be random")
    return tuple(name for name in names if name in found)


def _patterns(names: Iterable[str]) -> list[str]:
    """Return the names, and a pattern for each module that they lie in: what can be meant."""
    names = list(names)
    modules = {name[:i] for name in names for i, letter in enumerate(name) if letter == "."}
    return [*sorted(f"{module}.*" for module in modules), *names]
