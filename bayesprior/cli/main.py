"""The command line: find the command, parse its options, call it, and say what went wrong."""

import contextlib
import dataclasses
import io
import os
import re
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bayesprior.cli.commands import COMMANDS
from bayesprior.cli.console import say
from bayesprior.cli.parsing import find_command, in_flags, parse
from bayesprior.errors import BayesPriorError
from bayesprior.recipes.fields import Options
from bayesprior.signals import Terminated, stop_now, taken
from bayesprior.version import __version__

__all__ = ["main"]

_ERROR_LOG = "error.log"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv
        Arguments; those of the process by default.

    Returns
    -------
    int
        Exit status: 0; 2 after a mistake in what was asked or a failure of the system, told in one
        line; 130 after Ctrl-C and 143 after SIGTERM; 1 after a bug of the package, whose traceback
        is in ``error.log``.

    Examples
    --------
    >>> main(["--version"])
    bayesprior ...
    0
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    options: Options | None = None
    try:
        with taken(stop_now), warnings.catch_warnings():
            warnings.showwarning = _show_warning
            if (asked := _overview(arguments)) is not None:
                print(asked)
                return 0
            name, rest = find_command(arguments)
            options = parse(name, rest)
            if options is not None:
                _run(name, options)
            return 0
    except BrokenPipeError:  # the reader of our output, such as head, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt as stop:
        say(f"{str(stop) or 'stopped'}; the same command continues where it can")
        return 143 if isinstance(stop, Terminated) else 130
    except (BayesPriorError, OSError) as error:
        say(f"error: {error if options is None else in_flags(error, type(options))}")
        return 2
    except Exception as error:
        told = str(error).split("\n")[0]
        if isinstance(error, MemoryError) or re.search("allocate|out of memory", told):
            say(f"error: not enough memory ({told}); ask for less at once: --batch_size, --rank")
            return 2
        say(
            f"this is a bug of bayesprior, not of what you asked: {type(error).__name__}: {error}; "
            f"the traceback is in {_log(options)}"
        )
        return 1


def _run(name: str, options: Options) -> None:
    """Call a command's function, quietly if asked to."""
    if not getattr(options, "quiet", False):
        COMMANDS[name].function(options)
        return
    is_asked_for = name in ("predict", "compare")
    with contextlib.nullcontext() if is_asked_for else contextlib.redirect_stdout(io.StringIO()):
        COMMANDS[name].function(dataclasses.replace(options, progress=False))


def _show_warning(message: Warning | str, *args: Any, **kwargs: Any) -> None:
    say(f"warning: {message}")


def _overview(arguments: Sequence[str]) -> str | None:
    """Return what is printed where no command runs: help or version."""
    helps = ("-h", "--help")
    first, second = [*arguments, "", ""][:2]
    if first in ("-V", "--version"):
        return f"bayesprior {__version__}"
    names = [name for name in COMMANDS if first in helps or name.startswith(f"{first} ")]
    if not names or not {first, second} & set(helps):
        return None
    width = max(map(len, names))
    usage = f"bayesprior {'COMMAND' if first in helps else f'{first} METHOD'}"
    lines = [
        f"usage: {usage} [options]",
        "",
        "Source posteriors as informative priors: from a checkpoint to an ArviZ report.",
        "",
    ]
    for name in names:
        doc = (COMMANDS[name].options.__doc__ or "").splitlines()[0]
        lines.append(f"  {name:{width}}  {doc}")
    return "\n".join([*lines, "", f"{usage} --help lists its options."])


def _log(options: Options | None) -> Path:
    """Write the traceback that is being handled into the folder of the run; return the file."""
    out = Path(getattr(options, "out", None) or ".")
    path = (out if out.is_dir() else Path()) / _ERROR_LOG
    try:
        path.write_text(traceback.format_exc(), encoding="utf-8")
    except OSError:  # nowhere to write: then the terminal has it
        traceback.print_exc()
        return Path("the lines above")
    return path
