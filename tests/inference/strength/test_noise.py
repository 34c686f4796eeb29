import math

import pytest
import torch
from scipy import stats
from torch import nn

from bayesprior.errors import ConfigError
from bayesprior.inference.generators import generator
from bayesprior.inference.strength.features import head_inputs
from bayesprior.inference.strength.noise import feature_noise
from bayesprior.models import SmallConvNet
from bayesprior.tasks.protocols import inputs_forward
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout


def moved_shares(net, inputs, delta, num_draws):
    """Squared shares of the spread by which fresh noise moves the features."""
    still, _ = head_inputs(net, "head", [inputs], forward=inputs_forward)
    spread = (still - still.mean(0)).square().sum()
    shares = []
    for _ in range(num_draws):
        noisy = SmallConvNet(1, 3, widths=(8, 16))
        noisy.load_state_dict(net.state_dict())
        with torch.no_grad():
            for p in noisy.backbone.parameters():
                p.add_(delta * torch.randn_like(p))
        found, _ = head_inputs(noisy, "head", [inputs], forward=inputs_forward)
        shares.append(float((found - still).square().sum() / spread))
    return torch.tensor(shares)


def test_noise_moves_the_features_by_the_share_that_was_asked_for():
    net, inputs = SmallConvNet(1, 3, widths=(8, 16)), torch.randn(40, 1, 8, 8)
    kept = {name: value.clone() for name, value in net.state_dict().items()}
    delta = feature_noise(net, inputs, num_draws=20)
    assert all(torch.equal(value, kept[name]) for name, value in net.state_dict().items())
    assert net.training
    shares = moved_shares(net, inputs, delta, 60)
    # 20 draws chose delta so that their mean is .35^2 (to a percent); 60 others are judged by it
    error = shares.std() * math.sqrt(1 / 20 + 1 / 60)
    tolerance = 0.35**2 * 0.02
    assert abs(float(shares.mean()) - 0.35**2) < stats.norm.isf(1e-6) * error + tolerance


def test_the_noise_is_a_function_of_the_seed_and_not_of_the_head():
    net, inputs = SmallConvNet(1, 3, widths=(8, 16)), torch.randn(20, 1, 8, 8)
    delta = feature_noise(net, inputs)
    nn.init.zeros_(net.head.weight)
    state = torch.get_rng_state()
    assert feature_noise(net, list(inputs.split(5))) == pytest.approx(delta, rel=1e-4)
    assert torch.equal(torch.get_rng_state(), state)
    assert feature_noise(net, inputs, seed=1) != delta


def test_noise_by_tensor_is_in_units_of_its_own_weights():
    net = nn.Sequential(nn.Linear(16, 64, bias=False), nn.Linear(64, 2))
    inputs = torch.randn(30, 16)
    share = feature_noise(net, inputs, by_tensor=True)
    unit = float(net[0].weight.detach().square().mean().sqrt())
    assert share * unit == pytest.approx(feature_noise(net, inputs), rel=0.02)


def test_noise_of_a_law_is_a_share_of_its_width():
    net = nn.Sequential(nn.Linear(16, 64, bias=False), nn.Linear(64, 2))
    inputs, layout = torch.randn(30, 16), ParameterLayout.from_module(net)
    point = GaussianWeights.point(layout, torch.zeros(layout.dim), std=0.2)
    share = feature_noise(net, inputs, law=point, num_draws=40)
    assert share * 0.2 == pytest.approx(feature_noise(net, inputs, num_draws=40), rel=0.03)
    # a law of one direction: the last layer's weights are no part of the noise, linear ones' exact
    rows = torch.zeros(1, layout.dim)
    rows[0, :1024] = 1.0
    law = GaussianWeights(layout, torch.zeros(layout.dim), torch.full((layout.dim,), 1e-12), rows.T)
    share = feature_noise(net, inputs, law=law, num_draws=40)
    still = inputs @ net[0].weight.detach().T
    spread = (still - still.mean(0)).square().sum().sqrt()
    moved = 8 * inputs.sum(1).square().sum().sqrt()  # by 1 of every weight: 64 equal features
    draws = torch.tensor([_direction(law, draw) for draw in range(40)])
    expected = 0.35 * spread / (moved * draws.square().mean().sqrt())
    assert share == pytest.approx(float(expected), rel=1e-3)


def _direction(law, draw):
    z = torch.randn(law.dim, generator=generator("cpu", 0, "law noise", draw))
    return float(law.displacement(z)[0])


def test_features_that_do_not_move_are_refused():
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with pytest.raises(ConfigError, match="no weight in front of it is trainable"):
        feature_noise(net, torch.randn(4, 16))
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    with pytest.raises(ConfigError, match="do not vary"):
        feature_noise(net, torch.ones(5, 4))
