"""Fingerprints of what a run was given: data, priors, networks, files."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import os
import random
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Subset, TensorDataset

from bayesprior.data import DataBundle, LazyDataset
from bayesprior.inference.generators import seeded
from bayesprior.weights.file import Contents, packed
from bayesprior.weights.gaussian import GaussianWeights

__all__ = [
    "data_digests",
    "described",
    "file_digest",
    "frozen_digest",
    "network_digest",
    "prior_digest",
    "state_digest",
]

_EXAMPLES = 16  # of a data set whose content cannot be read otherwise
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def data_digests(data: DataBundle) -> dict[str, str]:
    """Return for each split its number of examples and a digest.

    Arrays count by content, folders by relative name, size and time of change of the files that
    the split uses, and other data sets by type, length and 16 examples.
    """
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    return {
        name: f"{len(split)} {_digest([split, data.class_names])}"
        for name, split in splits.items()
        if split is not None
    }


def prior_digest(prior: GaussianWeights) -> str:
    """Return a digest of the names, mean, covariance and BatchNorm statistics of a law."""
    named = {"buffers": prior.buffers, "statistics": prior.statistics}
    return _digest(packed(Contents(prior.layout, prior.loc, prior.blocks, **named)))


def state_digest(state: Mapping[str, Any], without: Collection[str] = ()) -> str:
    """Return a digest of a network's state, leaving some entries out."""
    return _digest({name: value for name, value in state.items() if name not in without})


def network_digest(module: nn.Module) -> str:
    """Return a network's type and a digest of how it is built (not of its weights)."""
    return f"{type(module).__name__} {_digest(_ADDRESS.sub('', repr(module)))[:16]}"


def frozen_digest(module: nn.Module) -> dict[str, str]:
    """Return a digest of the weights that are not trained, by the key of its place; none of none.

    No law and no checkpoint holds them, so a fit's folder has to know that they are the same.
    """
    frozen = {n: p for n, p in module.named_parameters() if not p.requires_grad}
    return {"frozen": state_digest(frozen)} if frozen else {}


def file_digest(path: str | Path) -> str:
    """Return the SHA-256 of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def described(value: Any, *, content: bool = False) -> Any:
    """Return JSON primitives that name a value: its type, and its fields where it has them.

    Parameters
    ----------
    value
        Anything that a recipe takes.
    content
        Tell also what it holds: of arrays, networks and data sets a digest.

    Examples
    --------
    >>> from bayesprior.tasks.likelihoods import Normal
    >>> described(Normal(0.5)), described(len), described(None)
    ({'class': 'Normal', 'std': 0.5}, 'len', None)
    """
    part = functools.partial(described, content=content)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor | np.ndarray | np.generic):
        array = value.detach().cpu() if isinstance(value, Tensor) else np.asarray(value)
        if (not content and math.prod(array.shape) <= 64) or array.dtype == object:
            return part(array.tolist())
        return f"{array.dtype} {tuple(array.shape)} {_hashed([_bytes(array)])}"
    if isinstance(value, nn.Module):
        own = [_ADDRESS.sub("", repr(value)), part(dict(value.state_dict()))]
        return own if content else network_digest(value)
    if isinstance(value, Mapping):
        return {str(key): part(held) for key, held in value.items()}
    if isinstance(value, set | frozenset):
        return [part(held) for held in sorted(value, key=str)]
    if isinstance(value, list | tuple):
        return [part(held) for held in value]
    if isinstance(value, functools.partial):
        return [part(held) for held in (value.func, value.args, value.keywords)]
    fields: dict[str, Any] = {}
    if content and isinstance(value, TensorDataset | Subset):
        fields = vars(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        if content and isinstance(value, LazyDataset) and _is_folder(value.source):
            rows = range(len(value.source)) if value.rows is None else value.rows.tolist()
            fields |= {"source": _of_files(value.source, rows), "rows": None}
    elif content:
        return _of_content(value)
    else:
        return getattr(value, "__qualname__", type(value).__qualname__)
    return {"class": type(value).__name__, **{n: part(held) for n, held in fields.items()}}


def _digest(value: Any) -> str:
    # Files give names back in an order of their own.
    return _hashed([json.dumps(described(value, content=True), sort_keys=True).encode()])


def _hashed(parts: Iterable[Any]) -> str:
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        found.update(part)
    return found.hexdigest()


def _bytes(array: Any) -> Any:
    if isinstance(array, Tensor):
        return array.contiguous().reshape(-1).view(torch.uint8).numpy().data
    return array.tobytes()


def _of_content(value: Any) -> Any:
    """Return what tells a data set, an image of Pillow's, or anything else from others."""
    name = getattr(value, "__qualname__", type(value).__qualname__)
    if isinstance(value, bytes | Path):
        return repr(value)
    if _is_folder(value):
        return _of_files(value, range(len(value)))
    if hasattr(value, "tobytes") and hasattr(value, "mode"):
        return [value.mode, list(value.size), _hashed([value.tobytes()])]
    if not (hasattr(value, "__getitem__") and hasattr(value, "__len__")) or isinstance(value, type):
        return name
    count, read = len(value), getattr(value, "raw", value.__getitem__)
    with _seeded():
        rows = sorted({i * (count - 1) // (_EXAMPLES - 1) for i in range(_EXAMPLES)})
        return [name, count, [described(read(row), content=True) for row in rows]]


def _is_folder(value: Any) -> bool:
    """Whether it is a set of files: ``samples`` of (path, class), as torchvision's folders."""
    samples = getattr(value, "samples", None)
    first = samples[0] if isinstance(samples, list | tuple) and samples else None
    return isinstance(first, list | tuple) and isinstance(first[0], str | Path)


def _of_files(folder: Any, rows: Iterable[int]) -> str:
    paths = [str(sample[0]) for sample in folder.samples]
    root = Path(getattr(folder, "root", None) or os.path.commonpath(paths))

    def told(path: Path, label: Any = None) -> tuple[Any, ...]:
        name = path.relative_to(root) if path.is_relative_to(root) else path.name
        status = path.stat()
        return str(name), label, status.st_size, status.st_mtime_ns

    def of_row(row: int) -> bytes:
        label = folder.samples[row][1]
        label = told(Path(label)) if isinstance(label, str) else label  # a mask's file
        return repr(told(Path(paths[row]), label)).encode()

    return _hashed(map(of_row, rows))


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    """Fix every global generator that an augmentation may draw from; put them back afterwards."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        with seeded(0):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
