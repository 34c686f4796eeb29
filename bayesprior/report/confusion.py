"""The confusion matrix."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from matplotlib.figure import Figure

from bayesprior.errors import DataError
from bayesprior.report.style import BLUE, Shown, styled

__all__ = ["confusion_matrix"]

MOST_CLASSES = 25


@styled
def confusion_matrix(counts: Int[np.ndarray, "C C"], names: Sequence[str]) -> Figure:
    """Draw how often each true class (a row) was given each answer (a column).

    Parameters
    ----------
    counts
        Numbers of points.
    names
        Of the C classes.

    Raises
    ------
    DataError
        If there are more classes than can be told apart.

    Examples
    --------
    >>> figure = confusion_matrix(np.array([[8, 2], [1, 9]]), ["cat", "dog"])
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['8', '2', '1', '9']
    """
    size = len(names)
    if size > MOST_CLASSES:
        raise DataError(f"{size} classes are too many for a matrix; see the most frequent mistakes")
    figure = Shown(figsize=(4.8, 4.8))
    axes = figure.subplots()
    rows, columns = np.nonzero(counts)
    found = counts[rows, columns]
    shares = 0.65 * found / counts.sum(1)[rows]
    axes.bar(columns, 1.0, 1.0, rows - 0.5, color=[(BLUE, share) for share in shares])
    cells = np.stack([rows, columns, found], 1).tolist()
    for row, column, count in cells if size <= 12 else ():
        axes.text(column, row, f"{count:,}", ha="center", va="center", fontsize=8)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(range(size), [name[:14] for name in names])
    axes.tick_params(axis="x", rotation=0 if max(map(len, names)) <= 2 else 90)
    axes.grid(visible=False)
    axes.set(xlabel="said", ylabel="is", aspect="equal")
    axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5))
    return figure
