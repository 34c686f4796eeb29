import dataclasses

import numpy as np
import torch
import xarray as xr

from bayesprior.inference.posteriors import PointPosterior
from bayesprior.prediction.predict import predict
from bayesprior.tasks.pixels import PixelCategorical
from bayesprior.tree.maps import map_group, sum_variables, sums_of


def prediction(**options):
    net = torch.nn.Conv2d(3, 4, 1)
    batch = (torch.randn(2, 3, 5, 6), torch.randint(0, 4, (2, 5, 6)))
    return predict(net, PointPosterior.from_module(net), [batch], PixelCategorical(), **options)


def test_sums_come_back_from_a_group():
    found = prediction().images
    data = xr.Dataset(sum_variables(found))
    for kept, read in zip(found, sums_of(data), strict=True):
        assert torch.equal(kept, read)
    assert sums_of(data.drop_vars("bins")) is None
    assert sum_variables(None) == {}


def test_maps_of_a_few_images():
    found = prediction(keep_maps=True)
    images = {7: np.zeros((8, 9, 3), np.uint8), 2: np.ones((8, 9, 3), np.uint8)}
    data = map_group(images, found, ["a", "b", "c", "d"])
    assert data.shown.values.tolist() == [7, 2]
    assert data.pixels.dims == ("shown", "y", "x", "channel")
    assert (data.answer.values == found.mean_probs.argmax(1).numpy()).all()
    assert (data.target.values == found.targets.numpy()).all()
    assert data.entropy.shape == (2, 5, 6)
    unlabeled = dataclasses.replace(found, targets=None)
    gray = {0: np.zeros((5, 6)), 1: np.zeros((5, 6))}
    data = map_group(gray, unlabeled, ["a", "b", "c", "d"])
    assert "target" not in data
    assert data.pixels.dims == ("shown", "y", "x")
