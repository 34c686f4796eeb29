"""What lies in a run's tree beside its own results: other methods' results, and images to show."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Shaped

from bayesprior.diagnostics.compare import MethodResult
from bayesprior.diagnostics.outcomes import ImageOutcome, LabelOutcome, NumberOutcome
from bayesprior.diagnostics.predictions import AnyOutcome, Outcome
from bayesprior.errors import DataError
from bayesprior.prediction.images import ImageSums
from bayesprior.tree.maps import DIMS, sums_of

__all__ = ["image_group", "images_of", "method_group", "methods_of"]

_CLASSES = ("probs", "targets", "log_score", "aleatoric", "epistemic")
_NUMBERS = ("mean", "variance", "targets", "log_score", "ranks", "crps")
_LABELS = ("probs", "targets", "log_score")


def method_group(result: MethodResult) -> xr.Dataset:
    """Return a method's results as a group, of dims (seed, point, class_name, label or output).

    Raises
    ------
    DataError
        If the outcomes of its seeds are not of the same labeled points.
    """
    variables: dict[str, Any] = {}
    first, last = result.outcomes[0], "class_name"
    fields: tuple[str, ...] = _CLASSES
    if isinstance(first, NumberOutcome):
        last, fields = "output", tuple(n for n in _NUMBERS if getattr(first, n) is not None)
    elif isinstance(first, LabelOutcome):
        last, fields = "label", _LABELS
    elif isinstance(first, ImageOutcome):
        fields = ImageSums._fields
    for name in fields:
        parts: list[Any] = [getattr(getattr(o, "images", o), name, None) for o in result.outcomes]
        if any(part is None or np.shape(part) != np.shape(parts[0]) for part in parts):
            raise DataError(f"the results of {result.name!r} are not of the same labeled points")
        values = np.stack(parts)
        dims = DIMS.get(name, (last,))
        variables[name] = (("seed", "point", *dims)[: values.ndim], values)
    attrs: dict[str, Any] = {"method": result.name, "is_dense": int(result.outcomes[0].is_dense)}
    if result.seconds is not None:
        attrs["seconds"] = float(result.seconds)
    return xr.Dataset(variables, {"seed": list(result.by_seed())}, attrs)


def methods_of(tree: xr.DataTree) -> list[MethodResult]:
    """Return the methods that lie in a tree, in order."""
    out: list[MethodResult] = []
    while (group := f"methods_{len(out)}") in tree.children:
        data = tree[group].dataset
        name, is_dense = str(data.attrs["method"]), bool(data.attrs["is_dense"])
        outcomes: list[AnyOutcome] = []
        for i in range(data.sizes["seed"]):
            if (sums := sums_of(data.isel(seed=i))) is not None:
                outcomes.append(ImageOutcome(name, sums))
            elif "mean" in data:
                own = {n: data[n].values[i] for n in _NUMBERS if n in data}
                outcomes.append(NumberOutcome(name, **own))
            elif "label" in data.dims:
                outcomes.append(LabelOutcome(name, *(data[n].values[i] for n in _LABELS)))
            else:
                own = {n: data[n].values[i] for n in _CLASSES}
                outcomes.append(Outcome(name=name, is_dense=is_dense, **own))
        seeds = [int(seed) for seed in data.seed.values]
        out.append(MethodResult(name, outcomes, seeds, data.attrs.get("seconds")))
    return out


def image_group(images: Mapping[int, Shaped[np.ndarray, "H W *channels"]]) -> xr.Dataset:
    """Return raw images of one shape, by their position in the test set, as a group."""
    pixels = np.stack(list(images.values()))
    dims = ("shown", "row", "column", "channel")[: pixels.ndim]
    return xr.Dataset({"pixels": (dims, pixels)}, {"shown": list(images)})


def images_of(tree: xr.DataTree) -> dict[int, np.ndarray]:
    """Return the images that lie in a tree, by their position in the test set."""
    if "images" not in tree.children:
        return {}
    data = tree["images"].dataset
    return {int(i): image for i, image in zip(data.shown.values, data.pixels.values, strict=True)}
