"""A report: verdicts on top, then sections of text, tables and figures; as HTML, Markdown, JSON."""

import functools
import html
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from bayesprior.diagnostics.intervals import Interval
from bayesprior.diagnostics.verdicts import Verdict
from bayesprior.report.page import PAGE, SCRIPT, STYLE_SHEET
from bayesprior.report.style import themed_svg
from bayesprior.storage import atomic_path

__all__ = ["Column", "Item", "Picture", "Report", "Section", "Table", "Text"]

MARKS = {"ok": "✓", "warn": "!", "fail": "✗", "unknown": "?"}


@dataclass(frozen=True)
class Column:
    """One column of a table: key in the rows, heading, number format, key of a standard error."""

    key: str
    label: str
    format: str = ""
    error: str = ""


@dataclass(frozen=True)
class Table:
    """A table that can be sorted; cells are numbers, text, `Interval` or None."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]
    note: str = ""

    def shown_columns(self) -> list[Column]:
        """Return the columns that hold anything."""
        return [c for c in self.columns if any(_key(row.get(c.key)) for row in self.rows)]


@dataclass(frozen=True)
class Picture:
    """A figure with what to look for in it."""

    title: str
    caption: str
    figure: Figure


@dataclass(frozen=True)
class Text:
    """A paragraph, or preformatted lines."""

    text: str
    is_code: bool = False


Item = Table | Picture | Text
"""What a section of a report is made of."""


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    items: Sequence[Item]


@dataclass(frozen=True)
class Report:
    """What a reader decides from; the verdicts come first.

    Attributes
    ----------
    title, subtitle
        What was run.
    verdicts
        One answer for each question.
    sections
        The evidence.
    data
        Further values for machines, only in the JSON.

    Examples
    --------
    >>> table = Table("Scores", [Column("nll", "NLL", ".2f")], [{"nll": 0.123}])
    >>> print(Report("Run", "", [], [Section("Results", [table])]).to_markdown())
    # Run
    <BLANKLINE>
    ## Results
    <BLANKLINE>
    ### Scores
    <BLANKLINE>
    | NLL |
    | --- |
    | 0.12 |
    <BLANKLINE>
    """

    title: str
    subtitle: str
    verdicts: Sequence[Verdict]
    sections: Sequence[Section]
    data: Mapping[str, Any] = field(default_factory=dict)

    def pictures(self) -> Iterator[tuple[str, Picture]]:
        """Yield every figure with a file name that is unique in the report."""
        seen: Counter[str] = Counter()
        for section in self.sections:
            for item in section.items:
                if isinstance(item, Picture):
                    name = _slug(f"{section.title} {item.title}")
                    seen[name] += 1
                    yield name if seen[name] == 1 else f"{name}-{seen[name]}", item

    @functools.cached_property
    def drawings(self) -> dict[str, tuple[str, str]]:
        """Every figure as SVG, for the page and to stand alone; drawn once."""
        return {name: themed_svg(picture.figure, name) for name, picture in self.pictures()}

    def to_html(self) -> str:
        """Return one self-contained page: no file, font or script from elsewhere."""
        drawings = iter([inline for inline, _ in self.drawings.values()])
        sections = []
        for section in self.sections:
            items = [
                _html_picture(item, next(drawings)) if isinstance(item, Picture) else _html(item)
                for item in section.items
            ]
            heading = f'<h2 id="{_slug(section.title)}">{html.escape(section.title)}</h2>'
            body = f'<div class="body">{"".join(items)}</div>'
            sections.append(f"<section>{heading}{body}</section>")
        return PAGE.format(
            title=html.escape(self.title),
            subtitle=html.escape(self.subtitle),
            style=STYLE_SHEET,
            script=SCRIPT,
            verdicts="".join(map(_html_verdict, self.verdicts)),
            links="".join(
                f'<a href="#{_slug(s.title)}">{html.escape(s.title)}</a>' for s in self.sections
            ),
            sections="".join(sections),
        )

    def to_markdown(self, figures: str = "figures") -> str:
        """Return the same content as Markdown, figures as files of the folder ``figures``."""
        lines = [f"# {self.title}", ""]
        if self.subtitle:
            lines += [self.subtitle, ""]
        for v in self.verdicts:
            lines += [f"- {MARKS[v.level]} **{v.question} {v.headline}.** {v.reason}"]
        lines += [""] if self.verdicts else []
        names = iter([name for name, _ in self.pictures()])
        for section in self.sections:
            lines += [f"## {section.title}", ""]
            for item in section.items:
                if isinstance(item, Picture):
                    path = f"{figures}/{next(names)}.svg"
                    lines += [f"![{item.title}]({path})", "", f"*{item.title}.* {item.caption}", ""]
                elif isinstance(item, Table):
                    lines += _markdown_table(item)
                else:
                    lines += ["```", item.text, "```", ""] if item.is_code else [item.text, ""]
        return "\n".join(lines)

    def to_json(self) -> str:
        """Return the same content for machines; numbers unrounded, NaN and infinity as null."""
        names = iter([name for name, _ in self.pictures()])

        def item(value: Item) -> dict[str, Any]:
            if isinstance(value, Picture):
                return {
                    "figure": next(names),
                    "title": value.title,
                    "caption": value.caption,
                }
            if isinstance(value, Table):
                return {
                    "table": value.title,
                    "columns": {c.key: c.label for c in value.columns},
                    "rows": [
                        {k: row.get(k) for c in value.columns for k in (c.key, c.error) if k}
                        for row in value.rows
                    ],
                    "note": value.note,
                }
            return {"text": value.text}

        content = {
            "title": self.title,
            "subtitle": self.subtitle,
            "verdicts": [v.to_dict() for v in self.verdicts],
            "sections": [
                {"title": s.title, "items": [item(i) for i in s.items]} for s in self.sections
            ],
            "data": self.data,
        }
        return json.dumps(_plain(content), indent=1, allow_nan=False)

    def write(self, folder: str | Path) -> Path:
        """Write ``report.html``, ``report.md``, ``report.json`` and ``figures/*.svg``.

        Returns
        -------
        Path
            Of the page.

        Raises
        ------
        StorageError
            If the folder cannot be written; older files stay.
        """
        folder = Path(folder)
        files = {f"figures/{name}.svg": plain for name, (_, plain) in self.drawings.items()}
        files |= {
            "report.md": self.to_markdown(),
            "report.json": self.to_json(),
            "report.html": self.to_html(),
        }
        for name, content in files.items():
            with atomic_path(folder / name) as temporary:
                temporary.write_text(content, encoding="utf-8")
        return folder / "report.html"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _text(row: Mapping[str, Any], column: Column) -> str:
    """Text of a cell, with its standard error if it has one."""
    text = _number(row.get(column.key), column.format)
    error = row.get(column.error) if column.error else None
    return text if error is None else f"{text} ± {_number(error, column.format)}"


def _number(value: Any, spec: str) -> str:
    """Format a value; what is missing or not a number is a dash."""
    if isinstance(value, Interval):
        low, high = (_number(v, spec) for v in value[1:])
        return f"{_number(value.estimate, spec)} [{low}, {high}]"
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, str):
        return value
    return format(value, spec) if spec else str(value)


def _key(value: Any) -> str:
    """Return what a cell is sorted by; missing values come last."""
    value = value.estimate if isinstance(value, Interval) else value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return repr(float(value)).replace("inf", "1e999") if not isinstance(value, str) else value


def _html_verdict(verdict: Verdict) -> str:
    question, headline, reason = map(
        html.escape, (verdict.question, verdict.headline, verdict.reason)
    )
    return (
        f'<li class="verdict {verdict.level}"><div class="question">{question}</div>'
        f'<div class="headline"><span class="mark" aria-hidden="true">{MARKS[verdict.level]}'
        f'</span> {headline}</div><p class="reason">{reason}</p></li>'
    )


def _html(item: Table | Text) -> str:
    if isinstance(item, Text):
        tag = "pre" if item.is_code else "p"
        return f"<{tag}>{html.escape(item.text)}</{tag}>"
    columns = item.shown_columns()
    kinds = {
        c.key: max((len(v) for row in item.rows if isinstance(v := row.get(c.key), str)), default=0)
        for c in columns
    }
    head = "".join(
        f"<th{_class(kinds[c.key])}><button>{html.escape(c.label)}</button></th>" for c in columns
    )
    rows = [
        "".join(
            f'<td{_class(kinds[c.key])} data-value="{html.escape(_key(row.get(c.key)))}">'
            f"{html.escape(_text(row, c))}</td>"
            for c in columns
        )
        for row in item.rows
    ]
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    note = f'<p class="note">{html.escape(item.note)}</p>' if item.note else ""
    content = f'<div class="scroll">{table}</div>{note}'
    title = html.escape(item.title)
    if len(rows) > 16:
        return f"<details><summary>{title} ({len(rows)} rows)</summary>{content}</details>"
    return f"<div><h3>{title}</h3>{content}</div>"


def _class(text_length: int) -> str:
    """Class of a column by its longest text: numbers, short text or text that may wrap."""
    return "" if not text_length else ' class="text"' if text_length < 40 else ' class="text long"'


def _html_picture(picture: Picture, drawing: str) -> str:
    title, caption = html.escape(picture.title), html.escape(picture.caption)
    drawing = drawing.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
    return f"<figure>{drawing}<figcaption><b>{title}.</b> {caption}</figcaption></figure>"


def _markdown_table(table: Table) -> list[str]:
    def line(cells: list[str]) -> str:
        return f"| {' | '.join(c.replace('|', chr(92) + '|') for c in cells)} |"

    columns = table.shown_columns()
    out = [f"### {table.title}", "", line([c.label for c in columns])]
    out += [line(["---"] * len(columns))]
    out += [line([_text(row, c) for c in columns]) for row in table.rows] + [""]
    return out + ([table.note, ""] if table.note else [])


def _plain(value: Any) -> Any:
    """Reduce to what JSON knows."""
    if isinstance(value, Interval):
        return _plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)
