"""What a potential asks of a model's sites and plates; one clear error each."""

import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from probabilistic.problems import eight_schools, network_problem, schools_model
from pyro import poutine
from pyro.infer.autoguide.initialization import init_to_value

from bayesprior.errors import ConfigError
from bayesprior.probabilistic import PyroPotential
from bayesprior.probabilistic.sites import call_model, is_latent


def test_which_sites_are_latent():
    trace = poutine.trace(schools_model).get_trace(*eight_schools())
    assert [n for n, site in trace.nodes.items() if is_latent(site)] == ["mu", "tau", "eta"]


@pytest.mark.parametrize(
    ("batch", "expected"),
    [((1, 2), (1, 2)), ([1, 2], (1, 2)), ({"a": 1, "b": 2}, (1, 2)), (1, (1, None))],
)
def test_batches_are_arguments(batch, expected):
    assert call_model(lambda a, b=None: (a, b), batch) == expected


class TestSites:
    def check(self, model, batch, message, **options):
        with pytest.raises(ConfigError, match=message) as caught:
            PyroPotential(model, batch, **options)
        assert "\n" not in str(caught.value)

    def test_discrete_latent(self):
        def model(y):
            z = pyro.sample("z", dist.Bernoulli(0.3))
            with pyro.plate("data", 4):
                pyro.sample("y", dist.Normal(z, 1.0), obs=y)

        self.check(model, torch.zeros(4), "'z' .Bernoulli. is discrete")
        enumerated = pyro.infer.config_enumerate(model, default="parallel")
        self.check(enumerated, torch.zeros(4), "discrete or enumerated")

    def test_latent_in_a_subsampled_plate(self):
        def model(y):
            with pyro.plate("data", 100, subsample_size=len(y)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("y", dist.Normal(z, 1.0), obs=y)

        self.check(model, torch.zeros(4), "'z' lies in the subsampled plate 'data'")

    def test_support_of_another_latent(self):
        def model(y):
            top = pyro.sample("top", dist.LogNormal(0.0, 1.0))
            low = pyro.sample("low", dist.Uniform(0.0, top))
            with pyro.plate("data", 4):
                pyro.sample("y", dist.Normal(low, 1.0), obs=y)

        self.check(model, torch.zeros(4), "support of the latent site 'low'")

    def test_latents_that_change(self):
        def model(y):
            mean = pyro.sample("mean" if len(y) == 4 else "man", dist.Normal(0.0, 1.0))
            with pyro.plate("data", 10, subsample_size=len(y)):
                pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

        potential = PyroPotential(model, torch.zeros(4))
        with pytest.raises(
            ConfigError, match="latent site 'man' has no value.*'mean'.*same latent sites"
        ):
            potential(torch.zeros(5))

    def test_latents_that_vanish(self):
        def model(y):
            mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
            if len(y) == 4:
                pyro.sample("more", dist.Normal(0.0, 1.0))
            with pyro.plate("data", 10, subsample_size=len(y)):
                pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

        potential = PyroPotential(model, torch.zeros(4))
        with pytest.raises(ConfigError, match="'more' did not occur"):
            potential(torch.zeros(5))

    def test_latents_that_change_their_shape(self):
        def model(y):
            mean = pyro.sample("mean", dist.Normal(torch.zeros(len(y)), 1.0).to_event(1))
            with pyro.plate("data", 10, subsample_size=len(y)):
                pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

        potential = PyroPotential(model, torch.zeros(4))
        with pytest.raises(
            ConfigError, match=r"'mean' has shape \(4,\), its .* \(5,\).*every call"
        ):
            potential(torch.zeros(5))

    def test_plate_as_large_as_the_batch(self):
        def model(y):
            mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
            with pyro.plate("data", len(y)):
                pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

        self.check(model, torch.zeros(4), "num_data = 40.*hold 4; give the plate", num_data=40)
        potential = PyroPotential(model, torch.zeros(4))
        with pytest.raises(ConfigError, match="plate 'data' of site 'y' stands for 3 data now"):
            potential(torch.zeros(3))

    def test_batch_larger_than_the_plate(self):
        def model(y):
            mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
            with pyro.plate("data", 3, subsample_size=len(y)):
                pyro.sample("y", dist.Normal(mean, 1.0).expand([len(y)]), obs=y)

        self.check(model, torch.zeros(4), "batch of 4 is larger than the plate 'data' of 3")

    def test_only_subsampled_plates_count(self):
        def model(y):
            mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
            data = pyro.plate("data", 600, subsample_size=len(y), dim=-1)
            with data, pyro.plate("dims", 3, dim=-2):
                pyro.sample("y", dist.Normal(mean, 1.0), obs=y.T)

        for size in (10, 600):
            for given in (None, 600):
                assert PyroPotential(model, torch.zeros(size, 3), num_data=given).num_data == 600
        self.check(model, torch.zeros(10, 3), "num_data = 1800.*hold 600", num_data=1800)

    def test_scaling_by_hand(self):
        """N / B as Pyro's older models have it, with a smaller last batch."""

        def model(y):
            mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
            with poutine.scale(scale=100 / len(y)), pyro.plate("data", len(y)):
                pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

        def plated(y):
            mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
            with pyro.plate("data", 100, subsample_size=len(y)):
                pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

        first, last = torch.randn(30), torch.randn(10)
        potential, other = (PyroPotential(m, first) for m in (model, plated))
        assert potential.is_subsampled
        assert potential.num_data == 100
        for batch in (first, last):
            torch.testing.assert_close(potential(batch), other(batch))
        assert PyroPotential(model, first, num_data=50).num_data == 50  # a tempered likelihood
        potential._model = (poutine.scale(model, scale=0.5),)
        with pytest.raises(ConfigError, match="stands for 50 data now and for 100 before"):
            potential(first)

    def test_what_cannot_be_vectorized(self):
        def model(y):
            probs = pyro.sample("probs", dist.Dirichlet(torch.ones(2, 2)).to_event(1))
            with pyro.plate("data", 5):
                law = dist.DiscreteHMM(torch.zeros(2), probs.log(), dist.Normal(torch.ones(2), 1.0))
                pyro.sample("y", law, obs=y)

        y = torch.randn(5, 7)
        PyroPotential(model, y)(y).backward()
        potential = PyroPotential(model, y, num_chains=2)
        with warnings.catch_warnings(action="ignore"):
            with pytest.raises(ConfigError, match="use chain_method='sequential'") as caught:
                potential(y)
        assert "\n" not in str(caught.value)

    def test_initial_value_of_another_shape(self):
        wrong = init_to_value(values={"mu": torch.zeros(3)})
        with pytest.raises(ConfigError, match=r"value of 'mu' has shape \(3,\), its .* \(\)"):
            PyroPotential(schools_model, eight_schools(), init_strategy=wrong)

    def test_num_data_missing(self):
        def model(y):
            mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(mean, 1.0).expand([4]).to_event(1), obs=y)

        self.check(model, torch.zeros(4), "num_data is missing")
        self.check(model, torch.zeros(4), "size of the training set", num_data=0)
        assert PyroPotential(model, torch.zeros(4), num_data=4).num_data == 4

    def test_nothing_latent(self):
        self.check(lambda y: pyro.sample("y", dist.Normal(0.0, 1.0), obs=y), 0.0, "no latent site")

    def test_impossible_start(self):
        far = init_to_value(values={"tau": torch.tensor(math.inf)})
        self.check(schools_model, eight_schools(), "initial values", init_strategy=far)

    def test_number_of_chains(self):
        self.check(schools_model, eight_schools(), "num_chains", num_chains=0)

    def test_prior_that_changes(self):
        model, batch = network_problem()
        potential = PyroPotential(model, batch)
        model.prior = model.prior.rescale(rms_std=0.1)
        with pytest.raises(ConfigError, match="prior of 'weights' is another object than before"):
            potential(batch)
