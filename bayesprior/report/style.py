"""One look for every figure: readable on a phone, drawn once for light and dark pages.

Colors are written into the SVG as light hexadecimal values; `themed_svg` turns each of them into
a variable of the page's style sheet, so that the same drawing follows the page's theme.
"""

import functools
import io
import re
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

__all__ = [
    "BLUE",
    "COLORS",
    "GRAY",
    "GREEN",
    "INK",
    "ORANGE",
    "PURPLE",
    "styled",
    "themed_svg",
]

INK, LINE, GRAY = "#1d2126", "#d5d9df", "#8b929c"
BLUE, ORANGE, GREEN, PURPLE = "#2367ab", "#c4601a", "#2b8555", "#8256ab"
COLORS = (BLUE, ORANGE, GREEN, PURPLE, GRAY)
"""Colors of series, in order."""

VARIABLES = {
    INK: "--ink",
    LINE: "--line",
    GRAY: "--gray",
    BLUE: "--blue",
    ORANGE: "--orange",
    GREEN: "--green",
    PURPLE: "--purple",
}

STYLE: dict[str, Any] = {
    "figure.figsize": (4.8, 3.2),
    "figure.constrained_layout.use": True,
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none"),
    "font.family": "sans-serif",
    **dict.fromkeys(("font.size", "axes.titlesize", "axes.labelsize"), 10),
    "legend.fontsize": 9,
    "legend.frameon": False,
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "text.color"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("axes.grid", "axes.axisbelow"), True),
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    "lines.linewidth": 1.6,
    "svg.fonttype": "none",
    "axes.prop_cycle": cycler(color=COLORS),
    "text.parse_math": False,
}


class Shown(Figure):
    """A figure that a notebook shows where it is the cell's value, without pyplot."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", facecolor="white", dpi=110)
        return buffer.getvalue()


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Run a drawing function under the common style, leaving the caller's untouched."""

    @functools.wraps(draw)
    def wrapper(*args: Any, **kwargs: Any) -> Figure:
        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return wrapper


def themed_svg(figure: Figure, name: str) -> tuple[str, str]:
    """Return a figure as SVG, once for a page with our style sheet and once to stand alone.

    Parameters
    ----------
    figure
        Any figure drawn by this package's functions.
    name
        Unique on the page; makes the drawing's internal references unique and repeatable.
    """
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        plain = buffer.getvalue()
    plain = plain[plain.index("<svg") :]
    # fixed sizes would keep the drawing from shrinking to a phone
    inline = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", plain, count=1)
    inline = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", inline, count=1)
    inline = re.sub(r"<metadata>.*?</metadata>", "", inline, count=1, flags=re.DOTALL)
    for color, variable in VARIABLES.items():
        inline = inline.replace(color, f"var({variable})")
    return inline, plain
