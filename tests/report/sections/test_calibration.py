import numpy as np
import pytest
from report_items import column, line, pictures, tables

from bayesprior.diagnostics.calibration import brier, class_wise_ece
from bayesprior.diagnostics.regression import coverage, pit_values
from bayesprior.report.context import Context
from bayesprior.report.sections.calibration import LEVELS, items, verdict
from bayesprior.report.verdicts import calibration_verdict, coverage_verdict
from bayesprior.tree.build import to_datatree


def test_the_diagram_and_the_measures_are_those_of_the_test_set(run):
    context = Context(run.tree())
    out = items(context)
    picture = pictures(out)["Reliability diagram"]
    assert "80 % are right" in picture.caption
    curve = context.test.bins().curve()
    top, points = picture.figure.axes
    np.testing.assert_allclose(line(top, "model"), np.stack([curve.confidence, curve.accuracy], 1))
    assert sum(bar.get_height() for bar in points.patches) == 30
    table = tables(out)["Calibration measures"]
    probs, targets = context.test.probs, context.test.targets
    parts = brier(probs, targets)
    assert dict(zip(column(table, "name"), column(table, "value"), strict=True)) == {
        "top-label ECE": pytest.approx(context.scores["ece"]),
        "class-wise ECE": class_wise_ece(probs, targets),
        "largest gap (MCE)": context.bins.mce,
        "Brier: reliability": parts.reliability,
        "Brier: resolution": parts.resolution,
        "Brier: uncertainty": parts.uncertainty,
        "mean confidence": pytest.approx(probs.max(1).mean()),
    }
    assert column(table, "note")[-1] == f"accuracy is {context.scores['accuracy']:.3f}"
    assert verdict(context) == calibration_verdict(context.bins)


def test_numbers_are_judged_by_their_intervals(numbers):
    tree = to_datatree(test=numbers)
    context = Context(tree)
    out = items(context)
    pit = pit_values(tree["predictions"].dataset)
    table = tables(out)["Predictive intervals"]
    assert column(table, "level") == list(LEVELS)
    assert column(table, "inside") == [coverage(pit, level) for level in LEVELS]
    picture = pictures(out)["Coverage of the predictive intervals"]
    [axes] = picture.figure.axes
    for level, inside in line(axes, "model"):
        assert inside == coverage(pit, level)
    assert "hold their target" in picture.caption
    assert context.notes["metrics of classes"].startswith("the targets are numbers")
    assert verdict(context) == coverage_verdict(pit)
    assert verdict(context).headline == "Yes"


def test_numbers_without_variance_are_named(numbers):
    tree = to_datatree(test=numbers)
    tree["predictions"] = tree["predictions"].dataset.drop_vars(["variance", "rank"])
    context = Context(tree)
    assert items(context) == []
    assert "hold no variance" in context.notes["coverage of the intervals"]


def test_pixels_are_judged_alike_with_and_without_their_maps(maps):
    large, small = (Context(to_datatree(test=maps(keep))) for keep in (True, False))
    assert set(tables(items(large))) == {"Calibration measures"}
    [picture] = items(small)
    assert picture.title == "Reliability diagram"
    assert "keep_maps=True" in small.notes["measures of single pixels"]
    assert "measures of single pixels" not in large.notes
    assert verdict(large).headline == verdict(small).headline
    assert verdict(small).level == verdict(large).level
    assert verdict(small) == calibration_verdict(small.bins, independent=False)
    assert "over 432 pixels, which depend on their neighbors" in verdict(small).reason


def test_nothing_is_said_without_predictions(run):
    context = Context(run.tree(test=None, shifted={}, ood={}))
    assert items(context) == []
    assert (verdict(context).level, verdict(context).headline) == ("unknown", "No points")
