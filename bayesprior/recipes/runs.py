"""Run folders: ``config.yaml`` says what made them, ``results.json`` holds the numbers."""

import json
import math
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from bayesprior.errors import ConfigError, DataError, nearest_name
from bayesprior.storage import (
    CONFIG,
    ERROR_LOG,
    LOCK,
    PRIOR,
    RESULTS,
    SESSION,
    atomic_path,
)
from bayesprior.version import __version__

__all__ = [
    "CONFIG",
    "FITS",
    "RESULTS",
    "STAGES",
    "RunConfig",
    "add_results",
    "is_finished",
    "open_run",
    "read_config",
    "read_results",
    "versions",
    "write_json",
]

STAGES = {
    "fit_source": "fit-source",
    "make_prior": "make-prior",
    "fit_map": "fit",
    "fit_swag": "fit",
    "sample": "fit",
}
"""Name in ``results.json`` of what each recipe found; the run is finished when it is there."""
FITS = ("fit_map", "fit_swag", "sample")

_FORMAT = "bayesprior.run/2"
# Where and how a run is made; its numbers do not depend on them.
_FREE = {"out", "device", "progress", "jobs", "checkpoint_every"}
# What a folder may hold before anything was computed in it.
_BEFORE = {CONFIG, LOCK, SESSION, PRIOR, ERROR_LOG}
_DIGESTS = {
    "prior": "its prior is another law",
    "source": "its source is another law",
    "data.train": "its training data were others",
    "data.validation": "its validation data were others",
    "data.test": "its test data were others",
    "weights": "its weights file has changed since",
    "start": "its network started from other weights",
}


@dataclass(frozen=True)
class RunConfig:
    """What ``config.yaml`` says.

    Attributes
    ----------
    recipe
        Name of the recipe, such as ``"fit_map"``.
    options
        Every option with its value, defaults included: JSON primitives.
    digests
        Fingerprints of prior, data, network and start, see `bayesprior.recipes.digests`.
    made_from
        Names and files of `bayesprior.recipes.options.MadeFrom`, if the run knows them.
    versions
        Of the libraries that the run was started with; for the record, never compared.
    first_edition
        Whether the folder was written by bayesprior 0.1: it can be read, not continued.
    """

    recipe: str
    options: Mapping[str, Any]
    digests: Mapping[str, str] = field(default_factory=dict)
    made_from: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    first_edition: bool = False


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
    recipe: str,
    options: Mapping[str, Any],
    digests: Mapping[str, str] | None = None,
    made_from: Mapping[str, Any] | None = None,
) -> Path:
    """Make a run folder, or check that an existing one was made with the same configuration.

    Call it when everything that a user may have got wrong is checked: from here on the folder
    belongs to this configuration.

    Parameters
    ----------
    out
        The folder; made if it is not there.
    recipe, options, digests, made_from
        As in `RunConfig`. Options that only say where and how (out, device, progress, jobs,
        checkpoint_every) may differ, and so may the names of inputs whose digests agree.

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
    >>> folder = open_run(out, "fit_map", {"seed": 0, "device": "cpu"})
    >>> folder == open_run(out, "fit_map", {"seed": 0, "device": "cuda"})
    True
    """
    folder = _folder(out)
    plain = json.loads(json.dumps(dict(options)))  # as the file will give it back
    new = RunConfig(recipe, plain, digests or {}, made_from or {}, versions())
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if CONFIG in present:
        difference = _differing(read_config(folder), new)
        if difference is None:
            return folder
        if not present <= _BEFORE:  # else it failed before it computed anything
            raise ConfigError(
                f"{folder} holds another run: {difference}; choose another out or delete the "
                "folder; nothing was overwritten"
            )
        (folder / PRIOR).unlink(missing_ok=True)
    elif not present <= {LOCK, SESSION, ERROR_LOG}:
        raise ConfigError(
            f"{folder} is not empty and holds no {CONFIG}, so it is no run folder; choose another "
            "out; nothing was overwritten"
        )
    parts = {
        "format": _FORMAT,
        "recipe": recipe,
        "options": plain,
        "made_from": dict(new.made_from),
        "digests": dict(new.digests),
        "versions": dict(new.versions),
    }
    _write_text(folder / CONFIG, yaml.safe_dump(parts, sort_keys=False, allow_unicode=True))
    return folder


def _folder(out: str | Path) -> Path:
    folder = Path(out).expanduser()
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; out needs a folder")
    return folder


def _differing(old: RunConfig, new: RunConfig) -> str | None:
    """Say in which key two configurations differ first; None if in none."""
    if old.first_edition:
        return "it was made by the first edition of bayesprior, which can be read, not continued"
    if old.recipe != new.recipe:
        return f"it was made by {old.recipe}, not {new.recipe}"
    found = _first_difference(old.options, new.options)
    if found is None and (changed := _changed_digest(old.digests, new.digests)) is not None:
        names = ({**_flat(config.made_from)} for config in (old, new))
        found = _first_difference(*names) or changed
    return found


def _first_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    for key in (k for k in {**new, **old} if k not in _FREE):
        if old.get(key) != new.get(key):
            return f"its {key} is {old.get(key)!r}, this one's {new.get(key)!r}"
    return None


def _changed_digest(old: Mapping[str, str], new: Mapping[str, str]) -> str | None:
    for key in {**new, **old}:
        if old.get(key) != new.get(key):
            told = f"its {key} is {old.get(key)!r}, this one's {new.get(key)!r}"
            return _DIGESTS.get(key, told)
    return None


def _flat(made_from: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options inside the groups beside the rest."""
    flat: dict[str, Any] = {}
    for key, value in made_from.items():
        if key == "relative":
            continue
        flat |= value if isinstance(value, Mapping) else {key: value}
    return flat


def read_config(run: str | Path, *recipes: str) -> RunConfig:
    """Read a run folder's configuration.

    Parameters
    ----------
    run
        The folder.
    *recipes
        The recipes of which one must have made it; any by default.

    Raises
    ------
    ConfigError
        If it is no run folder, its configuration cannot be read, or another recipe made it.
    """
    if not isinstance(run, str | os.PathLike):
        raise ConfigError(f"a run is named by its folder, got {type(run).__name__}")
    path = Path(run).expanduser() / CONFIG
    if not path.is_file():
        siblings = [p.name for p in path.parent.parent.glob("*") if (p / CONFIG).is_file()]
        raise ConfigError(
            f"{run} is no run folder: it has no {CONFIG}{nearest_name(Path(run).name, siblings)}"
        )
    try:
        parts = yaml.safe_load(path.read_text(encoding="utf-8"))
        config = _first_edition(parts) if "command" in parts else _second_edition(parts)
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} is no configuration of a run: {reason}") from None
    if recipes and config.recipe not in recipes:
        raise ConfigError(
            f"{run} was made by {config.recipe}; this needs the folder of {' or '.join(recipes)}"
        )
    return config


def _second_edition(parts: Mapping[str, Any]) -> RunConfig:
    if parts["format"] != _FORMAT:
        raise ValueError(f"its format is {parts['format']!r}, this version reads {_FORMAT!r}")
    groups = [parts[key] for key in ("options", "digests", "made_from", "versions")]
    if not all(isinstance(group, Mapping) for group in groups):
        raise TypeError("a part is not a mapping")
    return RunConfig(str(parts["recipe"]), *groups)


def _first_edition(parts: Mapping[str, Any]) -> RunConfig:
    """Bring a folder of bayesprior 0.1 to today's form: commands and one flat list of options."""
    options, files = dict(parts["options"]), dict(parts.get("inputs", {}))
    recipe = {"fit-source": "fit_source", "make-prior": "make_prior"}.get(parts["command"])
    if parts["command"] == "fit":
        recipe = {"map": "fit_map", "swag": "fit_swag"}.get(options["method"], "sample")
        if recipe == "sample":
            options["sampler"] = options["method"]
    groups = {"data": _DATA_OPTIONS, "model": _MODEL_OPTIONS}
    made_from: dict[str, Any] = {
        group: {name: options.pop(name) for name in names if name in options}
        for group, names in groups.items()
    }
    for name in ("prior", "source", "weights", *(("rms_std",) if recipe in FITS else ())):
        made_from[name] = options.pop(name, None)
    digests = {f"file.{name}": digest for name, digest in files.items()}
    found = parts.get("versions", {})
    return RunConfig(recipe or parts["command"], options, digests, made_from, found, True)


_DATA_OPTIONS = (
    "data",
    "data_options",
    "classes",
    "num_data",
    "per_class",
    "num_validation",
    "data_seed",
)
_MODEL_OPTIONS = ("model", "model_options", "head")


def read_results(run: str | Path) -> dict[str, Any]:
    """Read ``results.json``; empty if the run has none yet.

    Raises
    ------
    DataError
        If the file is no JSON object.
    """
    path = Path(run).expanduser() / RESULTS
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise DataError(f"{path} is no readable JSON: {error}") from None
    if not isinstance(found, dict):
        raise DataError(f"{path} holds {type(found).__name__}, not named results")
    return found


def is_finished(run: str | Path, recipe: str) -> bool:
    """Whether the recipe's own results are in the folder: the last thing that it writes."""
    return STAGES.get(recipe, recipe) in read_results(run)


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
    path = Path(run).expanduser() / RESULTS
    write_json(path, read_results(run) | {"versions": versions(), name: dict(values)})


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
