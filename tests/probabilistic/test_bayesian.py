import copy

import pyro
import pytest
import scipy.stats
import torch
from probabilistic.problems import make_prior
from pyro import poutine
from pyro.contrib.autoname import scope
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import (
    AutoNormal,
)
from pyro.infer.inspect import get_model_relations
from pyro.nn import PyroModule
from torch import nn

from bayesprior.probabilistic import BayesianNetwork, RandomNetwork
from bayesprior.tasks.likelihoods import Categorical, HeteroscedasticNormal, Normal
from bayesprior.tasks.pixels import PixelCategorical
from bayesprior.weights.gaussian import GaussianWeights

FALSE_ALARM = 1e-6


def classifier(batch_norm=False):
    layers = [nn.Linear(2, 4), nn.BatchNorm1d(4) if batch_norm else nn.Identity(), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(4, 3))


@pytest.fixture
def data():
    return torch.randn(10, 2), torch.randint(3, (10,))


@pytest.fixture
def model():
    module = classifier()
    return BayesianNetwork(module, make_prior(module), Categorical(), num_data=40)


class TestJoint:
    def test_it_is_a_random_network_with_a_likelihood(self, model, data):
        """A plain module: the weights and outputs are those of the network alone."""
        assert not isinstance(model, PyroModule)
        alone = RandomNetwork(model.module, model.prior)
        fixed = {"weights": model.prior.sample()}
        outputs = [poutine.condition(m, fixed)(data[0]) for m in (model, alone)]
        torch.testing.assert_close(*outputs)
        nodes = poutine.trace(model).get_trace(*data).nodes
        assert isinstance(model, RandomNetwork)
        assert {"weights", "obs"} <= set(nodes)

    def test_log_joint_is_prior_plus_scaled_likelihood(self, model, data):
        x, y = data
        weights = model.prior.sample()
        trace = poutine.trace(poutine.condition(model, {"weights": weights})).get_trace(x, y)
        model.prior.layout.load_(model.module, weights)
        expected = model.prior.log_prob(weights)
        expected = expected + 40 / 10 * Categorical().log_prob(model.module(x), y).sum()
        torch.testing.assert_close(trace.log_prob_sum(), expected)

    def test_gradient_through_the_trace_is_the_score(self, model, data):
        weights = (model.prior.loc + 0.1).requires_grad_()
        trace = poutine.trace(poutine.condition(model, {"weights": weights})).get_trace(data[0])
        trace.compute_log_prob()
        trace.nodes["weights"]["log_prob_sum"].backward()
        torch.testing.assert_close(weights.grad, model.prior.score(weights.detach()))

    def test_whole_gradient_is_that_of_the_native_module(self, model, data):
        x, y = data
        weights = model.prior.sample().requires_grad_()
        conditioned = poutine.block(
            poutine.condition(model, {"weights": weights}), hide=["weights"]
        )
        poutine.trace(conditioned).get_trace(x, y).log_prob_sum().backward()
        model.prior.layout.load_(model.module, weights.detach())
        (4 * Categorical().log_prob(model.module(x), y).sum()).backward()
        native = model.prior.layout.flatten_tensors(p.grad for p in model.module.parameters())
        torch.testing.assert_close(weights.grad, native)

    def test_the_batch_may_be_the_whole_data(self, model):
        x = torch.randn(40, 2)
        trace = poutine.trace(model).get_trace(x, torch.zeros(40).long())
        assert trace.nodes["obs"]["scale"] == 1

    def test_handlers(self, model, data):
        x, y = data
        trace = poutine.trace(model).get_trace(x)
        assert trace.nodes["obs"]["value"].shape == (10,)
        again = poutine.trace(poutine.replay(model, trace=trace)).get_trace(x)
        assert again.nodes["weights"]["value"] is trace.nodes["weights"]["value"]
        hidden = poutine.trace(poutine.block(model, hide=["weights"])).get_trace(x, y)
        assert "weights" not in hidden.nodes
        tempered = poutine.trace(poutine.scale(model, 0.5)).get_trace(x, y)
        assert tempered.nodes["weights"]["scale"] == 0.5

    def test_two_networks_in_one_model(self, data):
        first, second = classifier(), classifier()
        models = [BayesianNetwork(m, make_prior(m), Categorical(), 40) for m in (first, second)]

        def both(x):
            return [scope(m, prefix=p)(x) for m, p in zip(models, "ab", strict=True)]

        nodes = poutine.trace(both).get_trace(data[0]).nodes
        assert {"a/weights", "b/weights", "a/obs", "b/obs"} <= set(nodes)


class TestLawOfWeights:
    @pytest.mark.statistical
    @pytest.mark.parametrize("parallel", [False, True])
    def test_predictive_draws_the_prior(self, model, data, parallel):
        found = Predictive(
            model,
            num_samples=4000 if parallel else 100,
            parallel=parallel,
            return_sites=["weights"],
        )(data[0])["weights"].squeeze(1)
        distance = model.prior.mahalanobis(found)
        coordinates = model.prior.coordinates(found)
        law = scipy.stats.chi2(model.prior.dim)
        assert scipy.stats.kstest(distance.numpy(), law.cdf).pvalue > FALSE_ALARM
        for column in coordinates.T.numpy():
            assert scipy.stats.kstest(column, "norm").pvalue > FALSE_ALARM

    def test_predictive_outputs_are_the_modules(self, model, data):
        sites = ["weights", "_RETURN"]
        out = Predictive(model, num_samples=5, parallel=True, return_sites=sites)(data[0])
        for weights, outputs in zip(out["weights"], out["_RETURN"], strict=True):
            model.prior.layout.load_(model.module, weights[0])
            torch.testing.assert_close(outputs, model.module(data[0]))

    def test_sequential_and_parallel_predictive_agree(self, model, data):
        samples = {"weights": model.prior.sample((6,))}
        outs = [
            Predictive(model, samples, parallel=p, return_sites=["obs", "_RETURN"])(data[0])
            for p in (False, True)
        ]
        torch.testing.assert_close(outs[0]["_RETURN"], outs[1]["_RETURN"])
        assert outs[0]["obs"].shape == outs[1]["obs"].shape == (6, 10)


class TestVectorized:
    @pytest.mark.parametrize(
        ("module", "likelihood", "x", "y"),
        [
            (nn.Linear(2, 3), Categorical(), (4, 2), torch.tensor([0, 1, 2, 0])),
            (nn.Linear(2, 3), Normal(std=0.5), (4, 2), torch.ones(4, 3)),
            (nn.Linear(2, 4), HeteroscedasticNormal(), (4, 2), torch.ones(4, 2)),
            (nn.Conv2d(1, 2, 1), PixelCategorical(), (4, 1, 3, 3), torch.ones(4, 3, 3).long()),
        ],
        ids=["categorical", "normal", "heteroscedastic", "pixels"],
    )
    def test_each_particle_equals_its_own_run(self, module, likelihood, x, y):
        model = BayesianNetwork(module, make_prior(module), likelihood, num_data=8)
        x, weights = torch.randn(x), model.prior.sample((5,))

        def log_probs(value):
            trace = poutine.trace(poutine.condition(model, {"weights": value})).get_trace(x, y)
            trace.compute_log_prob()
            return trace.nodes["obs"]["unscaled_log_prob"]

        stacked = log_probs(weights[:, None])
        assert stacked.shape == (5, 4)
        torch.testing.assert_close(stacked, torch.stack([log_probs(w) for w in weights]))

    def test_vectorized_elbo(self, model, data):
        guide = AutoNormal(model)
        elbo = Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), elbo)
        assert svi.step(*data) > 0


class TestInPyro:
    def test_minibatches_are_unbiased(self, conjugate):
        fixed = poutine.condition(conjugate.model, {"weights": conjugate.prior.sample()})
        full = poutine.trace(fixed).get_trace(conjugate.x, conjugate.y).log_prob_sum()
        batches = zip(conjugate.x.split(4), conjugate.y.split(4), strict=True)
        parts = [poutine.trace(fixed).get_trace(x, y).log_prob_sum() for x, y in batches]
        torch.testing.assert_close(torch.stack(parts).mean(), full)

    def test_relations_for_render_model(self, model, data):
        relations = get_model_relations(model, data)
        assert relations["sample_sample"] == {"weights": [], "obs": ["weights"]}
        assert relations["plate_sample"] == {"data": ["obs"]}
        assert relations["sample_dist"]["weights"] == "GaussianWeights"

    def test_inside_a_plate(self, model, data):
        """An ensemble: three independent networks of one law on the same data."""

        def ensemble(x, y):
            with pyro.plate("ensemble", 3, dim=-2):
                return model(x, y)

        trace = poutine.trace(ensemble).get_trace(*data)
        weights = trace.nodes["weights"]["value"]
        assert weights.shape == (3, 1, model.prior.dim)
        expected = model.prior.log_prob(weights).sum()
        for row in weights:
            model.prior.layout.load_(model.module, row[0])
            expected = expected + 4 * Categorical().log_prob(model.module(data[0]), data[1]).sum()
        torch.testing.assert_close(trace.log_prob_sum(), expected)

    def test_render_model(self, model, data):
        assert "weights" in pyro.render_model(model, model_args=data).source


class TestBuffers:
    def test_nothing_changes_running_statistics(self, data):
        module = classifier(batch_norm=True).train()
        model = BayesianNetwork(module, make_prior(module), Categorical(), 40)
        before = copy.deepcopy(module.state_dict())
        svi = SVI(model, AutoNormal(model), pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
        svi.step(*data)
        Predictive(model, num_samples=3, parallel=True)(data[0])
        model.train()(data[0])
        for name, value in module.state_dict().items():
            assert torch.equal(value, before[name]), name

    def test_the_priors_buffers_are_used(self, data):
        module = classifier(batch_norm=True)
        source = {"1.running_mean": torch.randn(4), "1.running_var": torch.rand(4) + 1}
        plain = make_prior(module)
        prior = GaussianWeights(
            plain.layout, plain.loc, plain.cov_diag, plain.cov_factor, buffers=source
        )
        model = BayesianNetwork(module, prior, Categorical(), 40)
        outputs = poutine.condition(model, {"weights": prior.loc})(data[0])
        module.load_state_dict(source, strict=False)
        torch.testing.assert_close(outputs, module.eval()(data[0]))

    def test_spectral_norm_in_train_mode(self, data):
        module = nn.utils.parametrizations.spectral_norm(nn.Linear(2, 3)).train()
        model = BayesianNetwork(module, make_prior(module), Categorical(), 40)
        before = copy.deepcopy(dict(module.named_buffers()))
        model(*data)
        for name, value in module.named_buffers():
            assert torch.equal(value, before[name])
