"""Pyro models."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from devices.accelerator import fabric_on, waits
from probabilistic.problems import network_problem, potential_energy
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoDelta, init_to_value

from bayesprior.inference.optimizers import SGHMC, SGLD
from bayesprior.probabilistic import RandomNetwork, StochasticGradientMCMC
from bayesprior.probabilistic.potential import PyroPotential
from bayesprior.tasks.protocols import to_device

HYPERPRIORS = {
    "none": {},
    "rms_std": {"rms_std": dist.LogNormal(-1.0, 0.5)},
    "std": {"std": dist.HalfNormal(1.0)},
    "both": {"rms_std": dist.LogNormal(-1.0, 0.5), "std": dist.HalfNormal(1.0)},
}


def problem(device, name="none"):
    torch.manual_seed(0)
    model, batch = network_problem(**HYPERPRIORS[name])
    return model.to(device), to_device(batch, device)


def moved(batch):
    """A batch as a loader gives it."""
    return [to_device(batch, "cpu")]


@pytest.mark.parametrize("name", HYPERPRIORS)
def test_networks(both, name):
    def work(device):
        model, batch = problem(device, name)
        weights = model.prior.loc + 0.1
        values = {"weights": weights}
        values |= {n: torch.tensor(0.4, device=device) for n in HYPERPRIORS[name]}
        trace = poutine.trace(poutine.condition(model, values)).get_trace(*batch)
        trace.compute_log_prob()
        density = {n: s["log_prob"] for n, s in trace.nodes.items() if "log_prob" in s}
        random = RandomNetwork(model.module, model.prior)
        several = torch.stack([weights, weights + 1])
        one = poutine.condition(random, {"weights": weights})(batch[0])
        two = poutine.condition(random, {"weights": several})(batch[0])
        return density, one, two

    both(work)


def test_predictive_and_a_guide(both):
    def work(device):
        pyro.clear_param_store()
        model, batch = problem(device)
        start = init_to_value(values={"weights": model.prior.loc.clone()})
        guide = AutoDelta(model, init_loc_fn=start)
        svi = SVI(model, guide, pyro.optim.SGD({"lr": 1e-3}), Trace_ELBO())
        losses = [svi.step(*batch) for _ in range(3)]
        stacked = torch.stack([model.prior.loc, model.prior.loc + 0.1])
        drawn = Predictive(model, {"weights": stacked}, return_sites=["_RETURN"])(batch[0])
        return losses, guide.median()["weights"], drawn

    both(work)


@pytest.mark.parametrize("num_chains", [None, 2])
@pytest.mark.parametrize("name", HYPERPRIORS)
def test_potentials(both, name, num_chains):
    def work(device):
        model, batch = problem(device, name)
        potential = PyroPotential(model, batch, num_chains=num_chains)
        assert {p.device.type for p in potential.parameters()} == {device.type}
        potential(batch).backward()
        return potential_energy(potential, batch), {
            n: p.grad for n, p in potential.named_parameters()
        }

    both(work)


@pytest.mark.parametrize("method", ["sequential", "vectorized"])
def test_chains(both, method):
    def work(device):
        model, batch = problem(device)
        mcmc = StochasticGradientMCMC(SGHMC, lr=1e-3, friction=0.1)
        options = {"num_chains": 2, "chain_method": method, "fabric": fabric_on(device)}
        mcmc.run(model, moved(batch), num_samples=3, warmup_steps=2, progress=False, **options)
        return mcmc.get_samples(group_by_chain=True), [d.weights for d in mcmc.posterior().draws()]

    both(work)


@pytest.mark.parametrize("name", HYPERPRIORS)
def test_a_step_of_a_chain_makes_the_host_wait_for_nothing(device, name):
    counted = []
    for warmup_steps in (2, 8):
        model, batch = problem(device, name)
        mcmc = StochasticGradientMCMC(SGLD, lr=1e-4)
        options = {"warmup_steps": warmup_steps, "log_every": 10**6, "fabric": fabric_on(device)}
        with waits() as found:
            mcmc.run(model, moved(batch), num_samples=1, progress=False, **options)
        counted.append(found)
    assert not counted[1] - counted[0]


def test_a_larger_model(both):
    """A network as a part, scalars beside it made on the host."""

    def work(device):
        random, (x, _) = problem(device)
        counts = torch.arange(len(x), device=device) % 3

        def model(x, counts=None):
            offset = pyro.sample("offset", dist.Normal(0.0, 1.0))
            rate = (offset + RandomNetwork.forward(random, x)[:, 0]).exp()
            with pyro.plate("data", 30, subsample_size=len(x)):
                pyro.sample("counts", dist.Poisson(rate), obs=counts)

        potential = PyroPotential(model, (x, counts))
        potential((x, counts)).backward()
        return {n: (p, p.grad) for n, p in potential.named_parameters()}

    both(work)
