"""A network with random weights as a part of a larger model."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from probabilistic.problems import make_prior
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import nn

from bayesprior.errors import ConfigError
from bayesprior.probabilistic import BayesianNetwork, PyroPotential, RandomNetwork
from bayesprior.tasks.likelihoods import Categorical
from bayesprior.tasks.protocols import dictionary_forward, keyword_forward


class Gated(nn.Module):
    """Several arguments, several outputs."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(2, 3)
        self.gate = nn.Linear(1, 3)

    def forward(self, x, gate, *, sharp=1.0):
        hidden = self.body(x) * (sharp * self.gate(gate)).sigmoid()
        return {"logits": hidden, "norm": hidden.square().sum(-1)}


@pytest.fixture
def network():
    module = Gated()
    return RandomNetwork(module, make_prior(module))


@pytest.fixture
def inputs():
    return torch.randn(5, 2), torch.randn(5, 1)


def at(network, weights):
    network.prior.layout.load_(network.module, weights)
    return network.module


def test_arguments_and_outputs_are_the_modules(network, inputs):
    weights = network.prior.sample()
    found = poutine.condition(network, {"weights": weights})(*inputs, sharp=3.0)
    expected = at(network, weights)(*inputs, sharp=3.0)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


@pytest.mark.parametrize("lead", [(4,), (4, 1), (2, 4, 1)])
def test_vectorized_weights_lead_every_output(network, inputs, lead):
    weights = network.prior.sample(lead)
    found = poutine.condition(network, {"weights": weights})(*inputs)
    kept = lead[:-1] if lead[-1] == 1 else lead
    assert found["logits"].shape == (*kept, 5, 3)
    assert found["norm"].shape == (*kept, 5)
    for one, row in zip(weights.flatten(0, -2), found["norm"].reshape(-1, 5), strict=True):
        torch.testing.assert_close(row, at(network, one)(*inputs)["norm"])


def test_inside_a_larger_model(network, inputs):
    """Counts with a rate of its own: nothing of the network is an observation."""

    def model(x, gate, counts=None):
        slope = pyro.sample("slope", dist.LogNormal(0.0, 1.0))
        rate = slope * network(x, gate)["norm"]
        with pyro.plate("data", 50, subsample_size=len(x)):
            return pyro.sample("counts", dist.Poisson(rate + 0.1), obs=counts)

    batch = (*inputs, torch.poisson(torch.ones(5)))
    trace = poutine.trace(model).get_trace(*batch)
    assert trace.stochastic_nodes == ["slope", "weights", "data"]
    svi = SVI(model, AutoNormal(model), pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    svi.step(*batch)
    found = Predictive(model, num_samples=3)(*inputs)
    assert found["counts"].shape == (3, 5)
    potential = PyroPotential(model, batch)
    assert set(potential.layout.names) == {"slope", *network.prior.layout.names}
    assert potential.prior is not None
    assert potential.num_data == 50


def test_the_width_is_a_site_of_its_own():
    module = nn.Linear(2, 1)
    prior = make_prior(module)
    network = RandomNetwork(module, prior, rms_std=dist.LogNormal(0.0, 1.0))
    trace = poutine.trace(network).get_trace(torch.ones(4, 2))
    width = trace.nodes["rms_std"]["value"]
    assert trace.nodes["weights"]["fn"].rms_std == pytest.approx(float(width), rel=1e-5)
    with pytest.raises(ConfigError, match="needs a positive distribution"):
        RandomNetwork(module, prior, rms_std=dist.Normal(0.0, 1.0))


class Classifier(nn.Module):
    """Takes keywords and returns a field, as models of transformers do."""

    def __init__(self, key):
        super().__init__()
        self.key, self.linear = key, nn.Linear(2, 3)

    def forward(self, tokens, scale=1.0):
        return {self.key: self.linear(tokens) * scale}


@pytest.mark.parametrize("parallel", [False, True])
def test_batches_that_are_dictionaries(parallel):
    module = Classifier("logits")
    model = BayesianNetwork(
        module, make_prior(module), Categorical(), 20, forward=keyword_forward()
    )
    batch = {"tokens": torch.randn(4, 2), "scale": 2.0, "labels": torch.tensor([0, 1, 2, 0])}
    weights = model.prior.sample()
    trace = poutine.trace(poutine.condition(model, {"weights": weights})).get_trace(**batch)
    logits = at(model, weights)(batch["tokens"], 2.0)["logits"]
    expected = model.prior.log_prob(weights)
    expected = expected + 5 * Categorical().log_prob(logits, batch["labels"]).sum()
    torch.testing.assert_close(trace.log_prob_sum(), expected)
    potential = PyroPotential(model, batch)
    potential(batch).backward()
    del batch["labels"]
    found = Predictive(model, num_samples=3, parallel=parallel)(**batch)
    assert found["obs"].shape == (3, 4)


def test_outputs_that_are_dictionaries():
    module = Classifier("out")
    model = BayesianNetwork(
        module, make_prior(module), Categorical(), 20, forward=dictionary_forward()
    )
    x, y = torch.randn(4, 2), torch.tensor([0, 1, 2, 0])
    weights = model.prior.sample()
    conditioned = poutine.condition(model, {"weights": weights})
    for outputs in (conditioned(x, y), conditioned(x), conditioned(x=x, y=y)):
        torch.testing.assert_close(outputs, at(model, weights)(x)["out"])
