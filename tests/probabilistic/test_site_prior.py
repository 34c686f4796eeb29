import pytest
import torch
from probabilistic.problems import make_prior
from torch import nn
from torch.distributions.transforms import identity_transform

from bayesprior.errors import ConfigError
from bayesprior.inference.protocols import WeightDistribution
from bayesprior.probabilistic.site_prior import SitePrior, closed_form
from bayesprior.probabilistic.sites import LatentSite
from bayesprior.weights.layout import ParameterLayout


def site(law, prefix=""):
    return LatentSite("weights", identity_transform, law.loc, law.layout, prefix, law)


def test_it_speaks_of_its_sites_only():
    first, second = make_prior(nn.Linear(2, 1)), make_prior(nn.Linear(3, 2))
    names = ("mu", "a.weight", "a.bias", "tau", "b.weight", "b.bias")
    layout = ParameterLayout(names, ((2,), (1, 2), (1,), (), (2, 3), (2,)))
    prior = SitePrior(layout, [site(first, "a."), site(second, "b.")])
    value = torch.randn(14)
    a, b = value[2:5], value[6:]
    score, log_prob = prior.score_and_log_prob(value)
    expected = torch.cat([torch.zeros(2), first.score(a), torch.zeros(1), second.score(b)])
    torch.testing.assert_close(score, expected)
    torch.testing.assert_close(prior.score(value), expected)
    exact = first.log_prob(a, torch.float64) + second.log_prob(b, torch.float64)
    torch.testing.assert_close(log_prob, exact, rtol=1e-5, atol=1e-5)
    assert torch.equal(prior.max_precision()[2:5], first.max_precision())
    assert torch.equal(prior.loc[6:], second.loc)
    assert not prior.loc[:2].any()
    assert not prior.max_precision()[5].any()


def test_one_site_of_one_chain_is_the_distribution_itself():
    law = make_prior(nn.Linear(2, 1))
    rest = LatentSite("mu", identity_transform, torch.zeros(()))
    assert closed_form(law.layout, [site(law)]) is law
    assert closed_form(ParameterLayout(("mu",), ((),)), [rest]) is None
    beside = ParameterLayout(("mu", *law.layout.names), ((), *law.layout.shapes))
    stacked = ParameterLayout(law.layout.names, ((5, 1, 2), (5, 1)))
    for layout, sites in ((beside, [rest, site(law)]), (stacked, [site(law)])):
        assert isinstance(closed_form(layout, sites), SitePrior)


def test_the_maps_are_those_of_the_sites_and_the_identity_elsewhere():
    law = make_prior(nn.Linear(2, 1), dtype=torch.float64)
    layout = ParameterLayout(("x", *law.layout.names), ((2,), *law.layout.shapes))
    prior, value = SitePrior(layout, [site(law)]), torch.randn(5).double()
    assert isinstance(prior, WeightDistribution)
    for name in ("gradient_in_z", "color", "whiten"):
        found = getattr(prior, name)(value)
        assert torch.equal(found[:2], value[:2])
        torch.testing.assert_close(found[2:], getattr(law, name)(value[2:]))
    torch.testing.assert_close(prior.whiten(prior.color(value)), value)
    assert prior.score(value, out=value) is value


@pytest.mark.parametrize("num_chains", [None, 1, 5])
def test_another_order_and_stacked_chains(num_chains):
    """The module's order is not the prior's: weights are found by their names."""
    law = make_prior(nn.Linear(2, 1))
    lead = () if num_chains is None else (num_chains,)
    layout = ParameterLayout(("bias", "x", "weight"), ((*lead, 1), lead, (*lead, 1, 2)))
    prior = SitePrior(layout, [site(law)])
    value = torch.randn(layout.dim)

    def own(flat):
        views = layout.unflatten(flat)
        return torch.cat([views["weight"].reshape(*lead, 2), views["bias"].reshape(*lead, 1)], -1)

    score, log_prob = prior.score_and_log_prob(value)
    torch.testing.assert_close(own(score), law.score(own(value)))
    exact = law.log_prob(own(value), torch.float64).sum()
    torch.testing.assert_close(log_prob, exact, rtol=1e-5, atol=1e-5)
    assert torch.equal(own(prior.loc), law.loc.expand(*lead, 3))
    assert torch.equal(own(prior.max_precision()), law.max_precision().expand(*lead, 3))
    assert not layout.unflatten(score)["x"].any()


def test_elsewhere_it_is_the_same():
    law = make_prior(nn.Linear(2, 1))
    layout = ParameterLayout(("x", *law.layout.names), ((), *law.layout.shapes))
    for where in (layout, law.layout):
        prior = SitePrior(where, [site(law)])
        value = torch.randn(prior.layout.dim)
        wide = prior.to(dtype=torch.float64)
        assert wide.loc.dtype == torch.float64
        torch.testing.assert_close(wide.score(value.double()).float(), prior.score(value))
        assert not prior.buffers
        with pytest.raises(ConfigError, match="distributions of its sites"):
            prior.save("prior.safetensors")
