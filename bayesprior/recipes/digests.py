"""Fingerprints of what a run was given: data, priors, networks, files."""

import contextlib
import dataclasses
import functools
import hashlib
import os
import random
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
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
        name: f"{len(split)} {_digest(split, list(data.class_names))}"
        for name, split in splits.items()
        if split is not None
    }


def prior_digest(prior: GaussianWeights) -> str:
    """Return a digest of the names, mean, covariance and BatchNorm statistics of a law."""
    named = {"buffers": prior.buffers, "statistics": prior.statistics}
    return _digest(*packed(Contents(prior.layout, prior.loc, prior.blocks, **named)))


def state_digest(state: Mapping[str, Any], without: Collection[str] = ()) -> str:
    """Return a digest of a network's state, leaving some entries out."""
    return _digest({name: value for name, value in state.items() if name not in without})


def network_digest(module: nn.Module) -> str:
    """Return a network's type and a digest of how it is built (not of its weights)."""
    return f"{type(module).__name__} {_digest(_ADDRESS.sub('', repr(module)))[:16]}"


def file_digest(path: str | Path) -> str:
    """Return the SHA-256 of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def described(value: Any) -> Any:
    """Return JSON primitives that name a value: its type, and its fields where it has them.

    Examples
    --------
    >>> from bayesprior.tasks.likelihoods import Normal
    >>> described(Normal(0.5)), described(len), described(None)
    ({'class': 'Normal', 'std': 0.5}, 'len', None)
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        return value.tolist() if value.numel() <= 64 else f"{tuple(value.shape)} {_digest(value)}"
    if isinstance(value, nn.Module):
        return network_digest(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: described(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"class": type(value).__name__, **fields}
    if isinstance(value, Sequence | set | frozenset):
        return [described(part) for part in value]
    return getattr(value, "__qualname__", type(value).__qualname__)


def _digest(*values: Any) -> str:
    found = hashlib.blake2b(digest_size=16)
    _feed_all(found, *values)
    return found.hexdigest()


def _feed(found: hashlib.blake2b, value: Any) -> None:
    """Feed a value: arrays by content, containers part by part, the rest as told above."""
    if isinstance(value, Tensor):
        plain = value.detach().cpu().contiguous()
        found.update(f"{plain.dtype} {tuple(plain.shape)};".encode())
        found.update(plain.reshape(-1).view(torch.uint8).numpy().data if plain.numel() else b"")
    elif isinstance(value, np.ndarray | np.generic):
        array = np.ascontiguousarray(value)
        found.update(f"{array.dtype} {array.shape};".encode())
        found.update(repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes())
    elif isinstance(value, Mapping):
        found.update(f"mapping {len(value)};".encode())
        for key in sorted(value, key=str):  # files give names back in an order of their own
            _feed_all(found, str(key), value[key])
    elif isinstance(value, list | tuple):
        found.update(f"sequence {len(value)};".encode())
        _feed_all(found, *value)
    elif isinstance(value, nn.Module):
        _feed_all(found, _ADDRESS.sub("", repr(value)), value.state_dict())
    elif isinstance(value, LazyDataset) and _is_folder(value.source):
        rows = range(len(value.source)) if value.rows is None else value.rows.tolist()
        _feed_files(found, value.source, rows)
        _feed_all(found, value.targets, value.crop, value.augment, value.transform)
    elif _is_folder(value):
        _feed_files(found, value, range(len(value)))
    elif isinstance(value, TensorDataset | Subset):
        _feed(found, vars(value))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        found.update(f"{type(value).__qualname__};".encode())
        _feed_all(found, *(getattr(value, spec.name) for spec in dataclasses.fields(value)))
    elif isinstance(value, functools.partial):
        _feed_all(found, value.func, value.args, value.keywords)
    elif hasattr(value, "tobytes") and hasattr(value, "mode"):  # an image of Pillow's
        _feed_all(found, value.mode, value.size, value.tobytes())
    elif hasattr(value, "__getitem__") and hasattr(value, "__len__") and not _is_plain(value):
        _feed_examples(found, value)
    else:
        named = getattr(value, "__qualname__", type(value).__qualname__)
        found.update(f"{type(value).__name__} {value if _is_plain(value) else named!r};".encode())


def _feed_all(found: hashlib.blake2b, *values: Any) -> None:
    for value in values:
        _feed(found, value)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str | bytes | Path)


def _is_folder(value: Any) -> bool:
    """Whether it is a set of files: ``samples`` of (path, class), as torchvision's folders."""
    samples = getattr(value, "samples", None)
    first = samples[0] if isinstance(samples, list | tuple) and samples else None
    return isinstance(first, list | tuple) and isinstance(first[0], str | Path)


def _feed_files(found: hashlib.blake2b, folder: Any, rows: Sequence[int]) -> None:
    paths = [str(sample[0]) for sample in folder.samples]
    root = Path(getattr(folder, "root", None) or os.path.commonpath(paths))
    for row in rows:
        path, label = Path(folder.samples[row][0]), folder.samples[row][1]
        name = path.relative_to(root) if path.is_relative_to(root) else path.name
        _feed_all(found, str(name), label, path.stat().st_size, path.stat().st_mtime_ns)


def _feed_examples(found: hashlib.blake2b, data: Any) -> None:
    count, read = len(data), getattr(data, "raw", data.__getitem__)
    _feed_all(found, type(data).__qualname__, count)
    with _seeded():
        for index in sorted({i * (count - 1) // (_EXAMPLES - 1) for i in range(_EXAMPLES)}):
            _feed(found, read(index))


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
