"""What a long run shows and writes down while it runs: a progress bar and ``trace.csv``."""

import contextlib
import csv
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sized
from pathlib import Path
from statistics import fmean
from typing import Protocol, TypeVar, runtime_checkable

from bayesprior.errors import DataError, StorageError
from bayesprior.storage import atomic_path

__all__ = ["Bar", "TraceWriter", "progress_bar", "progressed", "read_trace"]

T = TypeVar("T")


@runtime_checkable
class Bar(Protocol):
    """Shows completed steps and the latest scalars."""

    def __call__(self, step: int, stats: Mapping[str, float]) -> None:
        """Show that ``step`` steps are done."""


@contextlib.contextmanager
def progress_bar(description: str, *, start: int, total: int, show: bool) -> Iterator[Bar]:
    """Show steps, loss, log prior, learning rate and the time left; nothing if not ``show``.

    On a terminal or in a notebook a bar, of which only the scalars give way where there is no room
    for them; elsewhere (a pipe, a log file) one line for each tenth of the steps.
    """
    if not show:
        yield lambda step, stats: None
        return
    from rich.console import Console

    console = Console(stderr=True)
    if not (console.is_terminal or console.is_jupyter):
        yield _lines(description, start, total)
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=_BAR),
        MofNCompleteColumn(),
        TextColumn("{task.fields[stats]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    # A column and the space before it: bar, steps, and two times of at most h:mm:ss.
    taken = len(description) + (_BAR + 1) + (2 * len(str(total)) + 2) + 2 * 8 + 1
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(description, total=total, completed=start, stats="")

        def update(step: int, stats: Mapping[str, float]) -> None:
            shown = _shown(stats)
            while shown and taken + len("  ".join(shown)) > console.width:
                shown.pop()
            bar.update(task, completed=step, stats="  ".join(shown))

        yield update


def progressed(items: Iterable[T], description: str, *, show: bool) -> Iterator[T]:
    """Yield items and show how many are done, where it is known how many there are."""
    total = len(items) if isinstance(items, Sized) else 0
    with progress_bar(description, start=0, total=total, show=show and total > 0) as bar:
        for number, item in enumerate(items, 1):
            yield item
            bar(number, {})


_BAR = 16


def _shown(stats: Mapping[str, float]) -> list[str]:
    kept = [f"{k} {stats[k]:.4g}" for k in ("loss", "log_prior", "lr") if k in stats]
    return [text.replace("_", " ") for text in kept]


def _lines(description: str, start: int, total: int) -> Bar:
    """Print a line whenever another tenth is done."""
    began = time.monotonic()
    last = 10 * start // max(total, 1)

    def update(step: int, stats: Mapping[str, float]) -> None:
        nonlocal last
        tenth = 10 * step // max(total, 1)
        if tenth == last:
            return
        last = tenth
        seconds = time.monotonic() - began
        left = seconds / max(step - start, 1) * (total - step)
        done = f"{step:,}/{total:,} ({step / max(total, 1):.0%})"
        text = [f"{description}: {done}", *_shown(stats), f"{seconds:.0f} s, {left:.0f} s left"]
        print(", ".join(text), file=sys.stderr, flush=True)

    return update


class TraceWriter:
    """Appends rows of scalars to a csv file; columns are those of the first row.

    Parameters
    ----------
    path
        The file; None writes nothing.
    keep_until
        Rows of later steps are dropped: a resumed run writes them again. So are rows that a kill,
        a full disk or a second process left damaged or out of order.
    """

    def __init__(self, path: Path | None, *, keep_until: int = 0) -> None:
        self.path = path
        self._columns: list[str] | None = None
        self._last: deque[Mapping[str, float]] = deque(maxlen=10)
        if path is None or not path.is_file():
            return
        kept: list[dict[str, float]] = []
        for row in _rows(path)[0]:
            if (kept[-1]["step"] if kept else 0) < row["step"] <= keep_until:
                kept.append(row)
        if not kept:
            path.unlink()
            return
        self._columns = list(kept[0])
        self._last.extend(kept)
        with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows({k: _text(v) for k, v in row.items()} for row in kept)

    def write(self, step: int, stats: Mapping[str, float]) -> None:
        """Append one row."""
        row = {"step": float(step), **stats}
        self._last.append(row)
        if self.path is None:
            return
        new = self._columns is None
        self._columns = self._columns or list(row)
        try:
            with self.path.open("a", newline="") as file:
                writer = csv.DictWriter(
                    file, self._columns, extrasaction="ignore", restval="nan", lineterminator="\n"
                )
                if new:
                    writer.writeheader()
                writer.writerow({k: _text(v) for k, v in row.items()})
        except OSError as error:
            raise StorageError(f"could not write {self.path}: {error}") from error

    @property
    def recent(self) -> dict[str, float]:
        """Means over the last ten rows, of what all of them have."""
        names = set.intersection(*map(set, self._last)) if self._last else set()
        return {name: fmean(r[name] for r in self._last) for name in sorted(names - {"step"})}


def _text(value: float) -> str:
    return repr(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(value)


def read_trace(path: str | Path) -> list[dict[str, float]]:
    """Read ``trace.csv`` as one dict of floats a row; a last row cut short is left out.

    Raises
    ------
    DataError
        If another row is damaged.
    """
    rows, damaged = _rows(Path(path).expanduser())
    if damaged is not None:
        raise DataError(
            f"{path} is damaged in line {damaged}; resuming its run repairs it, or remove the line"
        )
    return rows


def _rows(path: Path) -> tuple[list[dict[str, float]], int | None]:
    """Return the whole rows, and the number of the first line that is none (nor the cut last)."""
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = text.split("\n")[:-1]  # what no newline ends was cut short
    try:
        table = list(csv.reader(lines))
    except csv.Error:  # a cell without end
        return [], 1
    rows: list[dict[str, float]] = []
    damaged = None
    columns = table[0] if table else ["step"]
    if "step" not in columns:
        return [], 1
    for number, cells in enumerate(table[1:], start=2):
        try:
            rows.append({k: float(v) for k, v in zip(columns, cells, strict=True)})
        except ValueError:
            damaged = damaged or number
    return rows, damaged
