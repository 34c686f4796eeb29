"""Changed data: whether accuracy and honesty survive it."""

from bayesprior.prediction.metrics import METRICS
from bayesprior.report.context import Context
from bayesprior.report.document import Column, Item, Table
from bayesprior.report.plots import shift_curves
from bayesprior.report.verdicts import Verdict, shift_verdict

__all__ = ["items", "verdict"]


def items(context: Context) -> list[Item]:
    """Show the metrics of every shifted set beside the test set's."""
    rows = context.shift_rows
    if not rows:
        return []
    columns = [Column("set", "set"), Column("severity", "severity")]
    shown = ("accuracy", "confidence", "nll", "ece")
    columns += [Column(name, METRICS[name].label, METRICS[name].format) for name in shown]
    columns.append(Column("chance", "ECE by chance", ".3f"))
    lines = [
        {"set": r.shift.replace("_", " "), "severity": r.severity, "chance": r.chance, **r.scores}
        for r in rows
    ]
    caption = (
        "Accuracy falls as the data get worse; the calibration error should not rise with it, "
        "for an honest model becomes less sure."
    )
    pictures = context.picture("Metrics against severity", caption, shift_curves, rows)
    return [*pictures, Table("Metrics of each set", columns, lines)]


def verdict(context: Context) -> Verdict | None:
    """Say whether the probabilities stay honest; None if no changed data were given."""
    rows = context.shift_rows
    return shift_verdict(rows) if rows else None
