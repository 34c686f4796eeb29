import matplotlib as mpl
import numpy as np
import pytest

from bayesprior.diagnostics.compare import Difference
from bayesprior.diagnostics.intervals import Interval
from bayesprior.diagnostics.predictions import Outcome
from bayesprior.diagnostics.prior import directions, mahalanobis_checks
from bayesprior.diagnostics.shift import ShiftRow
from bayesprior.diagnostics.uncertainty import entropy, risk_coverage
from bayesprior.errors import DataError
from bayesprior.report.plots import (
    comparison_forest,
    coverage_plot,
    image_grid,
    mahalanobis_plot,
    prior_coordinate_plot,
    reliability_diagram,
    risk_coverage_plot,
    shift_curves,
    trace_plot,
    uncertainty_histograms,
)
from bayesprior.tree.build import to_datatree


@pytest.fixture(autouse=True)
def _no_global_state():
    before = dict(mpl.rcParams)
    yield
    assert dict(mpl.rcParams) == before


@pytest.fixture
def outcome(make_prediction):
    return Outcome.from_prediction("test", make_prediction(num_points=200))


def labeled(axes, start):
    return next(line for line in axes.lines if line.get_label().startswith(start))


def test_reliability_diagram(outcome):
    bins = outcome.bins()
    top, bottom = reliability_diagram(bins).axes
    curve = bins.curve()
    np.testing.assert_allclose(
        labeled(top, "model").get_xydata(), np.stack([curve.confidence, curve.accuracy], 1)
    )
    assert sum(bar.get_height() for bar in bottom.patches) == 200
    band = {round(p.get_y(), 6) for p in top.patches}
    assert band == {round(low, 6) for low in curve.low}


def test_prior_coordinates(run):
    found = directions(run.tree())
    [axes] = prior_coordinate_plot(found).axes
    [drawn] = axes.containers
    np.testing.assert_allclose(drawn.lines[0].get_ydata(), [d.mean for d in found])
    low, high = drawn.lines[2][0].get_segments()[1][:, 1]
    assert high - low == pytest.approx(4 * found[1].std)
    assert prior_coordinate_plot(directions(run.tree(chains=1, draws=1))).axes


def test_mahalanobis(run):
    checks = mahalanobis_checks(run.tree())
    [axes] = mahalanobis_plot(checks).axes
    np.testing.assert_allclose(
        labeled(axes, "this run").get_xdata(), np.sqrt([c.ratio for c in checks])
    )
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    assert names == ["all weights", "weight", "bias"]


def test_trace(run):
    loss, held_out = trace_plot(run.tree()).axes
    assert len(loss.lines) == len(held_out.lines) == 2
    np.testing.assert_allclose(loss.lines[0].get_ydata(), 1 / np.arange(1, 7))
    assert held_out.get_xlabel() == "draw"
    with pytest.raises(DataError, match="neither|no trace"):
        trace_plot(to_datatree(prior=run.prior, draws=run.prior.draws(1)))


def test_risk_coverage(outcome):
    curve = risk_coverage(-outcome.confidence, 1 - outcome.is_right)
    [axes] = risk_coverage_plot({"confidence": curve}).axes
    line = labeled(axes, "confidence")
    assert f"{curve.aurc:.3f}" in line.get_label()
    np.testing.assert_allclose(line.get_ydata(), curve.risk)


def test_uncertainty_histograms(outcome):
    [axes] = uncertainty_histograms(outcome, [outcome]).axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    right = int(outcome.is_right.sum())
    assert labels == [f"right ({right})", f"wrong ({200 - right})", "foreign: test (200)"]
    for patch in axes.patches:
        values, edges, _ = patch.get_data()
        assert values.sum() == pytest.approx(1)
        assert edges[-1] > entropy(outcome.probs).max()


def test_shift_curves():
    rows = [
        ShiftRow("test", 0, {"accuracy": 0.9, "ece": 0.01}, 0.1, 0.1),
        ShiftRow("blur", 3, {"accuracy": 0.5, "ece": 0.2}, 0.1, 0.3),
        ShiftRow("blur", 1, {"accuracy": 0.8, "ece": 0.1}, 0.1, 0.2),
        ShiftRow("winter", None, {"accuracy": 0.7, "ece": 0.1}, 0.1, 0.2),
    ]
    accuracy, error = shift_curves(rows).axes
    np.testing.assert_array_equal(
        labeled(accuracy, "blur").get_xydata(), [[0, 0.9], [1, 0.8], [3, 0.5]]
    )
    assert len(error.lines) == 1
    with pytest.raises(DataError, match="severity in its name"):
        shift_curves([rows[0], rows[3]])


def test_percent_labels_are_round_and_exact():
    rows = [ShiftRow("test", 0, {"accuracy": 0.9, "ece": 0.01}, 0.1, 0.1)]
    rows += [ShiftRow("blur", i, {"accuracy": 0.8, "ece": 0.045 * i}, 0.1, 0.2) for i in (1, 2, 3)]
    figure = shift_curves(rows)
    figure.draw_without_rendering()
    for axes in figure.axes:
        for tick in axes.get_yticklabels():
            assert float(tick.get_text().rstrip("%")) == pytest.approx(100 * tick.get_position()[1])
    severities = [float(t.get_text().replace("−", "-")) for t in figure.axes[1].get_xticklabels()]
    assert all(severity.is_integer() for severity in severities)


@pytest.mark.parametrize("metric", ["accuracy", "nll"])
def test_a_forest_with_long_names_is_not_cut(metric):
    name = "SGLD, with the prior learned from glyphs"
    interval = Interval(-0.1, -0.2, 0.1)
    differences = [Difference(name, metric, interval, 3, "seeds and points", "tie")]
    figure = comparison_forest(differences, metric)
    figure.draw_without_rendering()
    [axes] = figure.axes
    for text in (axes.xaxis.label, *axes.get_yticklabels()):
        box = text.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y0 >= 0


def test_comparison_forest():
    interval = Interval(-0.1, -0.2, 0.1)
    differences = [Difference("map", "nll", interval, 3, "seeds and points", "tie")]
    [axes] = comparison_forest(differences, "nll").axes
    [lines] = axes.collections
    [segment] = lines.get_segments()
    np.testing.assert_array_equal(segment[:, 0], [-0.2, 0.1])
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["no difference", "95% over seeds and points"]
    assert "left of the line is better" in axes.get_xlabel()
    with pytest.raises(DataError, match="no differences of 'ece'"):
        comparison_forest(differences, "ece")


@pytest.mark.parametrize("shape", [(5, 8, 8), (5, 8, 8, 1), (5, 8, 8, 3)])
def test_image_grid(shape, rng):
    images = rng.integers(0, 256, shape).astype(np.uint8)
    figure = image_grid(images, list("abcde"))
    shown = [axes for axes in figure.axes if axes.images]
    assert len(figure.axes) == 8
    assert [axes.get_xlabel() for axes in shown] == list("abcde")
    np.testing.assert_array_equal(shown[2].images[0].get_array(), images[2].squeeze())


def test_coverage_is_of_the_ranks(rng):
    pit = rng.random(200)
    [axes] = coverage_plot(pit).axes
    levels, inside = labeled(axes, "model").get_xydata().T
    expected = [(np.abs(pit - 0.5) <= level / 2).mean() for level in levels]
    np.testing.assert_allclose(inside, expected)
