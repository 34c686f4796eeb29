"""``inspect``: what a file or a run folder holds, in a person's words, told by its content."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bayesprior.cli.commands import Inspect
from bayesprior.cli.console import print_pairs, print_table, printable
from bayesprior.errors import BayesPriorError, DataError, PriorFileError
from bayesprior.recipes.numbers import law_numbers
from bayesprior.recipes.runs import is_finished, read_config, read_results
from bayesprior.storage import CONFIG

__all__ = ["inspect", "show"]

Facts = list[tuple[str, Any]]
_LARGEST_HEADER = 100_000_000  # bytes; safetensors' own limit


def inspect(options: Inspect) -> None:
    """Say what each file or folder holds."""
    for number, path in enumerate(options.paths):
        if number:
            print()
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
    if not path.exists():
        raise PriorFileError(f"no such file: {path}")
    if not path.is_file():
        raise PriorFileError(f"{path} is neither a file nor a folder")
    reader = _reader(path)
    try:
        kind, facts, blocks = reader(path)
    except (BayesPriorError, OSError):
        raise
    except Exception as error:  # a damaged or hostile file; whatever its parts made of it
        raise PriorFileError(f"{path} is damaged ({_reason(error)})") from None
    print(f"{printable(path)}: {printable(kind)}")
    print_pairs(facts)
    if blocks:
        print_table(*blocks)


def _reader(path: Path) -> Callable[[Path], tuple[str, Facts, Any]]:
    """Return the reader of a file by its first bytes, whatever its name."""
    with path.open("rb") as file:
        start = file.read(9)
    if start[:4] == b"PK\x03\x04":
        return _read_archive
    if start[:8] == b"\x89HDF\r\n\x1a\n":
        return _read_tree
    header = _header(path)
    format_ = str(header.get("format", ""))
    readers = {
        "bayesprior.gaussian": _read_gaussian,
        "bayesprior.point": _read_point,
        "bayesprior.draw": _read_draw,
    }
    kind = format_.partition("/")[0]
    if kind in readers:
        return readers[kind]
    raise PriorFileError(
        f"{path} is a safetensors file but none of ours (prior, posterior, point or draw); "
        "load a network's weights with --weights"
    )


def _header(path: Path) -> Mapping[str, Any]:
    """Return the metadata in a safetensors file's header.

    Raises
    ------
    PriorFileError
        If it is no such file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            if not 2 <= length <= min(size - 8, _LARGEST_HEADER):
                raise ValueError("its header has no such length")
            found = json.loads(file.read(length))
            metadata = found.get("__metadata__", {}) if isinstance(found, dict) else None
            if not isinstance(metadata, dict):
                raise ValueError("its header is no object")
        except (ValueError, RecursionError):
            raise PriorFileError(
                f"{path} is none of bayesprior's files (prior, posterior, point, draw, checkpoint, "
                ".npz, .nc, run folder), or truncated"
            ) from None
    return metadata


def _show_run(folder: Path) -> None:
    if not (folder / CONFIG).is_file():
        held = sorted(p.parent.name for p in folder.glob(f"*/{CONFIG}"))
        runs = f"; its folders {', '.join(held[:8])} are" if held else ""
        raise DataError(f"{folder} is no run folder: it has no {CONFIG}{runs}")
    config = read_config(folder)
    is_done = is_finished(folder, config.recipe)
    state = "finished" if is_done else "not finished; the same command goes on with it"
    print(f"{printable(folder)}: run of {printable(config.recipe)}, {state}")
    made_from: dict[str, Any] = {}
    for key, value in config.made_from.items():
        made_from |= value if isinstance(value, Mapping) and key != "relative" else {key: value}
    made_from.pop("relative", None)
    options = {**made_from, **config.options}
    print_pairs((key, _plain(value)) for key, value in options.items() if value is not None)
    for stage, values in read_results(folder).items():
        if isinstance(values, Mapping) and stage != "versions":
            print(f"\n{printable(stage)}")
            print_pairs(
                (f"  {key}", value)
                for key, value in values.items()
                if isinstance(value, str | int | float) and key != "end"
            )
    files = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
    print(f"\nholds {printable(', '.join(files))}")


def _plain(value: Any) -> Any:
    is_plain = isinstance(value, str | int | float)
    return value if is_plain else json.dumps(value, ensure_ascii=False)


def _read_gaussian(path: Path) -> tuple[str, Facts, Any]:
    from bayesprior.weights.gaussian import GaussianWeights

    law = GaussianWeights.load(path)
    found = law_numbers(law)
    rank = str(found["rank"])
    if found["rank"]:
        rank += (
            f" (effective {found['effective_rank']:.2f}; largest direction "
            f"{found['drift_share']:.0%} of the factor's variance)"
        )
    facts: Facts = [
        ("correlated", f"the first {found['shared']:,} weights"),
        ("rank", rank),
        ("rms std", found["rms_std"]),
    ]
    facts += _common(path, law.buffers, law.provenance)
    kind = f"Gaussian over weights ({law.provenance.get('role', 'no role recorded')})"
    return _with_blocks(kind, facts, law.layout, law.block_rms_std(), "rms std")


def _read_point(path: Path) -> tuple[str, Facts, Any]:
    from bayesprior.inference.posteriors import PointPosterior

    point = PointPosterior.load(path)
    values = _rms(point.layout.unflatten(point.weights))
    facts = _common(path, point.buffers, point.provenance)
    kind = "one vector of weights (MAP estimate)"
    return _with_blocks(kind, facts, point.layout, values, "rms weight")


def _read_draw(path: Path) -> tuple[str, Facts, Any]:
    from bayesprior.storage import load_tensors
    from bayesprior.weights.layout import ParameterLayout

    tensors, header = load_tensors(path, format=_header(path)["format"])
    layout = ParameterLayout.from_json(header["layout"])
    values = _rms(layout.unflatten(tensors.pop("weights")))
    buffers = {name.removeprefix("buffer."): tensor for name, tensor in tensors.items()}
    kind = f"draw {header['index']} of chain {header['chain']}, after {header['step']} steps"
    return _with_blocks(kind, _common(path, buffers, {}), layout, values, "rms weight")


def _read_archive(path: Path) -> tuple[str, Facts, Any]:
    """Tell torch's archives (checkpoints) from NumPy's."""
    import zipfile

    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith(".npy") for name in names):
        return _read_npz(path)
    import torch

    state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    if not isinstance(state, dict) or "step" not in state:
        raise PriorFileError(
            f"{path} is an archive of torch's, but no checkpoint of a run; load a network's "
            "weights with --weights"
        )
    facts: Facts = [("step", state["step"]), ("holds", ", ".join(map(str, state)))]
    return "checkpoint of an interrupted or finished run", facts, None


def _read_npz(path: Path) -> tuple[str, Facts, Any]:
    import numpy as np

    with np.load(path, allow_pickle=False) as arrays:
        rows = [(name, *_described(name, arrays)) for name in arrays.files]
    return "arrays of NumPy", [], (("array", "shape", "type"), rows)


def _described(name: str, arrays: Any) -> tuple[str, str]:
    try:
        array = arrays[name]
    except ValueError as error:  # an array of objects, which would have to be unpickled
        return "?", f"cannot be read ({_reason(error)})"
    return " x ".join(map(str, array.shape)), str(array.dtype)


def _read_tree(path: Path) -> tuple[str, Facts, Any]:
    from bayesprior.tree.files import load_tree

    tree = load_tree(path)
    rows = []
    for name, group in tree.children.items():
        sizes = ", ".join(f"{axis} {length}" for axis, length in group.sizes.items())
        rows.append((name, ", ".join(map(str, group.data_vars)), sizes))
    facts: Facts = [(str(k), v) for k, v in tree.attrs.items() if isinstance(v, str | int | float)]
    return "ArviZ DataTree", facts, (("group", "variables", "sizes"), rows)


def _rms(views: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(view.double().square().mean().sqrt()) for name, view in views.items()}


def _common(path: Path, buffers: Mapping[str, Any], provenance: Mapping[str, Any]) -> Facts:
    header = _header(path)
    names = ", ".join(list(buffers)[:3])
    more = len(buffers) - 3
    return [
        ("buffers", (names + (f" and {more} more" if more > 0 else "")) or "none"),
        *((f"  {key}", str(value)) for key, value in provenance.items()),
        ("layout digest", str(header.get("digest", ""))[:16]),
        ("checksum", str(header.get("checksum", ""))[:16]),
    ]


def _with_blocks(
    kind: str, facts: Facts, layout: Any, values: Mapping[str, float], measure: str
) -> tuple[str, Facts, Any]:
    """Put the number of weights before the facts, and a table of the parameters behind them."""

    def rows() -> Iterator[tuple[str, ...]]:
        for name, shape in zip(layout.names, layout.shapes, strict=True):
            where = layout.slices[name]
            sizes = " x ".join(map(str, shape)) or "scalar"
            yield name, sizes, f"{where.stop - where.start:,}", f"{values[name]:.4g}"

    facts = [("weights D", f"{layout.dim:,} in {len(layout.names)} parameters"), *facts]
    return kind, facts, (("parameter", "shape", "weights", measure), rows())


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
