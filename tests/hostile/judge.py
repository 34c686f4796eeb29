"""What a command may answer to anything: right work and status 0, or one line and status 2."""

import contextlib
import io
import os
import resource
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forked import CONTEXT

from bayesprior.cli.main import main

SECONDS = 60
"""Of the processor's time, or five times as many by the clock: after those a command hangs."""


_MEMORY = resource.RLIMIT_AS


class Hung(BaseException):
    """A command took too long."""


@dataclass
class Case:
    """A command, and what must hold after it beside the rule for all."""

    argv: list[str]
    label: str = ""
    refused: bool = False
    """Whether status 0 would be wrong."""
    never: Path | None = None
    """A file that code out of the input would make."""


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise Hung

    clocks = {signal.ITIMER_REAL: signal.SIGALRM, signal.ITIMER_PROF: signal.SIGPROF}
    before = {signum: signal.signal(signum, stop) for signum in clocks.values()}
    signal.setitimer(signal.ITIMER_REAL, 5 * SECONDS)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        for clock, signum in clocks.items():
            signal.setitimer(clock, 0)
            signal.signal(signum, before[signum])


def _streams() -> list[io.TextIOWrapper]:
    """Standard output and errors as Python opens them: a lone surrogate stops a print to one."""
    kinds = ("strict", "backslashreplace")
    return [
        io.TextIOWrapper(io.BytesIO(), "utf-8", errors=kind, write_through=True) for kind in kinds
    ]


def _written(stream: Any) -> str:
    return stream.buffer.getvalue().decode()


def run(argv: Sequence[str]) -> tuple[int | str, str, str]:
    """Call the command line; return its status, output and errors."""
    out, err = _streams()
    status: int | str
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            with _time_limit():
                status = main(argv)
        except Hung:
            status = "hangs"
        except BaseException as error:
            status = f"raises {type(error).__name__}: {error}"
    return status, _written(out), _written(err)


def _answer(argv: Sequence[str], folder: Path, file_size: int, memory: int) -> None:
    os.chdir(folder.parent)
    files = [(folder / name).open("w", encoding="utf-8") for name in ("out", "err")]
    for number, file in enumerate(files, start=1):
        os.dup2(file.fileno(), number)
    sys.stdout, sys.stderr = _streams()
    hard = {limit: resource.getrlimit(limit)[1] for limit in (resource.RLIMIT_FSIZE, _MEMORY)}
    if file_size >= 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, hard[resource.RLIMIT_FSIZE]))
    if memory >= 0:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(_MEMORY, (pages * resource.getpagesize() + memory, hard[_MEMORY]))
    try:
        status = main(argv)
    finally:
        for limit, most in hard.items():
            resource.setrlimit(limit, (most, most))
        for file, text in zip(files, (sys.stdout, sys.stderr), strict=True):
            file.write(_written(text))
            file.close()
    os._exit(status)


def run_alone(
    argv: Sequence[str], folder: Path, *, file_size: int = -1, memory: int = -1
) -> tuple[int | str, str, str]:
    """Run a command as a process, forked from one that has the libraries already.

    ``file_size`` is the largest file that it may write, as if the disk were full then, and
    ``memory`` what it may take beyond the libraries.
    """
    process = CONTEXT.Process(target=_answer, args=(argv, folder, file_size, memory))
    process.start()
    process.join(timeout=5 * SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
    status = process.exitcode
    texts = [
        (folder / name).read_text(encoding="utf-8", errors="replace") for name in ("out", "err")
    ]
    return "hangs" if status is None else status, texts[0], texts[1]


def fault(case: Case, status: int | str, out: str, err: str) -> str | None:
    """Return what is wrong with an answer, if anything is."""
    lines = err.splitlines()
    errors = [line for line in lines if line.startswith("bayesprior: error: ")]
    foreign = [line for line in lines if not line.startswith("bayesprior: ")]
    found = None
    if status not in (0, 2):
        found = f"status {status}"
    elif status == 0 and case.refused:
        found = "was accepted"
    elif foreign or len(errors) != (status == 2):
        found = f"{len(errors)} errors and {len(foreign)} lines of others"
    elif {c for c in out + err if not c.isprintable() and c != "\n"}:
        found = "control characters"
    elif max(map(len, lines), default=0) > 3000:
        found = "an endless line"
    if case.never is not None and case.never.exists():
        found = "code was run"
    shown = " ".join(word if len(word) < 60 else word[:57] + "..." for word in case.argv)
    return found and f"{case.label}: {found}: {shown!r}\n    {err[-300:]!r}"
