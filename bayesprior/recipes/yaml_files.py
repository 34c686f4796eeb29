"""YAML files that somebody else may have written: plain values, and not many of them."""

from pathlib import Path
from typing import Any

import yaml

from bayesprior.errors import ConfigError

__all__ = ["read_yaml"]

_MOST_BYTES = 2**20
_MOST_VALUES = 100_000


def read_yaml(path: str | Path) -> Any:
    """Return what a YAML file holds; tags that would run code are refused.

    Raises
    ------
    ConfigError
        If there is no such file, it is no YAML, or larger than a configuration can be, its
        aliases written out.
    """
    path = Path(path).expanduser()
    if not path.is_file():  # a pipe would wait for ever
        raise ConfigError(f"cannot read the configuration {str(path)!r}: no such file")
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError("it is larger than a megabyte")
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        if node is not None and _num_values(node, {}) > _MOST_VALUES:
            raise ValueError("it holds too many values")
        return None if node is None else loader.construct_document(node)
    except Exception as error:  # the parser raises what it likes: recursion, dates, surrogates
        raise ConfigError(f"{path} is no YAML: {' '.join(str(error).split())}") from None


def _num_values(node: Any, known: dict[int, float]) -> float:
    """Count values, those behind an alias every time; infinite if one is inside itself."""
    if id(node) not in known:
        known[id(node)] = float("inf")
        parts = node.value if isinstance(node, yaml.CollectionNode) else ()
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in node.value for part in pair]
        known[id(node)] = 1 + sum(_num_values(part, known) for part in parts)
    return known[id(node)]
