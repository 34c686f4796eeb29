"""Shared by the scripts: interleaved timing, peak memory, Markdown tables, the machine in words."""

import argparse
import contextlib
import datetime
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import bayesprior
from bayesprior.diagnostics.compare import Difference


def parser(description: str | None) -> argparse.ArgumentParser:
    """Make a parser with the options of every script."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    made.add_argument("--threads", type=int, default=None, help="torch threads (default: torch's)")
    return made


def start(arguments: argparse.Namespace, title: str) -> None:
    """Set the threads and print the heading."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print(f"## {title}\n\n{machine()}\n", flush=True)


def machine() -> str:
    """Say where and with what this was measured."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    return (
        f"{datetime.date.today()}, {os.cpu_count()} cores ({platform.machine()}), torch threads "
        f"{torch.get_num_threads()}, load at the start {load:.1f}; bayesprior "
        f"{bayesprior.__version__}, torch {torch.__version__}, Python {platform.python_version()}"
    )


def interleaved(
    calls: Mapping[str, Callable[[], object]], *, rounds: int, warm_up: int = 1
) -> dict[str, list[float]]:
    """Time every call once a round, all in turn, so that a disturbance hits all alike; seconds."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(warm_up + rounds):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            if number >= warm_up:
                times[name].append(time.perf_counter() - begin)
    return times


def ratio(times: Mapping[str, Sequence[float]], one: str, other: str) -> float:
    """Median over rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(times[one], times[other], strict=True))


def median(values: Sequence[float]) -> float:
    """Median."""
    return statistics.median(values)


def copy_call(num_floats: int) -> Callable[[], object]:
    """Return a copy of a float32 vector; it moves 8 bytes an element."""
    source, target = torch.ones(num_floats), torch.empty(num_floats)
    return lambda: target.copy_(source)


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["--"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def means(row: Mapping[str, Any], metrics: Iterable[str]) -> list[str]:
    """Return a study's means over seeds with their standard errors."""
    return [f"{row[m]:.3f} ± {row[f'{m}_se']:.3f}" for m in metrics]


def difference(found: Difference | None) -> str:
    """Return a difference with its interval and what it says; nothing of a baseline."""
    if found is None:
        return ""
    return "{:+.3f} [{:+.3f}, {:+.3f}] ".format(*found.interval) + found.verdict


@contextlib.contextmanager
def folder(arguments: argparse.Namespace, name: str) -> Iterator[Path]:
    """Give ``--out`` or ``build/NAME``; with ``--quick`` alone a folder that goes afterwards."""
    if arguments.quick and arguments.out is None:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
        return
    out = arguments.out or Path("build") / name
    out.mkdir(parents=True, exist_ok=True)
    yield out


def in_own_process(script: str, *arguments: str) -> dict[str, float]:
    """Run a script's hidden ``--measure`` mode in a fresh process; see `show`."""
    done = subprocess.run(
        [sys.executable, script, "--measure", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        raise SystemExit(f"error: {script} --measure {' '.join(arguments)} failed: {last}")
    pairs = [line.rsplit(" ", 1) for line in done.stdout.splitlines() if line]
    return {name: float(value) for name, value in pairs}


def show(values: Mapping[str, float]) -> None:
    """Print what `in_own_process` reads."""
    for name, value in values.items():
        print(f"{name} {value}")


def resident_megabytes(call: Callable[[], object]) -> tuple[float, float]:
    """Return this process's resident memory before a call and its peak during it (Linux)."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # forget the peak so far
    before = _status("VmRSS")
    call()
    return before, max(_status("VmHWM"), before)


def _status(field: str) -> float:
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024 / 1e6


def data_folder(folder: str | None, files: Iterable[str]) -> Path:
    """Return the folder of real data; exit with a clear line if a file is missing."""
    default = Path(__file__).parents[2] / "shared" / "data"
    found = Path(folder or os.environ.get("BAYESPRIOR_DATA", default))
    for name in files:
        if not (found / name).is_file():
            raise SystemExit(
                f"error: no file {name} in {found}; name the data folder with --data-dir or the "
                "environment variable BAYESPRIOR_DATA"
            )
    return found
