import numpy as np
import pytest
import xarray as xr
from report_items import column

from bayesprior.diagnostics.calibration import apply_temperature, fit_temperature
from bayesprior.diagnostics.outcomes import metric_rows
from bayesprior.diagnostics.predictions import score_intervals
from bayesprior.prediction.metrics import METRICS
from bayesprior.report.context import Context
from bayesprior.report.sections.results import items
from bayesprior.tree.build import to_datatree


def test_every_metric_of_classes_stands_with_its_interval_and_meaning(run):
    context = Context(run.tree())
    [table] = items(context)
    assert table.title == "Metrics of the test set (30 points)"
    shown = metric_rows("classes")
    assert column(table, "score") == [row.label for row in shown.values()]
    assert column(table, "meaning") == [row.meaning for row in shown.values()]
    found = dict(zip(shown, column(table, "value"), strict=True))
    intervals = score_intervals(context.test)
    bound = context.bins.bound  # the verdict's, and never below the ECE
    intervals["ece"] = intervals["ece"]._replace(high=bound)
    assert found["ece"].low <= found["ece"].estimate < bound
    for name, value in found.items():
        expected = intervals.get(name, context.scores[name])
        np.testing.assert_array_equal(value, expected)
    assert found["nll"].low < found["nll"].estimate < found["nll"].high
    assert table.note == "In brackets: 95 % intervals over the test points."
    assert set(column(table, "scaled")) == {None}
    assert "temperature scaling" in context.notes


def test_temperature_scaling_stands_beside_and_changes_nothing_else(run):
    tree = run.tree(validation=run.predictions["rotated"])
    context = Context(tree)
    [table] = items(context)
    [alone] = items(Context(run.tree()))
    assert column(table, "value") == column(alone, "value")
    with np.errstate(divide="ignore"):
        logs = {n: np.log(tree[n].probs.values) for n in ("validation", "predictions")}
    temperature = fit_temperature(logs["validation"], tree["validation"].target.values)
    assert f"(T = {temperature:.2f}, fitted on validation data)" in table.note
    probs = apply_temperature(logs["predictions"], temperature)
    nll = -np.log(probs[np.arange(30), tree["predictions"].target.values]).mean()
    scaled = dict(zip(metric_rows("classes"), column(table, "scaled"), strict=True))
    assert scaled["nll"] == pytest.approx(nll)
    assert scaled["accuracy"] == context.scores["accuracy"]
    assert scaled["aleatoric"] is scaled["epistemic"] is None


def test_a_class_that_never_occurs_changes_nothing_else(run):
    for name in ("train", "test"):
        x, y = run.sets[name]
        run.sets[name] = (x, y.where(y != 3, 0))
    run.predict()
    context = Context(run.tree())
    [table] = items(context)
    assert np.isfinite([value.estimate for value in column(table, "value")[:2]]).all()
    assert "predictions" not in context.notes


def test_numbers_have_metrics_of_their_own(numbers):
    [table] = items(Context(to_datatree(test=numbers)))
    assert table.title == "Metrics of the test set (200 points)"
    found = dict(zip(column(table, "score"), column(table, "value"), strict=True))
    of_law = ["CRPS", "PIT distance", "50 % coverage", "90 % coverage"]
    assert list(found) == ["NLL", "RMSE", *of_law, "predicted std"]
    assert found["90 % coverage"].low < numbers.metrics["coverage_90"] < found["90 % coverage"].high
    assert found["NLL"].estimate == pytest.approx(numbers.metrics["nll"])
    assert found["RMSE"].estimate == pytest.approx(numbers.metrics["rmse"])
    assert found["predicted std"] == pytest.approx(1.0)


def test_pixels_without_maps_are_told_from_their_sums(maps):
    prediction = maps(keep_maps=False)
    tree = to_datatree(test=prediction, shifted={"fog-2": prediction})
    *_, table = items(Context(tree))
    assert column(table, "set") == ["test set", "fog-2"]
    for name, value in prediction.metrics.items():
        assert column(table, name) == [pytest.approx(value)] * 2
    labels = {c.label for c in table.columns}
    assert {METRICS[name].label for name in prediction.metrics} <= labels
    assert "no intervals" in table.note


def test_pixels_have_intervals_over_images_and_an_overlap_for_every_class(maps):
    prediction = maps(keep_maps=False)
    attrs = {"likelihood": {"reduction": "mean"}, "class_names": ["a", "b", "c", "d"]}
    whole, each = items(Context(to_datatree(test=prediction, attrs=attrs)))
    assert whole.title == "Metrics of the test set (432 pixels of 6 images)"
    assert "intervals over images" in whole.note
    assert "tempered" in whole.note
    found = dict(zip(column(whole, "score"), column(whole, "value"), strict=True))
    for name, value in prediction.metrics.items():
        interval = found[METRICS[name].label]
        assert interval.estimate == pytest.approx(value, rel=1e-5)
        assert interval.low < interval.high
    assert column(each, "name") == ["a", "b", "c", "d"]
    overlaps = [interval.estimate for interval in column(each, "iou")]
    assert np.mean(overlaps) == pytest.approx(prediction.metrics["mean_iou"], rel=1e-5)
    assert sum(column(each, "share")) == pytest.approx(1)
    plain, _ = items(Context(to_datatree(test=prediction)))
    assert "tempered" not in plain.note


def test_pixels_with_maps_are_points_that_have_no_intervals(maps):
    context = Context(to_datatree(test=maps(keep_maps=True)))
    [table] = items(context)
    assert table.title == "Metrics of the test set (432 points)"
    assert all(isinstance(value, float) for value in column(table, "value"))
    assert "pixels are not independent" in context.notes["intervals of the metrics"]


def test_a_tree_without_predictions_has_no_results(run):
    context = Context(run.tree(test=None, shifted={}, ood={}))
    assert items(context) == []
    assert items(Context(xr.DataTree())) == []
    assert "no group 'predictions'" in context.notes["predictions"]
