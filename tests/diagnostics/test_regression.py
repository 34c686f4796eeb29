import numpy as np
import pytest
import torch
import xarray as xr
from scipy.stats import kstest
from torch import nn

from bayesprior.diagnostics.regression import coverage, pit_values, rank_distance
from bayesprior.errors import DataError
from bayesprior.inference.posteriors import PointPosterior
from bayesprior.prediction.predict import predict
from bayesprior.tasks.likelihoods import Normal
from bayesprior.tree.build import to_datatree


def predicted(true_std, num_points=4000, outputs=2, bias=0.0):
    """Targets of a known noise around a line, predicted with a standard deviation of 1."""
    g = torch.Generator().manual_seed(0)
    line = nn.Linear(3, outputs)
    x = torch.randn(num_points, 3, generator=g)
    noise = true_std * torch.randn(num_points, outputs, generator=g)
    loader = [(x, line(x).detach() + noise + bias)]
    return predict(line, PointPosterior.from_module(line), loader, Normal(std=1.0))


def test_ranks_of_an_honest_model_are_uniform_and_covered():
    pit = pit_values(to_datatree(test=predicted(1.0))["predictions"].dataset)
    assert len(pit) == 8000
    assert kstest(pit, "uniform").pvalue > 1e-6
    distance, chance, bound = rank_distance(pit)
    assert bound == pytest.approx(distance + 1.960 * 0.5 / np.sqrt(len(pit)), abs=1e-3)
    assert distance == kstest(pit, "uniform").statistic
    # the asymptotic 5 % point of sqrt(N) D is 1.358
    assert chance == pytest.approx(1.358 / np.sqrt(8000), rel=1e-2)
    for level in (0.5, 0.9):
        z = (coverage(pit, level) - level) / np.sqrt(level * (1 - level) / 8000)
        assert abs(z) < 5


def test_ranks_are_those_that_were_kept():
    data = to_datatree(test=predicted(1.0, num_points=5))["predictions"].dataset
    of_moments = pit_values(data.drop_vars("rank"))
    np.testing.assert_allclose(pit_values(data), of_moments)  # of one draw, which is normal
    np.testing.assert_array_equal(pit_values(data.assign(rank=data["rank"] / 2)), of_moments / 2)
    with pytest.raises(DataError, match="10 predictions or targets are NaN"):
        pit_values(data.assign(rank=data["rank"] * np.nan))


@pytest.mark.parametrize("name", ["mean", "variance", "target"])
def test_missing_parts_and_nan_are_named(name):
    data = to_datatree(test=predicted(1.0, num_points=5))["predictions"].dataset
    data = data.drop_vars("rank")  # as in files that were written before ranks were kept
    with pytest.raises(DataError, match=f"hold no {name}"):
        pit_values(data.drop_vars(name))
    broken = xr.where(data[name] == data[name].values.ravel()[0], np.nan, data[name])
    with pytest.raises(DataError, match="predictions or targets are NaN"):
        pit_values(data.assign({name: broken}))
