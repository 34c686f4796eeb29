"""What a long run shows and writes down while it runs: a progress bar and ``trace.csv``."""

import contextlib
import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

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
        Rows of later steps are dropped: a resumed run writes them again.
    """

    def __init__(self, path: Path | None, *, keep_until: int = 0) -> None:
        self.path = path
        self._columns: list[str] | None = None
        if path is None or not path.exists():
            return
        kept = [row for row in read_trace(path) if row["step"] <= keep_until]
        if not kept:
            path.unlink()
            return
        self._columns = list(kept[0])
        with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows({k: _text(v) for k, v in row.items()} for row in kept)

    def write(self, step: int, stats: Mapping[str, float]) -> None:
        """Append one row."""
        if self.path is None:
            return
        row = {"step": float(step), **stats}
        new = self._columns is None
        self._columns = self._columns or list(row)
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(
                file, self._columns, extrasaction="ignore", restval="nan", lineterminator="\n"
            )
            if new:
                writer.writeheader()
            writer.writerow({k: _text(v) for k, v in row.items()})


def _text(value: float) -> str:
    return repr(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(value)


def read_trace(path: str | Path) -> list[dict[str, float]]:
    """Read ``trace.csv`` as one dict of floats a row."""
    with Path(path).open(newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
