"""What a long run shows and writes down while it runs: a progress bar and ``trace.csv``."""

import contextlib
import csv
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Protocol, runtime_checkable

from bayesprior.errors import DataError, StorageError
from bayesprior.storage import atomic_path

__all__ = ["Bar", "TraceWriter", "progress_bar", "read_trace"]


@runtime_checkable
class Bar(Protocol):
    """Shows completed steps and the latest scalars."""

    def __call__(self, step: int, stats: Mapping[str, float]) -> None:
        """Show that ``step`` steps are done."""


@contextlib.contextmanager
def progress_bar(description: str, *, start: int, total: int, show: bool) -> Iterator[Bar]:
    """Show steps, loss, log prior, learning rate and the time left; nothing if not ``show``."""
    if not show:
        yield lambda step, stats: None
        return
    from rich.console import Console
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
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[stats]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=total, completed=start, stats="")

        def update(step: int, stats: Mapping[str, float]) -> None:
            shown = [f"{k} {stats[k]:.4g}" for k in ("loss", "log_prior", "lr") if k in stats]
            bar.update(task, completed=step, stats="  ".join(shown).replace("_", " "))

        yield update


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
