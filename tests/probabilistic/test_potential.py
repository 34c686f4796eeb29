import math

import pyro
import pyro.distributions as dist
import pytest
import scipy.integrate
import torch
from probabilistic.problems import (
    Conjugate,
    eight_schools,
    joined,
    make_prior,
    network_problem,
    potential_energy,
    put,
    schools_model,
)
from pyro import poutine
from pyro.infer.autoguide.initialization import (
    init_to_mean,
    init_to_sample,
    init_to_value,
)
from pyro.infer.mcmc.util import initialize_model
from torch import nn

from bayesprior.inference.engine import train
from bayesprior.inference.optimizers import SGLD, ImplicitPriorSGD
from bayesprior.inference.schedules import constant
from bayesprior.probabilistic import BayesianNetwork, PyroPotential, potential_loss
from bayesprior.probabilistic.sites import call_model
from bayesprior.tasks.likelihoods import Categorical, Normal


def full_gradient(potential, batch):
    """Gradient of U, the closed-form part included, by site."""
    potential.zero_grad()
    potential(batch).backward()
    out = {n: p.grad * potential.num_data for n, p in potential.named_parameters()}
    if potential.prior is not None:
        score = potential.prior.score(potential.layout.flatten(potential))
        for name, view in potential.layout.unflatten(score).items():
            out[name] = out[name] - view
    return joined(potential, out)


def pyros_potential(model, batch):
    args = batch if isinstance(batch, tuple) else () if isinstance(batch, dict) else (batch,)
    kwargs = batch if isinstance(batch, dict) else {}
    if model is not scaled_model:
        return initialize_model(model, args, kwargs)[1]

    def potential(latents):  # Pyro's own refuses to subsample
        a, b = latents["layer.a"], latents["layer.b"].exp()
        fixed = poutine.condition(model, {"layer.a": a, "layer.b": b})
        return -poutine.trace(fixed).get_trace(*args).log_prob_sum() - latents["layer.b"].sum()

    return potential


class Counts(dist.Multinomial):
    """torch's own log density writes through a mask, which `torch.func.vmap` cannot do."""

    def log_prob(self, value):
        coefficient = torch.lgamma(value.sum(-1) + 1) - torch.lgamma(value + 1).sum(-1)
        return coefficient + (value * self.logits).sum(-1)


def constrained_model(counts):
    rate = pyro.sample("rate", dist.Gamma(3.0, 2.0))
    probs = pyro.sample("probs", dist.Dirichlet(torch.tensor([1.5, 2.0, 0.7])))
    pyro.sample("share", dist.Uniform(-1.0, 2.0))
    with pyro.plate("data", len(counts)):
        pyro.sample("total", dist.Poisson(rate), obs=counts.sum(-1))
        pyro.sample("counts", Counts(probs=probs, validate_args=False), obs=counts)


def scaled_model(y):
    """Handlers and effects that a potential must honor."""
    with poutine.scale(scale=0.3):
        a = pyro.sample("layer.a", dist.Normal(0.0, 2.0).expand([3]).to_event(1))
    with poutine.mask(mask=torch.tensor([True, False, True])), pyro.plate("three", 3):
        b = pyro.sample("layer.b", dist.LogNormal(a, 1.0))
    pyro.factor("extra", -(b**2).sum() / 20)
    pyro.deterministic("double", 2 * b)
    pyro.param("point", torch.tensor(1.0))
    with pyro.plate("data", 3 * len(y), subsample_size=len(y)):
        pyro.sample("y", dist.Normal(b.sum(), 1.0), obs=y)


PROBLEMS = {
    "schools": lambda: (schools_model, eight_schools()),
    "constrained": lambda: (constrained_model, {"counts": torch.tensor([[2, 1, 0], [0, 3, 2.0]])}),
    "handlers": lambda: (scaled_model, torch.randn(5)),
    "network": network_problem,
    "noise": lambda: network_problem(std=dist.HalfCauchy(1.0)),
    "width": lambda: network_problem(rms_std=dist.LogNormal(-1.0, 0.5)),
}


@pytest.fixture(params=PROBLEMS)
def problem(request):
    return PROBLEMS[request.param]()


class TestEnergy:
    def test_energy_and_gradient_are_pyros(self, problem):
        model, batch = problem
        potential = PyroPotential(model, batch)
        reference = pyros_potential(model, batch)
        with torch.no_grad():
            for parameter in potential.parameters():
                parameter.copy_(torch.randn_like(parameter) / 2)
        sites = joined(potential, dict(potential.named_parameters()))
        point = {name: value.detach().clone().requires_grad_() for name, value in sites.items()}
        expected = reference(point)
        torch.testing.assert_close(
            potential_energy(potential, batch), expected.detach().double(), rtol=1e-5, atol=1e-4
        )
        gradients = dict(
            zip(point, torch.autograd.grad(expected, list(point.values())), strict=True)
        )
        found = full_gradient(potential, batch)
        for name, gradient in gradients.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-4, msg=name)

    def test_chains_are_independent_copies(self, problem):
        model, batch = problem
        single = PyroPotential(model, batch)
        several = PyroPotential(model, batch, num_chains=3)
        with torch.no_grad():
            for parameter in several.parameters():
                parameter.copy_(torch.randn_like(parameter) / 2)
        found = full_gradient(several, batch)
        energies = []
        for chain in range(3):
            for name, parameter in single.named_parameters():
                parameter.data = several.get_parameter(name)[chain].detach().clone()
            energies.append(potential_energy(single, batch))
            for name, gradient in full_gradient(single, batch).items():
                torch.testing.assert_close(found[name][chain], gradient, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            potential_energy(several, batch), torch.stack(energies).mean(), rtol=1e-5, atol=1e-4
        )

    def test_minibatches_are_unbiased(self, conjugate):
        potential = PyroPotential(conjugate.model, (conjugate.x, conjugate.y))
        full = full_gradient(potential, (conjugate.x, conjugate.y))["weights"]
        batches = zip(conjugate.x.split(3), conjugate.y.split(3), strict=True)
        parts = [full_gradient(potential, batch)["weights"] for batch in batches]
        torch.testing.assert_close(torch.stack(parts).mean(0), full)

    def test_the_closed_form_never_meets_autograd(self, conjugate):
        potential = PyroPotential(conjugate.model, (conjugate.x, conjugate.y))
        weights = conjugate.prior.sample()
        put(potential, weights=weights)
        conjugate.prior.layout.load_(conjugate.module, weights)
        expected = -Normal(std=conjugate.noise).log_prob(conjugate.module(conjugate.x), conjugate.y)
        torch.testing.assert_close(
            potential((conjugate.x, conjugate.y)), expected.mean(), check_dtype=False
        )

    def test_a_width_that_is_random_goes_through_autograd(self):
        model, batch = network_problem(rms_std=dist.LogNormal(-1.0, 0.5))
        assert PyroPotential(model, batch).prior is None

    def test_points_are_constants(self):
        model, batch = network_problem()
        module = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
        model = BayesianNetwork(module, make_prior(module), Categorical(), 30, random="2.*")
        potential = PyroPotential(model, batch)
        potential(batch).backward()
        assert potential.layout.dim == 8
        assert module[0].weight.grad is None


class TestJacobian:
    """The integral of exp(-U) over unconstrained space is the evidence, whatever the support."""

    def test_positive_site(self):
        y = torch.tensor([0.4, 1.7, 0.9], dtype=torch.float64)
        a, b = 2.5, 1.5

        def model(y):
            rate = pyro.sample("rate", dist.Gamma(torch.tensor(a).double(), b))
            with pyro.plate("data", 3):
                pyro.sample("y", dist.Exponential(rate), obs=y)

        potential = PyroPotential(model, y)
        closed = (
            a * math.log(b) - math.lgamma(a) + math.lgamma(a + 3) - (a + 3) * math.log(b + y.sum())
        )

        def density(u):
            potential.rate.data.fill_(u)
            return math.exp(-potential_energy(potential, y).item())

        assert math.log(scipy.integrate.quad(density, -12, 6)[0]) == pytest.approx(closed, 1e-7)

    def test_simplex_site(self):
        concentration = torch.tensor([1.5, 2.0, 3.0], dtype=torch.float64)
        counts = torch.tensor([2.0, 1.0, 4.0], dtype=torch.float64)

        def model(counts):
            probs = pyro.sample("probs", dist.Dirichlet(concentration))
            with pyro.plate("data", 1):
                pyro.sample("counts", Counts(7, probs=probs), obs=counts)

        axis = torch.linspace(-9, 9, 181, dtype=torch.float64)
        grid = torch.cartesian_prod(axis, axis)
        potential = PyroPotential(model, counts, num_chains=len(grid))
        potential.probs.data.copy_(grid)
        vectorized = torch.func.vmap(
            lambda u: potential._log_joint({"probs": u}, counts), randomness="error"
        )
        with pyro.validation_enabled(False):
            log_density = vectorized(grid)
        step = (axis[1] - axis[0]).log()
        found = log_density.logsumexp(0) + 2 * step
        closed = dist.DirichletMultinomial(concentration, 7).log_prob(counts)
        torch.testing.assert_close(found, closed, rtol=1e-7, atol=0)

    def test_constrained_values_have_the_sites_shapes(self, problem):
        model, batch = problem
        potential = PyroPotential(model, batch)
        weights = torch.randn(2, 5, potential.layout.dim) / 2
        nodes = poutine.trace(lambda: call_model(model, batch)).get_trace().nodes
        for name, value in potential.constrain(weights).items():
            assert value.shape == (2, 5, *nodes[name]["value"].shape), name

    def test_constrained_values_lie_in_the_support(self):
        model, batch = PROBLEMS["constrained"]()
        values = PyroPotential(model, batch).constrain(torch.randn(50, 4))
        assert (values["rate"] > 0).all()
        torch.testing.assert_close(values["probs"].sum(-1), torch.ones(50))
        assert ((values["share"] > -1) & (values["share"] < 2)).all()


class TestModule:
    def test_names_are_the_sites(self):
        potential = PyroPotential(scaled_model, torch.randn(5))
        assert dict(potential.named_parameters()).keys() == {"layer.a", "layer.b"}
        other = PyroPotential(scaled_model, torch.randn(5), init_strategy=init_to_sample)
        other.load_state_dict(potential.state_dict())
        torch.testing.assert_close(other.layout.flatten(other), potential.layout.flatten(potential))

    def test_a_site_may_have_an_attributes_name(self):
        def model(y):
            prior = pyro.sample("prior", dist.Normal(0.0, 1.0))
            layout = pyro.sample("layout", dist.Normal(0.0, 1.0))
            with pyro.plate("data", 5):
                pyro.sample("y", dist.Normal(prior + layout, 1.0), obs=y)

        potential = PyroPotential(model, torch.zeros(5))
        potential(torch.zeros(5)).backward()
        assert potential.layout.names == ("prior", "layout")
        assert potential.prior is None

    def test_starts_at_means_medians_or_given_values(self):
        batch = eight_schools()
        potential = PyroPotential(schools_model, batch)
        assert potential.mu == 0
        assert 1 < potential.tau.exp() < 30  # the median of a HalfCauchy(5), whose mean is infinite
        given = init_to_value(values={"mu": torch.tensor(3.0)}, fallback=init_to_sample)
        assert PyroPotential(schools_model, batch, init_strategy=given).mu == 3

    def test_random_starts_depend_on_the_seed(self):
        batch = eight_schools()
        potential = PyroPotential(schools_model, batch, num_chains=2, init_strategy=init_to_sample)
        starts = []
        for seed in (1, 2, 1):
            potential.initialize(batch, seed=seed)
            starts.append(potential.layout.flatten(potential))
        assert torch.equal(starts[0], starts[2])
        assert not torch.equal(starts[0], starts[1])
        assert potential.mu[0] != potential.mu[1]

    def test_dropout_makes_it_random(self):
        module = nn.Sequential(nn.Linear(2, 30), nn.Dropout(0.5), nn.Linear(30, 2))
        model = BayesianNetwork(module, make_prior(module), Categorical(), 30)
        batch = torch.randn(10, 2), torch.randint(2, (10,))
        assert PyroPotential(model.train(), batch).is_random(batch)
        assert PyroPotential(model, batch, num_chains=2).is_random(batch)
        assert not PyroPotential(model.eval(), batch).is_random(batch)

    def test_dropout_is_seen_beside_the_prior_of_many_weights(self):
        """A prior of a million weights has a log density that hides a change of some nats."""
        module = nn.Sequential(nn.Linear(2, 1000), nn.Dropout(0.01), nn.Linear(1000, 1000))
        module.append(nn.Linear(1000, 2))
        model = BayesianNetwork(module, make_prior(module, rank=0), Categorical(), 30)
        batch = torch.randn(10, 2), torch.randint(2, (10,))
        assert PyroPotential(model.train(), batch).is_random(batch)

    def test_random_subsamples_do_not(self):
        y = torch.randn(5)
        assert not PyroPotential(scaled_model, y).is_random(y)

        def choosing(y):
            mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
            with pyro.plate("data", 5, subsample_size=2) as chosen:
                pyro.sample("y", dist.Normal(mean, 1.0), obs=y[chosen])

        assert not PyroPotential(choosing, y).is_random(y)

    def test_the_model_runs_once(self):
        runs = []

        def counted(*batch):
            runs.append(batch)
            schools_model(*batch)

        PyroPotential(counted, eight_schools(), init_strategy=init_to_sample)
        assert len(runs) == 1
        fixed = init_to_value(values={"tau": torch.tensor(2.0)}, fallback=init_to_mean)
        PyroPotential(counted, eight_schools(), num_chains=7, init_strategy=fixed)
        assert len(runs) == 2


class TestEngine:
    def test_map_is_the_closed_form(self, conjugate):
        batch = conjugate.x, conjugate.y
        potential = PyroPotential(conjugate.model, batch)
        train(
            potential,
            potential_loss,
            [batch],
            ImplicitPriorSGD(potential.parameters(), lr=0.3),
            constant(),
            200,
            prior=potential.prior,
            num_data=potential.num_data,
            progress=False,
        )
        residual = potential.values()["weights"] - conjugate.mean
        assert (residual @ conjugate.cov.inverse() @ residual).sqrt() < 1e-3

    @pytest.mark.statistical
    def test_sgld_has_the_law_of_the_discretized_chain(self, seed):
        """Chains started at the exact stationary law of their step stay in it."""
        torch.manual_seed(seed)
        num_chains, lr = 20_000, 0.4
        conjugate = Conjugate(num_data=6, num_features=1)
        batch = conjugate.x, conjugate.y
        start = conjugate.mean
        potential = PyroPotential(
            conjugate.model,
            batch,
            num_chains=num_chains,
            init_strategy=init_to_value(values={"weights": start}),
        )
        values, vectors = torch.linalg.eigh(conjugate.cov)
        step = lr / potential.num_data
        assert step / values[0] < 2
        law = values / (1 - step / values / 2)
        noise = torch.randn(num_chains, 2, dtype=torch.float64) * law.sqrt()
        put(potential, weights=conjugate.mean + noise @ vectors.T)
        train(
            potential,
            potential_loss,
            [batch],
            SGLD(potential.parameters(), lr=lr, num_data=potential.num_data, seed=seed),
            constant(),
            25,
            prior=potential.prior,
            num_data=potential.num_data,
            progress=False,
        )
        whitened = (potential.values()["weights"] - conjugate.mean) @ vectors / law.sqrt()
        mean_z = whitened.mean(0) * num_chains**0.5
        variance_z = (whitened.var(0) - 1) * (num_chains / 2) ** 0.5
        assert torch.cat([mean_z, variance_z]).abs().max() < 5.5
