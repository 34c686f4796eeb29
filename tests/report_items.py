"""What tests of the report pick out of a section's items."""

from bayesprior.report.document import Picture, Table


def tables(items):
    return {item.title: item for item in items if isinstance(item, Table)}


def pictures(items):
    return {item.title: item for item in items if isinstance(item, Picture)}


def column(table, key):
    return [row.get(key) for row in table.rows]


def line(axes, start):
    """Points (N, 2) of the one line whose label begins so."""
    [found] = [drawn for drawn in axes.lines if drawn.get_label().startswith(start)]
    return found.get_xydata()
