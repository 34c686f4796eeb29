"""SGLD and SGHMC at full batch against NUTS: means and standard deviations, by z-scores.

The ground truth is in ``nuts_reference.json``: moments of Pyro's own NUTS on the same Pyro model
with their Monte-Carlo errors. ``python tests/statistical/test_nuts_agreement.py`` makes it anew;
the test marked slow compares it with a fresh, shorter run.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import sklearn.datasets
import torch
from pyro.infer import MCMC, NUTS
from torch import nn

from bayesprior.inference.collectors.swag import SWAG
from bayesprior.inference.engine import train
from bayesprior.inference.optimizers import SGHMC, SGLD
from bayesprior.inference.schedules import constant
from bayesprior.probabilistic import BayesianNetwork, StochasticGradientMCMC, potential_loss
from bayesprior.probabilistic.draws import SiteDraws
from bayesprior.tasks.likelihoods import Normal
from bayesprior.tasks.objectives import supervised
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout

REFERENCE = Path(__file__).with_name("nuts_reference.json")
FALSE_ALARM = 1e-6


def schools():
    from probabilistic.problems import eight_schools, schools_model

    return schools_model, eight_schools()


def logistic():
    """Breast cancer (Wisconsin): 569 tumors, 6 standardized measurements."""
    x, y = sklearn.datasets.load_breast_cancer(return_X_y=True)
    x = x[:, [1, 4, 5, 8, 11, 18]]
    x = torch.tensor((x - x.mean(0)) / x.std(0), dtype=torch.float32)

    def model(x, y):
        intercept = pyro.sample("intercept", dist.Normal(0.0, 2.0))
        slopes = pyro.sample("slopes", dist.Normal(torch.zeros(6), 2.0).to_event(1))
        with pyro.plate("data", 569, subsample_size=len(x)):
            pyro.sample("y", dist.Bernoulli(logits=intercept + x @ slopes), obs=y)

    return model, (x, torch.tensor(y, dtype=torch.float32))


def tanh_network():
    """A regression on 8 points with the prior that a SWAG fit on another curve left behind."""
    module = nn.Sequential(nn.Linear(1, 3), nn.Tanh(), nn.Linear(3, 1))
    stored = json.loads(REFERENCE.read_text())["prior"]
    prior = GaussianWeights(
        ParameterLayout.from_module(module),
        *(torch.tensor(stored[name]) for name in ("loc", "cov_diag", "cov_factor")),
    )
    x = torch.linspace(-1.5, 1.5, 8)[:, None]
    y = 0.8 * torch.sin(2 * x + 0.3)
    return BayesianNetwork(module, prior, Normal(std=0.2), 8), (x, y)


PROBLEMS = {"schools": schools, "logistic": logistic, "network": tanh_network}


def unbounded(samples):
    """Draws (chain, draw) of each number, the positive scale as its logarithm."""
    out = {}
    for name, value in samples.items():
        value = (value.log() if name == "tau" else value).double().numpy()
        for index in np.ndindex(value.shape[2:]):
            out[f"{name}{list(index)}"] = value[(slice(None), slice(None), *index)]
    return out


def effective_size(values):
    """Effective sample size of the mean of draws (chain, draw), from independent chains.

    As many independent draws as would give the chains' averages the spread that they have. It
    needs no autocorrelations, which the few draws of many chains do not tell.
    """
    return len(values) * values.var() / values.mean(1).var(ddof=1)


def moments(samples, batches=1):
    """Mean and standard deviation of each number, with their errors: z-scores from ESS.

    A long chain is cut into batches that count as independent chains.
    """
    out = {}
    for name, value in unbounded(samples).items():
        value = value.reshape(len(value) * batches, -1)
        squares = (value - value.mean()) ** 2
        sd = np.sqrt(squares.mean())
        out[name] = {
            "mean": value.mean(),
            "sd": sd,
            "mcse_mean": sd / np.sqrt(effective_size(value)),
            "mcse_sd": squares.std() / np.sqrt(effective_size(squares)) / (2 * sd),
        }
    return out


def nuts(name, *, num_samples, warmup_steps, num_chains, seed=0):
    """Chains one after the other in this process (Pyro would fork), grouped."""
    model, batch = PROBLEMS[name]()
    chains = []
    for chain in range(num_chains):
        torch.manual_seed(seed + chain)
        kernel = NUTS(model, jit_compile=name != "network", ignore_jit_warnings=True)
        mcmc = MCMC(kernel, num_samples, warmup_steps, disable_progbar=True)
        mcmc.run(*batch)
        chains.append(mcmc.get_samples())
    return {site: torch.stack([chain[site] for chain in chains]) for site in chains[0]}


def worst_z(found, expected):
    """Largest |z| over all numbers, means and standard deviations, and how many there were."""
    scores = {
        (name, moment): (found[name][moment] - expected[name][moment])
        / np.hypot(found[name][f"mcse_{moment}"], expected[name][f"mcse_{moment}"])
        for name in expected
        for moment in ("mean", "sd")
    }
    worst = max(scores, key=lambda key: abs(scores[key]))
    return abs(scores[worst]), worst, len(scores)


def learned_prior():
    """Fit a curve, keep SWAG's moments: what `tanh_network` starts from."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(1, 3), nn.Tanh(), nn.Linear(3, 1))
    x = torch.linspace(-2, 2, 100)[:, None]
    y = torch.sin(2 * x) + 0.2 * torch.randn(100, 1)
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), 20, shuffle=True)
    swag = SWAG(rank=3, var_floor=0.1)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.02, momentum=0.9)
    schedule = constant(burn_in=4000, thin=100)
    loss = supervised(Normal(std=0.2))
    train(module, loss, data, optimizer, schedule, 6000, num_data=100, collectors=(swag,))
    law = swag.posterior().rescale(rms_std=0.5)
    return {
        "loc": law.loc.tolist(),
        "cov_diag": law.cov_diag.tolist(),
        "cov_factor": law.cov_factor.tolist(),
    }


# Time step h = sqrt(lr / N) of 0.3 of the narrowest direction, friction critical for the widest.
KERNELS = {
    "schools": (SGHMC, {"lr": 0.7, "friction": 0.2}, SGLD, {"lr": 0.3}),
    "logistic": (SGHMC, {"lr": 0.5, "friction": 0.15}, SGLD, {"lr": 0.3}),
    "network": (SGHMC, {"lr": 3e-3, "friction": 0.06}, SGLD, {"lr": 1e-3}),
}
STEPS = {"schools": 30, "logistic": 20, "network": 50}  # of SGHMC for each draw


@pytest.mark.statistical
def test_effective_size_of_an_autoregression():
    """x[t + 1] = 0.6 x[t] + noise: n draws are worth n (1 - 0.6) / (1 + 0.6)."""
    num_chains, num_draws, rho = 2000, 400, 0.6
    state, values = np.random.default_rng(0).normal(size=num_chains), []
    for noise in np.random.default_rng(1).normal(size=(num_draws, num_chains)):
        state = rho * state + np.sqrt(1 - rho**2) * noise
        values.append(state)
    expected = num_chains * num_draws * (1 - rho) / (1 + rho)
    z = (effective_size(np.array(values).T) / expected - 1) * np.sqrt(num_chains / 2)
    assert abs(z) < scipy.stats.norm.isf(FALSE_ALARM / 2)


@pytest.mark.statistical
@pytest.mark.parametrize("problem", PROBLEMS)
def test_samplers_agree_with_nuts(problem, seed):
    """SGHMC finds the law from a random start; SGLD, put there, leaves it as it is."""
    model, batch = PROBLEMS[problem]()
    reference = json.loads(REFERENCE.read_text())[problem]
    hmc, hmc_options, langevin, langevin_options = KERNELS[problem]
    thin = STEPS[problem]
    mcmc = StochasticGradientMCMC(hmc, **hmc_options)
    mcmc.run(
        model,
        [batch],
        num_samples=5,
        warmup_steps=8 * thin,
        thin=thin,
        num_chains=500,
        chain_method="vectorized",
        seed=seed,
        progress=False,
    )
    found = moments(mcmc.get_samples(group_by_chain=True))
    check(found, reference)
    if problem == "schools":
        check(found, exact_schools())
        check(reference, exact_schools())
    potential = mcmc.potential
    draws = SiteDraws(potential)
    train(
        potential,
        potential_loss,
        [batch],
        langevin(
            potential.parameters(), num_data=potential.num_data, seed=seed + 1, **langevin_options
        ),
        constant(thin=thin),
        5 * thin,
        prior=potential.prior,
        num_data=potential.num_data,
        collectors=draws.begin(),
        progress=False,
    )
    chains = [list(draws.read(chain)) for chain in range(500)]
    found = {
        name: torch.stack([torch.stack([draw[name] for draw in chain]) for chain in chains])
        for name in potential.sites
    }
    check(moments(found), reference)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
@pytest.mark.parametrize("problem", PROBLEMS)
def test_nuts_repeats_itself(problem):
    samples = nuts(problem, num_samples=300, warmup_steps=300, num_chains=1, seed=100)
    check(moments(samples, batches=20), json.loads(REFERENCE.read_text())[problem])


def check(found, reference):
    worst, where, count = worst_z(found, reference)
    limit = scipy.stats.norm.isf(FALSE_ALARM / (18 * count))  # two sides; problems, samplers
    assert worst < limit, where


def exact_schools():
    """Moments without Monte Carlo: given tau all else is Gaussian; tau by quadrature."""
    from probabilistic.problems import eight_schools

    errors, effects = (value.double().numpy() for value in eight_schools())
    log_tau = np.linspace(-12, 8, 2001)
    prior = np.diag([25.0] + [1.0] * 8)
    log_weights, means, variances = [], [], []
    for tau in np.exp(log_tau):
        design = np.hstack([np.ones((8, 1)), tau * np.eye(8)])
        marginal = design @ prior @ design.T + np.diag(errors**2)
        gain = prior @ design.T @ np.linalg.inv(marginal)
        evidence = effects @ np.linalg.solve(marginal, effects) + np.linalg.slogdet(marginal)[1]
        log_weights.append(np.log(tau / (1 + (tau / 5) ** 2)) - evidence / 2)
        means.append(np.append(gain @ effects, np.log(tau)))
        variances.append(np.append(np.diag(prior - gain @ design @ prior), 0.0))
    weights = np.exp(np.array(log_weights) - max(log_weights))
    weights /= weights.sum()
    mean = weights @ means
    sd = np.sqrt(weights @ (np.array(variances) + (np.array(means) - mean) ** 2))
    names = ["mu[]", *(f"eta[{i}]" for i in range(8)), "tau[]"]
    return {
        name: {"mean": m, "sd": s, "mcse_mean": 0.0, "mcse_sd": 0.0}
        for name, m, s in zip(names, mean, sd, strict=True)
    }


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    reference = {"prior": learned_prior()}
    REFERENCE.write_text(json.dumps(reference))
    for problem in PROBLEMS:
        samples = nuts(problem, num_samples=1000, warmup_steps=300, num_chains=4)
        reference[problem] = moments(samples, batches=20)
        print(problem, worst_z(reference[problem], reference[problem]), flush=True)
        REFERENCE.write_text(json.dumps(reference, indent=1) + "\n")
