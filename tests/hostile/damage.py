"""What time, disks and people do to files, and what nobody would write; all by a generator."""

import copy
import math
import os
import sys
from typing import Any

import numpy as np

LATIN = os.fsdecode(b"caf\xe9") if sys.platform == "linux" else "caf\u00e9"
"""A name as old archives unpack to: its bytes are no UTF-8."""

NASTY: list[Any] = [
    None,
    True,
    -1,
    0,
    2**31,
    2**62,
    10**30,
    0.5,
    1e300,
    -1e-300,
    math.nan,
    math.inf,
    "",
    " ",
    "nan",
    "x" * 5000,
    "\x1b[2J\x1b]0;owned\x07",
    "a\0b",
    "[/red]",
    "two\nlines",
    "\u202etxt",
    "os:system",
    "subprocess:getoutput",
    "../../etc/passwd",
    "/dev/zero",
    [],
    [[]],
    [1, "a", None],
    {},
    {"a": {"b": []}},
]
"""Values of every kind for the place of any other."""


def pick(rng: np.random.Generator, values: Any) -> Any:
    """Return one of several things, whatever they are."""
    return values[int(rng.integers(len(values)))]


def damaged(rng: np.random.Generator, data: bytes) -> bytes:
    """Return a file's bytes after a flip, a cut, a hole, a repetition or an insertion."""
    at = int(rng.integers(max(len(data), 1)))
    length = int(rng.integers(1, 200))
    kind = int(rng.integers(6))
    if kind == 0:  # some bits
        found = bytearray(data)
        for place in rng.integers(len(data), size=int(rng.integers(1, 9))):
            found[place] ^= 1 << int(rng.integers(8))
        return bytes(found)
    if kind == 1:
        return data[:at]
    if kind == 2:
        return data[:at] + bytes(length) + data[at + length :]
    if kind == 3:
        return data[:at] + data[at : at + length] + data[at:]
    if kind == 4:
        return data[:at] + rng.bytes(length) + data[at:]
    head = bytearray(data)  # where formats say what follows
    place = int(rng.integers(min(len(data), 64)))
    head[place] = int(rng.integers(256))
    return bytes(head)


def places(tree: Any, found: Any = ()) -> list[tuple[Any, ...]]:
    """Return the way to every value inside dictionaries and lists."""
    entries: Any = ()
    if isinstance(tree, dict):
        entries = tree.items()
    elif isinstance(tree, list | tuple):
        entries = enumerate(tree)
    ways = [] if found == () else [found]
    for key, value in entries:
        ways += places(value, (*found, key))
    return ways


def mutated(rng: np.random.Generator, tree: Any) -> Any:
    """Return nested dictionaries and lists with one value replaced, dropped, moved or added."""
    tree = copy.deepcopy(tree)
    ways = places(tree)
    if not ways:
        return pick(rng, NASTY)
    way = pick(rng, ways)
    owner = tree
    for key in way[:-1]:
        owner = owner[key]
    if isinstance(owner, tuple):
        return pick(rng, NASTY)
    key, kind = way[-1], int(rng.integers(4))
    if kind == 0:
        del owner[key]
    elif kind == 1 and isinstance(owner, dict):
        owner[pick(rng, ("", "\x1b[2J", "extra", "format", f"{key}x"))] = owner.pop(key)
    elif kind == 2 and len(ways) > 1:
        other = tree
        for step in pick(rng, ways):
            other = other[step]
        owner[key] = copy.deepcopy(other)
    else:
        owner[key] = copy.deepcopy(pick(rng, NASTY))
    return tree
