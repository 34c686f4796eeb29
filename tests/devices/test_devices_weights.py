import itertools

import pytest
import torch
from devices.accelerator import CPU, waits

from bayesprior.weights.blocks import Block
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout
from bayesprior.weights.lowrank import LowRankCovariance
from bayesprior.weights.rows import RowCovariance

LAYOUT = ParameterLayout(("body", "norm", "head"), ((5, 4), (5,), (3, 5)))


def low_rank():
    torch.manual_seed(0)
    diag = torch.rand(LAYOUT.dim) + 0.1
    return GaussianWeights(LAYOUT, torch.randn(LAYOUT.dim), diag, torch.randn(25, 3))


def several_widths():
    return low_rank().rescale(cov_scale=0.3, select="norm")


def with_rows():
    torch.manual_seed(0)
    body = LowRankCovariance(torch.rand(25) + 0.1, torch.randn(2, 25))
    tril = torch.linalg.cholesky(torch.eye(5) + 0.2)
    blocks = Block(("body", "norm"), body), Block(("head",), RowCovariance(tril, 3), new=True)
    return GaussianWeights.from_blocks(LAYOUT, torch.randn(LAYOUT.dim), blocks)


LAWS = {law.__name__: law for law in (low_rank, several_widths, with_rows)}


@pytest.fixture(params=LAWS)
def law(request):
    return LAWS[request.param]()


def test_density_and_maps(law, both):
    def work(device):
        here = law.to(device)
        value = torch.linspace(-1, 1, 2 * LAYOUT.dim).view(2, -1).to(device).requires_grad_()
        density = here.log_prob(value)
        (gradient,) = torch.autograd.grad(density.sum(), value)
        found = [density, gradient, here.score(value), *here.score_and_log_prob(value)]
        maps = "mahalanobis", "coordinates", "covariance_product", "color", "whiten"
        found += [getattr(here, name)(value) for name in maps]
        return [*found, here.max_precision(), here.variance, here.entropy(), here.cov_factor]

    both(work)


def test_algebra(law, both):
    def work(device):
        here = law.to(device)
        wider = ParameterLayout((*LAYOUT.names, "new"), (*LAYOUT.shapes, (4,)))
        made = [
            here.rescale(rms_std=0.1),
            here.jitter(0.1),
            here.isotropic(),
            here.diagonal(),
            here.truncate(1),
            here.marginal(["norm", "head"]),
            here.extend(wider, std=0.5, loc={"new": torch.ones(4)}),
        ]
        numbers = [here.rms_std, here.block_rms_std()]
        # torch takes another routine for eigenvalues of what is no plain tensor
        numbers += [round(x, 12) for x in (here.effective_rank, here.drift_share)]
        parts = [(m.loc, m.cov_diag, m.cov_factor, m.rms_std) for m in made]
        kl = torch.distributions.kl_divergence(here, made[0])
        return parts, numbers, kl, here.to_pyro().log_prob(here.loc + 0.1)

    both(work)


def test_draws_and_files(law, both, tmp_path):
    def work(device):
        here = law.to(device)
        path = tmp_path / f"{device.type}.safetensors"
        here.save(path)
        read = GaussianWeights.load(path, device=device)
        assert read.loc.device == here.loc.device
        return [d.weights for d in here.draws(3, seed=1)], read.score(read.loc + 1)

    both(work)


def test_a_learned_width_lies_anywhere(law, both):
    def work(device):
        found = []
        for name, place, own in itertools.product(
            ("rms_std", "cov_scale"), (device, CPU), (device, CPU)
        ):
            width = torch.tensor(0.2, device=own, requires_grad=True)
            wide = law.to(place).rescale(**{name: width})
            density = wide.log_prob(torch.linspace(-1, 1, LAYOUT.dim).to(place))
            (gradient,) = torch.autograd.grad(density, width)
            found += [density.cpu(), gradient.cpu(), wide.rms_std, wide.to(CPU).cov_diag]
        return found

    both(work)


def test_score_and_density_make_the_host_wait_for_nothing(law, device):
    here = law.to(device)
    value = torch.linspace(-1, 1, LAYOUT.dim).to(device)
    maps = ("score", "score_and_log_prob", "log_prob", "color", "whiten", "covariance_product")
    for name in maps:  # what is kept for good is made now
        getattr(here, name)(value)
    with waits() as found:
        for name in maps:
            getattr(here, name)(value)
        here.rsample(generator=torch.Generator(device))
    assert not found
