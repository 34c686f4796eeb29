import math

import pytest
import scipy.stats
import torch

from bayesprior.errors import ConfigError
from bayesprior.tasks.numbers import HeteroscedasticNormal
from bayesprior.testing import check_likelihood

MEAN, STD = torch.tensor([10.0, -3.0]).double(), torch.tensor([4.0, 0.5]).double()


def case():
    law = HeteroscedasticNormal(MEAN, STD)
    return law, torch.randn(5, 4).double(), MEAN + STD * torch.randn(5, 2).double()


def test_contract_in_the_units_of_the_targets():
    check_likelihood(*case())


def test_density_and_moments_are_those_of_the_targets_own_unit():
    law, outputs, targets = case()
    f, s = outputs.chunk(2, 1)
    expected = scipy.stats.norm(MEAN + STD * f, STD * (s / 2).exp()).logpdf(targets).sum(1)
    torch.testing.assert_close(law.log_prob(outputs, targets), torch.from_numpy(expected))
    moments = law.predictive(outputs)
    torch.testing.assert_close(moments.mean, MEAN + STD * f)
    torch.testing.assert_close(moments.variance, STD**2 * s.exp())


def test_the_gradients_do_not_depend_on_the_unit():
    _, outputs, targets = case()
    grads = []
    for factor in (1.0, 1e5):
        law = HeteroscedasticNormal(factor * MEAN, factor * STD)
        leaf = outputs.clone().requires_grad_()
        law.log_prob(leaf, factor * targets).sum().backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(*grads)


def test_units_come_from_targets():
    targets = torch.stack([torch.arange(8.0), torch.full((8,), 7.0)], 1)
    law = HeteroscedasticNormal.of_targets(targets)
    torch.testing.assert_close(law.target_mean, torch.tensor([3.5, 7.0]))
    torch.testing.assert_close(law.target_std, torch.tensor([math.sqrt(5.25), 1.0]))


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [(0.0, 0.0, "target_std must be positive"), (math.nan, 1.0, "target_mean must be finite")],
)
def test_units_are_checked(mean, std, message):
    with pytest.raises(ConfigError, match=message):
        HeteroscedasticNormal(mean, std)
