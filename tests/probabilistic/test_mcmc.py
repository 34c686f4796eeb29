import warnings
from inspect import signature

import arviz_stats
import pyro
import pyro.distributions as dist
import pytest
import torch
from probabilistic.problems import eight_schools, make_prior, network_problem, schools_model
from pyro import poutine
from pyro.infer import MCMC
from pyro.infer.autoguide.initialization import init_to_sample
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from bayesprior.errors import ConfigError, DataError, DivergenceError
from bayesprior.inference.generators import fold_seed
from bayesprior.inference.optimizers import SGHMC, SGLD
from bayesprior.inference.schedules import cyclical
from bayesprior.prediction.predict import predict
from bayesprior.probabilistic import BayesianNetwork, StochasticGradientMCMC
from bayesprior.tasks.likelihoods import Categorical

SCHOOLS = [eight_schools()]
QUICK = {"num_samples": 6, "warmup_steps": 2, "progress": False}


def schools(kernel=SGHMC, **run):
    options = {"friction": 0.5} if kernel is SGHMC else {}
    mcmc = StochasticGradientMCMC(kernel, lr=0.5, **options)
    mcmc.run(schools_model, SCHOOLS, **(QUICK | run))
    return mcmc


@pytest.fixture
def network():
    module = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    x = torch.randn(30, 2)
    data = TensorDataset(x, (x[:, 0] > 0).long())
    return BayesianNetwork(module, make_prior(module), Categorical(), 30), data


class TestSamples:
    @pytest.mark.parametrize("chain_method", ["sequential", "vectorized"])
    @pytest.mark.parametrize("kernel", [SGLD, SGHMC])
    def test_shapes_and_support(self, kernel, chain_method):
        mcmc = schools(kernel, num_chains=3, chain_method=chain_method)
        grouped = mcmc.get_samples(group_by_chain=True)
        shapes = {name: tuple(value.shape) for name, value in grouped.items()}
        assert shapes == {"mu": (3, 6), "tau": (3, 6), "eta": (3, 6, 8)}
        assert (grouped["tau"] > 0).all()
        for name, value in mcmc.get_samples().items():
            assert torch.equal(value, grouped[name].flatten(0, 1))
        assert len(grouped["mu"][:, -1].unique()) == 3

    def test_seeds_decide(self):
        first, again, other = (schools(seed=seed).get_samples()["mu"] for seed in (3, 3, 4))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_chains_of_neighboring_seeds_have_nothing_in_common(self):
        runs = [
            schools(seed=seed, num_chains=3).get_samples(group_by_chain=True)["mu"]
            for seed in range(3)
        ]
        assert len(torch.cat(runs)[:, -1].unique()) == 9

    def test_the_global_generator_is_left_alone(self):
        before = torch.get_rng_state()
        schools(init_strategy=init_to_sample, num_chains=2)
        assert torch.equal(torch.get_rng_state(), before)

    def test_schedules(self):
        schedule = cyclical(num_steps=20, num_cycles=2, draws_per_cycle=3)
        mcmc = StochasticGradientMCMC(SGLD, lr=0.5)
        mcmc.run(schools_model, SCHOOLS, schedule=schedule, num_steps=20, progress=False)
        assert mcmc.get_samples()["mu"].shape == (6,)

    def test_options_of_single_sites(self):
        """A frozen site: no temperature and (almost) no step."""
        frozen = {"tau": {"lr": 1e-12, "temperature": 0.0}}
        mcmc = StochasticGradientMCMC(SGLD, lr=0.5, site_options=frozen)
        mcmc.run(schools_model, SCHOOLS, **QUICK)
        tau = mcmc.get_samples()["tau"]
        torch.testing.assert_close(tau, tau[:1].expand(6))

    def test_kernels_may_be_anyones(self):
        def kernel(groups, *, num_data, seed, lr):
            assert (num_data, seed) == (8, fold_seed(5, 0))
            return torch.optim.SGD(groups, lr=lr)

        mcmc = StochasticGradientMCMC(kernel, lr=0.1)
        mcmc.run(schools_model, SCHOOLS, seed=5, **QUICK)
        assert mcmc.get_samples()["eta"].shape == (6, 8)

    def test_words_are_those_of_pyros_mcmc(self):
        ours = {*signature(StochasticGradientMCMC.run).parameters}
        assert {"num_samples", "warmup_steps", "num_chains"} <= ours & {*signature(MCMC).parameters}
        theirs = {*signature(MCMC.get_samples).parameters}
        assert {*signature(StochasticGradientMCMC.get_samples).parameters} <= theirs
        text = " ".join(StochasticGradientMCMC.__doc__.split())
        assert "Words are those of `pyro.infer.MCMC`" in text
        assert "warm-up adapts nothing, no step is rejected, and there is no ``diagn" in text

    def test_batches_that_are_scaled_by_hand(self):
        def model(y):
            mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
            with poutine.scale(scale=20 / len(y)), pyro.plate("data", len(y)):
                pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

        mcmc = StochasticGradientMCMC(SGLD, lr=0.1)
        mcmc.run(model, DataLoader(torch.zeros(20), batch_size=8), **QUICK)
        assert mcmc.potential.num_data == 20

    def test_progress_is_shown(self, capsys):
        schools(progress=True, num_chains=2)
        assert "chain 2 of 2" in capsys.readouterr().err


class TestNetworks:
    @pytest.mark.parametrize("chain_method", ["sequential", "vectorized"])
    def test_from_the_loader_to_predictions(self, network, tmp_path, chain_method):
        model, data = network
        loader = DataLoader(data, batch_size=10, shuffle=True)
        mcmc = StochasticGradientMCMC(SGLD, lr=1e-3)
        mcmc.run(model, loader, num_chains=2, chain_method=chain_method, **QUICK)
        posterior = mcmc.posterior()
        assert posterior.layout == model.prior.layout
        draws = list(posterior.draws())
        expected = [(chain, index) for chain in range(2) for index in range(6)]
        assert sorted((d.chain, d.index) for d in draws) == expected
        samples = mcmc.get_samples(group_by_chain=True)["weights"]
        for draw in draws:
            assert torch.equal(draw.weights, samples[draw.chain, draw.index])
        assert {d.index for d in posterior.draws(4)} == {2, 5}
        evaluation = DataLoader(data, batch_size=16)
        prediction = predict(model.module, posterior, evaluation, Categorical(), progress=False)
        assert prediction.log_likelihood.shape == (12, 30)

    @pytest.mark.gpu
    @pytest.mark.parametrize("chain_method", ["sequential", "vectorized"])
    def test_on_the_gpu(self, network, chain_method):
        model, data = network
        mcmc = StochasticGradientMCMC(SGHMC, lr=1e-3, friction=0.1)
        options = {"num_chains": 2, "chain_method": chain_method}
        mcmc.run(model.cuda(), DataLoader(data, batch_size=10), **options, **QUICK)
        assert next(mcmc.potential.parameters()).device.type == "cuda"
        assert mcmc.get_samples()["weights"].device.type == "cpu"
        tree = mcmc.to_datatree(data.tensors)
        assert tree["log_likelihood"]["obs"].shape == (2, 6, 30)

    def test_no_such_network(self, network):
        with pytest.raises(ConfigError, match="no latent site 'weights' with a GaussianWeights"):
            schools().posterior()

    def test_dropout_is_warned_of(self, network):
        _, data = network
        mcmc = StochasticGradientMCMC(SGLD, lr=1e-3)
        module = nn.Sequential(nn.Linear(2, 30), nn.Dropout(0.5), nn.Linear(30, 2))
        model = BayesianNetwork(module, make_prior(module), Categorical(), 30)
        with pytest.warns(UserWarning, match="dropout in train mode"):
            mcmc.run(model.train(), [data.tensors], **QUICK)
        with warnings.catch_warnings(action="error"):
            mcmc.run(model.eval(), [data.tensors], **QUICK)

    def test_the_model_runs_once_before_the_first_step(self, network):
        model, data = network
        counts = []

        def counted(x, y):
            counts.append(len(x))
            model(x, y)

        def kernel(groups, *, num_data, seed):
            assert len(counts) == 1
            return torch.optim.SGD(groups, lr=1e-3)

        StochasticGradientMCMC(kernel).run(counted, DataLoader(data, 10), **QUICK)
        assert len(counts) == 1 + 8 + 2  # of them two for the comparison at the first step


class TestArviz:
    def test_summary(self):
        table = schools(num_chains=2).summary()
        assert {"mean", "sd", "r_hat"} <= set(table.columns)
        assert {"mu", "tau", "eta[7]"} <= set(table.index)

    def test_datatree(self):
        tree = schools(num_chains=2, num_samples=60).to_datatree(SCHOOLS[0])
        assert tree["posterior"]["theta"].shape == (2, 60, 8)
        assert set(tree["log_prior"].data_vars) == {"mu", "tau", "eta"}
        with warnings.catch_warnings(action="ignore"):  # few draws, heavy tails
            loo = arviz_stats.loo(tree, pointwise=True)
        assert loo.elpd_i.shape == (8,)

    def test_a_random_width_is_not_taken_at_its_start(self):
        """Positions under the initial width would be wrong; with data each draw has its own."""
        model, batch = network_problem(rms_std=dist.LogNormal(-1.0, 0.5))
        mcmc = StochasticGradientMCMC(SGLD, lr=1e-3)
        mcmc.run(model, [batch], **QUICK)
        alone = mcmc.to_datatree(max_size=3)["posterior"]
        assert set(alone.data_vars) == {"rms_std"}
        found = mcmc.to_datatree(batch, max_size=3)["posterior"]["weights_mahalanobis"]
        samples = mcmc.get_samples()
        for distance, width, weights in zip(
            found.values[0], samples["rms_std"], samples["weights"], strict=True
        ):
            own = model.prior.rescale(rms_std=float(width)).mahalanobis(weights)
            assert distance == pytest.approx(float(own), rel=1e-5)


class TestBadInput:
    def check(self, message, model=schools_model, loader=SCHOOLS, **options):
        mcmc = StochasticGradientMCMC(SGLD, lr=0.1)
        with pytest.raises(ConfigError, match=message) as caught:
            mcmc.run(model, loader, **(QUICK | options))
        assert "\n" not in str(caught.value)

    def test_options(self):
        self.check("must be one of .*'vectorized'", chain_method="vectorised")
        self.check("num_chains must be at least 1", num_chains=0)
        self.check("needs num_samples", num_samples=None)
        self.check("needs num_samples", num_samples=0)
        schedule = cyclical(num_steps=20, num_cycles=2)
        self.check("says itself which draws", schedule=schedule)
        late = cyclical(num_steps=2000, num_cycles=1)
        options = {"num_samples": None, "warmup_steps": 0, "num_steps": 10}
        self.check("keeps no draw in 10 steps", schedule=late, **options)

    def test_no_such_site(self):
        mcmc = StochasticGradientMCMC(SGLD, lr=0.1, site_options={"tua": {"lr": 1.0}})
        with pytest.raises(ConfigError, match="no latent site 'tua'; did you mean 'tau'"):
            mcmc.run(schools_model, SCHOOLS, **QUICK)

    def test_no_such_option_of_a_site(self):
        mcmc = StochasticGradientMCMC(SGLD, lr=0.1, site_options={"tau": {"temprature": 0.0}})
        with pytest.raises(ConfigError, match="temprature.*; did you mean 'temperature'"):
            mcmc.run(schools_model, SCHOOLS, **QUICK)

    @pytest.mark.parametrize("loader", [eight_schools(), torch.zeros(3), {"y": 1}])
    def test_one_batch_in_place_of_a_loader(self, loader):
        self.check(r"must yield batches.*\[\(x, y\)\]", loader=loader)

    def test_several_batches_of_a_model_without_subsampling(self):
        def model(y):
            mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
            with pyro.plate("data", len(y)):
                pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

        loader = DataLoader(torch.zeros(20), batch_size=10)
        self.check("has 2 batches but the model takes each one for all", model, loader)

    def test_a_plate_over_dimensions_counts_no_data(self):
        def model(y):
            mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
            data = pyro.plate("data", 60, subsample_size=len(y), dim=-1)
            with data, pyro.plate("dims", 3, dim=-2):
                pyro.sample("y", dist.Normal(mean, 1.0), obs=y.T)

        mcmc = StochasticGradientMCMC(SGLD, lr=0.1)
        mcmc.run(model, DataLoader(torch.zeros(60, 3), batch_size=20), **QUICK)
        assert mcmc.potential.num_data == 60

    def test_another_number_of_data(self, network):
        model, data = network
        model.num_data = 31
        self.check("data set has 30 examples .* num_data = 31", model, DataLoader(data, 10))

    def test_too_many_draws_for_memory(self):
        def model(y):
            mean = pyro.sample("mean", dist.Normal(torch.zeros(2**18), 1.0).to_event(1))
            with pyro.plate("data", 3):
                pyro.sample("y", dist.Normal(mean.mean(), 1.0), obs=y)

        self.check("GiB of memory; keep them on disk", model, [torch.zeros(3)], num_samples=4096)

    def test_another_number_of_data_in_batches_of_a_sampler(self, network):
        model, data = network
        model.num_data = 31
        loader = DataLoader(data, batch_sampler=[[0, 1], [2, 3]])
        self.check("data set has 30 examples .* num_data = 31", model, loader)

    def test_bad_targets_of_a_later_batch(self, network):
        model, data = network
        x, y = data.tensors
        mcmc = StochasticGradientMCMC(SGLD, lr=1e-3)
        with pytest.raises(DataError, match="labels must be in"):
            mcmc.run(model, [(x[:10], y[:10]), (x[10:], y[10:] + 5)], **QUICK)

    def test_empty_loader(self):
        self.check("yields no batch", loader=[])

    def test_before_the_first_run(self):
        with pytest.raises(ConfigError, match="call run"):
            StochasticGradientMCMC(SGLD, lr=0.1).get_samples()

    def test_divergence(self):
        mcmc = StochasticGradientMCMC(SGLD, lr=1e30)
        with pytest.raises(DivergenceError, match="lr"):
            mcmc.run(schools_model, SCHOOLS, **QUICK)
