"""The law inside Pyro: inference with a known answer, handlers, predictive."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from dense import FALSE_ALARM, LAYOUT, make_case, standard_normal_p_value
from pyro import poutine
from pyro.infer import (
    MCMC,
    NUTS,
    SVI,
    Predictive,
    Trace_ELBO,
    TraceMeanField_ELBO,
    autoguide,
)
from pyro.infer.mcmc.util import initialize_model
from pyro.ops.integrator import potential_grad
from scipy import stats
from torch.distributions import kl_divergence

D = LAYOUT.dim
CASE = make_case("head")
DESIGN = torch.randn(6, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
TARGETS = DESIGN.sum(1)
NOISE = 0.7
# A copy: Pyro's guides train the very tensor that they are given.
FROM_THE_MEAN = autoguide.initialization.init_to_value(values={"w": CASE.loc.clone()})


def model():
    """Bayesian linear regression under the learned prior."""
    weights = pyro.sample("w", CASE.law)
    with pyro.plate("data", len(TARGETS)):
        mean = (weights.unsqueeze(-2) * DESIGN).sum(-1)
        pyro.sample("y", dist.Normal(mean, NOISE), obs=TARGETS)


@pytest.fixture
def posterior():
    precision = torch.linalg.inv(CASE.cov)
    updated = precision + DESIGN.T @ DESIGN / NOISE**2
    shift = precision @ CASE.loc + DESIGN.T @ TARGETS / NOISE**2
    mean = torch.linalg.solve(updated, shift)
    return torch.distributions.MultivariateNormal(mean, precision_matrix=updated)


def test_auto_delta_has_the_exact_gradient_of_the_potential(posterior):
    guide = autoguide.AutoDelta(model, init_loc_fn=FROM_THE_MEAN)
    Trace_ELBO().differentiable_loss(model, guide).backward()
    expected = posterior.precision_matrix @ (CASE.loc - posterior.mean)
    torch.testing.assert_close(guide.w.grad, expected)


def test_auto_laplace_sees_the_curvature_of_the_prior(posterior):
    guide = autoguide.AutoLaplaceApproximation(model, init_loc_fn=FROM_THE_MEAN)
    guide()  # the log density is quadratic: its curvature is the same everywhere
    law = guide.laplace_approximation().get_posterior()
    torch.testing.assert_close(law.covariance_matrix, posterior.covariance_matrix)


@pytest.mark.parametrize("kind", ["AutoNormal", "AutoLowRankMultivariateNormal"])
def test_other_guides_train(kind):
    guide = getattr(autoguide, kind)(model, init_loc_fn=FROM_THE_MEAN)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    before = np.array([svi.evaluate_loss() for _ in range(100)])
    for _ in range(100):
        svi.step()
    after = np.array([svi.evaluate_loss() for _ in range(100)])
    error = np.sqrt((before.var(ddof=1) + after.var(ddof=1)) / 100)
    assert before.mean() - after.mean() > stats.norm.isf(FALSE_ALARM) * error


def test_mean_field_elbo_uses_the_closed_form():
    """No noise in loss or gradient: both equal those of the dense KL divergence."""
    loc, log_std = (torch.randn(D, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def prior():
        pyro.sample("w", CASE.law)

    def guide():
        pyro.sample("w", dist.Normal(loc, log_std.exp()).to_event(1))

    loss = TraceMeanField_ELBO().differentiable_loss(prior, guide)
    dense = torch.distributions.MultivariateNormal(loc, torch.diag((2 * log_std).exp()))
    expected = kl_divergence(dense, CASE.dense)
    torch.testing.assert_close(loss, expected)
    for one, other in zip(
        torch.autograd.grad(loss, (loc, log_std)),
        torch.autograd.grad(expected, (loc, log_std)),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_hamiltonian_monte_carlo_sees_the_exact_potential():
    """Energy and force of HMC and NUTS, and a short run without a divergence."""
    _, potential, _, _ = initialize_model(lambda: pyro.sample("w", CASE.law))
    value = torch.randn(D, dtype=torch.float64)
    gradient, energy = potential_grad(potential, {"w": value})
    torch.testing.assert_close(energy, -CASE.dense.log_prob(value))
    torch.testing.assert_close(gradient["w"], -CASE.law.score(value))
    kernel = NUTS(lambda: pyro.sample("w", CASE.law), max_tree_depth=4)
    mcmc = MCMC(kernel, 40, warmup_steps=80, disable_progbar=True)
    mcmc.run()
    draws = mcmc.get_samples()["w"]
    assert draws.dtype == torch.float64
    assert len(torch.unique(draws, dim=0)) > 10
    assert mcmc.diagnostics()["divergences"]["chain 0"] == []
    # chi-square(D) far in its tail: the draws stay where the law has its mass
    assert CASE.law.mahalanobis(draws).max() < stats.chi2.isf(FALSE_ALARM / 40, D)


@pytest.mark.statistical
@pytest.mark.parametrize("parallel", [False, True])
def test_predictive(parallel):
    predictive = Predictive(lambda: pyro.sample("w", CASE.law), num_samples=500, parallel=parallel)
    draws = predictive()["w"]
    assert draws.shape == (500, D)
    z = torch.linalg.solve_triangular(
        torch.linalg.cholesky(CASE.cov), (draws - CASE.loc).T, upper=False
    )
    assert standard_normal_p_value(z.T.numpy()) > FALSE_ALARM


def test_handlers():
    value = torch.randn(D, dtype=torch.float64)
    log_prob = CASE.law.log_prob(value)

    def prior():
        return pyro.sample("w", CASE.law)

    def log_prob_sum(handled):
        return poutine.trace(handled).get_trace().log_prob_sum()

    conditioned = poutine.condition(prior, {"w": value})
    torch.testing.assert_close(log_prob_sum(conditioned), log_prob)
    torch.testing.assert_close(log_prob_sum(poutine.scale(conditioned, 0.3)), 0.3 * log_prob)
    assert log_prob_sum(poutine.mask(conditioned, mask=torch.tensor(False))) == 0
    assert log_prob_sum(poutine.block(conditioned, hide=["w"])) == 0
    trace = poutine.trace(prior).get_trace()
    replayed = poutine.replay(prior, trace)()
    assert torch.equal(replayed, trace.nodes["w"]["value"])


def test_masked_and_batched():
    law, value = CASE.law, torch.randn(3, D, dtype=torch.float64)
    mask = torch.tensor([True, False, True])
    expected = law.log_prob(value) * mask
    torch.testing.assert_close(law.expand((3,)).mask(mask).log_prob(value), expected)
    torch.testing.assert_close(
        law.expand_by((3,)).to_event(1).log_prob(value), expected.sum() + law.log_prob(value[1])
    )
    with pyro.plate("chains", 3):
        assert pyro.sample("w", law).shape == (3, D)


def test_learned_width_in_a_model():
    """A prior on the prior's width: the joint density has the gradient of its parts."""

    def hierarchical():
        width = pyro.sample("width", dist.LogNormal(0.0, 1.0))
        pyro.sample("w", CASE.law.rescale(rms_std=width))

    width = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    given = poutine.condition(hierarchical, {"width": width, "w": CASE.loc + 1})
    poutine.trace(given).get_trace().log_prob_sum().backward()
    again = width.detach().clone().requires_grad_()
    law = CASE.law.rescale(rms_std=again)
    (dist.LogNormal(0.0, 1.0).log_prob(again) + law.log_prob(CASE.loc + 1)).backward()
    torch.testing.assert_close(width.grad, again.grad)
