"""Other people's weight files: find the weights in them, fit a network."""

import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bayesprior.errors import CheckpointError, ConfigError, nearest_name
from bayesprior.weights.renaming import names_by_order
from bayesprior.weights.selection import Selection, is_selected
from bayesprior.weights.tensor_files import read_file

__all__ = ["FoundState", "LoadReport", "Source", "load_weights", "read_state_dict"]

Source = str | Path | Mapping[str, Any]
"""A file of weights, or what has been read from one."""

# Whoever averages weights evaluates the average: a teacher, an exponential moving average (EMA).
_AVERAGED = re.compile(r"teacher|(^|[._])ema($|[._])|averaged", re.IGNORECASE)
_WRAPPERS = re.compile(r"((module|_orig_mod)\.)+")
# Moments of an optimizer have the shapes of weights.
_NO_WEIGHTS = re.compile(r"optim|sched|scaler", re.IGNORECASE)
# Old spellings of one layer, both ways, tried where the network has the other one.
_SPELLINGS = (
    (re.compile(r"(denselayer\d+\.(?:norm|conv))\.(\d\.)"), r"\1\2"),  # DenseNet before 2018
    (re.compile(r"parametrizations\.(\w+)\.original0$"), r"\1_g"),  # weight norm
    (re.compile(r"parametrizations\.(\w+)\.original1$"), r"\1_v"),
    (re.compile(r"(^|\.)(\w+)_g$"), r"\1parametrizations.\2.original0"),
    (re.compile(r"(^|\.)(\w+)_v$"), r"\1parametrizations.\2.original1"),
)

_PICK = "pick the network that the file was saved from"
_RESIZE = "build the network for the image size of the file, or resample its positions"


class FoundState(dict[str, Tensor]):
    """Named tensors, with where they lay.

    Attributes
    ----------
    source
        The file's name.
    where
        Keys that lead to them inside the file, such as ``"teacher"``; empty for the top.
    stripped
        What was cut off the front of every name, such as ``"module."``.
    renamed
        Whether the names are the network's, given by order and shape.
    """

    source = "the state dict"
    where = ""
    stripped = ""
    renamed = False


@dataclass(frozen=True)
class LoadReport:
    """What of a file went into a network.

    Attributes
    ----------
    source, where, stripped, renamed
        As in `FoundState`.
    taken, missing
        Entries of the network that came from the file, and those that did not.
    left_out
        Entries of the file that the network has no place for.
    converted
        Number types that became the network's, such as ``("float16",)``.
    """

    source: str
    where: str = ""
    stripped: str = ""
    renamed: bool = False
    taken: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    converted: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """One line: what was taken, stripped and left out, by module."""
        text = f"{self.source}: {len(self.taken)} tensors taken"
        text += f" from {self.where!r}" if self.where else ""
        text += f", {self.stripped!r} cut off their names" if self.stripped else ""
        text += ", which were named by order and shape" if self.renamed else ""
        text += f", {', '.join(self.converted)} converted" if self.converted else ""
        text += f"; not in the file: {_by_module(self.missing)}" if self.missing else ""
        return text + (f"; left out: {_by_module(self.left_out)}" if self.left_out else "")

    def record(self) -> dict[str, Any]:
        """Return the same as JSON primitives, for a provenance."""
        told = {n: getattr(self, n) for n in ("source", "where", "stripped", "renamed")}
        return {**told, "converted": list(self.converted), "summary": self.summary}


def _by_module(names: Sequence[str], limit: int = 4) -> str:
    """Count names by their first part: ``"fc (2), layer4 (12)"``."""
    counts = Counter(name.partition(".")[0] for name in names)
    some = ", ".join(f"{name} ({n})" for name, n in list(counts.items())[:limit])
    return some + (f" and {len(counts) - limit} more" if len(counts) > limit else "")


def read_state_dict(source: Source, module: nn.Module | None = None) -> FoundState:
    """Find the weights in a file, by their content.

    Parameters
    ----------
    source
        A file of any layout, or what was read from one.
    module
        The network that they are for: of several sets the one that fits it best is taken (at
        equal fit a teacher's or an averaged one), without the one prefix whose removal makes the
        most names fit. By default the largest set, without ``module.`` and ``_orig_mod.``.

    Raises
    ------
    CheckpointError
        If the file cannot be read or holds no named tensors.
    """
    name = "the state dict" if isinstance(source, Mapping) else str(source)
    content = source if isinstance(source, Mapping) else read_file(source)
    shapes = None if module is None else {n: t.shape for n, t in _entries(module).items()}
    ranked = []
    for where, tensors in _tensor_sets(content):
        prefix, fits = _best_prefix(tensors, shapes)
        averaged = bool(_AVERAGED.search(f"{where}.{prefix}"))
        ranked.append(((fits, averaged, len(tensors)), where, prefix, tensors))
    if not ranked:
        raise CheckpointError(f"{name} holds no dictionary of tensors by name")
    _, where, prefix, tensors = max(ranked, key=lambda candidate: candidate[0])
    # Names with the prefix come last, so they win over equal ones without it.
    names = sorted(tensors, key=lambda n: n.startswith(prefix))
    found = FoundState((n.removeprefix(prefix), tensors[n]) for n in names)
    found.source, found.where, found.stripped = name, where, prefix
    for entry, tensor in found.items():
        if tensor.device.type == "meta":
            raise CheckpointError(f"{name}: {entry} has a shape but no values (meta device)")
        if tensor.is_quantized or tensor.layout is not torch.strided:
            raise CheckpointError(f"{name}: {entry} is sparse or quantized; store it dense")
    return found


def _tensor_sets(content: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every dictionary, at most five levels down, most of whose values are tensors by name."""
    if not isinstance(content, Mapping) or len(keys) > 5:
        return
    tensors = {n: t for n, t in content.items() if isinstance(n, str) and isinstance(t, Tensor)}
    if 2 * len(tensors) > len(content):
        yield ".".join(keys), tensors
    for key, value in content.items():
        if isinstance(key, str) and not _NO_WEIGHTS.search(key):
            yield from _tensor_sets(value, (*keys, key))


def _best_prefix(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, torch.Size] | None
) -> tuple[str, int]:
    """Return the prefix without which most names and shapes are the network's, and how many."""
    if shapes is None:
        wrapped = _WRAPPERS.match(os.path.commonprefix(list(tensors)))
        return wrapped.group() if wrapped else "", len(tensors)
    fits: Counter[str] = Counter({"": 0})
    for name, tensor in tensors.items():
        for start in (0, *(dot.end() for dot in re.finditer(r"\.", name))):
            if shapes.get(_spelled(name[start:], shapes)) == tensor.shape:
                fits[name[:start]] += 1
    prefix = max(fits, key=lambda p: (fits[p], bool(_AVERAGED.search(p)), p == ""))
    return prefix, fits[prefix]


def _spelled(name: str, known: Mapping[str, Any]) -> str:
    """Return the network's own spelling of an entry's name."""
    spellings = (name, *(pattern.sub(new, name) for pattern, new in _SPELLINGS))
    return next((spelling for spelling in spellings if spelling in known), name)


def _entries(module: nn.Module) -> dict[str, Tensor]:
    return {n: t for n, t in module.state_dict().items() if isinstance(t, Tensor)}


@torch.no_grad()
def load_weights(
    module: nn.Module,
    source: Source,
    name: str | Path | None = None,
    ignore: Selection = (),
    rename: str | None = None,
) -> LoadReport:
    """Copy a file's weights into a network, name by name, all or nothing.

    Left out are entries that the network lacks, and layers of the network that the file has for
    another number of outputs (an old head). The network's own load hooks and ties hold, and the
    numbers become those of the network's types.

    Parameters
    ----------
    module
        Changed in place.
    source
        A file or its content.
    name
        Where it comes from, for messages; the file's name by default.
    ignore
        Layers of the network that are not to be loaded, such as a new head.
    rename
        ``"auto"`` gives the file's tensors the network's names, by order and shape, where their
        own names are of another network; such a renaming is proposed in the error's message.

    Raises
    ------
    ConfigError
        If ``rename`` is something else.
    CheckpointError
        If the file cannot be read, a shape conflicts, a layer comes only in part, or less than
        half of the network's parameters are in it.

    Warns
    -----
    UserWarning
        If layers that were not to be ignored keep the weights that they had.
    """
    found = source if isinstance(source, FoundState) else read_state_dict(source, module)
    where, mine = str(name or found.source), _entries(module)
    if rename not in (None, "auto"):
        raise ConfigError(f"rename must be 'auto' or nothing, got {rename!r}")
    if rename and 2 * sum(_spelled(n, mine) in mine for n in found) < len(mine):
        found = _renamed(found, mine)
    unfit = f"{where} does not fit {type(module).__name__}"
    state, ignored, old_head = {}, [], set()
    for entry, tensor in found.items():
        own = _spelled(entry, mine)
        here = mine[own].shape if own in mine else tensor.shape
        if is_selected(own, ignore):
            ignored.append(entry)
        elif here == tensor.shape:
            state[own] = tensor
        elif here[1:] == tensor.shape[1:] and own.endswith(("weight", "bias")):
            old_head.add(_layer(own))
        else:
            raise CheckpointError(
                f"{unfit}: {own} is {tuple(here)} here and {tuple(tensor.shape)} in the file; "
                + (_RESIZE if "pos_embed" in own else _PICK)
            )
    state = {n: t for n, t in state.items() if _layer(n) not in old_head}
    before = {n: t.clone() for n, t in mine.items()}
    try:
        result = module.load_state_dict(state, strict=False)
        missing = _missing(module, result.missing_keys)
        lacking = [n for n in missing if not is_selected(n, ignore)]
        needed = {n for n, _ in module.named_parameters() if not is_selected(n, ignore)}
        fitted = needed.difference(lacking)
        partly = {_layer(n) for n in fitted} - old_head
        if (only := [n for n in lacking if _layer(n) in partly]) or 2 * len(fitted) < len(needed):
            raise CheckpointError(
                f"{unfit}: it has {len(fitted)} of {len(needed)} parameters; only here: "
                + _listed(only or lacking, found, mine)
            )
    except Exception as error:
        for entry, tensor in before.items():  # not by load_state_dict: what failed may be a hook
            mine[entry].copy_(tensor)
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{unfit}: {' '.join(str(error).split())[:200]}") from None
    taken = tuple(n for n in mine if n not in result.missing_keys)
    left_out = (*ignored, *(n for n in found if _layer(n) in old_head), *result.unexpected_keys)
    types = {state[n].dtype for n in taken if n in state and state[n].dtype != mine[n].dtype}
    kinds = tuple(sorted(str(kind).removeprefix("torch.") for kind in types))
    told = (where, found.where, found.stripped, found.renamed)
    report = LoadReport(*told, taken, tuple(missing), left_out, kinds)
    if lacking:
        warnings.warn(report.summary, UserWarning, stacklevel=3)
    return report


def _renamed(found: FoundState, mine: Mapping[str, Tensor]) -> FoundState:
    names = names_by_order(found, mine)
    if not names:
        raise CheckpointError(
            f"{found.source}: its tensors do not have the network's shapes in the same order, so "
            f"rename='auto' cannot name them; {_PICK}"
        )
    new = FoundState((names.get(n, n), tensor) for n, tensor in found.items())
    new.source, new.where, new.stripped = found.source, found.where, found.stripped
    new.renamed = True
    return new


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _missing(module: nn.Module, names: Sequence[str]) -> list[str]:
    """Leave out counters, and names of a tensor that came under another name (tied weights)."""
    every = dict(module.named_parameters(remove_duplicate=False))
    here = {id(p) for n, p in every.items() if n not in names}
    counters = {n for n, b in module.named_buffers() if not b.is_floating_point()}
    return [n for n in names if n not in counters and id(every.get(n)) not in here]


def _listed(names: Sequence[str], found: FoundState, mine: Mapping[str, Tensor]) -> str:
    """Name a few entries that a file lacks, the nearest that it has, and what helps."""
    some = ", ".join(n + nearest_name(n, found).rstrip("?") for n in names[:3])
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    moments = any(n.endswith("_sq_mean") for n in found)
    if pairs := list((names_by_order(found, mine) or {}).items()):
        (a, b), (y, z) = pairs[0], pairs[-1]
        return (
            f"{some}{more}; its tensors have the network's shapes in the same order: rename='auto' "
            f"takes {a} for {b}, ..., {y} for {z}"
        )
    return f"{some}{more}; {'from_swa_gaussian reads moments of SWAG' if moments else _PICK}"
