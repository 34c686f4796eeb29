import numpy as np
import xarray as xr
from report_items import pictures

from bayesprior.report.context import Context
from bayesprior.report.sections.surface import items


def test_the_line_to_the_fit_is_drawn(run):
    x = np.linspace(-1, 3, 9)
    curves = {"data_loss": (x - 2) ** 2, "negative_log_prior": x**2 / 2}
    curves["posterior"] = curves["data_loss"] + curves["negative_log_prior"]
    values = xr.Dataset(
        {name: ("x", y) for name, y in curves.items()}
        | {"place": (("end", "axis"), [[0.0], [2.0]])},
        {"x": x, "end": ["prior's mean", "fit"]},
        {"num_examples": 30, "batch_norm": "none"},
    )
    picture = pictures(items(Context(run.tree(surface=values))))["From the prior's mean to the fit"]
    assert "30 training examples" in picture.caption
    for axes, y in zip(picture.figure.axes, curves.values(), strict=True):
        np.testing.assert_array_equal(axes.lines[0].get_xydata(), np.stack([x, y], 1))
        assert [line.get_xdata()[0] for line in axes.lines[1:]] == [0, 2]


def test_without_a_prior_there_is_no_line(run):
    assert items(Context(run.tree())) == []
