"""The prior in other people's hands: hand-written models, a TyXe-like design, numpy, NumPyro."""

import json

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import safetensors
import safetensors.numpy
import torch
from probabilistic.problems import make_prior
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoLowRankMultivariateNormal, AutoNormal, init_to_value
from torch import nn
from torch.func import functional_call

from bayesprior.probabilistic import BayesianNetwork, PyroPotential, StochasticGradientMCMC
from bayesprior.tasks.likelihoods import Categorical, Normal
from bayesprior.weights.gaussian import GaussianWeights


@pytest.fixture
def network():
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))


@pytest.fixture
def data():
    x = torch.randn(12, 2)
    return x, x.sum(1, keepdim=True).tanh() + 0.1 * torch.randn(12, 1)


class TestHandWritten:
    """Nothing of ours but the prior: ``pyro.sample``, views by name, ``functional_call``."""

    @pytest.fixture
    def model(self, network):
        prior = make_prior(network)

        def model(x, y=None):
            weights = pyro.sample("w", prior)
            noise = pyro.sample("noise", dist.LogNormal(-1.0, 0.5))
            mean = functional_call(network, prior.layout.unflatten(weights), (x,))
            with pyro.plate("data", 12, subsample_size=len(x)):
                return pyro.sample("y", dist.Normal(mean[:, 0], noise), obs=y)

        return model

    def test_svi(self, model, data):
        x, y = data
        svi = SVI(model, AutoNormal(model), pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
        assert np.isfinite([svi.step(x, y[:, 0]) for _ in range(3)]).all()

    def test_nuts(self, model, data):
        kernel = NUTS(model, max_tree_depth=2)
        mcmc = MCMC(kernel, num_samples=5, warmup_steps=5, disable_progbar=True)
        mcmc.run(data[0], data[1][:, 0])
        samples = mcmc.get_samples()
        assert samples["w"].shape == (5, 13)
        assert Predictive(model, samples)(data[0])["y"].shape == (5, 12)

    def test_our_samplers(self, model, network, data):
        x, y = data
        potential = PyroPotential(model, (x[:4], y[:4, 0]))
        assert potential.prior is not None  # the closed form is found in anyone's model
        assert list(potential.sites) == ["w", "noise"]
        assert set(potential.layout.names) == {*dict(network.named_parameters()), "noise"}

    def test_guide_from_the_same_family(self, model, data):
        """A posterior that a low-rank guide found is the next prior."""
        prior = make_prior(nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)))
        guide = AutoLowRankMultivariateNormal(
            poutine.condition(model, {"noise": torch.tensor(0.3)}), rank=3
        )
        guide(data[0], data[1][:, 0])
        found = guide.get_posterior()
        law = GaussianWeights(
            prior.layout, found.loc.detach(), found.cov_diag.detach(), found.cov_factor.detach()
        )
        value = law.sample()
        torch.testing.assert_close(law.log_prob(value), found.log_prob(value), rtol=1e-4, atol=1e-3)


class VariationalNetwork:
    """TyXe's design in a few lines: net, prior, likelihood and guide are exchanged separately."""

    def __init__(self, net, prior, likelihood, guide, num_data, expose=None):
        self.model = BayesianNetwork(net, prior, likelihood, num_data, random=expose)
        self.start = init_to_value(values={"weights": self.model.prior.loc.clone()})
        self.guide = guide(self.model, init_loc_fn=self.start)

    def fit(self, batches, num_epochs, lr=0.05):
        svi = SVI(self.model, self.guide, pyro.optim.Adam({"lr": lr}), Trace_ELBO())
        return [sum(svi.step(*batch) for batch in batches) for _ in range(num_epochs)]

    def predict(self, x, num_draws):
        sites = Predictive(self.model, guide=self.guide, num_samples=num_draws, parallel=True)
        return sites(x)["obs"]

    def update_prior(self):
        """Variational continual learning: yesterday's posterior is today's prior."""
        found = self.guide.get_posterior()
        self.model.prior = GaussianWeights(
            self.model.prior.layout, found.mean.detach().clone(), found.variance.detach()
        )


class TestTyxeStyle:
    @pytest.mark.parametrize("shape", ["isotropic", "diagonal", "low-rank"])
    @pytest.mark.parametrize("guide", [AutoDelta, AutoNormal, AutoLowRankMultivariateNormal])
    def test_every_part_is_exchanged_alone(self, network, data, shape, guide):
        full = make_prior(network)
        prior = {"isotropic": full.isotropic(), "diagonal": full.diagonal()}.get(shape, full)
        bnn = VariationalNetwork(network, prior, Normal(std=0.3), guide, 12)
        assert np.isfinite(bnn.fit([data], 2)).all()
        assert bnn.predict(data[0], 4).shape == (4, 12, 1)

    def test_another_likelihood(self, data):
        net = nn.Linear(2, 3)
        bnn = VariationalNetwork(net, make_prior(net), Categorical(), AutoNormal, 12)
        bnn.fit([(data[0], torch.randint(3, (12,)))], 2)
        assert bnn.predict(data[0], 4).shape == (4, 12)

    @pytest.mark.parametrize(
        ("expose", "count"), [("2.*", 4), (lambda name: name != "0.bias", 10), ("*.weight", 9)]
    )
    def test_expose_and_hide_by_name(self, network, data, expose, count):
        bnn = VariationalNetwork(
            network, make_prior(network), Normal(std=0.3), AutoNormal, 12, expose
        )
        bnn.fit([data], 1)
        assert bnn.guide.median()["weights"].shape == (count,)

    def test_continual_learning(self, network, data):
        bnn = VariationalNetwork(
            network,
            make_prior(network),
            Normal(std=0.3),
            lambda model, init_loc_fn: AutoLowRankMultivariateNormal(
                model, rank=2, init_loc_fn=init_loc_fn
            ),
            12,
        )
        bnn.fit([data], 2)
        bnn.update_prior()
        assert np.isfinite(bnn.fit([data], 1)).all()
        mcmc = StochasticGradientMCMC(torch_sgd, lr=1e-3)
        mcmc.run(bnn.model, [data], num_samples=2, progress=False)
        assert mcmc.get_samples()["weights"].shape == (2, 13)


def torch_sgd(groups, *, num_data, seed, lr):
    return torch.optim.SGD(groups, lr=lr)


class TestArrays:
    """Without torch: the file's arrays are the law."""

    @pytest.fixture
    def saved(self, network, tmp_path):
        prior = make_prior(network).rescale(rms_std=0.3)
        prior.save(tmp_path / "prior.safetensors")
        return prior, tmp_path / "prior.safetensors"

    def read(self, path):
        arrays = safetensors.numpy.load_file(path)
        shared = arrays["cov_rows"].shape[1]
        diag = arrays["cov_diag"].copy()
        diag[:shared] *= arrays["cov_scale"]
        factor = np.zeros((len(diag), len(arrays["cov_rows"])), diag.dtype)
        factor[:shared] = arrays["cov_rows"].T * np.sqrt(arrays["cov_scale"])
        return arrays["loc"], diag, factor

    def test_numpy(self, saved):
        prior, path = saved
        loc, diag, factor = (array.astype(np.float64) for array in self.read(path))
        value = prior.sample()
        residual = value.numpy() - loc
        cov = np.diag(diag) + factor @ factor.T
        log_det = np.linalg.slogdet(cov)[1]
        mahalanobis = residual @ np.linalg.solve(cov, residual)
        expected = -0.5 * (mahalanobis + log_det + len(loc) * np.log(2 * np.pi))
        found = prior.log_prob(value, dtype=torch.float64).item()
        assert found == pytest.approx(expected, rel=1e-5)

    def test_names_of_the_numbers(self, saved):
        prior, path = saved
        with safetensors.safe_open(path, "np") as file:
            layout = json.loads(file.metadata()["layout"])
        assert [(n, tuple(s)) for n, s in layout] == list(
            zip(prior.layout.names, prior.layout.shapes, strict=True)
        )

    def test_numpyro(self, saved):
        numpyro = pytest.importorskip("numpyro")
        prior, path = saved
        loc, diag, factor = self.read(path)
        law = numpyro.distributions.LowRankMultivariateNormal(loc, factor, diag)
        value = prior.sample()
        assert float(law.log_prob(value.numpy())) == pytest.approx(
            prior.log_prob(value).item(), rel=1e-3
        )
