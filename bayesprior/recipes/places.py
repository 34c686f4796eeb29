"""Where the files are that a run was made from: found again when the folder has moved."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bayesprior.errors import ConfigError
from bayesprior.recipes.options import DataOptions, MadeFrom, ModelOptions

__all__ = ["recorded", "restored"]

_FILES = ("prior", "source", "weights")


def recorded(made_from: MadeFrom | None, folder: str | Path) -> dict[str, Any]:
    """Return names and files as JSON primitives: paths in full, and relative to the folder."""
    if made_from is None:
        return {}
    parts = {name: value for name, value in _parts(made_from).items() if value is not None}
    relative = {}
    for group, name, path in _paths(parts):
        full = str(Path(path).expanduser().absolute())
        group[name] = full
        with_folder = Path(folder).expanduser().absolute()
        relative[name] = os.path.relpath(full, with_folder)
    return {**parts, "relative": relative}


def restored(found: Mapping[str, Any], folder: str | Path) -> MadeFrom:
    """Return what `recorded` wrote, each file where it is now.

    Raises
    ------
    ConfigError
        If the record is no such thing.
    """
    try:
        parts: dict[str, Any] = {k: v for k, v in found.items() if k != "relative"}
        for name in ("data", "model"):
            parts[name] = dict(parts.get(name) or {})
        relative = found.get("relative", {})
        for group, name, path in _paths(parts):
            beside = Path(folder).expanduser() / relative.get(name, path)
            if not Path(path).exists() and beside.exists():
                group[name] = str(beside)
        data, model = parts.pop("data"), parts.pop("model")
        return MadeFrom(
            **parts,
            data=DataOptions(**data) if data else None,
            model=ModelOptions(**model) if model else None,
        )
    except (TypeError, AttributeError) as error:
        raise ConfigError(f"{folder}: its config.yaml names no data or network: {error}") from None


def _parts(made_from: MadeFrom) -> dict[str, Any]:
    return {
        **{f.name: getattr(made_from, f.name) for f in dataclasses.fields(made_from)},
        "data": dataclasses.asdict(made_from.data) if made_from.data else None,
        "model": dataclasses.asdict(made_from.model) if made_from.model else None,
    }


def _paths(parts: Mapping[str, Any]) -> list[tuple[dict[str, Any], str, str]]:
    """Return (group, key, path) of the entries that are files or folders."""
    found: list[tuple[Any, str, str]] = []
    data = parts.get("data") or {}
    if str(data.get("data", "")).endswith(".npz"):
        found.append((data, "data", data["data"]))
    options = data.get("data_options") or {}
    found += [
        (options, name, options[name])
        for name in ("root", "path")
        if isinstance(options.get(name), str)
    ]
    for name in _FILES:
        path = parts.get(name)
        if isinstance(path, str) and (name != "weights" or _looks_like_a_file(path)):
            found.append((parts, name, path))
    return found


def _looks_like_a_file(text: str) -> bool:
    """Whether weights are a file: torchvision's names (DEFAULT, IMAGENET1K_V1) have no suffix."""
    return bool(Path(text).suffix) or Path(text).expanduser().exists()
