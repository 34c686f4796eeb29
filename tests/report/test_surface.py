import copy

import matplotlib as mpl
import numpy as np
import pytest
import torch
from torch import nn

import bayesprior as bp
from bayesprior.errors import ConfigError, DataError, LayoutMismatchError
from bayesprior.inference.batch_norm import reestimate_
from bayesprior.inference.protocols import Draw
from bayesprior.report.plots import loss_surface
from bayesprior.report.surface import draw_surface, surface_values

N = 40
X = torch.randn(N, 3, generator=torch.Generator().manual_seed(0))
Y = X @ torch.tensor([1.0, -2.0, 0.5]) + 0.3
LAW = bp.Normal(std=0.5)
DATA = bp.from_arrays("line", (X, Y[:, None]), (X + 1, Y[:, None]))
XS, YS = next(iter(DATA.loader("train", N)))  # standardized


@pytest.fixture
def net():
    return nn.Linear(3, 1)


@pytest.fixture
def prior(net):
    g = torch.Generator().manual_seed(1)
    layout = bp.ParameterLayout.from_module(net)
    diag, factor = torch.full((4,), 0.2), torch.randn(4, 2, generator=g)
    return bp.GaussianWeights(layout, torch.randn(4, generator=g), diag, factor)


def points(prior, number):
    g = torch.Generator().manual_seed(2)
    made = [bp.PointPosterior(prior.layout, 2 * torch.randn(4, generator=g)) for _ in range(2)]
    return [prior, *made][:number]


def exact(weights, prior):
    """Data loss and negative log prior / N of the linear model, both quadratic in the weights."""
    w = weights.double()
    residual = YS[:, 0].double() - XS.double() @ w[:3] - w[3]
    loss = (residual**2).mean() / (2 * 0.5**2) + np.log(0.5 * np.sqrt(2 * np.pi))
    factor = prior.cov_factor.double()
    covariance = torch.diag(prior.cov_diag.double()) + factor @ factor.T
    off = w - prior.loc.double()
    return float(loss), float(off @ torch.linalg.solve(covariance, off)) / (2 * N)


@pytest.mark.parametrize("number", [2, 3])
def test_values_are_those_of_an_exact_quadratic(net, prior, number):
    ends = points(prior, number)
    state = copy.deepcopy(net.state_dict())
    found = surface_values(
        ends, module=net, data=DATA, prior=prior, likelihood=LAW, num_points=5, margin=0.5
    )
    assert dict(found.sizes) == dict.fromkeys(("x", "y")[: number - 1], 5) | {
        "end": number,
        "axis": number - 1,
    }
    assert found.attrs == {"num_examples": N, "batch_norm": "none"}
    start = prior.loc.double()
    first = ends[1].weights.double() - start
    units = [first / first.norm()]
    if number == 3:
        second = ends[2].weights.double() - start
        second = second - (second @ units[0]) * units[0]
        units.append(second / second.norm())
    for at in np.ndindex(*[5] * (number - 1)):
        steps = [found[axis].values[i] for axis, i in zip("xy", at, strict=False)]
        weights = start + sum(step * unit for step, unit in zip(steps, units, strict=True))
        loss, log_prior = exact(weights, prior)
        assert found.data_loss.values[at] == pytest.approx(loss, rel=1e-5)
        assert found.negative_log_prior.values[at] == pytest.approx(log_prior, rel=1e-5)
        assert found.posterior.values[at] == pytest.approx(loss + log_prior, rel=1e-5)
    span = float(first.norm())
    assert found.place.values[1] == pytest.approx([span, 0][: number - 1], abs=1e-9)
    if number == 2:
        np.testing.assert_allclose(found.x, np.linspace(-0.5 * span, 1.5 * span, 5))
    assert all(torch.equal(net.state_dict()[name], value) for name, value in state.items())


def test_the_mean_of_draws_a_network_and_another_order_of_names_will_do(net, prior):
    other = prior.layout.unflatten(prior.loc)
    turned = bp.ParameterLayout(("bias", "weight"), ((1,), (1, 3)))
    draw = torch.cat([other["bias"], other["weight"].flatten()])
    draws = bp.DrawsInMemory([Draw(0, i, draw + s) for i, s in enumerate((-1.0, 1.0))], turned)
    options = {"module": net, "data": DATA, "likelihood": LAW, "num_points": 3, "margin": 0.0}
    found = surface_values([draws, net], prior=prior, **options)
    assert found.negative_log_prior.values[0] == pytest.approx(0, abs=1e-9)
    with torch.no_grad():
        own = prior.layout.flatten(net)
    assert found.data_loss.values[2] == pytest.approx(exact(own, prior)[0], rel=1e-5)


def images(seed):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(N, 4, generator=g), torch.randint(0, 2, (N,), generator=g)


@pytest.mark.parametrize("moved", [False, True])
def test_batch_norm_is_kept_where_the_ends_share_it_and_estimated_anew_elsewhere(moved):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    net[1].running_mean.fill_(0.5)
    data = bp.from_arrays("two", images(3), images(4))
    a = bp.PointPosterior.from_module(net)
    weights = a.weights + torch.randn(len(a.weights))
    buffers = {n: b + 1 if moved else b for n, b in a.buffers.items()}
    b = bp.PointPosterior(a.layout, weights, buffers)
    found = surface_values([a, b], module=net, data=data, num_points=3, margin=0.0)
    assert ("anew" in found.attrs["batch_norm"]) == moved
    said = draw_surface(found).axes[-1].get_xlabel()
    assert ("(BatchNorm: statistics estimated anew at every point)" in said) == moved
    assert ("(BatchNorm: the statistics that the ends share)" in said) != moved
    middle = copy.deepcopy(net)
    a.layout.load_(middle, (a.weights + b.weights) / 2)
    inputs, targets = next(iter(data.loader("train", N)))
    if moved:
        reestimate_(middle, [(inputs, targets)])
    with torch.no_grad():
        expected = nn.functional.cross_entropy(middle.eval()(inputs), targets)
    assert found.data_loss.values[1] == pytest.approx(float(expected), rel=1e-5)
    assert net.training


def test_lines_and_planes_are_drawn(net, prior):
    before = dict(mpl.rcParams)
    options = {"module": net, "data": DATA, "likelihood": LAW, "prior": prior, "num_points": 5}
    line = loss_surface(*points(prior, 2), **options)
    values = surface_values(points(prior, 2), **options)
    for axes, name in zip(line.axes, ("data_loss", "negative_log_prior", "posterior"), strict=True):
        np.testing.assert_allclose(axes.lines[0].get_ydata(), values[name])
    assert [text.get_text() for text in line.axes[0].texts] == ["source", "MAP"]
    plane = loss_surface(*points(prior, 3), **options)
    assert [axes.get_title().split(":")[0] for axes in plane.axes] == [
        "data loss",
        "negative log prior / N",
        "their sum",
    ]
    assert len(draw_surface(values[["data_loss", "place"]]).axes) == 1
    assert dict(mpl.rcParams) == before


def test_what_spans_nothing_is_refused(net, prior):
    options = {"module": net, "data": DATA, "likelihood": LAW, "prior": prior}
    with pytest.raises(DataError, match="coincide or lie on a line"):
        loss_surface(prior, prior, **options)
    half = bp.PointPosterior(prior.layout, 2 * prior.loc)
    with pytest.raises(DataError, match="coincide or lie on a line"):
        loss_surface(bp.PointPosterior(prior.layout, torch.zeros(4)), prior, half, **options)
    with pytest.raises(LayoutMismatchError, match="lacks the weights bias"):
        loss_surface(prior, prior.marginal(["weight"]), **options)
    with pytest.raises(ConfigError, match="names must be one for each"):
        surface_values([prior], **options)
    with pytest.raises(ConfigError, match="weights or a network, got str"):
        loss_surface(prior, "map", **options)
