import numpy as np
import xarray as xr

from bayesprior.report.map_plots import class_colors, mask_grid

NAMES = ["sky", "road", "car"]


def data(count=2, labeled=True):
    rng = np.random.default_rng(0)
    dims = ("shown", "row", "column")
    answer = rng.integers(0, 2, (count, 4, 6))
    variables = {
        "pixels": (("shown", "y", "x", "channel"), rng.random((count, 8, 9, 3))),
        "answer": (dims, answer),
        "entropy": (dims, rng.random((count, 4, 6))),
    }
    if labeled:
        target = answer.copy()
        target[:, 0] = 255
        variables["target"] = (dims, target)
    return xr.Dataset(variables, {"class_name": NAMES})


def test_a_row_an_image_and_a_legend_of_what_occurs():
    figure = mask_grid(data())
    assert len(figure.axes) == 8
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["image", "labels", "answer", "entropy", *[""] * 4]
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["sky", "road"]
    labels = figure.axes[1].images[0].get_array()
    assert (labels[0] == class_colors(3)[-1]).all()  # what does not count is gray
    assert (labels[1:] != class_colors(3)[-1]).any(-1).all()


def test_without_labels_and_in_gray():
    gray = data(1, labeled=False)
    gray["pixels"] = gray.pixels.isel(channel=0)
    figure = mask_grid(gray)
    assert [axes.get_title() for axes in figure.axes] == ["image", "answer", "entropy"]


def test_every_class_has_a_color_of_its_own():
    for count in (2, 20, 60):
        colors = class_colors(count)
        assert colors.shape == (count + 1, 3)
        assert len(np.unique(colors, axis=0)) == count + 1
