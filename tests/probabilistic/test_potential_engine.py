"""Every method of the engine on a Pyro model, with results by site name."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from probabilistic.problems import joined, make_prior
from pyro.infer.mcmc.util import initialize_model
from torch import nn
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset

from bayesprior.inference.collectors.draws import DrawWriter
from bayesprior.inference.collectors.swag import SWAG
from bayesprior.inference.engine import train
from bayesprior.inference.optimizers import SGHMC, SGLD, ImplicitPriorSGD
from bayesprior.inference.posteriors import StoredDraws
from bayesprior.inference.schedules import constant, cyclical
from bayesprior.prediction.predict import predict
from bayesprior.probabilistic import (
    BayesianNetwork,
    PyroPotential,
    StochasticGradientMCMC,
    potential_loss,
)
from bayesprior.storage import chain_dir
from bayesprior.tasks.likelihoods import Categorical
from bayesprior.weights.gaussian import GaussianWeights

METHODS = {
    "map": (ImplicitPriorSGD, {}),
    "sgld": (SGLD, {"num_data": 40}),
    "sghmc": (SGHMC, {"num_data": 40, "friction": 0.1}),
}


@pytest.fixture
def problem():
    """A hand-written model: a network with its prior, a positive and a simplex site."""
    network = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    prior = make_prior(network)
    x = torch.randn(40, 2)
    data = TensorDataset(x, x @ torch.tensor([1.0, -1.0]) + 0.3 * torch.randn(40))

    def model(x, y):
        weights = pyro.sample("net.weights", prior)
        noise = pyro.sample("noise", dist.LogNormal(-1.0, 0.5))
        mixture = pyro.sample("mixture", dist.Dirichlet(torch.ones(2)))
        outputs = functional_call(network, prior.layout.unflatten(weights), (x,))
        with pyro.plate("data", 40, subsample_size=len(x)):
            pyro.sample("y", dist.Normal(outputs @ mixture, noise), obs=y)

    batch = next(iter(DataLoader(data, 10)))
    return PyroPotential(model, batch), DataLoader(data, 10, shuffle=True), data.tensors


def batch_norm_network():
    layers = [nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 2)]
    module = nn.Sequential(*layers)
    module(5 * torch.randn(20, 2) + torch.randn(2))  # statistics of its own
    return module


@pytest.fixture
def network():
    """A network whose prior brings no statistics, and data."""
    module = batch_norm_network()
    x = torch.randn(30, 2)
    return BayesianNetwork(module, make_prior(module), Categorical(), 30), (x, (x[:, 0] > 0).long())


def fit(potential, loader, optimizer, schedule, num_steps, **options):
    train(
        potential,
        potential_loss,
        loader,
        optimizer,
        schedule,
        num_steps,
        prior=potential.prior,
        num_data=potential.num_data,
        progress=False,
        **options,
    )


def check_sites(values, count):
    assert {name: tuple(value.shape) for name, value in values.items()} == {
        "net.weights": (count, 17),
        "noise": (count,),
        "mixture": (count, 2),
    }
    assert (values["noise"] > 0).all()
    torch.testing.assert_close(values["mixture"].sum(-1), torch.ones(count))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("schedule", ["constant", "cyclical"])
def test_draws_come_back_by_site(problem, method, schedule, tmp_path):
    potential, loader, _ = problem
    kernel, options = METHODS[method]
    optimizer = kernel(potential.parameters(), lr=1e-3, **options)
    plan = {
        "constant": constant(burn_in=12, thin=3),
        "cyclical": cyclical(num_steps=24, num_cycles=2, draws_per_cycle=2),
    }[schedule]
    collectors = [DrawWriter(tmp_path, 0)]
    fit(
        potential,
        loader,
        optimizer,
        plan,
        24,
        collectors=collectors,
        run_dir=chain_dir(tmp_path, 0),
    )
    draws = list(StoredDraws(tmp_path).draws())
    assert len(draws) == 4
    check_sites(potential.constrain(torch.stack([draw.weights for draw in draws])), 4)


def test_map_is_at_rest_by_pyros_own_potential(problem):
    potential, _, batch = problem
    energy = initialize_model(potential.model, batch)[1]

    def slope():
        sites = joined(potential, dict(potential.named_parameters()))
        latents = {name: value.detach().requires_grad_() for name, value in sites.items()}
        gradients = torch.autograd.grad(energy(latents), list(latents.values()))
        return torch.cat([gradient.flatten() for gradient in gradients]).norm()

    before = slope()
    optimizer = ImplicitPriorSGD(potential.parameters(), lr=0.03)
    fit(potential, [batch], optimizer, constant(), 400)
    assert slope() < 0.01 * before


def test_swag_has_the_moments_of_its_trajectory(problem):
    potential, loader, _ = problem
    swag, seen = SWAG(rank=3), []

    def keep(event):
        if event.phase.collect:
            seen.append(event.weights().clone())

    optimizer = torch.optim.SGD(potential.parameters(), lr=5e-3, momentum=0.9)
    schedule = constant(burn_in=20, thin=4)
    fit(potential, loader, optimizer, schedule, 60, collectors=[swag], on_step=keep)
    law = swag.posterior()
    assert isinstance(law, GaussianWeights)
    assert set(law.layout.names) == {"0.weight", "0.bias", "2.weight", "2.bias", "noise", "mixture"}
    seen = torch.stack(seen)
    torch.testing.assert_close(law.loc, seen.mean(0))
    torch.testing.assert_close(law.cov_diag, seen.var(0) / 2, rtol=1e-3, atol=1e-9)
    check_sites(potential.constrain(law.sample((7,))), 7)


def test_swag_of_a_networks_potential_is_its_next_prior(network):
    """Names and BatchNorm statistics are the network's own."""
    model, data = network
    potential = PyroPotential(model, data)
    swag = SWAG(rank=3)
    optimizer = torch.optim.SGD(potential.parameters(), lr=5e-3)
    fit(potential, [data], optimizer, constant(), 8, collectors=[swag])
    law = swag.posterior()
    assert law.layout == model.prior.layout
    statistics = dict(model.module.named_buffers())
    assert law.buffers.keys() == statistics.keys()
    for name, value in statistics.items():
        assert torch.equal(law.buffers[name], value)
    BayesianNetwork(model.module, law, Categorical(), 30)


def test_stored_draws_predict_in_a_new_session(network, tmp_path):
    model, (x, y) = network
    mcmc = StochasticGradientMCMC(SGLD, lr=1e-3)
    mcmc.run(model, [(x, y)], num_samples=3, num_chains=2, run_dir=tmp_path, progress=False)
    stored = StoredDraws(tmp_path)
    fresh = batch_norm_network()  # other weights, other statistics
    loader = DataLoader(TensorDataset(x, y), 30)
    found = predict(fresh, stored, loader, Categorical(), progress=False)
    grouped = mcmc.get_samples(group_by_chain=True)["weights"]
    for weights, row in zip(grouped.flatten(0, 1), found.log_likelihood, strict=True):
        model.prior.layout.load_(model.module, weights)
        expected = Categorical().log_prob(model.module.eval()(x), y)
        np.testing.assert_allclose(row, expected.detach(), rtol=1e-4, atol=1e-5)
    again = predict(fresh, mcmc.posterior(), loader, Categorical(), progress=False)
    np.testing.assert_array_equal(again.log_likelihood, found.log_likelihood)
