"""From a command's words to its options: the parser is made of the options' dataclass."""

import argparse
import dataclasses
import json
import os
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bayesprior.cli.commands import COMMANDS, Command
from bayesprior.errors import BayesPriorError, ConfigError, nearest_name
from bayesprior.recipes.calls import field_docs
from bayesprior.recipes.fields import Options

__all__ = ["find_command", "in_flags", "parse"]

_CONFIG = "config.yaml"  # as in `storage`, which is too heavy for --help
_BOOLEANS = ("true", "false", "yes", "no")
_REQUIRED = dataclasses.MISSING


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
    methods = [name.split()[1] for name in COMMANDS if name.startswith(f"{first} ")]
    if first in COMMANDS:
        return first, rest
    if not methods:
        raise ConfigError(
            f"no command {first!r}{nearest_name(first, known)}; it is one of {', '.join(known)}"
        )
    for i, word in enumerate(rest):
        flag, equals, value = word.partition("=")
        if flag == "--method":
            rest = [*([value] if equals else rest[i + 1 : i + 2]), *rest[:i]] + rest[
                i + 1 + (not equals) :
            ]
            break
    if not rest or rest[0] not in methods:
        given = rest[0] if rest and not rest[0].startswith("-") else ""
        raise ConfigError(
            f"name the method: bayesprior {first} {'|'.join(methods)}"
            + (f", not {given!r}{nearest_name(given, methods)}" if given else "")
        )
    return f"{first} {rest[0]}", rest[1:]


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

    command = COMMANDS[name]
    try:
        found = _parser(name, command).parse_args(_prepared(name, command, arguments))
    except SystemExit as exit_:
        if exit_.code not in (0, None):
            raise
        return None
    except jsonargparse.ArgumentError as error:
        raise ConfigError(_one_line(error, name)) from None
    values = {key: value for key, value in found.as_dict().items() if key != "config"}
    for key, value in values.items():
        if key in command.positional and isinstance(value, list):
            values[key] = tuple(map(os.path.expanduser, value))
    missing = [
        spec.name if spec.name in command.positional else f"--{spec.name}"
        for spec in _fields(command)
        if spec.default is _REQUIRED
        and spec.default_factory is _REQUIRED
        and values[spec.name] in (None, ())
    ]
    if missing:
        raise ConfigError(f"missing: {', '.join(missing)} (see bayesprior {name} --help)")
    try:
        return command.options(**values)
    except ConfigError as error:
        raise in_flags(error, command.options) from None


def in_flags(error: BayesPriorError, options: type[Options]) -> BayesPriorError:
    """Return an error whose message begins with an option's name with that name as a flag."""
    text = str(error)
    names = {spec.name for spec in dataclasses.fields(options)}
    return type(error)(f"--{text}") if text.split(" ")[0] in names else error


def _fields(command: Command) -> Iterator[dataclasses.Field[Any]]:
    """Yield a command's options: positional ones first, then from its own to the most common."""
    hidden = getattr(command.options, "hidden", ())
    specs = {spec.name: spec for spec in dataclasses.fields(command.options)}
    order = [*command.positional]
    for kind in command.options.__mro__:
        order += [n for n in vars(kind).get("__annotations__", {}) if n in specs]
    yield from (specs[n] for n in dict.fromkeys(order) if n not in hidden)


def _parser(name: str, command: Command) -> Any:
    import jsonargparse

    title, _, more = (command.options.__doc__ or "").partition("\n\n")
    shown = {"": "{}", "*": "[{} ...]", "+": "{} [{} ...]"}
    places = [shown[n].format(key.upper(), key.upper()) for key, n in command.positional.items()]
    parser = jsonargparse.ArgumentParser(
        prog=f"bayesprior {name}",
        usage=" ".join([f"bayesprior {name}", *places, "[options]"]),
        description=" ".join(f"{title} {more}".split()),
        formatter_class=argparse.HelpFormatter,
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", action="config", metavar="FILE", help="YAML file of options, such as a run's."
    )
    docs = field_docs(command.options)  # type: ignore[arg-type]
    owners = [kind for kind in command.options.__mro__ if dataclasses.is_dataclass(kind)]
    groups: dict[type, Any] = {}
    for spec in _fields(command):
        owner = next(k for k in owners if spec.name in vars(k).get("__annotations__", {}))
        if spec.name in command.positional:
            number = command.positional[spec.name]
            parser.add_argument(
                spec.name,
                nargs="?" if number == "" else "*",  # what is missing is told by `parse`
                type=str,
                metavar=spec.name.upper(),
                help=docs[spec.name],
            )
            continue
        if owner not in groups:
            heading = (owner.__doc__ or "").splitlines()[0].rstrip(".")
            groups[owner] = parser.add_argument_group(
                "This command" if owner is command.options else heading
            )
        kind, metavar = _kind(spec)
        groups[owner].add_argument(
            f"--{spec.name}",
            type=kind,
            default=_default(spec),
            metavar=metavar,
            help=f"{docs.get(spec.name, '')} ({_shown(spec)})".replace("%", "%%"),
        )
    return parser


def _kind(spec: dataclasses.Field[Any]) -> tuple[Any, str]:
    """Return what jsonargparse reads a value as, and its name in help.

    Numbers and choices are read as YAML and left to the dataclass, which checks them for Python
    as for the command line; text stays what was typed.
    """
    plain = [a for a in typing.get_args(spec.type) if a is not type(None)]
    kind: Any = plain[0] if len(plain) == 1 and type(None) in typing.get_args(spec.type) else None
    kind = kind or spec.type
    if typing.get_origin(kind) is dict:
        return dict[str, Any], "NAME=VALUE"
    if typing.get_origin(kind) is typing.Literal:
        return str, "|".join(map(str, typing.get_args(kind)))
    if kind is str:
        metavar = "PATH" if spec.metadata.get("path") else "TEXT"
        return str | None, metavar
    return Any, "true|false" if kind is bool else kind.__name__.upper()


def _default(spec: dataclasses.Field[Any]) -> Any:
    if spec.default_factory is not _REQUIRED:
        return spec.default_factory()
    return None if spec.default is _REQUIRED else spec.default


def _shown(spec: dataclasses.Field[Any]) -> str:
    """Say an option's default in a person's words."""
    if spec.default is _REQUIRED and spec.default_factory is _REQUIRED:
        return "required"
    default = _default(spec)
    if default is None or default == {}:
        return f"default: {spec.metadata.get('shown') or 'none'}"
    return f"default: {str(default).lower() if isinstance(default, bool) else default}"


def _prepared(name: str, command: Command, arguments: Sequence[str]) -> list[str]:
    """Refuse unknown options, write ``--flag`` and ``--dict key=value`` out, read the config."""
    kinds = {
        spec.name: spec.type for spec in _fields(command) if spec.name not in command.positional
    }
    out: list[str] = []
    places: list[str] = []  # arguments without a flag go first, wherever they stood
    rest = iter(range(len(arguments)))
    for i in rest:
        token = arguments[i]
        follower = arguments[i + 1] if i + 1 < len(arguments) else ""
        flag, equals, value = token.partition("=")
        base, dot, inner = flag.removeprefix("--").partition(".")
        base = base.replace("-", "_")
        if not token.startswith("--") or base in ("", "help", "print_config"):
            where = out if token.startswith("-") and token != "-" else places
            where.append(token.replace("print-config", "print_config"))
            continue
        if base == "config":
            if not equals:
                next(rest, None)
            out.append("--config=" + _read_config(value if equals else follower, name, kinds))
            continue
        if base not in kinds:
            raise ConfigError(_unknown(base, name, kinds))
        is_dict = typing.get_origin(kinds[base]) is dict
        if dot and not is_dict:
            raise ConfigError(f"--{base} takes one value, not one named {inner!r}")
        given = value if equals else follower
        if is_dict and not dot and not given.startswith("{"):
            key, is_pair, of_key = given.partition("=")
            if not is_pair:
                raise ConfigError(f"--{base} takes NAME=VALUE, not {given!r}")
            out.append(f"--{base}.{key}={of_key}")
            if not equals:
                next(rest)
        elif kinds[base] is bool and not equals and follower.lower() not in _BOOLEANS:
            out.append(f"--{base}=true")
        else:
            out.append(f"--{base}{dot}{inner}{equals}{value}")
            if not equals and follower:  # whatever it looks like, it is the value
                out[-1] += f"={follower}"
                next(rest)
    return places + out


def _unknown(base: str, name: str, kinds: Mapping[str, Any]) -> str:
    """Say what an unknown option may have meant, here or in another command."""
    near = nearest_name(base, [*kinds, "config"])
    others = [
        other
        for other, command in COMMANDS.items()
        if base in {spec.name for spec in _fields(command)} - command.positional.keys()
    ]
    if others and not near:
        near = f"; that is one of bayesprior {', '.join(others)}"
    return f"bayesprior {name} has no option --{base}{near} (see bayesprior {name} --help)"


def _read_config(path: str, name: str, kinds: Mapping[str, Any]) -> str:
    """Return the options of a YAML file as JSON; a run folder's ``config.yaml`` will do."""
    import yaml

    try:
        values = yaml.safe_load(Path(os.path.expanduser(path)).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise ConfigError(f"cannot read the configuration {path!r}: {reason}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds no options; write lines 'name: value'")
    if values.keys() & {"command", "recipe"} and "options" in values:
        values = {k: v for k, v in _of_a_run(Path(path), name).items() if k in kinds}
    for key in values:
        if key not in kinds:
            raise ConfigError(f"{path}: {_unknown(str(key), name, kinds)}")
    return json.dumps(values)


def _of_a_run(path: Path, name: str) -> dict[str, Any]:
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
    values = {"likelihood": None, **config.options, "out": str(path.parent)}
    if values["likelihood"] not in (None, {"class": "Categorical"}):
        raise ConfigError(f"{path}: a run with the likelihood {values['likelihood']} is Python's")
    made_from = dataclasses.asdict(restored(config.made_from, path.parent))
    for value in made_from.values():
        values |= value if isinstance(value, dict) else {}
    return values | {
        k: v for k, v in made_from.items() if not isinstance(v, dict) and v is not None
    }


def _one_line(error: Exception, name: str) -> str:
    text = " ".join(str(error).split()).removeprefix("argument ")
    return f"{text} (see bayesprior {name} --help)"
