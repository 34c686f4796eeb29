import re

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from bayesprior.report.plots import coverage_plot
from bayesprior.report.style import BLUE, VARIABLES, styled, themed_svg


@styled
def drawing(label="line $x$"):
    figure = Figure()
    axes = figure.subplots()
    axes.plot([0, 1], color=BLUE, label=label)
    axes.legend()
    return figure


def test_the_callers_style_is_left_alone():
    before = dict(mpl.rcParams)
    themed_svg(drawing(), "a")
    assert dict(mpl.rcParams) == before


def test_every_color_of_the_page_becomes_a_variable():
    inline, plain = themed_svg(drawing(), "a")
    assert f"var({VARIABLES[BLUE]})" in inline
    assert not any(color in inline for color in VARIABLES)
    assert "var(" not in plain
    # the only colors left are those of matplotlib's white legend frames and the like: none
    assert set(re.findall(r"#[0-9a-f]{6}", inline)) <= {"#ffffff", "#000000"}


def test_text_stays_text_and_the_size_gives_way():
    inline, plain = themed_svg(drawing(), "a")
    assert "line $x$" in inline
    assert not re.search(r'<svg[^>]* (width|height)="', inline)
    assert re.search(r'<svg[^>]* width="', plain)


def test_names_keep_references_of_two_drawings_apart():
    ids = [set(re.findall(r'clipPath id="([^"]+)"', themed_svg(drawing(), n)[0])) for n in "ab"]
    assert ids[0]
    assert not ids[0] & ids[1]


def test_a_notebook_shows_a_figure_as_it_is():
    figure = coverage_plot(np.linspace(0, 1, 9))
    assert figure._repr_png_().startswith(b"\x89PNG")
