import pyro.distributions as dist
import pytest
import torch

from bayesprior.probabilistic.stacked import StackedDistribution


@pytest.mark.parametrize("lead", [(3,), (2, 3), (1,)])
def test_it_is_a_reshape(lead):
    stacks = torch.Size(lead).numel()
    base = dist.Normal(torch.randn(stacks * 4, 2), 1.0).to_event(1)
    law = StackedDistribution(base, lead)
    assert law.batch_shape == (*lead, 4)
    assert law.event_shape == (2,)
    value = torch.randn(4, 2)
    expected = base.log_prob(value.repeat(stacks, 1)).reshape(*lead, 4)
    torch.testing.assert_close(law.log_prob(value), expected)
    torch.testing.assert_close(law.log_prob(value.expand(*lead, 4, 2)), expected)
    assert law.sample((5,)).shape == (5, *lead, 4, 2)
    torch.manual_seed(1)
    flat = base.rsample((5,))
    torch.manual_seed(1)
    torch.testing.assert_close(law.rsample((5,)).reshape(flat.shape), flat)


def test_what_it_says_of_itself():
    law = StackedDistribution(dist.Categorical(logits=torch.zeros(6, 3)), (2,))
    assert not law.has_rsample
    assert law.support.is_discrete
    assert law.mask(False).batch_shape == (2, 3)
