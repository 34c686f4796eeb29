"""What is left of a run: on disk, after an interruption, beside the weights."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from probabilistic.problems import eight_schools, make_prior, network_problem, schools_model
from torch import nn

from bayesprior.errors import ConfigError
from bayesprior.inference.optimizers import SGHMC, SGLD
from bayesprior.inference.posteriors import StoredDraws
from bayesprior.inference.protocols import Posterior
from bayesprior.probabilistic import RandomNetwork, StochasticGradientMCMC

SCHOOLS = [eight_schools()]
METHODS = ["sequential", "vectorized"]


def run(model=schools_model, loader=SCHOOLS, mcmc=None, **options):
    mcmc = mcmc or StochasticGradientMCMC(SGHMC, lr=1e-3, friction=0.5)
    mcmc.run(model, loader, **({"num_samples": 6, "warmup_steps": 2, "progress": False} | options))
    return mcmc


def stop_after(count):
    """An ``on_step`` that interrupts a run after so many steps of all chains together."""
    steps = 0

    def interrupt(event):
        nonlocal steps
        steps += 1
        if steps == count:
            raise KeyboardInterrupt

    return interrupt


@pytest.mark.parametrize("chain_method", METHODS)
def test_disk_holds_the_same_draws(tmp_path, chain_method):
    options = {"num_chains": 2, "chain_method": chain_method}
    kept = run(**options).get_samples(group_by_chain=True)
    stored = run(**options, run_dir=tmp_path).get_samples(group_by_chain=True)
    for name, value in kept.items():
        assert torch.equal(value, stored[name])
    draws = StoredDraws(tmp_path)
    assert (draws.num_chains, draws.num_draws) == (2, 6)
    assert draws.layout.names == ("mu", "tau", "eta")
    for draw in draws.draws():
        for name, value in draws.layout.unflatten(draw.weights).items():
            assert torch.equal(value, kept[name][draw.chain, draw.index])


@pytest.mark.parametrize("chain_method", METHODS)
@pytest.mark.parametrize("on_disk", [False, True])
def test_widths_and_noise_stay_with_the_weights(tmp_path, chain_method, on_disk):
    width, noise = dist.LogNormal(-1.0, 0.5), dist.HalfCauchy(1.0)
    model, batch = network_problem(rms_std=width, std=noise)
    options = {"num_chains": 2, "chain_method": chain_method}
    mcmc = run(model, [batch], **options, run_dir=tmp_path if on_disk else None)
    grouped = mcmc.get_samples(group_by_chain=True)
    assert {name: tuple(v.shape) for name, v in grouped.items()} == {
        "std": (2, 6),
        "rms_std": (2, 6),
        "weights": (2, 6, 17),
    }
    posterior = mcmc.posterior()
    assert isinstance(posterior, Posterior)
    assert posterior.layout == model.prior.layout
    for draw in posterior.draws():
        assert torch.equal(draw.weights, grouped["weights"][draw.chain, draw.index])
    if on_disk:
        assert StoredDraws(tmp_path).layout == model.prior.layout
        sites = StoredDraws(tmp_path / "sites")
        for draw in sites.draws():
            values = sites.layout.unflatten(draw.weights)
            for name in ("rms_std", "std"):
                assert torch.equal(values[name], grouped[name][draw.chain, draw.index])


@pytest.mark.parametrize("on_disk", [False, True])
def test_two_networks_keep_apart(tmp_path, on_disk):
    """Both have a parameter "weight": the potential tells them apart, the draws need not."""
    parts = {name: nn.Linear(2, 1) for name in ("first", "second")}
    nets = {name: RandomNetwork(m, make_prior(m), site=name) for name, m in parts.items()}

    def model(x, y):
        mean = nets["first"](x) * nets["second"](x)
        with pyro.plate("data", 12):
            pyro.sample("y", dist.Normal(mean[:, 0], 1.0), obs=y)

    batch = torch.randn(12, 2), torch.randn(12)
    mcmc = run(model, [batch], num_chains=2, run_dir=tmp_path if on_disk else None)
    assert mcmc.potential.layout.names[0] == "first.weight"
    samples = mcmc.get_samples(group_by_chain=True)
    for name in nets:
        posterior = mcmc.posterior(name)
        assert posterior.layout.names == ("weight", "bias")
        for draw in posterior.draws():
            assert torch.equal(draw.weights, samples[name][draw.chain, draw.index])
    with pytest.raises(ConfigError, match="no latent site 'weights' with a GaussianWeights"):
        mcmc.posterior()


class TestInterrupted:
    @pytest.fixture(params=["memory", "disk"])
    def where(self, request, tmp_path):
        return {"run_dir": tmp_path, "checkpoint_every": 1} if request.param == "disk" else {}

    def stopped(self, count, **options):
        mcmc = StochasticGradientMCMC(SGHMC, lr=1e-3, friction=0.5)
        with pytest.raises(KeyboardInterrupt):
            run(mcmc=mcmc, **options, on_step=stop_after(count))
        return mcmc

    def test_in_the_third_chain(self, where):
        """Complete chains stay chains; the draws of the third are there without grouping."""
        whole = run(num_chains=3).get_samples(group_by_chain=True)["mu"]
        found = self.stopped(8 + 8 + 6, num_chains=3, **where)
        with pytest.warns(UserWarning, match="2 complete chains.* draws of the next"):
            grouped = found.get_samples(group_by_chain=True)["mu"]
        assert torch.equal(grouped, whole[:2])
        mu = found.get_samples()["mu"]
        assert 12 < len(mu) < 18
        assert torch.equal(mu, torch.cat([whole[0], whole[1], whole[2, : len(mu) - 12]]))

    def test_in_the_first_chain(self, where):
        found = self.stopped(6, num_chains=3, **where)
        grouped = found.get_samples(group_by_chain=True)["mu"]
        assert grouped.shape[0] == 1
        assert 0 < grouped.shape[1] < 6

    def test_vectorized(self, where):
        found = self.stopped(6, num_chains=3, chain_method="vectorized", **where)
        grouped = found.get_samples(group_by_chain=True)["mu"]
        assert grouped.shape[0] == 3
        assert 0 < grouped.shape[1] < 6

    def test_before_the_first_draw(self, where):
        found = self.stopped(1, **where)
        with pytest.raises(ConfigError, match="interrupted before its first draw"):
            found.get_samples()

    @pytest.mark.parametrize("chain_method", METHODS)
    def test_it_goes_on(self, tmp_path, chain_method):
        options = {"num_chains": 3, "chain_method": chain_method}
        whole = run(**options).get_samples(group_by_chain=True)
        parts = {**options, "run_dir": tmp_path, "checkpoint_every": 2}
        self.stopped(13 if chain_method == "sequential" else 5, **parts)
        resumed = run(**parts, resume=True).get_samples(group_by_chain=True)
        for name, value in whole.items():
            assert torch.equal(value, resumed[name])

    def test_fewer_chains_than_on_disk(self, tmp_path):
        four = run(num_chains=3, run_dir=tmp_path).get_samples(group_by_chain=True)["mu"]
        two = run(num_chains=2, run_dir=tmp_path, resume=True).get_samples(group_by_chain=True)
        assert torch.equal(two["mu"], four[:2])


def test_a_dead_chain_leaves_the_complete_ones():
    def kernel(groups, *, num_data, seed):
        made.append(seed)
        return SGLD(groups, lr=1e-3 if len(made) < 2 else 1e30, num_data=num_data, seed=seed)

    made: list[int] = []
    mcmc = StochasticGradientMCMC(kernel)
    with pytest.raises(ArithmeticError):
        run(mcmc=mcmc, num_chains=2)
    assert mcmc.get_samples()["mu"].shape == (6,)
