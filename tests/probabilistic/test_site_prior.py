import torch
from probabilistic.problems import make_prior
from torch import nn

from bayesprior.probabilistic.site_prior import SitePrior
from bayesprior.weights.layout import ParameterLayout


def test_it_speaks_of_its_sites_only():
    first, second = make_prior(nn.Linear(2, 1)), make_prior(nn.Linear(3, 2))
    layout = ParameterLayout(("mu", "a", "tau", "b"), ((2,), (3,), (), (8,)))
    prior = SitePrior(layout, {"a": first, "b": second})
    value = torch.randn(14)
    a, b = value[2:5], value[6:]
    score, log_prob = prior.score_and_log_prob(value)
    expected = torch.cat([torch.zeros(2), first.score(a), torch.zeros(1), second.score(b)])
    torch.testing.assert_close(score, expected)
    torch.testing.assert_close(prior.score(value), expected)
    exact = first.log_prob(a, torch.float64) + second.log_prob(b, torch.float64)
    torch.testing.assert_close(log_prob, exact, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(prior.log_prob(value), exact)
    assert torch.equal(prior.max_precision()[2:5], first.max_precision())
    assert torch.equal(prior.loc[6:], second.loc)
    assert not prior.loc[:2].any()
    assert not prior.max_precision()[5].any()


def test_one_site_of_one_chain_is_the_law_itself():
    law = make_prior(nn.Linear(2, 1))
    prior = SitePrior(ParameterLayout(("weights",), ((3,),)), {"weights": law})
    value = torch.randn(3)
    assert torch.equal(prior.score(value), law.score(value))
    assert prior.score_and_log_prob(value)[1] == law.score_and_log_prob(value)[1]


def test_stacked_chains():
    law = make_prior(nn.Linear(2, 1))
    prior = SitePrior(ParameterLayout(("weights",), ((5, 3),)), {"weights": law})
    value = torch.randn(5, 3)
    torch.testing.assert_close(prior.score(value.flatten()).view(5, 3), law.score(value))
    exact = law.log_prob(value, torch.float64).sum()
    torch.testing.assert_close(prior.log_prob(value.flatten()), exact)
    assert torch.equal(prior.loc.view(5, 3), law.loc.expand(5, 3))
    assert torch.equal(prior.max_precision().view(5, 3)[1], law.max_precision())
