"""A report: verdicts on top, then sections of text, tables and figures; as HTML, Markdown, JSON."""

import functools
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from bayesprior.diagnostics.intervals import Interval
from bayesprior.report.style import themed_svg
from bayesprior.report.verdicts import Verdict
from bayesprior.storage import atomic_path

__all__ = ["Column", "Item", "Picture", "Report", "Section", "Table", "Text", "plain"]

MARKS = {"ok": "✓", "warn": "!", "fail": "✗", "unknown": "?"}
SPOKEN = {"ok": "Good", "warn": "Caution", "fail": "Alarm", "unknown": "Open"}


@dataclass(frozen=True)
class Column:
    """One column of a table: key in the rows, heading, number format, key of a standard error."""

    key: str
    label: str
    format: str = ""
    error: str = ""


@dataclass(frozen=True)
class Table:
    """A table that can be sorted; cells are numbers, text, `Interval` or None.

    A row may hold its own number format under ``format``. Long tables are folded, and others
    where ``is_folded`` says so.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]
    note: str = ""
    is_folded: bool = False

    def shown_columns(self) -> list[Column]:
        """Return the columns that hold anything."""
        return [c for c in self.columns if any(_key(row, c) for row in self.rows)]


@dataclass(frozen=True)
class Picture:
    """A figure with what to look for in it."""

    title: str
    caption: str
    figure: Figure


@dataclass(frozen=True)
class Text:
    """A paragraph, or preformatted lines, which are folded under a title."""

    text: str
    is_code: bool = False
    title: str = ""


Item = Table | Picture | Text
"""What a section of a report is made of."""


@dataclass(frozen=True)
class Section:
    """A heading, what stands under it, and the question it answers, if there is one."""

    title: str
    items: Sequence[Item]
    question: str = ""


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
    opening
        What the first screen shows beside the verdicts: a sentence, a table of three numbers (its
        columns: label, value, meaning), a figure. With it the sections are folded on the page.

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
    """

    title: str
    subtitle: str
    verdicts: Sequence[Verdict]
    sections: Sequence[Section]
    data: Mapping[str, Any] = field(default_factory=dict)
    opening: Sequence[Item] = ()

    @property
    def parts(self) -> list[Section]:
        """The opening, as a section, and all others."""
        return [*([Section("In short", self.opening)] if self.opening else []), *self.sections]

    def pictures(self) -> Iterator[tuple[str, Picture]]:
        """Yield every figure with a file name that is unique in the report."""
        seen: Counter[str] = Counter()
        for section in self.parts:
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
        drawings = {id(p): self.drawings[name][0] for name, p in self.pictures()}

        def drawing(item: Picture) -> Markup:
            label = Markup('<svg role="img" aria-label="{}"').format(item.title)
            return Markup(drawings[id(item)].replace("<svg", label, 1))

        return self._render("page.html.j2", {"drawing": drawing}, autoescape=True)

    def to_markdown(self, figures: str = "figures") -> str:
        """Return the same content as Markdown, figures as files of the folder ``figures``."""
        names = {id(p): f"{figures}/{name}.svg" for name, p in self.pictures()}
        filters = {
            "file": lambda item: Markup(names[id(item)]),
            "verbatim": lambda text: Markup(text.replace("```", "'''")),
        }
        text = self._render("report.md.j2", filters, finalize=_escaped)
        return re.sub(r"\n{3,}", "\n\n", text).strip()

    def _render(self, template: str, filters: Mapping[str, Any], **options: Any) -> str:
        loader = PackageLoader("bayesprior.report")
        made = Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, **options)
        made.filters |= {"slug": _slug, "cell": _text, "key": _key, "kind": _kind, **filters}
        return made.get_template(template).render(report=self, marks=MARKS, spoken=SPOKEN)

    def to_json(self) -> str:
        """Return the same content for machines; numbers unrounded, NaN and infinity as null."""
        names = {id(picture): name for name, picture in self.pictures()}

        def item(value: Item) -> dict[str, Any]:
            if isinstance(value, Picture):
                named = {"figure": names[id(value)], "title": value.title}
                return named | {"caption": value.caption}
            if isinstance(value, Table):
                keys = [k for c in value.columns for k in (c.key, c.error) if k]
                return {
                    "table": value.title,
                    "columns": {c.key: c.label for c in value.columns},
                    "rows": [{k: row.get(k) for k in keys} for row in value.rows],
                    "note": value.note,
                }
            return {"text": value.text}

        content = {
            "title": self.title,
            "subtitle": self.subtitle,
            "verdicts": [v.to_dict() for v in self.verdicts],
            "sections": [
                {"title": s.title, "items": [item(i) for i in s.items]} for s in self.parts
            ],
            "data": self.data,
        }
        return json.dumps(plain(content), indent=1, allow_nan=False)

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
            "report.md": self.to_markdown() + "\n",
            "report.json": self.to_json(),
            "report.html": self.to_html(),
        }
        for name, content in files.items():
            with atomic_path(folder / name) as temporary:
                temporary.write_text(content, encoding="utf-8")
        return folder / "report.html"


def _escaped(value: Any) -> Any:
    """Take the meaning that Markdown gives to them from characters that a user wrote."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    text = re.sub(r"([\\`*|]|(?<!\w)_|_(?!\w))", r"\\\1", " ".join(value.split()))
    return text.replace("<", "&lt;").replace("](", "]\\(")


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _text(row: Mapping[str, Any], column: Column) -> str:
    """Text of a cell, with its standard error if it has one."""
    spec = row.get("format", column.format) if column.format else ""
    text = _number(row.get(column.key), spec)
    error = row.get(column.error) if column.error else None
    return text if error is None else f"{text} ± {_number(error, spec)}"


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


def _key(row: Mapping[str, Any], column: Column) -> str:
    """Return what a cell is sorted by; missing values come last."""
    value = row.get(column.key)
    value = value.estimate if isinstance(value, Interval) else value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return repr(float(value)).replace("inf", "1e999") if not isinstance(value, str) else value


def _kind(table: Table, column: Column) -> Markup:
    """Class of a column by its longest text: numbers, short text or text that may wrap."""
    texts = [value for row in table.rows if isinstance(value := row.get(column.key), str)]
    if not texts:
        return Markup("")
    is_long = max(map(len, texts)) >= 40
    return Markup(' class="text long"' if is_long else ' class="text"')


def plain(value: Any) -> Any:
    """Reduce a value to what JSON knows; NaN and infinity to None, and the rest to text."""
    if isinstance(value, Interval):
        return plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)
