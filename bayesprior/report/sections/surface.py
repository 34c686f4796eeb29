"""The loss surface: what the prior changes between its mean and the fit."""

from bayesprior.report.context import Context
from bayesprior.report.document import Item
from bayesprior.report.surface import draw_surface

__all__ = ["items"]


def items(context: Context) -> list[Item]:
    """Show data loss, prior and posterior along the line from the prior's mean to the fit."""
    if "surface" not in context.tree.children:
        return []
    found = context.tree["surface"].dataset
    caption = (
        f"Along the straight line, and beyond both ends: the mean loss of "
        f"{int(found.attrs['num_examples'])} training examples, the prior's part, and their sum. "
        "A MAP lies where the sum is least; a draw of a posterior lies farther out, by the width "
        "of all directions together. Where the sum's minimum is that of the data alone, the prior "
        "says little along this line; other directions are not seen."
    )
    return list(context.picture("From the prior's mean to the fit", caption, draw_surface, found))
