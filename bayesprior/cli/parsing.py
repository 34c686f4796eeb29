"""From a command's words to its options: the parser is made of the options' dataclass."""

import argparse
import dataclasses
import json
import os
import re
import typing
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from bayesprior.cli.commands import COMMANDS
from bayesprior.cli.tables import listing
from bayesprior.errors import ConfigError, nearest_name
from bayesprior.recipes.calls import field_docs
from bayesprior.recipes.fields import Options

__all__ = ["find_command", "in_flags", "parse"]

_CONFIG = "config.yaml"  # as in `storage`, which is too heavy for --help
_REQUIRED = dataclasses.MISSING

Specs = Mapping[str, dataclasses.Field[Any]]


def find_command(words: Sequence[str]) -> tuple[str, list[str]]:
    """Return a command's name and the arguments that follow it.

    ``fit --method sgld`` is ``fit sgld``.

    Raises
    ------
    ConfigError
        If there is no such command; the message has the nearest one.
    """
    known = list(dict.fromkeys(name.split()[0] for name in COMMANDS))
    if not words:
        raise ConfigError(f"name a command: {', '.join(known)}")
    first, *rest = words
    if first in COMMANDS:
        return first, rest
    methods = [name.split()[1] for name in COMMANDS if name.startswith(f"{first} ")]
    if not methods:
        hint = nearest_name(first, known)
        raise ConfigError(f"no command {first!r}{hint}; it is one of {', '.join(known)}")
    for i, word in enumerate(rest):
        flag, equals, value = word.partition("=")
        if flag == "--method":
            follower, end = ([value], i + 1) if equals else (rest[i + 1 : i + 2], i + 2)
            rest = [*follower, *rest[:i], *rest[end:]]
            break
    if rest and rest[0] in methods:
        return f"{first} {rest[0]}", rest[1:]
    given = rest[0] if rest and not rest[0].startswith("-") else ""
    hint = f", not {given!r}{nearest_name(given, methods)}" if given else ""
    raise ConfigError(f"name the method: bayesprior {first} {'|'.join(methods)}{hint}")


def parse(name: str, arguments: Sequence[str]) -> Options | None:
    """Return a command's options, or None if help or the configuration was printed instead.

    Parameters
    ----------
    name
        Key of `COMMANDS`.
    arguments
        What follows it: ``--flag value``, ``--flag=value``, hyphens as good as underscores.

    Raises
    ------
    ConfigError
        If an option is unknown, missing or has a wrong value: the message says which, as a flag.
    """
    import jsonargparse

    options = COMMANDS[name].options
    specs = _specs(name)
    try:
        found = _parser(name).parse_args(_prepared(name, arguments)).as_dict()
    except SystemExit as exit_:
        if exit_.code not in (0, None):
            raise
        return None
    except RecursionError:
        raise ConfigError("an option's value is nested too deeply, or inside itself") from None
    except jsonargparse.ArgumentError as error:
        text = " ".join(str(error).split()).removeprefix("argument ")
        raise ConfigError(f"{text} (see bayesprior {name} --help)") from None
    values = {
        key: tuple(map(_at_home, value)) if isinstance(value, list) else value
        for key, value in found.items()
        if key in specs
    }
    missing = [
        key if _places(spec) else f"--{key}"
        for key, spec in specs.items()
        if _is_required(spec) and values[key] in (None, ())
    ]
    if missing:
        raise ConfigError(f"missing: {', '.join(missing)} (see bayesprior {name} --help)")
    try:
        return options(**values)
    except ConfigError as error:
        raise ConfigError(in_flags(error, options)) from None


def _at_home(value: Any) -> Any:
    """Return a path with ``~`` written out, and what is no text, such as a number, as it is."""
    return os.path.expanduser(value) if isinstance(value, str) else value


def in_flags(error: Exception, options: type[Options]) -> str:
    """Return a message in the command line's words: ``lr=`` becomes ``--lr``.

    An option is recognized at the beginning, before an equals sign, and wherever its name is no
    English word.
    """
    names = {spec.name for spec in dataclasses.fields(options) if not _places(spec)}

    def flag(found: re.Match[str]) -> str:
        name, equals, value = found.groups()
        is_word = len(name) > 2 and "_" not in name
        if name not in names or (is_word and not equals and found.start()):
            return found.group()
        value = (value or "").strip("'")
        return f"--{name} {value}" if value not in ("", "True") else f"--{name}"

    return re.sub(
        r"(?<![\w.\-/'])([a-z]\w*)\b(?![.(/'])(?:( ?= ?)([\w.+\-]+|'[^']*')?)?", flag, str(error)
    )


def _specs(name: str) -> Specs:
    """Return the fields that a command offers: all but those that mean nothing to it."""
    options = COMMANDS[name].options
    without = getattr(options, "without", ())
    return {spec.name: spec for spec in dataclasses.fields(options) if spec.name not in without}


def _flags(name: str) -> list[str]:
    return [key for key, spec in _specs(name).items() if not _places(spec)]


def _places(spec: dataclasses.Field[Any]) -> str:
    """Return argparse's ``nargs`` of an argument without a flag."""
    return spec.metadata.get("places", "")


def _is_list_of_files(spec: dataclasses.Field[Any]) -> bool:
    """Whether it is a flag that may be given several times, a file each time."""
    is_several = typing.get_origin(spec.type) is tuple
    return bool(spec.metadata.get("path")) and is_several and not _places(spec)


def _is_required(spec: dataclasses.Field[Any]) -> bool:
    return spec.default is _REQUIRED and spec.default_factory is _REQUIRED


def _parser(name: str) -> Any:
    """Make the parser: a command's own options first, the most common ones last."""
    import jsonargparse

    options, left = COMMANDS[name].options, dict(_specs(name))
    title, _, more = (options.__doc__ or "").partition("\n\n")
    usage = [f"bayesprior {name}"]
    for key, spec in left.items():
        if places := _places(spec):
            shown = f"{key.upper()} ..." if places == "*" else key.upper()
            usage.append(shown if _is_required(spec) else f"[{shown}]")
    parser = jsonargparse.ArgumentParser(
        prog=f"bayesprior {name}",
        usage=" ".join([*usage, "[options]"]),
        description=" ".join(f"{title} {more}".split()),
        epilog=listing(options.listed) if hasattr(options, "listed") else None,
        formatter_class=argparse.HelpFormatter,
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", action="config", metavar="FILE", help="YAML file of options, such as a run's."
    )
    docs = field_docs(options)  # type: ignore[arg-type]
    for owner in options.__mro__:
        group = None
        for key in vars(owner).get("__annotations__", ()):
            if key not in left:
                continue
            spec = left.pop(key)
            if places := _places(spec):  # what is missing is told by `parse`
                parser.add_argument(
                    key, nargs=places, type=str, metavar=key.upper(), help=docs[key]
                )
                continue
            if group is None:
                heading = (owner.__doc__ or "").splitlines()[0].rstrip(".")
                group = parser.add_argument_group("This command" if owner is options else heading)
            group.add_argument(f"--{key}", **_argument(spec, docs[key]))
    return parser


def _argument(spec: dataclasses.Field[Any], doc: str) -> dict[str, Any]:
    """Return what jsonargparse reads a value as, its default, and its names in help.

    Numbers and choices are read as YAML and left to the dataclass, which checks them for Python
    as for the command line; text stays what was typed.
    """
    parts = [kind for kind in typing.get_args(spec.type) if kind is not type(None)]
    is_optional = type(None) in typing.get_args(spec.type)
    kind: Any = parts[0] if is_optional else spec.type
    read: Any = Any
    metavar = "true|false" if kind is bool else getattr(kind, "__name__", "").upper()
    if kind is str:
        read, metavar = str | None, "PATH" if spec.metadata.get("path") else "TEXT"
    elif _is_list_of_files(spec):
        metavar = "PATH"
    elif typing.get_origin(kind) is dict:
        read, metavar = dict[str, Any], "NAME=VALUE"
    elif typing.get_origin(kind) is typing.Literal:
        read, metavar = str, "|".join(map(str, typing.get_args(kind)))
    default, said = None, "required"
    if not _is_required(spec):
        default = {} if spec.default is _REQUIRED else spec.default
        default = list(default) if isinstance(default, tuple) else default  # as YAML has it
        words = spec.metadata.get("shown") or "none" if default in (None, {}, []) else default
        said = f"default: {str(words).lower() if isinstance(words, bool) else words}"
    text = f"{doc} ({said})".replace("%", "%%")
    return {"type": read, "default": default, "metavar": metavar, "help": text}


def _prepared(name: str, arguments: Sequence[str]) -> list[str]:
    """Refuse unknown options, write ``--flag`` and ``--dict key=value`` out, read the config."""
    specs, flags = _specs(name), _flags(name)
    out: list[str] = []
    first: list[str] = []  # configurations, which flags override, and what has no flag
    files: dict[str, list[str]] = {}  # whose names may hold whatever a separator would be
    words = list(arguments)
    while words:
        word = words.pop(0)
        flag, equals, value = word.partition("=")
        base, dot, inner = flag.removeprefix("--").partition(".")
        base = base.replace("-", "_")
        if not word.startswith("--") or base in ("", "help", "print_config"):
            is_place = not word.startswith("-") or word == "-"
            (first if is_place else out).append(word.replace("print-config", "print_config"))
            continue
        if base not in (*flags, "config"):
            raise ConfigError(_unknown(base, name))
        kind = specs[base].type if base in specs else str
        is_dict = typing.get_origin(kind) is dict
        if dot and not is_dict:
            raise ConfigError(f"--{base} takes one value, not one named {inner!r}")
        if not equals:  # whatever the next word looks like, it is the value
            is_switch = kind is bool and (words[:1] or [""])[0].lower() not in _BOOLEANS
            if not is_switch and not words:
                raise ConfigError(f"--{base} needs a value (see bayesprior {name} --help)")
            value = "true" if is_switch else words.pop(0)
        if base == "config":
            first.append(f"--config={_read_config(value, name, arguments)}")
            continue
        if is_dict and not dot and not value.startswith("{"):
            inner, is_pair, value = value.partition("=")
            if not is_pair:
                raise ConfigError(f"--{base} takes NAME=VALUE, not {inner!r}")
            dot = "."
        if _is_list_of_files(specs[base]):
            files.setdefault(base, []).append(value)
            continue
        out.append(f"--{base}{dot}{inner}={value}")
    return first + out + [f"--{base}={json.dumps(paths)}" for base, paths in files.items()]


_CHOSEN_BY_DATA = (
    {"class": "Categorical"},
    {"class": "PixelCategorical", "ignore_index": 255, "reduction": "mean"},
)
"""Likelihoods that a command takes by itself."""
_OF_DATA = ("target", "drop", "kind", "size", "root", "binary", "ignore_index", "test_fraction")
"""Options of data sets, which are looked for among the command's."""
_BOOLEANS = ("true", "false", "yes", "no")


def _unknown(base: str, name: str) -> str:
    """Say what an unknown option may have meant, here or in another command."""
    near = nearest_name(base, [*_flags(name), "config"])
    if base in _OF_DATA and "data_options" in _flags(name):
        near = f"; did you mean --data_options.{base}?"
    others = [other for other in COMMANDS if base in _flags(other)]
    if others and not near:
        near = f"; that is one of bayesprior {', '.join(others)}"
    return f"bayesprior {name} has no option --{base}{near} (see bayesprior {name} --help)"


def _read_config(path: str, name: str, arguments: Sequence[str]) -> str:
    """Return the options of a YAML file as JSON; a run folder's ``config.yaml`` will do."""
    from bayesprior.recipes.yaml_files import read_yaml

    known: Collection[str] = _flags(name)
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds no options; write lines 'name: value'")
    if values.keys() & {"command", "recipe"} and "options" in values:
        values = {k: v for k, v in _of_a_run(Path(path), name, arguments).items() if k in known}
    for key in values:
        if key not in known:
            raise ConfigError(f"{path}: {_unknown(str(key), name)}")
    try:
        return json.dumps(values)
    except (TypeError, ValueError) as error:  # dates, sets
        raise ConfigError(f"{path} holds what no option is: {error}") from None


def _of_a_run(path: Path, name: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Return the options, names and files that a run's own ``config.yaml`` holds.

    The folder is the run's, so that the command finds it finished or goes on with it.
    """
    from bayesprior.recipes.places import restored
    from bayesprior.recipes.runs import read_config

    path = path.expanduser()
    if path.name != _CONFIG:
        raise ConfigError(f"{path} is a run's configuration; give the {_CONFIG} in its folder")
    config = read_config(path.parent)
    method = config.options.get("sampler", "sgld")
    commands = {"fit_map": "fit map", "fit_swag": "fit swag", "sample": f"fit {method}"}
    made_by = commands.get(config.recipe, config.recipe.replace("_", "-"))
    if made_by != name:
        raise ConfigError(f"{path} is a configuration of bayesprior {made_by}")
    likelihood = config.options.get("likelihood")
    own = likelihood.get("class") if isinstance(likelihood, dict) else likelihood
    if own != "HeteroscedasticNormal" and likelihood not in (None, *_CHOSEN_BY_DATA):
        raise ConfigError(f"{path}: a run with the likelihood {likelihood} is Python's")
    made_from = dataclasses.asdict(restored(config.made_from, path.parent))
    groups = [made_from.pop(group) or {} for group in ("data", "model")]
    files = {key: value for key, value in made_from.items() if value is not None}
    values = {**config.options, "out": str(path.parent), **groups[0], **groups[1], **files}
    given = {word.partition("=")[0] for word in arguments}
    for key in ("data", "model"):
        found = str(values.get(key))
        if ":" in found and not Path(found).exists() and f"--{key}" not in given:
            raise ConfigError(
                f"{path} names the {key} {found!r}, an import path, which could run any code; if "
                f"you trust it, give --{key} {found} yourself"
            )
    return values
