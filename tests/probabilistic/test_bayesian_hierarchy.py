"""Unknown width and unknown noise of a linear network: the posterior is known by quadrature."""

import arviz_stats
import numpy as np
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from probabilistic.problems import make_prior
from pyro.infer import MCMC, NUTS
from torch import nn

from bayesprior.inference.optimizers import SGHMC
from bayesprior.probabilistic import BayesianNetwork, StochasticGradientMCMC, samples_to_datatree
from bayesprior.tasks.likelihoods import Normal

FALSE_ALARM = 1e-6
WIDTH, NOISE = dist.LogNormal(-0.5, 0.5), dist.HalfCauchy(1.0)


class Problem:
    """Given width and noise the weights are conjugate; those two are summed over a grid."""

    def __init__(self, num_data=25):
        self.module = nn.Linear(2, 1)
        self.prior = make_prior(self.module)
        x = torch.randn(num_data, 2)
        truth = self.prior.sample()
        design = torch.cat([x, torch.ones(num_data, 1)], 1)
        y = design @ truth[:, None] + 0.5 * torch.randn(num_data, 1)
        self.batch = x, y
        self.model = BayesianNetwork(
            self.module, self.prior, Normal, num_data, rms_std=WIDTH, std=NOISE
        )
        self.design, self.y = design.double(), y[:, 0].double()

    def exact_moments(self):
        """Means and standard deviations of log width, log noise and the weights."""
        axes = [torch.linspace(-4, 2.5, 80).double(), torch.linspace(-2, 1.2, 80).double()]
        unit = self.prior.rescale(rms_std=1.0).covariance_matrix.double()
        loc = self.prior.loc.double()
        log_width, log_noise = torch.cartesian_prod(*axes).T
        priors = log_width.exp().square()[:, None, None] * unit
        eye = torch.eye(len(self.y)).double()
        marginal = self.design @ priors @ self.design.T
        marginal = marginal + log_noise.exp().square()[:, None, None] * eye
        evidence = dist.MultivariateNormal(self.design @ loc, marginal).log_prob(self.y)
        log_density = evidence + log_width + log_noise
        log_density += WIDTH.log_prob(log_width.exp()) + NOISE.log_prob(log_noise.exp())
        gain = torch.linalg.solve(marginal, self.design @ priors).transpose(1, 2)
        means = loc + gain @ (self.y - self.design @ loc)
        variances = (priors - gain @ self.design @ priors).diagonal(dim1=1, dim2=2)
        zero = torch.zeros(len(means), 2).double()
        means = torch.cat([torch.stack([log_width, log_noise], 1), means], 1)
        variances = torch.cat([zero, variances], 1)
        share = log_density.softmax(0)
        mean = share @ means
        return mean.numpy(), (share @ (variances + (means - mean).square())).sqrt().numpy()

    def check(self, samples):
        """Compare draws, grouped by chain, with the quadrature: z-scores from ESS."""
        logs = [
            samples[name].reshape(*samples[name].shape[:2], 1).log() for name in ("rms_std", "std")
        ]
        values = torch.cat([*logs, samples["weights"]], -1).double().numpy()
        mean, sd = self.exact_moments()
        white = (values - mean) / sd
        moments = np.concatenate([white, white**2 - 1], -1)
        tree = samples_to_datatree({"moment": torch.as_tensor(moments)})
        z = moments.mean((0, 1)) / arviz_stats.mcse(tree, method="mean")["moment"].values
        assert abs(z).max() < scipy.stats.norm.isf(FALSE_ALARM / (2 * len(z))), z


@pytest.mark.statistical
@pytest.mark.slow
def test_vectorized_sghmc():
    problem = Problem()
    mcmc = StochasticGradientMCMC(SGHMC, lr=0.02, friction=0.1)
    mcmc.run(
        problem.model,
        [problem.batch],
        num_samples=20,
        warmup_steps=300,
        thin=10,
        num_chains=200,
        chain_method="vectorized",
        progress=False,
    )
    problem.check(mcmc.get_samples(group_by_chain=True))


@pytest.mark.statistical
@pytest.mark.slow
def test_nuts():
    problem = Problem()
    mcmc = MCMC(NUTS(problem.model, max_tree_depth=4), 80, 60, disable_progbar=True)
    mcmc.run(*problem.batch)
    problem.check(mcmc.get_samples(group_by_chain=True))
