"""Where the files are that a run was made from: found again when the folder has moved."""

import copy
import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bayesprior.data.catalog import DATA
from bayesprior.errors import ConfigError
from bayesprior.recipes.options import DataOptions, MadeFrom, ModelOptions

__all__ = ["recorded", "restored"]


def recorded(made_from: MadeFrom | None, folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return names and files as JSON primitives: paths in full, and relative to the folder."""
    if made_from is None:
        return {}
    parts = {k: v for k, v in dataclasses.asdict(made_from).items() if v is not None}
    relative = {}
    for group, name in _paths(parts):
        group[name] = os.path.abspath(os.path.expanduser(group[name]))
        relative[name] = os.path.relpath(group[name], Path(folder).expanduser())
    return {**parts, "relative": relative}


def restored(found: Mapping[str, Any], folder: str | Path) -> MadeFrom:
    """Return what `recorded` wrote, each file where it is now.

    Raises
    ------
    ConfigError
        If the record is no such thing.
    """
    try:
        parts = copy.deepcopy(dict(found))
        relative = parts.pop("relative", {})
        for group, name in _paths(parts):
            beside = Path(folder).expanduser() / relative.get(name, group[name])
            if not Path(group[name]).exists() and beside.exists():
                group[name] = str(beside)
        for name, kind in (("data", DataOptions), ("model", ModelOptions)):
            parts[name] = kind(**parts[name]) if parts.get(name) else None
        return MadeFrom(**parts)
    except (TypeError, AttributeError) as error:
        raise ConfigError(f"{folder}: its config.yaml names no data or network: {error}") from None


def _is_file(data: str) -> bool:
    """Whether data go by a file or folder, which may have moved, and not by a name."""
    is_named = data in DATA or not Path(data).expanduser().exists()
    return not is_named or data.endswith(".npz") or os.path.isabs(data)


def _paths(parts: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """Return (group, key) of the entries that are files or folders."""
    data = parts.get("data") or {}
    options = data.get("data_options") or {}
    places = [(data, "data"), (options, "root"), (options, "path")]
    places += [(parts, name) for name in ("prior", "source", "weights")]
    return [
        (group, name)
        for group, name in places
        if isinstance(path := group.get(name), str)
        and (name != "data" or _is_file(path))
        # torchvision's names of weights (DEFAULT, IMAGENET1K_V1) have no suffix
        and (name != "weights" or Path(path).suffix or Path(path).expanduser().exists())
    ]
