"""Calibration: whether the probabilities, or the predictive intervals, mean what they say."""

import numpy as np

from bayesprior.diagnostics.calibration import brier, class_wise_ece
from bayesprior.diagnostics.regression import coverage
from bayesprior.report.context import Context
from bayesprior.report.document import Column, Item, Picture, Table
from bayesprior.report.plots import coverage_plot, reliability_diagram
from bayesprior.report.verdicts import Verdict, calibration_verdict, coverage_verdict

__all__ = ["items", "verdict"]

RELIABILITY = (
    "Points on the dashed line mean that of the answers given with 80 % confidence, 80 % are "
    "right. Below it the model is too sure. Inside the gray band the gap can be chance."
)
LABELS = (
    "Points on the dashed line mean that of the labels given a probability of 80 %, 80 % came. "
    "Inside the gray band the gap can be chance; it is that of labels that always come together, "
    "as an example's labels may, and too wide for others."
)
COVERAGE = (
    "On the dashed line, of the 80 % intervals 80 % hold their target. Below it the intervals "
    "are too narrow. Inside the gray band the gap can be chance."
)
LEVELS = (0.5, 0.8, 0.9, 0.95)


def items(context: Context) -> list[Item]:
    """Show the reliability diagram with its measures, or the coverage of the intervals."""
    if context.kind == "numbers":
        return _coverage(context)
    if not context.bins.count.sum():
        return []
    caption = RELIABILITY if context.labels is None else LABELS
    out: list[Item] = [Picture("Reliability diagram", caption, reliability_diagram(context.bins))]
    if context.labels is not None:
        context.notes["metrics of classes"] = (
            "an example may have several labels: those of single labels are reported, but no "
            "confusion, rejection, foreign data or temperature scaling"
        )
        return out
    test = context.test
    if test is None:
        context.notes["measures of single pixels"] = (
            "their maps were not kept: no Brier score by parts, class-wise ECE, rejection or "
            "foreign data; for them make the test set's predictions by predict(keep_maps=True) and "
            "give them to report(test=)"
        )
        return out
    targets = np.asarray(test.targets)
    parts = brier(test.probs, targets)
    accuracy = f"accuracy is {context.scores['accuracy']:.3f}"
    rows = [
        ("top-label ECE", context.bins.ece, "confidence of the predicted class, 15 equal bins"),
        ("class-wise ECE", class_wise_ece(test.probs, targets), "every class's probability"),
        ("largest gap (MCE)", context.bins.mce, "of one bin; noisy where bins are nearly empty"),
        ("Brier: reliability", parts.reliability, "0 is perfectly calibrated"),
        ("Brier: resolution", parts.resolution, "larger is better"),
        ("Brier: uncertainty", parts.uncertainty, "of the labels themselves"),
        ("mean confidence", context.scores["confidence"], accuracy),
    ]
    keys = ("name", "value", "note")
    columns = [Column("name", "measure"), Column("value", "value", ".4f"), Column("note", "note")]
    lines = [dict(zip(keys, row, strict=True)) for row in rows]
    return [*out, Table("Calibration measures", columns, lines)]


def _coverage(context: Context) -> list[Item]:
    if (pit := context.pit) is None:
        return []
    context.notes["metrics of classes"] = (
        "the targets are numbers: NLL, CRPS, RMSE and the coverage of intervals are reported, but "
        "no ECE, rejection or foreign data"
    )
    held = [{"level": level, "inside": coverage(pit, level)} for level in LEVELS]
    said = [Column("level", "interval", ".0%"), Column("inside", "targets inside", ".1%")]
    return [
        Picture("Coverage of the predictive intervals", COVERAGE, coverage_plot(pit)),
        Table("Predictive intervals", said, held),
    ]


def verdict(context: Context) -> Verdict:
    """Say whether the probabilities can be trusted."""
    if context.pit is not None:
        return coverage_verdict(context.pit)
    is_dense = context.kind == "pixels" or (context.test is not None and context.test.is_dense)
    return calibration_verdict(context.bins, independent=not is_dense)
