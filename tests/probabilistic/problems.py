"""Models with known answers, shared by the tests of `bayesprior.probabilistic`."""

import pyro
import pyro.distributions as dist
import torch
from torch import nn

from bayesprior.probabilistic import BayesianNetwork
from bayesprior.tasks.likelihoods import Categorical, Normal
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout


def make_prior(module, rank=2, std=0.5, dtype=torch.float32):
    """A low-rank prior around the module's own weights."""
    layout = ParameterLayout.from_module(module)
    diag = torch.rand(layout.dim, dtype=dtype) * std**2 + 0.01
    factor = std * torch.randn(layout.dim, rank, dtype=dtype) if rank else None
    return GaussianWeights(layout, layout.flatten(module).to(dtype), diag, factor)


class Conjugate:
    """Bayesian linear regression with a low-rank prior, solved in float64.

    y = X w + noise, the last column of X being ones for the bias.
    """

    def __init__(self, num_data=12, num_features=3, noise=0.7):
        self.module = nn.Linear(num_features, 1).double()
        self.prior = make_prior(self.module, dtype=torch.float64)
        self.x = torch.randn(num_data, num_features, dtype=torch.float64)
        design = torch.cat([self.x, torch.ones(num_data, 1, dtype=torch.float64)], 1)
        truth = self.prior.sample()
        self.y = design @ truth[:, None] + noise * torch.randn(num_data, 1, dtype=torch.float64)
        self.noise = noise
        prior_cov = self.prior.covariance_matrix
        precision = prior_cov.inverse() + design.T @ design / noise**2
        self.cov = precision.inverse()
        pull = prior_cov.inverse() @ self.prior.loc + design.T @ self.y[:, 0] / noise**2
        self.mean = self.cov @ pull
        marginal = torch.distributions.MultivariateNormal(
            design @ self.prior.loc,
            design @ prior_cov @ design.T + noise**2 * torch.eye(num_data, dtype=torch.float64),
        )
        self.log_evidence = marginal.log_prob(self.y[:, 0])
        self.model = BayesianNetwork(self.module, self.prior, Normal(std=noise), num_data)


def eight_schools():
    """Standard errors and effects (Rubin 1981)."""
    effects = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    return torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]), effects


def schools_model(errors, effects):
    """Non-centered eight schools."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", 8):
        eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
        theta = pyro.deterministic("theta", mu + tau * eta)
        pyro.sample("effect", dist.Normal(theta, errors), obs=effects)


def network_problem(**hyperpriors):
    """A classifier, or a regression if its noise is random, and a third of its data."""
    module = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    prior = make_prior(module)
    likelihood = Normal if "std" in hyperpriors else Categorical()
    model = BayesianNetwork(module, prior, likelihood, 30, **hyperpriors)
    y = torch.randn(10, 2) if "std" in hyperpriors else torch.randint(2, (10,))
    return model, (torch.randn(10, 2), y)


def potential_energy(potential, batch):
    """U in nats, the closed-form part included, in float64; the mean over chains."""
    with torch.no_grad():
        energy = potential(batch).double() * potential.num_data
        if potential.prior is None:
            return energy
        weights = potential.layout.flatten(potential)
        log_prior = potential.prior.score_and_log_prob(weights)[1]
        return energy - log_prior / (potential.num_chains or 1)


def put(potential, **values):
    """Write unconstrained values of sites, flat for a network, into a potential."""
    own = dict(potential.named_parameters())
    with torch.no_grad():
        for name, value in values.items():
            for key, part in potential.sites[name].split(value).items():
                own[key].copy_(part)


def joined(potential, tensors):
    """Tensors by parameter name as tensors by site."""
    return {name: site.join(tensors) for name, site in potential.sites.items()}
