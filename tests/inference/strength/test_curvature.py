import pytest
import torch
from torch import nn

from bayesprior.errors import DataError
from bayesprior.inference.strength.curvature import largest_curvature
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout


def half_square(module, batch):
    return module(batch).square().mean() / 2, {}


def test_it_is_the_norm_of_the_hessian_in_the_laws_coordinates():
    """Of a quadratic loss, whose differences of gradients are exact; batches weigh as they are."""
    module = nn.Sequential(nn.Linear(4, 1), nn.Dropout(0.5)).double()
    inputs = torch.randn(30, 4, dtype=torch.float64)
    layout = ParameterLayout.from_module(module)
    law = GaussianWeights(
        layout,
        torch.randn(5, dtype=torch.float64),
        torch.rand(5, dtype=torch.float64) + 0.1,
        torch.randn(5, 2, dtype=torch.float64),
    )
    kept = layout.flatten(module)
    found = largest_curvature(module, half_square, inputs.split(8), law, num_products=100)
    design = torch.cat([inputs, torch.ones(30, 1, dtype=torch.float64)], 1)
    hessian = design.T @ design / 30
    root = law.displacement(torch.eye(5, dtype=torch.float64))
    assert found == pytest.approx(float(torch.linalg.matrix_norm(root @ hessian @ root.T, 2)))
    assert torch.equal(layout.flatten(module), kept)
    assert module.training
    assert all(p.grad is None for p in module.parameters())


def test_a_flat_loss_has_none():
    module = nn.Linear(2, 1)
    layout = ParameterLayout.from_module(module)
    law = GaussianWeights.point(layout, torch.zeros(3), std=1.0)
    flat = lambda net, batch: (net(batch).mean() * 0, {})  # noqa: E731
    assert largest_curvature(module, flat, [torch.ones(3, 2)], law) == 0
    with pytest.raises(DataError, match="no batches"):
        largest_curvature(module, flat, [], law)
