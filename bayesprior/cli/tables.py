"""What help lists out of tables: the metrics, and a report's headings with their questions.

A table is read where it lies if its module is imported, with whatever was added at run time, and
from the module's source otherwise: importing it would import torch.
"""

import ast
import sys
from importlib.util import find_spec
from typing import Any

__all__ = ["listing"]

_METRICS = "bayesprior.prediction.metrics"
_HEADINGS = "bayesprior.report.build"
_QUESTIONS = "bayesprior.report.verdicts"


def listing(which: str) -> str:
    """Return the line at the end of a command's help.

    Parameters
    ----------
    which
        "metrics" (those that have a direction), "compared metrics" (of these, those of classes
        that have a margin) or "headings".

    Examples
    --------
    >>> listing("compared metrics").split("; ")[0]
    'Metrics. accuracy: share of right answers'
    """
    if which == "headings":
        return f"Headings. {'; '.join(_headings())}"
    return f"Metrics. {'; '.join(_metrics(which == 'compared metrics'))}"


def _metrics(is_compared: bool) -> list[str]:
    if (live := sys.modules.get(_METRICS)) is not None:
        return [
            f"{name}: {row.meaning}"
            for name, row in live.METRICS.items()
            if row.larger_is_better is not None
            and not (is_compared and (row.margin is None or "classes" not in row.tasks))
        ]
    table = _source(_METRICS, "METRICS")
    return [  # the direction is a row's fourth argument, and the margin its fifth
        f"{ast.literal_eval(name)}: {ast.literal_eval(row.args[1])}"
        for name, row in zip(table.keys, table.values, strict=True)
        if len(row.args) > 3 and not (is_compared and (len(row.args) < 5 or not _of_classes(row)))
    ]


def _of_classes(row: Any) -> bool:
    told = [word.value for word in row.keywords if word.arg == "tasks"]
    return not told or "classes" in ast.literal_eval(told[0])


def _headings() -> list[str]:
    if (live := sys.modules.get(_HEADINGS)) is not None:
        found = [(heading.title, heading.question) for heading in live.SECTIONS]
    else:
        rows = (row.args for row in _source(_HEADINGS, "SECTIONS").elts)
        found = [
            (title.value, _source(_QUESTIONS, more[-1].id).value if len(more) > 1 else "")
            for title, *more in rows
        ]
    return [f"{title} ({question})" if question else title for title, question in found]


def _source(module: str, name: str) -> Any:
    """Return the syntax of what a module's source assigns to a name."""
    loader: Any = getattr(find_spec(module), "loader", None)
    for node in ast.parse(loader.get_source(module)).body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if ast.unparse(target) == name:
                return node.value
    raise LookupError(f"{module} assigns nothing to {name}")
