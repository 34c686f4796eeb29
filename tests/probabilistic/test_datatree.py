import arviz_stats
import numpy as np
import pyro.distributions as dist
import pytest
import torch
from probabilistic.problems import eight_schools, make_prior, schools_model
from pyro.infer import MCMC, NUTS
from torch import nn

from bayesprior.errors import ConfigError
from bayesprior.probabilistic import BayesianNetwork, samples_to_datatree
from bayesprior.tasks.likelihoods import Normal


def test_pyros_own_sampler_is_served():
    mcmc = MCMC(NUTS(schools_model, max_tree_depth=2), 60, 5, disable_progbar=True)
    mcmc.run(*eight_schools())
    samples = mcmc.get_samples(group_by_chain=True)
    tree = samples_to_datatree(samples, model=schools_model, data=eight_schools())
    np.testing.assert_allclose(
        tree["posterior"]["theta"].values,
        samples["mu"][..., None] + samples["tau"][..., None] * samples["eta"],
        rtol=1e-5,
    )
    errors, effects = eight_schools()
    theta = torch.as_tensor(tree["posterior"]["theta"].values)
    expected = torch.distributions.Normal(theta, errors).log_prob(effects)
    np.testing.assert_allclose(tree["log_likelihood"]["effect"].values, expected, rtol=1e-4)
    parts = [tree["log_prior"][n].values.reshape(1, 60) for n in ("mu", "tau", "eta")]
    joint = np.sum(parts, 0) + expected.sum(-1).numpy()
    np.testing.assert_allclose(tree["sample_stats"]["lp"].values, joint, rtol=1e-4)
    assert set(arviz_stats.psense_summary(tree, var_names=["mu"]).index) == {"mu"}


@pytest.fixture
def network():
    module = nn.Linear(3, 1)
    return BayesianNetwork(module, make_prior(module), Normal(std=1.0), 10)


def test_large_networks_are_shown_by_their_coordinates(network):
    prior = network.prior
    samples = {"weights": prior.sample((2, 5))}
    tree = samples_to_datatree(samples, networks={"weights": prior}, max_size=3)["posterior"]
    assert set(tree.data_vars) == {"weights_coordinate", "weights_mahalanobis"}
    np.testing.assert_allclose(tree["weights_mahalanobis"], prior.mahalanobis(samples["weights"]))
    assert tree["weights_coordinate"].shape == (2, 5, 2)
    assert "weights" in samples_to_datatree(samples)["posterior"]


@pytest.mark.parametrize(
    "shapes", [{"a": (5,)}, {"a": (2, 5), "b": (10,)}, {"a": (2, 5), "b": (2, 4)}, {}]
)
def test_samples_that_are_not_grouped(shapes):
    samples = {name: torch.zeros(shape) for name, shape in shapes.items()}
    with pytest.raises(ConfigError, match=r"get_samples\(group_by_chain=True\), got"):
        samples_to_datatree(samples)


def test_a_latent_site_without_samples(network):
    samples = {"weight": network.prior.loc.expand(1, 1, -1)}
    with pytest.raises(ConfigError, match="'weights' has no value; did you mean 'weight'.*samples"):
        samples_to_datatree(samples, model=network, data=(torch.randn(5, 3), torch.randn(5, 1)))


def test_the_likelihood_is_not_scaled_by_the_batch(network):
    x, y = torch.randn(5, 3), torch.randn(5, 1)
    samples = {"weights": network.prior.loc.expand(1, 1, -1)}
    tree = samples_to_datatree(samples, model=network, data=(x, y))
    network.prior.layout.load_(network.module, network.prior.loc)
    expected = Normal(std=1.0).log_prob(network.module(x), y)
    np.testing.assert_allclose(tree["log_likelihood"]["obs"][0, 0], expected.detach(), rtol=1e-5)


def test_a_prior_without_directions_has_no_coordinates():
    module = nn.Linear(3, 1)
    prior = make_prior(module, rank=0)
    samples = {"weights": prior.sample((2, 5))}
    tree = samples_to_datatree(samples, networks={"weights": prior}, max_size=3)
    assert set(tree["posterior"].data_vars) == {"weights_mahalanobis"}
    arviz_stats.summary(tree)


def test_each_draw_is_seen_at_its_own_width():
    module = nn.Linear(3, 1)
    prior = make_prior(module)
    model = BayesianNetwork(
        module, prior, Normal(std=1.0), 10, rms_std=dist.LogNormal(torch.tensor(0.0), 1.0)
    )
    widths = torch.tensor([[0.1, 10.0]])
    samples = {"rms_std": widths, "weights": prior.sample((1, 2))}
    data = torch.randn(5, 3), torch.randn(5, 1)
    tree = samples_to_datatree(samples, model=model, data=data, max_size=3)
    expected = [
        prior.rescale(rms_std=float(width)).mahalanobis(weights)
        for width, weights in zip(widths[0], samples["weights"][0], strict=True)
    ]
    found = tree["posterior"]["weights_mahalanobis"][0]
    np.testing.assert_allclose(found, torch.stack(expected), rtol=1e-5)
