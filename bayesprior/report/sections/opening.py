"""The first screen, beside the verdicts: what was done, and the three numbers that matter."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from bayesprior.diagnostics.intervals import metric_interval
from bayesprior.prediction.metrics import METRICS
from bayesprior.report.context import Context
from bayesprior.report.document import Column, Item, Picture, Section, Table, Text

__all__ = ["numbers", "opened", "sentence"]

FIRST = {"numbers": ("nll", "rmse"), "labels": ("label_accuracy", "label_nll", "label_ece")}


def opened(
    context: Context, sections: Sequence[Section]
) -> tuple[Sequence[Item], Sequence[Section]]:
    """Return the opening, and the sections without the figure that moved into it.

    That is the one of the calibration, or else the first.
    """
    pictures = [
        (section.title != "Calibration", item)
        for section in sections
        for item in section.items
        if isinstance(item, Picture)
    ]
    lead = [picture for _, picture in sorted(pictures, key=lambda pair: pair[0])[:1]]
    left = [
        dataclasses.replace(s, items=[i for i in s.items if not any(i is p for p in lead)])
        for s in sections
    ]
    said = [Text(text)] if (text := sentence(context)) else []
    return [*said, *numbers(context), *lead], [s for s in left if s.items]


def sentence(context: Context) -> str:
    """Say what was done; an empty text where the tree tells neither draws nor predictions."""
    groups, attrs = context.tree.children, context.attrs
    if not {"posterior", "predictions"} & set(groups):
        return ""
    chains, draws = context.num_draws
    who, whose = f"{chains * draws:,} independent draws of the weights were", "their mean"
    if chains * draws == 1:
        who, whose = "One vector of weights was", "its"
    elif attrs.get("committee"):
        who = f"A committee of {chains * draws:,} networks was"
    elif not attrs.get("independent_draws"):
        who = f"{chains * draws:,} draws of the weights, from {chains} chain(s), were"
    parts = [f"{who} fitted"]
    if "num_data" in attrs:
        parts.append(f"to {int(attrs['num_data']):,} training examples")
        parts += [f"of {attrs['data']}"] if attrs.get("data") else []
    if "constant_data" in groups:
        rank = int(groups["constant_data"].attrs["rank"])
        parts.append(f"with a prior of {f'rank {rank}' if rank else 'independent weights'}")
    if "predictions" in groups:
        sizes = groups["predictions"].sizes
        parts.append(f"and {whose} predictions scored on {sizes['point']:,} test points")
        parts += [f"of {sizes['class_name']} classes"] if "class_name" in sizes else []
        parts += [f"with {sizes['label']} labels each"] if "label" in sizes else []
    return f"{' '.join(parts)}."


def numbers(context: Context) -> list[Table]:
    """Return the three numbers that matter, with their intervals."""
    found = context.estimates
    names = FIRST.get(context.kind, ("accuracy", "nll", "ece"))
    rows = [
        {"score": row.label, "value": found[name], "format": row.format, "meaning": row.meaning}
        for name, row in ((name, METRICS[name]) for name in names if name in found)
    ]
    if context.pit is not None:
        hits = (np.abs(context.pit - 0.5) <= 0.45).astype(float)
        inside = metric_interval(METRICS["accuracy"], hits)
        meaning = "share of the targets inside their 90 % intervals"
        rows.append({"score": "coverage", "value": inside, "format": ".3f", "meaning": meaning})
    columns = [Column("score", "metric"), Column("value", "value [95 %]", ".3f")]
    columns.append(Column("meaning", "what it says"))
    return [Table("Three numbers", columns, rows)] if rows else []
