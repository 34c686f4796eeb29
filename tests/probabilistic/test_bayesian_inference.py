"""Pyro's own inference on a `BayesianNetwork`, judged by a conjugate model's closed form."""

from functools import partial

import arviz_stats
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from pyro.infer import HMC, MCMC, NUTS, SVI, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoLaplaceApproximation,
    AutoLowRankMultivariateNormal,
    AutoNormal,
    init_to_value,
)
from torch.distributions import MultivariateNormal, kl_divergence

from bayesprior.probabilistic import samples_to_datatree

FALSE_ALARM = 1e-6


class TestGuides:
    @pytest.mark.parametrize(
        "guide",
        [AutoNormal, AutoDiagonalNormal, partial(AutoLowRankMultivariateNormal, rank=2)],
        ids=["normal", "diagonal", "low-rank"],
    )
    def test_elbo_rises(self, conjugate, guide):
        far = init_to_value(values={"weights": conjugate.mean + 3})
        made = guide(conjugate.model, init_loc_fn=far)
        elbo = TraceMeanField_ELBO if isinstance(made, AutoNormal) else Trace_ELBO
        svi = SVI(conjugate.model, made, pyro.optim.Adam({"lr": 0.3}), elbo())
        losses = [svi.step(conjugate.x, conjugate.y) for _ in range(15)]
        assert sum(losses[-4:]) < sum(losses[:4])

    @pytest.mark.statistical
    @pytest.mark.parametrize(
        "guide",
        [AutoNormal, partial(AutoLowRankMultivariateNormal, rank=2)],
        ids=["normal", "low-rank"],
    )
    def test_elbo_is_the_evidence_less_the_divergence(self, conjugate, guide):
        start = init_to_value(values={"weights": conjugate.mean + 0.1})
        made = guide(conjugate.model, init_loc_fn=start, init_scale=0.2)
        made(conjugate.x, conjugate.y)
        if isinstance(made, AutoNormal):
            covariance = made.scales.weights.square().diag()
            law = MultivariateNormal(made.locs.weights.double(), covariance.double())
        else:
            found = made.get_posterior()
            law = MultivariateNormal(found.loc.double(), found.covariance_matrix.double())
        posterior = MultivariateNormal(conjugate.mean, conjugate.cov)
        expected = conjugate.log_evidence - kl_divergence(law, posterior)
        loss = partial(Trace_ELBO().loss, conjugate.model, made, conjugate.x, conjugate.y)
        values = -torch.tensor([loss() for _ in range(200)])
        z = (values.mean() - expected) / values.std() * len(values) ** 0.5
        assert abs(z) < scipy.stats.norm.isf(FALSE_ALARM / 2)

    def test_elbo_of_the_exact_posterior_is_the_evidence(self, conjugate):
        posterior = dist.MultivariateNormal(conjugate.mean, conjugate.cov)

        def guide(x, y):
            pyro.sample("weights", posterior)

        elbo = -Trace_ELBO(num_particles=3).loss(conjugate.model, guide, conjugate.x, conjugate.y)
        assert elbo == pytest.approx(conjugate.log_evidence.item(), rel=1e-9)

    def test_auto_delta_is_at_rest_at_the_map(self, conjugate):
        start = init_to_value(values={"weights": conjugate.mean})
        guide = AutoDelta(conjugate.model, init_loc_fn=start)
        Trace_ELBO().loss_and_grads(conjugate.model, guide, conjugate.x, conjugate.y)
        (gradient,) = (p.grad for p in guide.parameters())
        assert gradient.abs().max() < 1e-9 * conjugate.cov.inverse().abs().max()

    def test_svi_with_auto_delta_goes_to_the_map(self, conjugate):
        start = init_to_value(values={"weights": conjugate.prior.loc.clone()})
        guide = AutoDelta(conjugate.model, init_loc_fn=start)
        step = 1 / torch.linalg.eigvalsh(conjugate.cov.inverse()).max().item()
        optimizer = pyro.optim.SGD({"lr": step, "momentum": 0.9})
        svi = SVI(conjugate.model, guide, optimizer, Trace_ELBO())
        for _ in range(200):
            svi.step(conjugate.x, conjugate.y)
        torch.testing.assert_close(guide.median()["weights"], conjugate.mean, rtol=1e-4, atol=1e-4)

    def test_laplace_is_exact_on_a_conjugate_model(self, conjugate):
        start = init_to_value(values={"weights": conjugate.mean})
        guide = AutoLaplaceApproximation(conjugate.model, init_loc_fn=start)
        guide(conjugate.x, conjugate.y)
        found = guide.laplace_approximation(conjugate.x, conjugate.y).get_posterior()
        torch.testing.assert_close(found.loc, conjugate.mean)
        torch.testing.assert_close(found.covariance_matrix, conjugate.cov)


class TestMonteCarlo:
    @pytest.mark.statistical
    @pytest.mark.parametrize(
        "kernel",
        [
            partial(HMC, step_size=0.1, num_steps=5, adapt_step_size=False),
            partial(NUTS, max_tree_depth=4),
        ],
        ids=["hmc", "nuts"],
    )
    def test_moments_are_the_posteriors(self, conjugate, kernel):
        start = init_to_value(values={"weights": conjugate.mean})
        made = kernel(conjugate.model, init_strategy=start)
        mcmc = MCMC(made, num_samples=80, warmup_steps=30, disable_progbar=True)
        mcmc.run(conjugate.x, conjugate.y)
        samples = mcmc.get_samples()["weights"]
        assert samples.dtype == torch.float64
        # Whitened by the exact law: mean 0 and variance 1 in every coordinate.
        root = torch.linalg.cholesky(conjugate.cov)
        white = torch.linalg.solve_triangular(root, (samples - conjugate.mean).T, upper=False).T
        values = torch.cat([white, white.square() - 1], 1)
        tree = samples_to_datatree({"moment": values[None]})
        error = arviz_stats.mcse(tree, method="mean")["moment"].values
        z = values.mean(0).numpy() / error
        assert abs(z).max() < scipy.stats.norm.isf(FALSE_ALARM / (2 * len(z)))
