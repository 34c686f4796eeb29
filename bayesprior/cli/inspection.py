"""``inspect``: what a file of weights holds, in a person's words."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_POINT, _DRAW = "bayesprior.point/1", "bayesprior.draw/1"

__all__ = ["describe", "inspect_command", "show", "show_results"]


def inspect_command(file: str) -> None:
    """Say what a file holds: prior, source or SWAG posterior, MAP estimate or draw.

    Parameters
    ----------
    file
        Written by bayesprior.
    """
    show(file)


def show(file: str | Path) -> None:
    """Print what a weight file holds.

    Raises
    ------
    PriorFileError
        If it is missing, truncated, corrupt or foreign.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    found = _read(Path(file))
    console = Console()
    console.print(f"[bold]{escape(str(file))}[/bold]: {escape(found['kind'])}", soft_wrap=True)
    facts = Table.grid(padding=(0, 2))
    for name, text in _facts(found):
        facts.add_row(escape(name), escape(text))
    console.print(facts)
    table = Table("parameter", box=None, header_style="bold", pad_edge=False)
    for column in ("shape", "weights", found["measure"]):
        table.add_column(column, justify="right")
    for block in found["blocks"]:
        shape = " x ".join(map(str, block["shape"])) or "scalar"
        table.add_row(escape(block["name"]), shape, f"{block['size']:,}", f"{block['value']:.4g}")
    console.print(table)


def describe(law: Any) -> dict[str, Any]:
    """Return a `GaussianWeights`'s numbers for ``results.json``: width, rank, directions, blocks.

    ``effective_rank`` is 1 / sum p^2 over the directions' shares p of the factor's variance;
    ``drift_share`` is the largest share.
    """
    return {
        "num_weights": law.dim,
        "shared": law.shared_dim,
        "rank": law.rank,
        "rms_std": law.rms_std,
        "effective_rank": law.effective_rank,
        "drift_share": law.drift_share,
        "rms_std_by_block": law.block_rms_std(),
    }


def show_results(run: str | Path, name: str) -> None:
    """Print one stage of a run folder's ``results.json`` as name and value."""
    from rich.console import Console
    from rich.table import Table

    from bayesprior.recipes.runs import RESULTS, read_results

    table = Table.grid(padding=(0, 2))
    for key, value in read_results(run)[name].items():
        if not isinstance(value, Mapping | list):
            text = f"{value:.4g}" if isinstance(value, float) else str(value)
            table.add_row(key.replace("_", " "), text)
    console = Console()
    console.print(table)
    console.print(f"written to {Path(run) / RESULTS}", soft_wrap=True, highlight=False)


def _read(path: Path) -> dict[str, Any]:
    """Try the kinds of files we write; a file of another kind is told by its header."""
    from bayesprior.errors import PriorFileError
    from bayesprior.storage import read_header
    from bayesprior.weights.file import FORMATS

    readers: dict[str, Callable[[Path], dict[str, Any]]] = {
        **dict.fromkeys(FORMATS, _read_gaussian),
        _POINT: _read_point,
        _DRAW: _read_draw,
    }
    errors = []
    for format_, reader in readers.items():
        try:
            header = read_header(path, format=format_)
        except PriorFileError as error:
            errors.append(error)
            continue
        return reader(path) | {"digest": header["digest"], "checksum": header["checksum"]}
    if any("is a safetensors file but not" not in str(error) for error in errors):
        raise next(e for e in errors if "is a safetensors file but not" not in str(e))
    raise PriorFileError(
        f"{path} is a safetensors file but none of ours (prior, posterior, point or draw); "
        "load a network's weights with --weights"
    )


def _read_gaussian(path: Path) -> dict[str, Any]:
    from bayesprior.weights.gaussian import GaussianWeights

    law = GaussianWeights.load(path)
    return {
        "kind": f"Gaussian over weights ({law.provenance.get('role', 'no role recorded')})",
        "law": describe(law),
        "measure": "rms std",
        "blocks": _blocks(law.layout, law.block_rms_std()),
        "buffers": law.buffers,
        "provenance": law.provenance,
    }


def _read_point(path: Path) -> dict[str, Any]:
    from bayesprior.inference.posteriors import PointPosterior

    point = PointPosterior.load(path)
    return {
        "kind": "one vector of weights (MAP estimate)",
        "measure": "rms weight",
        "blocks": _blocks(point.layout, _rms(point.layout.unflatten(point.weights))),
        "buffers": point.buffers,
        "provenance": dict(point.provenance),
    }


def _read_draw(path: Path) -> dict[str, Any]:
    from bayesprior.storage import load_tensors
    from bayesprior.weights.layout import ParameterLayout

    tensors, header = load_tensors(path, format=_DRAW)
    layout = ParameterLayout.from_json(header["layout"])
    views = layout.unflatten(tensors.pop("weights"))
    return {
        "kind": f"draw {header['index']} of chain {header['chain']}, after {header['step']} steps",
        "measure": "rms weight",
        "blocks": _blocks(layout, _rms(views)),
        "buffers": {name.removeprefix("buffer."): tensor for name, tensor in tensors.items()},
        "provenance": {},
    }


def _rms(views: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(view.double().square().mean().sqrt()) for name, view in views.items()}


def _blocks(layout: Any, values: Mapping[str, float]) -> list[dict[str, Any]]:
    where = layout.slices
    return [
        {
            "name": name,
            "shape": shape,
            "size": where[name].stop - where[name].start,
            "value": values[name],
        }
        for name, shape in zip(layout.names, layout.shapes, strict=True)
    ]


def _facts(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    blocks = found["blocks"]
    facts = [("weights D", f"{sum(b['size'] for b in blocks):,} in {len(blocks)} parameters")]
    if law := found.get("law"):
        rank = f"{law['rank']}"
        if law["rank"]:
            rank += (
                f" (effective {law['effective_rank']:.2f}; largest direction "
                f"{law['drift_share']:.0%} of the factor's variance)"
            )
        facts += [
            ("correlated", f"the first {law['shared']:,} weights"),
            ("rank", rank),
            ("rms std", f"{law['rms_std']:.4g}"),
        ]
    names = ", ".join(list(found["buffers"])[:3])
    more = len(found["buffers"]) - 3
    facts.append(("buffers", (names + (f" and {more} more" if more > 0 else "")) or "none"))
    facts += [(f"  {k}", str(v)) for k, v in found["provenance"].items()]
    facts += [("layout digest", found["digest"][:16]), ("checksum", found["checksum"][:16])]
    return facts
