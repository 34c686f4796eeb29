"""Scripts in processes of their own, forked from one that has loaded the libraries.

As ``subprocess.run([sys.executable, "-c", code])``, but the seconds that torch and the package
take to import are spent once for all of them. No annotation is checked there: users have no
checker. What is about the import itself, or about ``python`` itself, is not for here.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["bayesprior.cli.fitting", "bayesprior.cli.reporting", "bayesprior.probabilistic"]
)


def _execute(code: str, argv: Sequence[str], cwd: Path, env: dict[str, str], files: Path) -> None:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    for number, name in enumerate(("out", "err"), start=1):
        with (files / name).open("wb") as file:
            os.dup2(file.fileno(), number)
    sys.argv = ["-c", *argv]
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})


def start_code(
    code: str,
    *argv: str,
    files: Path,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
) -> Any:
    """Start a script, which writes into the files ``out`` and ``err``; return its process."""
    told = (code, argv, cwd or Path.cwd(), os.environ | (env or {}), files)
    process = CONTEXT.Process(target=_execute, args=told)
    process.start()
    return process


def run_code(
    code: str,
    *argv: str,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    timeout: float = 300,
) -> subprocess.CompletedProcess[str]:
    """Run a script; return its exit status (minus the signal that ended it), output and errors."""
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder)
        process = start_code(code, *argv, files=files, cwd=cwd, env=env)
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
        texts = [(files / name).read_text(errors="replace") for name in ("out", "err")]
    return subprocess.CompletedProcess(argv, process.exitcode, *texts)
