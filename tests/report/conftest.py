import pytest
import torch
from made_runs import (
    case,
    labels,
    make_prediction,
    numbers,
    rng,
    run,
    run_factory,
    run_factory_module,
)

from bayesprior.inference.posteriors import PointPosterior
from bayesprior.prediction.predict import predict
from bayesprior.tasks.pixels import PixelCategorical

__all__ = [
    "case",
    "labels",
    "make_prediction",
    "numbers",
    "rng",
    "run",
    "run_factory",
    "run_factory_module",
]


@pytest.fixture
def maps():
    """A factory of predictions of 6 maps of 9 x 8 pixels, with or without their maps kept."""
    net = torch.nn.Conv2d(3, 4, 3, padding=1)
    g = torch.Generator().manual_seed(1)
    frames = [
        (torch.randn(1, 3, 9, 8, generator=g), torch.randint(0, 4, (1, 9, 8), generator=g))
        for _ in range(6)
    ]
    posterior = PointPosterior.from_module(net)

    def make(keep_maps):
        return predict(net, posterior, frames, PixelCategorical(), keep_maps=keep_maps)

    return make
