"""The command line: each command is a typed function, its options the function's parameters."""

import dataclasses
import inspect
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from bayesprior.cli.choices import grouped
from bayesprior.errors import BayesPriorError, ConfigError, nearest_name
from bayesprior.registry import resolve
from bayesprior.version import __version__

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "demo": "bayesprior.demo.command:demo_command",
    "fit-source": "bayesprior.cli.fitting:fit_source_command",
    "make-prior": "bayesprior.cli.fitting:make_prior_command",
    "fit": "bayesprior.cli.fitting:fit_command",
    "predict": "bayesprior.cli.predicting:predict_command",
    "report": "bayesprior.cli.reporting:report_command",
    "compare": "bayesprior.cli.reporting:compare_command",
    "inspect": "bayesprior.cli.inspection:inspect_command",
}
"""Name of each command and the function behind it.

The functions must not be named as the package's public names: jsonargparse looks a function's
name up in every parent package, which would import the library for ``--help``.
"""

_BOOLEANS = ("true", "false", "yes", "no")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv
        Arguments; those of the process by default.

    Returns
    -------
    int
        Exit status: 0; 2 after a user's mistake, told in one line; 130 after Ctrl-C.

    Examples
    --------
    >>> main(["--version"])
    bayesprior ...
    0
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return _run(arguments)
    except BrokenPipeError:  # the reader of our output, such as head, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (BayesPriorError, OSError) as error:
        _say(f"error: {error}")
        return 2
    except KeyboardInterrupt as stop:
        _say(f"{str(stop) or 'stopped'}; the same command continues where it can")
        return 130


def _say(message: str) -> None:
    print("bayesprior:", *message.split(), file=sys.stderr)


def _show_warning(message: Warning | str, *args: Any, **kwargs: Any) -> None:
    _say(f"warning: {message}")


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        if not arguments:
            raise ConfigError(f"name a command: {', '.join(COMMANDS)}")
        return 0
    name, *rest = arguments
    if name in ("-V", "--version"):
        print("bayesprior", __version__)
        return 0
    if name not in COMMANDS:
        raise ConfigError(
            f"no command {name!r}{nearest_name(name, COMMANDS)}; it is one of {', '.join(COMMANDS)}"
        )
    command = resolve("command", name, COMMANDS)
    options = _parse(name, command, rest)
    if options is not None:
        values = {}
        for parameter in inspect.signature(command).parameters.values():
            is_choice = dataclasses.is_dataclass(kind := parameter.annotation)
            values[parameter.name] = (
                grouped(kind, options) if is_choice else options[parameter.name]
            )
        command(**values)
    return 0


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [
        "usage: bayesprior COMMAND [options]",
        "",
        "Source posteriors as informative priors: from a checkpoint to an ArviZ report.",
        "",
    ]
    for name in COMMANDS:
        doc = inspect.getdoc(resolve("command", name, COMMANDS)) or ""
        lines.append(f"  {name:{width}}  {doc.splitlines()[0]}")
    return "\n".join([*lines, "", "bayesprior COMMAND --help lists the options of a command."])


def _parse(name: str, command: Callable[..., Any], arguments: list[str]) -> dict[str, Any] | None:
    """Return the options' values, or None if help or the configuration was printed instead."""
    import jsonargparse

    kinds = _kinds(command)
    parser = jsonargparse.ArgumentParser(
        prog=f"bayesprior {name}",
        description=inspect.getdoc(command).split("\n\nParameters\n")[0],  # type: ignore[union-attr]
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="YAML file of options.")
    positional = _add_arguments(parser, command)
    try:
        found = parser.parse_args(_prepare(arguments, name, kinds, positional))
    except SystemExit as exit_:
        if exit_.code not in (0, None):
            raise
        return None
    except jsonargparse.ArgumentError as error:
        raise ConfigError(_plain(str(error), f"bayesprior {name} --help")) from None
    options = found.as_dict()
    options.pop("config")
    return options


def _kinds(command: Callable[..., Any]) -> dict[str, Any]:
    """Name -> type of every option, those inside choices included."""
    kinds: dict[str, Any] = {}
    for parameter in inspect.signature(command).parameters.values():
        kind = parameter.annotation
        if dataclasses.is_dataclass(kind):
            kinds |= {f.name: f.type for f in dataclasses.fields(kind)}
        else:
            kinds[parameter.name] = kind
    return kinds


def _add_arguments(parser: Any, command: Callable[..., Any]) -> list[str]:
    """Add a command's options to a jsonargparse parser; return the names of the positionals."""
    positional = []
    skipped = set()
    for parameter in inspect.signature(command).parameters.values():
        kind = parameter.annotation
        if dataclasses.is_dataclass(kind):
            parser.add_class_arguments(kind, None, instantiate=False)
            skipped.add(parameter.name)
        elif parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            many = kind == list[str]
            parser.add_argument(
                parameter.name, type=str, nargs="+" if many else None, help=_HELP[parameter.name]
            )
            positional.append(parameter.name)
            skipped.add(parameter.name)
    parser.add_function_arguments(command, None, skip=skipped)
    return positional


_HELP = {
    "run": "Folder of a fit.",
    "runs": "Folders of fits.",
    "file": "A .safetensors file: source posterior, prior, SWAG or MAP fit, or a draw.",
}


def _prepare(
    arguments: list[str], name: str, kinds: dict[str, Any], positional: list[str]
) -> list[str]:
    """Refuse unknown options, write ``--flag`` and ``--dict key=value`` out, read the config."""
    options = [key for key in kinds if key not in positional]
    out: list[str] = []
    rest = iter(range(len(arguments)))
    for i in rest:
        token = arguments[i]
        key, equals, value = token.removeprefix("--").partition("=")
        base = key.split(".")[0]
        follower = arguments[i + 1] if i + 1 < len(arguments) else ""
        if not token.startswith("--") or base in ("help", "print_config"):
            out.append(token)
            continue
        if base not in (*options, "config"):
            raise ConfigError(
                f"no option --{base}{nearest_name(base, options)} (see bayesprior {name} --help)"
            )
        is_dict = str(kinds.get(base, "")).startswith("dict")
        if key == base and kinds.get(key) is bool and not equals and follower not in _BOOLEANS:
            out.append(token + "=true")
        elif is_dict and key == base and not equals and "=" in follower:
            out.append(f"--{key}.{follower}")
            next(rest)
        elif key == "config":
            if not equals:
                next(rest, None)
            out.append("--config=" + _read_config(value if equals else follower, name, kinds))
        else:
            out.append(token)
    return out


def _read_config(path: str, name: str, kinds: dict[str, Any]) -> str:
    """Return the options of a YAML file as JSON; a run folder's ``config.yaml`` will do."""
    import json
    from pathlib import Path

    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise ConfigError(f"cannot read the configuration {path!r}: {reason}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no YAML: {error}") from None
    if isinstance(values, dict) and {"command", "options"} <= values.keys():
        if values["command"] != name:
            raise ConfigError(f"{path} is a configuration of bayesprior {values['command']}")
        values = values["options"]
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds no options; write lines 'name: value'")
    for key in values:
        if key not in kinds:
            raise ConfigError(f"{path}: no option {key!r}{nearest_name(str(key), kinds)}")
    return json.dumps(values)


def _plain(message: str, help_command: str) -> str:
    """Bring jsonargparse's message to one line that names option, value and what was expected."""
    import re

    text = " ".join(message.split())
    key = re.search(r'Parser key "([^"]+)"', text)
    value = re.search(r"(?:Given|Got) value: (.*)$", text)
    if key and value:
        kinds = dict.fromkeys(re.findall(r"Expected an? <class '(\w+)'>", text))
        kinds.pop("NoneType", None)
        choices = re.search(r"Expected a (?:one of )?(?:typing\.)?Literal\[([^\]]*)\]", text)
        if "dict" in kinds:
            return f"--{key[1]} takes NAME=VALUE, not {value[1]!r}"
        expected = " or ".join(kinds) or (f"one of {choices[1]}" if choices else "")
        if expected:
            return f"--{key[1]} must be {expected}, not {value[1]!r}"
    missing = re.search(r"arguments are required: (.*)$", text)
    if missing:
        text = f"missing: {missing[1]}"
    return f"{text} (see {help_command})"
