"""What the command line prints: text as it is, and never a terminal's control sequences."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["print_pairs", "print_table", "printable", "say", "written_out"]


def printable(text: object) -> str:
    r"""Return text on one line, with control characters written out.

    Names in files that somebody else wrote must not move a terminal's cursor or change its title.

    Examples
    --------
    >>> printable("a\x1b[31mb")
    'a\\x1b[31mb'
    >>> printable("two\nlines")
    'two lines'
    """
    return written_out(" ".join(str(text).split()))


def written_out(text: str) -> str:
    """Return text with control characters, but for the ends of lines, written out."""
    return "".join(
        c
        if c.isprintable() or c == "\n"
        else c.encode("unicode_escape", "backslashreplace").decode()
        for c in text
    )


def say(message: object) -> None:
    """Print one line on stderr."""
    line = printable(message)
    if len(line) > 1500:  # what is wrong stands at the beginning, the remedy at the end
        line = f"{line[:1000]} ... {line[-400:]}"
    print("bayesprior:", line, file=sys.stderr)


def print_pairs(pairs: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> None:
    """Print names and values in two columns; numbers with four digits."""
    rows = list(pairs.items() if isinstance(pairs, Mapping) else pairs)
    width = max((len(printable(name)) for name, _ in rows), default=0)
    for name, value in rows:
        text = f"{value:.4g}" if isinstance(value, float) else printable(value)
        print(f"{printable(name):{width}}  {text}")


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table: the first column to the left, numbers to the right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for number, name in enumerate(header):
        table.add_column(Text(printable(name)), justify="right" if number else "left")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    Console(highlight=False, emoji=False).print(table)
