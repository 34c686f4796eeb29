"""Run folders: ``config.yaml`` says what made them, ``results.json`` holds the numbers."""

import dataclasses
import json
import math
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from bayesprior.errors import ConfigError, DataError, kind_of, nearest_name
from bayesprior.recipes.yaml_files import read_yaml
from bayesprior.storage import CONFIG, ERROR_LOG, LOCK, PRIOR, RESULTS, SESSION, write_text
from bayesprior.version import __version__

__all__ = [
    "CONFIG",
    "FITS",
    "RESULTS",
    "RunConfig",
    "add_results",
    "finished_fit",
    "is_finished",
    "open_run",
    "read_config",
    "read_results",
    "run_folder",
    "stage_of",
    "versions",
    "write_json",
]

FITS = ("fit_map", "fit_swag", "sample", "transfer")

_FORMAT = "bayesprior.run/2"
# Where and how a run is made; its numbers do not depend on them.
_FREE = {"out", "device", "progress", "logger", "jobs", "checkpoint_every"}
# What a folder may hold before anything was computed in it.
_BEFORE = {CONFIG, LOCK, SESSION, PRIOR, ERROR_LOG}
_DIGESTS = {
    "prior": "its prior is another law",
    "source": "its source is another law",
    "data.train": "its training data were others",
    "data.validation": "its validation data were others",
    "data.test": "its test data were others",
    "weights": "its weights file has changed since",
    "checkpoints": "its checkpoints were others",
    "frozen": "its network's frozen weights were others",
    "start": "its network started from other weights",
    "norms": "its new norm layers started otherwise",
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
    made_from
        Names and files of `bayesprior.recipes.options.MadeFrom`, if the run knows them.
    digests
        Fingerprints of prior, data, network and start, see `bayesprior.recipes.digests`.
    versions
        Of the libraries that the run was started with; for the record, never compared.
    """

    recipe: str
    options: Mapping[str, Any]
    made_from: Mapping[str, Any]
    digests: Mapping[str, str]
    versions: Mapping[str, str]

    @property
    def chosen(self) -> dict[str, Any]:
        """Names, files, and options of data and network in one level."""
        found: dict[str, Any] = {}
        for name, value in self.made_from.items():
            if name != "relative":
                found |= value if isinstance(value, Mapping) else {name: value}
        return found


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
    out: str | os.PathLike[str],
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
    folder = run_folder(out)
    plain = json.loads(json.dumps(dict(options)))  # as the file will give it back
    new = RunConfig(recipe, plain, dict(made_from or {}), dict(digests or {}), versions())
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
    elif not present <= _BEFORE - {PRIOR}:
        raise ConfigError(
            f"{folder} is not empty and holds no {CONFIG}, so it is no run folder; choose another "
            "out; nothing was overwritten"
        )
    parts = {"format": _FORMAT, **dataclasses.asdict(new)}
    write_text(folder / CONFIG, yaml.safe_dump(parts, sort_keys=False, allow_unicode=True))
    return folder


def run_folder(out: str | os.PathLike[str]) -> Path:
    """Return the path of a run's folder, its home written out.

    Raises
    ------
    ConfigError
        If it is a file, or its name is no text, so that no tensors could be read from it.
    """
    folder = Path(out).expanduser()
    if str(folder) != str(folder).encode(errors="replace").decode():
        raise ConfigError(f"out is {folder}, whose bytes are no UTF-8; choose another name")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; out needs a folder")
    return folder


def _differing(old: RunConfig, new: RunConfig) -> str | None:
    """Say in which key two configurations differ first; None if in none."""
    if old.recipe != new.recipe:
        return f"it was made by {old.recipe}, not {new.recipe}"
    pairs = [(old.options, new.options)]
    if old.digests != new.digests:  # an option of the data says more than that they changed
        files = ("prior", "source", "weights")
        then, now = ({k: c.chosen[k] for k in c.chosen if k not in files} for c in (old, new))
        pairs += [(then, now), (old.digests, new.digests)]
    for one, other in pairs:
        for key in {**other, **one}:
            if key not in _FREE and one.get(key) != other.get(key):
                told = f"its {key} is {one.get(key)!r}, this one's {other.get(key)!r}"
                return _DIGESTS.get(key, told)
    return None


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
        raise ConfigError(f"a run is named by its folder, got {kind_of(run)}")
    path = Path(run).expanduser() / CONFIG
    if not path.is_file():
        held, siblings = (
            sorted(p.parent.name for p in folder.glob(f"*/{CONFIG}"))
            for folder in (path.parent, path.parent.parent)
        )
        runs = f"; its folders {', '.join(held[:8])} are" if held else ""
        raise ConfigError(
            f"{run} is no run folder: it has no {CONFIG}"
            + (runs or nearest_name(Path(run).name, siblings))
        )
    try:
        parts = read_yaml(path)
        if "command" in parts and "options" in parts:
            raise ValueError(
                "it is of the first edition; fit again in another folder (files of its priors and "
                "posteriors are read as ever)"
            )
        if parts["format"] != _FORMAT:
            raise ValueError(f"its format is {parts['format']!r}, this version reads {_FORMAT!r}")
        config = RunConfig(**{f.name: parts[f.name] for f in dataclasses.fields(RunConfig)})
        groups = (config.options, config.made_from, config.digests, config.versions)
        if not all(isinstance(group, Mapping) for group in groups):
            raise TypeError("a part is not a mapping")
    except (TypeError, KeyError, ValueError) as error:
        raise ConfigError(
            f"{path} is no configuration of a run: {' '.join(str(error).split())}"
        ) from None
    if recipes and config.recipe not in recipes:
        raise ConfigError(
            f"{run} was made by {config.recipe}; this needs the folder of {' or '.join(recipes)}"
        )
    return config


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
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no readable JSON: {error}") from None
    if not isinstance(found, dict) or not all(isinstance(v, dict) for v in found.values()):
        raise DataError(f"{path} holds no named results")
    return found


def stage_of(recipe: str) -> str:
    """Return the name in ``results.json`` of what a recipe found; with it the run is finished."""
    return "fit" if recipe in FITS else recipe.replace("_", "-")


def is_finished(run: str | Path, recipe: str) -> bool:
    """Whether the recipe's own results are in the folder: the last thing that it writes."""
    return stage_of(recipe) in read_results(run)


def finished_fit(run: str | Path) -> RunConfig:
    """Read the configuration of a finished fit.

    Raises
    ------
    ConfigError
        If the folder is no fit's, or the fit is not finished.
    """
    config = read_config(run, *FITS)
    if not is_finished(run, config.recipe):
        raise ConfigError(f"{run} is not finished; run the same fit again, which goes on with it")
    return config


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
    write_text(path, json.dumps(_finite(values), indent=2, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
