import pytest
import torch
from made_runs import case, make_prediction, rng, run, run_factory, run_factory_module

from bayesprior.inference.posteriors import PointPosterior
from bayesprior.prediction.predict import predict
from bayesprior.tasks.likelihoods import Normal
from bayesprior.tasks.pixels import PixelCategorical

__all__ = ["case", "make_prediction", "rng", "run", "run_factory", "run_factory_module"]


@pytest.fixture
def numbers():
    """Predictions of 200 numbers by the law that made them."""
    line = torch.nn.Linear(3, 1)
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(200, 1, generator=torch.Generator().manual_seed(1))
    batch = (x, (line(x) + noise).detach())
    return predict(line, PointPosterior.from_module(line), [batch], Normal(std=1.0))


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
