"""Two gloo processes with batch B must do what one process with 2 B does."""

import functools
import os
import resource
import signal
import socket

import pytest
import torch
from forked import CONTEXT
from inference_linear import NUM_DATA, Problem, half_square

from bayesprior.data.batch_sampler import EpochBatchSampler
from bayesprior.errors import BayesPriorError, ConfigError
from bayesprior.inference.engine import train
from bayesprior.inference.optimizers import SGLD, ImplicitPriorSGD
from bayesprior.inference.schedules import constant

STEPS = 12
BATCH = 5
OPTIMIZERS = ("implicit", "sgld", "objective")
SHARES = (range(31), range(31, NUM_DATA))  # of two ranks, unequal


class Projected(torch.nn.Module):
    """A loss that owns a trained layer."""

    def __init__(self):
        super().__init__()
        self.projector = torch.nn.Linear(1, 1, dtype=torch.float64)
        torch.nn.init.constant_(self.projector.weight, 0.5)
        torch.nn.init.zeros_(self.projector.bias)

    def forward(self, module, batch):
        inputs, targets = batch
        return (self.projector(module(inputs)) - targets).square().mean(), {}


def make_optimizer(name, params):
    if name == "sgld":
        return SGLD(params, lr=1e-3, num_data=NUM_DATA, seed=11)
    return ImplicitPriorSGD(params, lr=0.05)


def make_loader(problem, batch_size, rank, world_size):
    sampler = EpochBatchSampler(
        NUM_DATA, batch_size, shuffle=True, seed=4, rank=rank, world_size=world_size
    )
    dataset = torch.utils.data.TensorDataset(problem.inputs, problem.targets)
    return torch.utils.data.DataLoader(dataset, batch_sampler=sampler)


class Fixed(list):
    """Batches of given rows."""

    def set_epoch(self, epoch):
        pass


def make_unequal_loader(problem, *shares):
    dataset = torch.utils.data.TensorDataset(problem.inputs, problem.targets)
    return torch.utils.data.DataLoader(dataset, batch_sampler=Fixed(map(list, shares)))


class Troubled:
    """A loader whose third batch brings something about."""

    def __init__(self, loader, trouble):
        self.loader, self.batch_sampler, self.trouble = loader, loader.batch_sampler, trouble

    def __iter__(self):
        for number, batch in enumerate(self.loader):
            yield self.trouble(batch) if number == 2 else batch


def terminate(batch):
    os.kill(os.getpid(), signal.SIGTERM)
    return batch


def only_small_files(size, batch):
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    return batch


TROUBLES = {  # what befalls which rank
    "signal": (1, terminate),
    "nan": (1, lambda batch: (batch[0] * float("nan"), batch[1])),
    "trace": (0, functools.partial(only_small_files, 10)),
    "checkpoint": (0, functools.partial(only_small_files, 1000)),
}


def fit(name, loader, fabric=None, folder=None, burn_in=0, **options):
    problem, loss = Problem(), half_square
    parameters = list(problem.module.parameters())
    if name == "objective":
        loss = Projected()
        parameters += loss.parameters()
    train(
        problem.module,
        loss,
        loader,
        make_optimizer(name, parameters),
        constant(burn_in=burn_in),
        STEPS,
        prior=problem.prior,
        num_data=NUM_DATA,
        fabric=fabric,
        run_dir=folder,
        progress=False,
        **options,
    )
    return torch.cat([p.detach().flatten() for p in parameters])


def worker(rank, world_size, port, folder):
    from lightning_fabric import Fabric

    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": "test",
    }
    torch.manual_seed(100 + rank)  # noise must not come from the global generator
    fabric = Fabric(accelerator="cpu", devices=world_size, strategy="ddp")
    fabric.launch()
    results = {}
    for name in OPTIMIZERS:
        loader = make_loader(Problem(), BATCH, fabric.global_rank, fabric.world_size)
        results[name] = fit(name, loader, fabric, folder / name)
    results["unequal"] = fit("implicit", make_unequal_loader(Problem(), SHARES[rank]), fabric)
    try:
        fit("sgld", Problem().loader(BATCH, shuffle=True), fabric)
    except ConfigError as error:
        results["refusal"] = str(error)
    for name, (where, trouble) in TROUBLES.items():
        loader = make_loader(Problem(), BATCH, fabric.global_rank, fabric.world_size)
        loader = Troubled(loader, trouble) if rank == where else loader
        try:
            fit("sgld", loader, fabric, folder / name, burn_in=STEPS, log_every=4)
        except (BayesPriorError, KeyboardInterrupt) as error:
            results[name] = f"{type(error).__name__}: {error}"
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    torch.save(results, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def replicas(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("ddp")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [CONTEXT.Process(target=worker, args=(r, 2, port, folder)) for r in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=300)
    assert [process.exitcode for process in processes] == [0, 0]
    results = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for name in OPTIMIZERS:
        checkpoint = torch.load(folder / name / "checkpoint.pt", weights_only=True)
        assert checkpoint["step"] == STEPS
    return results


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_two_ranks_with_half_the_batch_equal_one(name, replicas):
    alone = fit(name, make_loader(Problem(), 2 * BATCH, 0, 1))
    assert torch.equal(replicas[0][name], replicas[1][name])
    torch.testing.assert_close(replicas[0][name], alone, rtol=1e-12, atol=1e-12)


def test_loader_that_ignores_ranks_is_refused(replicas):
    for result in replicas:
        assert "would all see the same batches" in result["refusal"]


def test_ranks_with_unequal_batches_count_by_their_examples(replicas):
    single = fit("implicit", make_unequal_loader(Problem(), range(NUM_DATA)))
    for result in replicas:
        torch.testing.assert_close(result["unequal"], single)


def test_a_signal_to_one_rank_stops_all_of_them_after_the_same_step(replicas):
    for result in replicas:
        assert result["signal"].startswith("Terminated: stopped after step 4 of 12; resume from ")


def test_what_one_rank_meets_ends_every_rank_with_one_line(replicas):
    own, other = (replicas[rank]["nan"] for rank in (1, 0))
    assert own.startswith("DataError: batch 2 of epoch 0 of the inputs holds NaN")
    assert "another process of this run has failed; the last good checkpoint is" in other
    own, other = (replicas[rank]["trace"] for rank in (0, 1))
    assert "StorageError: could not write " in own
    assert "trace.csv" in own
    assert "another process of this run has failed" in other
    assert all("checkpoint.pt" in result["checkpoint"] for result in replicas)
    lines = [result[name] for result in replicas for name in TROUBLES]
    assert not any("\n" in line for line in lines)
