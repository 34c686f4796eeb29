import numpy as np
import pytest
import torch
from inference.optimizers.cases import SAMPLERS
from torch import nn

from bayesprior.errors import ConfigError
from bayesprior.inference.optimizers.sgld import SGLD


class GivenNoise(SGLD):
    """With numbers that are known in place of its own."""

    def draw_noise(self, group, params):
        return [self.given]


def test_update_is_its_formula():
    start, g, xi = torch.randn(3, 4, 5, dtype=torch.float64)
    w = start.clone().requires_grad_()
    sampler = GivenNoise([w], lr=0.3, temperature=0.6, num_data=7)
    w.grad, sampler.given = g, xi
    sampler.step()
    expected = start - 0.3 * g + np.sqrt(2 * 0.3 * 0.6 / 7) * xi
    torch.testing.assert_close(w.detach(), expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_temperature_zero_is_torch_sgd_on_a_network(dtype, layout):
    def train(make):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
        net = net.to(dtype=dtype, memory_format=layout)
        optimizer = make(net.parameters())
        for _ in range(5):
            optimizer.zero_grad()
            net(torch.randn(8, 2, 6, 6).to(dtype)).square().mean().backward()
            optimizer.step()
        return torch.cat([p.detach().flatten() for p in net.parameters()])

    cold = train(lambda p: SGLD(p, lr=0.05, num_data=8, temperature=0.0))
    assert torch.equal(cold, train(lambda p: torch.optim.SGD(p, lr=0.05)))
    if dtype != torch.bfloat16:
        warm = train(lambda p: SGLD(p, lr=0.05, num_data=8))
        assert (warm != cold).all()


def test_the_stationary_variance_in_the_docstring():
    sgld = SAMPLERS[0]
    for x in (0.01, 0.5, 1.9):
        assert sgld.variance_ratio(x) == pytest.approx(1 / (1 - x / 2), rel=1e-12)


def test_refusals_name_the_value():
    w = torch.zeros(1, requires_grad=True)
    with pytest.raises(ConfigError, match="num_data must be positive and finite, got -3"):
        SGLD([w], lr=0.1, num_data=-3)
    with pytest.raises(ConfigError, match="lr must be positive and finite, got inf"):
        SGLD([w], lr=float("inf"), num_data=3)
