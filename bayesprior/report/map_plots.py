"""The report's figure of masks."""

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from bayesprior.report.style import Shown, styled

__all__ = ["class_colors", "mask_grid"]


def class_colors(num_classes: int) -> np.ndarray:
    """Return a color (RGB in [0, 1]) for each class, and gray for what does not count."""
    palette = colormaps["tab20"].colors if num_classes <= 20 else None  # type: ignore[attr-defined]
    spread = colormaps["turbo"](np.linspace(0, 1, num_classes))[:, :3]
    colors = spread if palette is None else np.array(palette[:num_classes])
    return np.concatenate([colors, [[0.85, 0.85, 0.85]]])


@styled
def mask_grid(data: xr.Dataset) -> Figure:
    """Draw images beside their labels, the answers, and the entropy of each pixel.

    Parameters
    ----------
    data
        Of `bayesprior.tree.maps.map_group`.
    """
    names = [str(name) for name in data.class_name.values]
    colors, top = class_colors(len(names)), max(np.log(len(names)), 1e-9)
    columns = [c for c in ("pixels", "target", "answer", "entropy") if c in data]
    titles = {"pixels": "image", "target": "labels", "answer": "answer", "entropy": "entropy"}
    count = data.sizes["shown"]
    figure = Shown(figsize=(4.8, 0.55 + 1.15 * count + 0.16 * -(-len(names) // 4)))
    grid = figure.subplots(count, len(columns), squeeze=False)
    for row, axes_of_row in enumerate(grid):
        for name, axes in zip(columns, axes_of_row, strict=True):
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            axes.grid(visible=False)
            values = data[name].values[row]
            if name in ("target", "answer"):
                axes.imshow(colors[np.where(values < len(names), values, len(names))])
            elif name == "entropy":
                axes.imshow(values, cmap="magma", vmin=0, vmax=top)
                axes.set_xlabel(f"mean {values.mean():.2f}", fontsize=7)
            else:
                axes.imshow(values, cmap="gray", vmin=0, vmax=255 if values.dtype == "uint8" else 1)
            if row == 0:
                axes.set_title(titles[name], fontsize=8)
    shown = np.unique(np.concatenate([data[c].values.ravel() for c in columns[1:-1]]))
    patches = [Patch(color=colors[i], label=names[i]) for i in shown[shown < len(names)]]
    figure.legend(handles=patches, loc="outside lower center", ncols=4, fontsize=7)
    return figure
