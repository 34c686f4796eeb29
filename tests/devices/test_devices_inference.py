import itertools

import pytest
import torch
from devices.accelerator import CPU, DeviceAccelerator, assert_same, fabric_on, waits
from lightning_fabric import Fabric
from lightning_fabric.strategies import SingleDeviceStrategy
from recipes_cases import Net
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler

from bayesprior.errors import DataError, DivergenceError
from bayesprior.inference.collectors import SWAG, DrawsInMemory, DrawWriter, Watching
from bayesprior.inference.engine import train
from bayesprior.inference.optimizers import SGHMC, SGLD, ImplicitPriorSGD
from bayesprior.inference.posteriors import PointPosterior, StoredDraws
from bayesprior.inference.prior_term import attach_prior
from bayesprior.inference.schedules import constant
from bayesprior.tasks.likelihoods import Categorical
from bayesprior.tasks.objectives import supervised, two_view
from bayesprior.tasks.protocols import to_device
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout

N, NEVER = 60, 10**6
OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "ImplicitPriorSGD": lambda p: ImplicitPriorSGD(p, lr=0.05),
    "Nesterov": lambda p: ImplicitPriorSGD(p, lr=0.05, nesterov=True),
    "SGLD": lambda p: SGLD(p, lr=1e-3, num_data=N),
    "SGHMC": lambda p: SGHMC(p, lr=1e-3, num_data=N, friction=0.1),
}


def batches(size=20):
    generator = torch.Generator().manual_seed(1)
    inputs, labels = torch.randn(N, 16, generator=generator), torch.arange(N) % 3
    return list(zip(inputs.split(size), labels.split(size), strict=True))


def prior_at(module):
    layout = ParameterLayout.from_module(module)
    factor = 0.1 * torch.randn(layout.dim, 2, generator=torch.Generator().manual_seed(2))
    law = GaussianWeights(layout, layout.flatten(module), torch.full((layout.dim,), 0.5), factor)
    return law.rescale(cov_scale=0.5, select="head.*")


def run(
    device,
    make,
    *,
    num_steps=5,
    collectors=(),
    schedule=None,
    loss=None,
    prior=True,
    fabric=None,
    **more,
):
    torch.manual_seed(0)
    module = Net(3)
    law = prior_at(module).to(device) if prior else None
    module.to(device)
    loss = loss or supervised(Categorical())
    owned = [*loss.to(device).parameters()] if isinstance(loss, nn.Module) else []
    options = {"log_every": NEVER, "loader": batches(), "num_data": N, "progress": False, **more}
    result = train(
        module,
        loss,
        optimizer=make([*module.parameters(), *owned]),
        schedule=schedule or constant(burn_in=NEVER),
        num_steps=num_steps,
        prior=law,
        collectors=collectors,
        fabric=fabric() if fabric else fabric_on(device),
        **options,
    )
    return module.state_dict(), dict(result.stats)


def waits_of(device, *args, **options):
    with waits() as found:
        run(device, *args, **options)
    return found


def per_step(device, make, **options):
    """What a step adds, in the first epoch and over its end."""
    few, many = (waits_of(device, make, num_steps=n, **options) for n in (2, 9))
    return many - few


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("prior", [True, False])
def test_steps_are_the_cpus_and_make_the_host_wait_for_nothing(both, device, name, prior):
    both(lambda place: run(place, OPTIMIZERS[name], prior=prior))
    assert not per_step(device, OPTIMIZERS[name], prior=prior)


class Criterion(nn.Module):
    """Owns a parameter, as a projector does."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, one, other):
        return (one * self.scale - other).square().mean()


@pytest.mark.parametrize(
    "options",
    [
        {"accumulate": 2},
        {"clip_norm": 0.1},
        {"batch_norm": "train"},
        {"loss": lambda: two_view(Criterion()), "loader": [(x, x + 0.1) for x, _ in batches()]},
    ],
    ids=lambda options: next(iter(options)),
)
def test_everything_that_a_step_may_do(both, device, options):
    def filled():
        return {k: v() if k == "loss" else v for k, v in options.items()}

    both(lambda place: run(place, OPTIMIZERS["ImplicitPriorSGD"], **filled()))
    assert not per_step(device, OPTIMIZERS["ImplicitPriorSGD"], **filled())


def test_what_a_logged_step_waits_for(device):
    extra = [waits_of(device, OPTIMIZERS["SGHMC"], num_steps=6, log_every=n) for n in (1, 6)]
    found = extra[0] - extra[1]
    assert {place: count / 5 for place, count in found.items()} == {
        "inference/run_state.py:check_loss": 1,
        "inference/prior_term.py:add_to_grad": 1,  # the log prior
        "inference/prior_term.py:_temperatures": 1,
        "inference/run_state.py:scalars": 1,  # the loss
        "inference/run_state.py:<dictcomp>": 1,  # the accuracy
        "inference/optimizers/sghmc.py:kinetic_temperature": 1,
    }


def collectors(folder):
    """Makes each collector, and how often a draw makes the host wait, by place."""
    layers = 3  # with a running mean, a variance, a counter
    kept = {"inference/collectors/memory.py:<dictcomp>": layers}
    return {
        "SWAG": (lambda: SWAG(rank=2), {}),
        "Watching": (lambda: Watching(SWAG(rank=2), select="head.*"), {}),
        "DrawsInMemory": (DrawsInMemory, kept | {"inference/collectors/memory.py:update": 1}),
        "DrawWriter": (lambda: DrawWriter(next(folder)), {"storage.py:save_tensors": 1 + layers}),
    }


@pytest.mark.parametrize("name", ["SWAG", "Watching", "DrawsInMemory", "DrawWriter"])
def test_collectors(both, device, tmp_path, name):
    folder = (tmp_path / str(number) for number in itertools.count())
    make, expected = collectors(folder)[name]

    def work(place, num_steps=6, thin=1):
        collector = make()
        run(
            place,
            OPTIMIZERS["SGLD"],
            num_steps=num_steps,
            schedule=constant(thin=thin),
            collectors=[collector],
        )
        if name in ("SWAG", "Watching"):
            law = getattr(collector, "collector", collector).posterior()
            assert law.loc.device.type == place.type
            return law.loc, law.cov_diag, law.cov_factor
        kept = collector if name == "DrawsInMemory" else StoredDraws(collector.folder.parent)
        return [(d.weights, d.buffers) for d in kept.draws()]

    both(work)
    found = []
    for thin in (1, 2):
        with waits() as counted:
            work(device, thin=thin)
        found.append(counted)
    more = {place: count / 3 for place, count in (found[0] - found[1]).items()}
    # whether a loss and the weights are finite: one number each
    checks = {"inference/run_state.py:check_loss": 1, "inference/checkpoint.py:all_finite": 1}
    assert more == {**checks, **expected}


def test_a_run_is_saved_and_goes_on(both, tmp_path):
    def work(device):
        folder, make = tmp_path / device.type, OPTIMIZERS["SGHMC"]
        whole = run(device, make, num_steps=6, run_dir=folder / "whole", checkpoint_every=3)
        with pytest.raises(InterruptedError):
            run(device, make, num_steps=6, run_dir=folder / "cut", checkpoint_every=3, on_step=stop)
        again = run(device, make, num_steps=6, run_dir=folder / "cut", resume=True)
        assert_same(again[0], {name: value.cpu() for name, value in whole[0].items()})
        return whole

    def stop(event):
        if event.step == 4:
            raise InterruptedError

    both(work)


def test_one_look_at_the_labels_of_a_run_but_every_bad_loss_is_found(device):
    wrong = [(x, y + 1) for x, y in batches()]
    with pytest.raises(DataError, match="labels must be in 0"):
        run(device, OPTIMIZERS["SGD"], loader=wrong)
    nan = batches()[:2] + [(x * torch.nan, y) for x, y in batches()[2:]]
    with pytest.raises(DataError, match="batch 2 of epoch 0 of the inputs holds NaN"):
        run(device, OPTIMIZERS["SGD"], loader=nan, num_steps=3)
    with pytest.raises(DivergenceError, match="a weight is NaN|the loss is"):
        run(device, lambda p: torch.optim.SGD(p, lr=1e38), prior=False)


def test_the_generators_of_a_sampler_are_the_devices(device):
    state, _ = run(device, OPTIMIZERS["SGLD"])
    other, _ = run(CPU, OPTIMIZERS["SGLD"])
    assert not torch.equal(
        state["head.weight"].cpu(), run(CPU, OPTIMIZERS["SGD"])[0]["head.weight"]
    )
    assert torch.equal(state["head.weight"].cpu(), other["head.weight"])


@pytest.mark.parametrize("name", ["Adam", "ImplicitPriorSGD"])
def test_a_prior_in_a_loop_of_ones_own(both, device, name):
    def work(place, num_steps=3):
        torch.manual_seed(0)
        module = Net(3)
        law = prior_at(module)
        optimizer = OPTIMIZERS[name](module.to(place).parameters())
        attach_prior(optimizer, module, law, num_data=N)
        inputs, labels = to_device(batches()[0], place)
        for _ in range(num_steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(inputs), labels).backward()
            optimizer.step()
        return module.state_dict()

    both(work)
    with waits() as few:
        work(device, 1)
    with waits() as many:
        work(device, 4)
    assert many == few


def test_point_posteriors(both, tmp_path):
    def work(device):
        torch.manual_seed(0)
        point = PointPosterior.from_module(Net(3).to(device))
        point.save(tmp_path / "point")
        read = PointPosterior.load(tmp_path / "point", device=device)
        assert read.weights.device.type == device.type
        return point.weights, read.weights, point.buffers, read.buffers

    both(work)


class TwoProcesses(SingleDeviceStrategy):
    """What one of two equal processes sees of them."""

    def __init__(self, device):
        super().__init__(device, accelerator=DeviceAccelerator())
        self.world_size = 2

    def all_gather(self, tensor, group=None, sync_grads=False):
        return torch.stack([tensor, tensor])


def test_a_step_of_several_processes_waits_for_nothing(device):
    loader = DataLoader(batches(), batch_size=None, sampler=DistributedSampler(batches(), 1, 0))
    options = {"loader": loader, "fabric": lambda: Fabric(strategy=TwoProcesses(device))}
    assert not per_step(device, OPTIMIZERS["SGD"], **options)
