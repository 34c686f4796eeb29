"""The end of the page: what is missing, how the answers are decided, and what was asked for."""

import json
from typing import Any

from bayesprior.report.context import Context
from bayesprior.report.document import Column, Item, Table, Text, plain
from bayesprior.report.verdicts import THRESHOLDS

__all__ = ["configuration", "configured", "decisions", "missing"]


def missing(context: Context) -> list[Item]:
    """Name what is not reported."""
    columns = [Column("what", "not reported"), Column("why", "why")]
    rows = [{"what": what, "why": why} for what, why in context.notes.items()]
    return [Table("What is missing", columns, rows)] if rows else []


def decisions(context: Context) -> list[Item]:
    """List the thresholds with their sources."""
    columns = [
        Column("value", "threshold", "g"),
        Column("what", "what it decides"),
        Column("source", "source"),
    ]
    rows = [threshold._asdict() for threshold in THRESHOLDS.values()]
    return [Table("Thresholds", columns, rows, is_folded=True)]


def configured(context: Context) -> dict[str, Any]:
    """Return the run's configuration and the tree's attributes."""
    attrs = dict(context.attrs)
    return {**attrs.pop("configuration", {}), "tree": attrs}


def configuration(context: Context) -> list[Item]:
    """Show what was asked for."""
    text = json.dumps(plain(configured(context)), indent=1)
    return [Text(text, is_code=True, title="Options and provenance")]
