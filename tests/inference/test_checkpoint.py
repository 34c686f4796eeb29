import os
import random
import signal
import threading

import pytest
import torch
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from bayesprior.data.batch_sampler import EpochBatchSampler
from bayesprior.errors import CheckpointError, DataError
from bayesprior.inference.checkpoint import (
    BatchStream,
    all_finite,
    finish_step_on_interrupt,
    load_checkpoint,
    random_states,
    restore_random,
    save_checkpoint,
)

NUMBERS = TensorDataset(torch.arange(10))


class Noisy(torch.utils.data.Dataset):
    """Augments each example with the global generator."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return index + torch.rand(())


def generator_of_its_own():
    generator = torch.Generator().manual_seed(7)
    return DataLoader(NUMBERS, sampler=RandomSampler(NUMBERS, generator=generator), batch_size=3)


LOADERS = {
    "shuffled by the global generator": lambda: DataLoader(NUMBERS, batch_size=3, shuffle=True),
    "augmented": lambda: DataLoader(Noisy(), batch_size=3, shuffle=True),
    "own generator": generator_of_its_own,
    "epochs": lambda: DataLoader(
        NUMBERS, batch_sampler=EpochBatchSampler(10, 3, shuffle=True, seed=1)
    ),
    "a list": lambda: [torch.tensor([i]) for i in range(4)],
}


def numbers(batch):
    return (batch[0] if isinstance(batch, list | tuple) else batch).tolist()


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("stop", [0, 3, 4, 9])
def test_restored_stream_goes_on_as_if_nothing_had_happened(kind, stop):
    stream = BatchStream(LOADERS[kind]())
    for _ in range(stop):
        next(stream)
    state, states = stream.state_dict(), random_states()
    expected = [numbers(next(stream)) for _ in range(9)]

    torch.manual_seed(12345)
    other = BatchStream(LOADERS[kind]())
    other.load_state_dict(state)
    restore_random(states)
    assert [numbers(next(other)) for _ in range(9)] == expected


def test_every_epoch_holds_every_example():
    stream = BatchStream(LOADERS["epochs"]())
    epochs = [sorted(sum((numbers(next(stream)) for _ in range(4)), [])) for _ in range(3)]
    assert epochs == [list(range(10))] * 3


def test_empty_loader_is_an_error():
    loader = DataLoader(NUMBERS, batch_size=16, drop_last=True)
    with pytest.raises(DataError, match="is drop_last set"):
        next(BatchStream(loader))


def test_random_states_cover_torch_and_python():
    states = random_states()
    expected = (torch.rand(3).tolist(), random.random())
    torch.manual_seed(1)
    random.seed(1)
    restore_random(states)
    assert (torch.rand(3).tolist(), random.random()) == expected


def test_checkpoint_is_read_back_without_pickled_code(tmp_path):
    path = tmp_path / "checkpoint.pt"
    state = {"run": {"num_data": 3}, "random": random_states(), "weights": torch.ones(2)}
    save_checkpoint(path, state)
    loaded = load_checkpoint(path, expected={"num_data": 3})
    assert torch.equal(loaded["weights"], state["weights"])
    with pytest.raises(CheckpointError, match="its num_data is 3, this run's is 4"):
        load_checkpoint(path, expected={"num_data": 4})


def test_unreadable_checkpoints_are_one_clear_error(tmp_path):
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        load_checkpoint(tmp_path / "none.pt", expected={})
    whole = tmp_path / "whole.pt"
    save_checkpoint(whole, {"run": {}, "weights": torch.ones(1000)})
    (tmp_path / "cut.pt").write_bytes(whole.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match=r"cut\.pt is no readable checkpoint"):
        load_checkpoint(tmp_path / "cut.pt", expected={})
    torch.save({"something": "else"}, tmp_path / "foreign.pt")
    with pytest.raises(CheckpointError, match="is no checkpoint of this version"):
        load_checkpoint(tmp_path / "foreign.pt", expected={})


@pytest.fixture
def interruptible():
    """Ctrl-C as a terminal has it; a job in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_first_interrupt_is_a_flag_and_the_second_an_exception():
    with finish_step_on_interrupt() as flag:
        os.kill(os.getpid(), signal.SIGINT)
        assert flag.is_set()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_threads_leave_signals_alone():
    def work():
        with finish_step_on_interrupt() as flag:
            seen.append(flag.is_set())

    seen: list[bool] = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


def test_all_finite():
    assert all_finite([torch.ones(2), torch.zeros(0)])
    assert not all_finite([torch.ones(2), torch.tensor([1.0, float("nan")])])
    assert not all_finite([torch.tensor(float("inf"))])
