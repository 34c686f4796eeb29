import numpy as np
from report_items import column, line, pictures, tables

from bayesprior.diagnostics.predictions import Outcome, scores
from bayesprior.report.context import Context
from bayesprior.report.sections.changed_data import items, verdict
from bayesprior.report.verdicts import shift_verdict


def test_every_set_stands_beside_the_test_set(run):
    rotated = run.predictions["rotated"]
    sets = {"heavy_rain-3": rotated, "heavy_rain-1": run.predictions["train"], "winter": rotated}
    context = Context(run.tree(shifted=sets))
    out = items(context)
    table = tables(out)["Metrics of each set"]
    assert column(table, "set") == ["test set", "heavy rain", "heavy rain", "winter"]
    assert column(table, "severity") == [0, 3, 1, None]
    expected = scores(Outcome.from_prediction("winter", rotated))
    for name in ("accuracy", "confidence", "nll", "ece"):
        assert column(table, name)[-1] == column(table, name)[1]
        np.testing.assert_allclose(column(table, name)[-1], expected[name])
        assert column(table, name)[0] == context.scores[name]
    assert column(table, "chance")[0] == context.test.bins().chance

    picture = pictures(out)["Metrics against severity"]
    assert "should not rise" in picture.caption
    for axes, name in zip(picture.figure.axes, ("accuracy", "ece"), strict=True):
        values = column(table, name)
        np.testing.assert_allclose(
            line(axes, "heavy rain"), [[0, values[0]], [1, values[2]], [3, values[1]]]
        )
        assert len(axes.lines) == 1  # winter has no severity
    assert verdict(context) == shift_verdict(context.shift_rows)


def test_without_a_severity_there_is_a_table_and_no_curve(run):
    context = Context(run.tree())
    [table] = items(context)
    assert column(table, "set") == ["test set", "rotated"]
    assert "no shifted set has a severity" in context.notes["figure: Metrics against severity"]
    assert verdict(context).question == "Do the probabilities stay honest when the data change?"


def test_without_changed_data_nothing_is_asked(run):
    context = Context(run.tree(shifted={}))
    assert items(context) == []
    assert verdict(context) is None


def test_a_broken_set_is_named_and_the_others_are_shown(run):
    tree = run.tree(shifted={"fog-1": run.predictions["rotated"], "fog-2": run.predictions["test"]})
    tree["predictions_fog-1"] = tree["predictions_fog-1"].dataset.copy(deep=True)
    tree["predictions_fog-1"].probs[:] = np.nan
    context = Context(tree)
    assert column(tables(items(context))["Metrics of each set"], "severity") == [0, 2]
    assert "30 of 30 rows" in context.notes["set predictions_fog-1"]
