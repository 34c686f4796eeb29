"""Run folders: ``config.yaml`` says what made them, ``results.json`` holds the numbers."""

import json
import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from bayesprior.errors import ConfigError, DataError, nearest_name
from bayesprior.storage import atomic_path
from bayesprior.version import __version__

__all__ = [
    "CONFIG",
    "RESULTS",
    "RunConfig",
    "add_results",
    "open_run",
    "read_config",
    "read_results",
    "versions",
    "write_json",
]

CONFIG = "config.yaml"
RESULTS = "results.json"

# Where and how a run is made; its numbers do not depend on them.
_FREE = {"out", "device", "progress", "jobs"}


@dataclass(frozen=True)
class RunConfig:
    """What ``config.yaml`` says.

    Attributes
    ----------
    command
        Name of the command, such as ``"fit"``.
    options
        Every option with its value, defaults included: JSON primitives.
    inputs
        Checksums of the files that were read, by option.
    versions
        Of the libraries that the run was started with; for the record, never compared.
    """

    command: str
    options: Mapping[str, Any]
    inputs: Mapping[str, str]
    versions: Mapping[str, str]


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that decide numbers.

    Examples
    --------
    >>> sorted(versions())
    ['bayesprior', 'numpy', 'pyro-ppl', 'python', 'torch']
    """
    found = {name: metadata.version(name) for name in ("torch", "pyro-ppl", "numpy")}
    return {"bayesprior": __version__, "python": platform.python_version(), **found}


def open_run(
    out: str | Path,
    command: str,
    options: Mapping[str, Any],
    inputs: Mapping[str, str] | None = None,
) -> Path:
    """Make a run folder, or check that an existing one was made with the same configuration.

    Call it when everything that a user may have got wrong is checked: from here on the folder
    belongs to this configuration.

    Parameters
    ----------
    out
        The folder; made if it is not there.
    command, options, inputs
        As in `RunConfig`. Options that only say where and how (out, device, progress, jobs) may
        differ.

    Returns
    -------
    Path
        The folder, with its ``config.yaml``.

    Raises
    ------
    ConfigError
        If the folder holds a run with another configuration (the first differing key is named)
        or things that are no run. Nothing is overwritten.
    StorageError
        If it cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> out = Path(tempfile.mkdtemp()) / "run"
    >>> folder = open_run(out, "fit", {"seed": 0, "device": "cpu"})
    >>> folder == open_run(out, "fit", {"seed": 0, "device": "cuda"})
    True
    """
    folder = Path(out)
    new = RunConfig(command, options, inputs or {}, versions())
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; --out needs a folder")
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if CONFIG in present:
        if _differing(read_config(folder), new) is None:
            return folder
        if present != {CONFIG}:  # else it failed before it wrote anything
            raise ConfigError(
                f"{folder} holds another run: {_differing(read_config(folder), new)}; choose "
                "another --out or delete the folder; nothing was overwritten"
            )
    elif present:
        raise ConfigError(
            f"{folder} is not empty and holds no {CONFIG}, so it is no run folder; choose another "
            "--out; nothing was overwritten"
        )
    parts = {
        "command": command,
        "options": dict(options),
        "inputs": dict(new.inputs),
        "versions": dict(new.versions),
    }
    _write_text(folder / CONFIG, yaml.safe_dump(parts, sort_keys=False, allow_unicode=True))
    return folder


def _differing(old: RunConfig, new: RunConfig) -> str | None:
    """Say in which key two configurations differ first; None if in none."""
    if old.command != new.command:
        return f"its command is {old.command!r}, this one's {new.command!r}"
    for kind, a, b in (("", old.options, new.options), ("file ", old.inputs, new.inputs)):
        for key in (k for k in {**b, **a} if k not in _FREE):
            if a.get(key) != b.get(key):
                if kind:
                    return f"the file given as {key} has changed since"
                return f"its {key} is {a.get(key)!r}, this one's {b.get(key)!r}"
    return None


def read_config(run: str | Path, command: str | None = None) -> RunConfig:
    """Read a run folder's configuration.

    Parameters
    ----------
    run
        The folder.
    command
        The command that must have made it; any by default.

    Raises
    ------
    ConfigError
        If it is no run folder, its configuration cannot be read, or another command made it.
    """
    path = Path(run) / CONFIG
    if not path.is_file():
        siblings = [p.name for p in path.parent.parent.glob("*") if (p / CONFIG).is_file()]
        raise ConfigError(
            f"{run} is no run folder: it has no {CONFIG}{nearest_name(Path(run).name, siblings)}"
        )
    try:
        parts = yaml.safe_load(path.read_text())
        config = RunConfig(
            parts["command"], parts["options"], parts.get("inputs", {}), parts.get("versions", {})
        )
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} is no configuration of a run: {reason}") from None
    if command is not None and config.command != command:
        raise ConfigError(
            f"{run} was made by 'bayesprior {config.command}'; this needs the folder of a "
            f"'bayesprior {command}' run"
        )
    return config


def read_results(run: str | Path) -> dict[str, Any]:
    """Read ``results.json``; empty if the run has none yet.

    Raises
    ------
    DataError
        If the file is no JSON object.
    """
    path = Path(run) / RESULTS
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise DataError(f"{path} is no readable JSON: {error}") from None
    if not isinstance(found, dict):
        raise DataError(f"{path} holds {type(found).__name__}, not named results")
    return found


def add_results(run: str | Path, name: str, values: Mapping[str, Any]) -> None:
    """Write ``values`` under ``name`` into ``results.json``, with the libraries' versions.

    Parameters
    ----------
    run
        The run folder.
    name
        The stage, such as ``"test"``; what other stages wrote stays.
    values
        JSON primitives; numbers that are NaN or infinite become null.
    """
    write_json(
        Path(run) / RESULTS, read_results(run) | {"versions": versions(), name: dict(values)}
    )


def write_json(path: str | Path, values: Mapping[str, Any]) -> None:
    """Write JSON atomically; numbers that are NaN or infinite become null."""
    _write_text(Path(path), json.dumps(_finite(values), indent=2, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
