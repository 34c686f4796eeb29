"""``inspect``: what a file or a run folder holds, in a person's words, told by its content."""

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bayesprior.cli.commands import Inspect
from bayesprior.cli.console import print_pairs, print_table, printable, written_out
from bayesprior.data.arrays import reason
from bayesprior.errors import BayesPriorError, CheckpointError, PriorFileError
from bayesprior.recipes.prior import law_numbers
from bayesprior.recipes.runs import is_finished, read_config, read_results
from bayesprior.storage import load_tensors, read_header
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.state_dicts import read_state_dict
from bayesprior.weights.tensor_files import read_file

__all__ = ["inspect", "show"]

Facts = list[tuple[str, Any]]


class Found(NamedTuple):
    """What a file holds: its kind, names with values, and a table's header and rows."""

    kind: str
    facts: Facts
    header: Sequence[str] = ()
    rows: Iterable[Sequence[str]] = ()


def inspect(options: Inspect) -> None:
    """Say what each file or folder holds."""
    for number, path in enumerate(options.paths):
        if number:
            print()
        if options.card:
            law = GaussianWeights.load(path)
            print(written_out(law.card(f"load({Path(path).name!r})")), end="")
        else:
            show(path)


def show(path: str | Path) -> None:
    """Print what a file or a run folder holds.

    Raises
    ------
    PriorFileError
        If it is missing, damaged or none of ours.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        _show_run(path)
        return
    if not path.is_file():
        raise PriorFileError(f"no such file: {path}")
    with path.open("rb") as file:
        start = file.read(8)  # tells a file's kind, whatever its name
    reader = _read_tensors
    if start[:4] == b"PK\x03\x04":
        reader = _read_archive
    elif start == b"\x89HDF\r\n\x1a\n":
        reader = _read_tree
    try:
        found = reader(path)
    except (BayesPriorError, OSError):
        raise
    except Exception as error:  # a damaged or hostile file; whatever its parts made of it
        raise PriorFileError(f"{path} is damaged ({reason(error)})") from None
    print(f"{printable(path)}: {printable(found.kind)}")
    print_pairs(found.facts)
    if found.header:
        print_table(found.header, found.rows)


def _show_run(folder: Path) -> None:
    config = read_config(folder)
    is_done = is_finished(folder, config.recipe)
    state = "finished" if is_done else "not finished; the same command goes on with it"
    print(f"{printable(folder)}: run of {printable(config.recipe)}, {state}")
    print_pairs(
        (key, value if isinstance(value, str | float) else json.dumps(value, ensure_ascii=False))
        for key, value in {**config.chosen, **config.options}.items()
        if value is not None
    )
    for stage, values in read_results(folder).items():
        if isinstance(values, Mapping) and stage != "versions":
            print(f"\n{printable(stage)}")
            print_pairs((f"  {key}", value) for key, value in _plain(values) if key != "end")
    files = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
    print(f"\nholds {printable(', '.join(files))}")


def _plain(values: Mapping[Any, Any]) -> Facts:
    return [(str(k), v) for k, v in values.items() if isinstance(v, str | int | float)]


def _read_tensors(path: Path) -> Found:
    from bayesprior.inference.posteriors import PointPosterior
    from bayesprior.weights.layout import ParameterLayout

    try:
        header = read_header(path, format=None)
    except PriorFileError:
        raise _of_a_network(path) or PriorFileError(
            f"{path} is none of bayesprior's files (prior, posterior, point, draw, checkpoint, "
            ".npz, .nc, run folder), or truncated"
        ) from None
    format_ = header.get("format", "")
    facts: Facts = []
    law: GaussianWeights | PointPosterior
    buffers: Mapping[str, Any]
    provenance: Mapping[str, Any] = {}
    if format_.startswith("bayesprior.gaussian/"):
        law = GaussianWeights.load(path)
        kind = f"Gaussian over weights ({law.provenance.get('role', 'no role recorded')})"
        layout, buffers, provenance = law.layout, law.buffers, law.provenance
        facts, values, measure = _law_facts(law), law.block_rms_std(), "rms std"
    elif format_.startswith("bayesprior.point/"):
        law = PointPosterior.load(path)
        kind = "one vector of weights (MAP estimate)"
        layout, buffers, provenance = law.layout, law.buffers, law.provenance
        values, measure = _rms(layout.unflatten(law.weights)), "rms weight"
    elif format_.startswith("bayesprior.draw/"):
        tensors, header = load_tensors(path, format=format_)
        kind = f"draw {header['index']} of chain {header['chain']}, after {header['step']} steps"
        layout = ParameterLayout.from_json(header["layout"])
        values, measure = _rms(layout.unflatten(tensors.pop("weights"))), "rms weight"
        buffers = {name.removeprefix("buffer."): tensor for name, tensor in tensors.items()}
    else:
        raise _of_a_network(path) or PriorFileError(
            f"{path} is a safetensors file but none of ours (prior, posterior, point or draw)"
        )
    more = f" and {len(buffers) - 3} more" if len(buffers) > 3 else ""
    facts = [
        ("weights D", f"{layout.dim:,} in {len(layout.names)} parameters"),
        *facts,
        ("buffers", ", ".join(list(buffers)[:3]) + more or "none"),
        *((f"  {key}", str(value)) for key, value in provenance.items()),
        ("layout digest", header.get("digest", "")[:16]),
        ("checksum", header.get("checksum", "")[:16]),
    ]
    rows = _merged(
        (name, shape, f"{values[name]:.4g}")
        for name, shape in zip(layout.names, layout.shapes, strict=True)
    )
    return Found(kind, facts, ("parameter", "shape", "weights", measure), rows)


def _merged(rows: Iterable[tuple[str, Sequence[int], str]]) -> Iterator[Sequence[str]]:
    """Tell neighbors of one value in one row."""
    for value, same in itertools.groupby(rows, key=lambda row: row[2]):
        names, shapes, _ = zip(*same, strict=True)
        size = f"{sum(map(math.prod, shapes)):,}"
        if len(names) < 4:
            for name, shape in zip(names, shapes, strict=True):
                yield name, _size(shape), f"{math.prod(shape):,}", value
            continue
        yield f"{names[0]} ... {names[-1]}", f"{len(names)} parameters", size, value


def _law_facts(law: Any) -> Facts:
    found = law_numbers(law)
    rank = str(found["rank"])
    if found["rank"]:
        rank += (
            f" (effective {found['effective_rank']:.2f}; largest direction "
            f"{found['drift_share']:.0%} of the factor's variance)"
        )
    shared = f"the first {found['shared']:,} weights"
    return [("correlated", shared), ("rank", rank), ("rms std", found["rms_std"])]


def _rms(views: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(view.double().square().mean().sqrt()) for name, view in views.items()}


def _size(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape)) or "scalar"


def _read_archive(path: Path) -> Found:
    """Tell NumPy's archives from torch's (checkpoints)."""
    import zipfile

    import numpy as np

    from bayesprior.inference.checkpoint import read_checkpoint

    with zipfile.ZipFile(path) as archive:
        is_numpy = any(name.endswith(".npy") for name in archive.namelist())
    if is_numpy:
        with np.load(path, allow_pickle=False) as arrays:
            rows = [(name, *_described(name, arrays)) for name in arrays.files]
        return Found("arrays of NumPy", [], ("array", "shape", "type"), rows)
    try:
        state = read_checkpoint(path, mmap=True)
    except CheckpointError as error:
        raise _of_a_network(path) or PriorFileError(str(error)) from None
    facts: Facts = [("step", state["step"]), ("holds", ", ".join(map(str, state)))]
    return Found("checkpoint of an interrupted or finished run", facts)


def _of_a_network(path: Path) -> PriorFileError | None:
    """Return what to say of a file of tensors that others wrote, such as a network's weights."""
    import zipfile

    try:
        content = read_file(path)
    except CheckpointError as error:
        return PriorFileError(str(error)) if zipfile.is_zipfile(path) else None
    try:
        if not isinstance(content, Mapping) or {"version", "run"} <= content.keys():
            return None  # nothing by name, or a checkpoint of ours that is damaged
        found = read_state_dict(content)
    except CheckpointError:
        return None
    return PriorFileError(
        f"{path} holds the weights of a network ({len(found)} tensors) and is none of ours "
        "(prior, posterior, point or draw); a prior around them is made by bayesprior make-prior "
        f"--weights {path}"
    )


def _described(name: str, arrays: Any) -> tuple[str, str]:
    try:
        array = arrays[name]
    except ValueError as error:  # an array of objects, which would have to be unpickled
        return "?", f"cannot be read ({reason(error)})"
    return _size(array.shape), str(array.dtype)


def _read_tree(path: Path) -> Found:
    from bayesprior.tree.files import load_tree

    tree = load_tree(path)
    rows = [
        (
            name,
            ", ".join(map(str, group.data_vars)),
            ", ".join(f"{axis} {length}" for axis, length in group.sizes.items()),
        )
        for name, group in tree.children.items()
    ]
    return Found("ArviZ DataTree", _plain(tree.attrs), ("group", "variables", "sizes"), rows)
