"""Partly Bayesian and hierarchical networks, their places and bad input."""

import copy
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from probabilistic.problems import make_prior
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoNormal, init_to_value
from torch import nn

from bayesprior.errors import ConfigError, DataError, LayoutMismatchError
from bayesprior.probabilistic import BayesianNetwork
from bayesprior.tasks.likelihoods import Categorical, Normal
from bayesprior.weights.layout import ParameterLayout


def classifier():
    return nn.Sequential(nn.Linear(2, 4), nn.Identity(), nn.Tanh(), nn.Linear(4, 3))


@pytest.fixture
def data():
    return torch.randn(10, 2), torch.randint(3, (10,))


@pytest.fixture
def model():
    module = classifier()
    return BayesianNetwork(module, make_prior(module), Categorical(), num_data=40)


class TestPartlyBayesian:
    @pytest.fixture
    def module(self):
        return nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3))

    @pytest.mark.parametrize("random", ["2.*", ["2.weight", "2.bias"], lambda n: n[0] == "2"])
    def test_the_rest_are_points_that_svi_optimizes(self, module, data, random):
        model = BayesianNetwork(module, make_prior(module), Categorical(), 40, random=random)
        assert model.prior.layout.names == ("2.weight", "2.bias")
        before = module[0].weight.detach().clone()
        untouched = module[2].weight.detach().clone()
        svi = SVI(model, AutoNormal(model), pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
        svi.step(*data)
        names = {n for n in pyro.get_param_store() if "$$$" in n}
        assert names == {"module$$$0.weight", "module$$$0.bias"}
        assert not torch.equal(module[0].weight, before)
        assert torch.equal(module[2].weight, untouched)

    def test_points_may_be_frozen(self, module, data):
        module[0].requires_grad_(False)
        model = BayesianNetwork(module, make_prior(module), Categorical(), 40)
        model(*data)
        assert not list(pyro.get_param_store())

    def test_module_local_params(self, module, data):
        with pyro.settings.context(module_local_params=True):
            model = BayesianNetwork(module, make_prior(module), Categorical(), 40, random="2.*")
            guide = AutoNormal(model)
            elbo = Trace_ELBO()(model, guide)
            elbo(*data).backward()
            assert module[0].weight.grad is not None
            assert not list(pyro.get_param_store())


class TestHyperpriors:
    def joint(self, model, values, conjugate):
        fixed = poutine.condition(model, values)
        return poutine.trace(fixed).get_trace(conjugate.x, conjugate.y).log_prob_sum()

    def test_width_and_noise(self, conjugate):
        width, noise = dist.LogNormal(-1.0, 0.5), dist.HalfCauchy(1.0)
        model = BayesianNetwork(
            conjugate.module, conjugate.prior, Normal, 12, rms_std=width, std=noise
        )
        weights = conjugate.prior.sample()
        values = {
            "weights": weights,
            "rms_std": torch.tensor(0.3, dtype=torch.float64, requires_grad=True),
            "std": torch.tensor(0.8, dtype=torch.float64, requires_grad=True),
        }
        found = self.joint(model, values, conjugate)
        conjugate.prior.layout.load_(conjugate.module, weights)
        outputs = conjugate.module(conjugate.x)
        expected = (
            width.log_prob(values["rms_std"])
            + noise.log_prob(values["std"])
            + conjugate.prior.rescale(rms_std=values["rms_std"]).log_prob(weights)
            + Normal(std=values["std"]).log_prob(outputs, conjugate.y).sum()
        )
        torch.testing.assert_close(found, expected)
        inputs = [values["rms_std"], values["std"]]
        torch.testing.assert_close(
            torch.autograd.grad(found, inputs), torch.autograd.grad(expected, inputs)
        )

    def test_an_instance_may_carry_the_argument(self, conjugate):
        model = BayesianNetwork(
            conjugate.module, conjugate.prior, Normal(std=1.0), 12, std=dist.HalfNormal(1.0)
        )
        trace = poutine.trace(model).get_trace(conjugate.x)
        noise = trace.nodes["obs"]["fn"].base_dist.scale
        torch.testing.assert_close(noise[0, 0], trace.nodes["std"]["value"].double())
        with pytest.raises(ConfigError, match=r"'std' is random.*likelihood_at"):
            _ = model.likelihood
        assert model.likelihood_at({"std": 0.7, "other": 3}).std == 0.7

    def test_guides_learn_them(self, conjugate):
        model = BayesianNetwork(
            conjugate.module,
            conjugate.prior,
            Normal,
            12,
            cov_scale=dist.LogNormal(0.0, 1.0),
            std=dist.HalfCauchy(1.0),
        )
        start = {"weights": conjugate.mean, "cov_scale": torch.ones(()), "std": torch.tensor(9.0)}
        guide = AutoNormal(model, init_loc_fn=init_to_value(values=start))
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.3}), Trace_ELBO())
        losses = [svi.step(conjugate.x, conjugate.y) for _ in range(15)]
        assert sum(losses[-4:]) < sum(losses[:4])
        assert set(guide.median()) == {"weights", "cov_scale", "std"}


class TestPlaces:
    def test_the_prior_follows(self, model, data):
        model.double()
        assert model.prior.loc.dtype == torch.float64
        assert model(data[0].double()).dtype == torch.float64
        assert model.to("cpu").prior.loc.device.type == "cpu"

    @pytest.mark.gpu
    def test_the_prior_follows_to_the_gpu(self, model, data):
        x, y = (t.cuda() for t in data)
        trace = poutine.trace(model.cuda()).get_trace(x, y)
        assert trace.log_prob_sum().device.type == "cuda"

    @pytest.mark.parametrize("copier", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
    def test_copies_are_equal(self, model, data, copier):
        fixed = {"weights": model.prior.sample()}
        found = [poutine.condition(m, fixed)(data[0]) for m in (model, copier(model))]
        torch.testing.assert_close(*found)

    def test_state_dict_is_the_modules(self, model):
        assert set(model.state_dict()) == {f"module.{n}" for n in model.module.state_dict()}


class TestBadInput:
    @pytest.mark.parametrize("num_data", [0, -3])
    def test_num_data(self, num_data):
        module = classifier()
        with pytest.raises(ConfigError, match="size of the training set"):
            BayesianNetwork(module, make_prior(module), Categorical(), num_data)

    def test_batch_larger_than_num_data(self, data):
        module = classifier()
        model = BayesianNetwork(module, make_prior(module), Categorical(), 5)
        with pytest.raises(ConfigError, match="batch of 10 is larger than num_data = 5"):
            model(*data)

    @pytest.mark.parametrize("parallel", [False, True])
    def test_any_number_of_points_is_predicted(self, data, parallel):
        module = classifier()
        model = BayesianNetwork(module, make_prior(module), Categorical(), 5)
        found = Predictive(model, num_samples=3, parallel=parallel)(data[0])
        assert found["obs"].shape == (3, 10)

    def test_a_pattern_that_is_almost_right(self, data):
        module = nn.ModuleDict({"body": nn.Linear(2, 2), "head": nn.Linear(2, 3)})
        with pytest.raises(ConfigError, match=r"matches no parameter; did you mean 'head\.\*'"):
            BayesianNetwork(module, make_prior(module), Categorical(), 10, random="haed.*")

    def test_prior_of_another_layout(self):
        other = nn.Linear(5, 5)
        with pytest.raises(LayoutMismatchError, match="weight"):
            BayesianNetwork(classifier(), make_prior(other), Categorical(), 10)

    def test_a_parameter_without_prior(self):
        module = classifier()
        prior = make_prior(module).marginal(["0.weight", "0.bias"])
        with pytest.raises(LayoutMismatchError, match="says nothing of.*'3.weight'.*extend"):
            BayesianNetwork(module, prior, Categorical(), 10)

    def test_a_guide_that_optimizes_the_prior(self, model, data):
        guide = AutoDelta(model, init_loc_fn=init_to_value(values={"weights": model.prior.loc}))
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
        svi.step(*data)
        with pytest.raises(ConfigError, match="changed in place.*prior.loc.clone"):
            svi.step(*data)

    def test_pattern_without_match(self):
        module = classifier()
        with pytest.raises(ConfigError, match="matches no parameter"):
            BayesianNetwork(module, make_prior(module), Categorical(), 10, random="head.*")

    @pytest.mark.parametrize(
        ("likelihood", "hyperpriors", "message"),
        [
            (Normal(std=1.0), {"scale": dist.HalfNormal(1.0)}, "cannot be made.*'scale'"),
            (Normal, {"scale": dist.HalfNormal(1.0)}, "cannot be made from the hyperpriors"),
            (Normal, {}, "cannot be made from the hyperpriors"),
            (
                Normal(std=1.0),
                {"std": dist.Normal(0.0, 1.0)},
                "Normal cannot.*noise std must be pos",
            ),
            (Categorical(), {"rms_std": 0.1}, "must be a distribution"),
            (Categorical(), {"rms_std": dist.Normal(0.1, 1.0)}, "needs a positive.*got Normal"),
        ],
    )
    def test_hyperprior_that_fits_nothing(self, likelihood, hyperpriors, message):
        module = classifier()
        with pytest.raises(ConfigError, match=message):
            BayesianNetwork(module, make_prior(module), likelihood, 10, **hyperpriors)

    def test_width_of_nothing(self):
        module = nn.Linear(2, 1)
        layout = ParameterLayout.from_module(module)
        prior = make_prior(module).marginal([]).extend(layout, std=1.0)
        width = dist.LogNormal(0.0, 1.0)
        with pytest.raises(ConfigError, match="shared block"):
            BayesianNetwork(module, prior, Normal(std=1.0), 10, rms_std=width)

    def test_hyperparameters_are_not_vectorized(self, conjugate):
        model = BayesianNetwork(
            conjugate.module, conjugate.prior, Normal, 12, std=dist.HalfNormal(1.0)
        )
        with pytest.raises(ConfigError, match="cannot be vectorized"):
            Predictive(model, num_samples=3, parallel=True)(conjugate.x)

    def test_bad_targets(self, model):
        with pytest.raises(DataError, match="labels must be in"):
            model(torch.randn(3, 2), torch.tensor([0, 1, 7]))

    def test_outputs_of_another_batch(self):
        module = nn.Sequential(nn.Flatten(0), nn.Linear(6, 3), nn.Unflatten(0, (1, 3)))
        model = BayesianNetwork(module, make_prior(module), Categorical(), 10)
        with pytest.raises(DataError, match="do not belong to a batch of 3 inputs"):
            model(torch.randn(3, 2))
