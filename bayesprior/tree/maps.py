"""Images whose pixels are predicted, in a run's tree: sums of every one, maps of a few."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Shaped

from bayesprior.prediction.images import ImageSums
from bayesprior.prediction.results import Prediction

__all__ = ["DIMS", "map_group", "sum_variables", "sums_of"]

DIMS = {"confusion": ("truth", "answer"), "bins": ("sum", "bin"), "losses": ("loss",)}
"""Of each sum, beside the images."""


def sum_variables(sums: ImageSums | None) -> dict[str, Any]:
    """Return the sums as variables of a group of predictions."""
    found = {} if sums is None else sums._asdict()
    return {name: (("point", *DIMS[name]), np.asarray(value)) for name, value in found.items()}


def sums_of(data: Mapping[Any, Any]) -> ImageSums | None:
    """Return the sums that lie in a group of predictions; None if none do."""
    if not all(name in data for name in DIMS):
        return None
    return ImageSums(*(torch.from_numpy(np.array(data[name].values)) for name in DIMS))


def map_group(
    images: Mapping[int, Shaped[np.ndarray, "H W *channels"]],
    prediction: Prediction,
    class_names: Sequence[str],
) -> xr.Dataset:
    """Return a few images of one size with their maps, by their position in the test set.

    Parameters
    ----------
    images
        As they are shown.
    prediction
        Of these images in this order, its maps kept.
    class_names
        Of the C classes.
    """
    assert prediction.mean_probs is not None, "the maps were kept"
    pixels = np.stack(list(images.values()))
    variables: dict[str, Any] = {
        "pixels": (("shown", "y", "x", "channel")[: pixels.ndim], pixels),
        "answer": (("shown", "row", "column"), np.asarray(prediction.mean_probs.argmax(1))),
        "entropy": (("shown", "row", "column"), np.asarray(prediction.predictive_entropy)),
    }
    if prediction.targets is not None:
        variables["target"] = (("shown", "row", "column"), np.asarray(prediction.targets))
    coords = {"shown": list(images), "class_name": list(class_names)}
    return xr.Dataset(variables, coords)
