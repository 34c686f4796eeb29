import random
import resource

import pytest
import torch
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from bayesprior.data.batch_sampler import EpochBatchSampler
from bayesprior.errors import CheckpointError, DataError, StorageError
from bayesprior.inference.checkpoint import (
    BatchStream,
    all_finite,
    load_checkpoint,
    random_states,
    read_checkpoint,
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
    with pytest.raises(CheckpointError, match="does not match its checksum"):
        load_checkpoint(tmp_path / "foreign.pt", expected={})


def test_no_flipped_byte_is_loaded(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"run": {}, "weights": torch.ones(3)})
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(CheckpointError, match="does not match its checksum"):
            read_checkpoint(path)
    for cut in (whole[:-1], whole + b"\0", whole[:20], b""):
        path.write_bytes(cut)
        with pytest.raises(CheckpointError, match="does not match its checksum"):
            read_checkpoint(path)


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"run": {}, "step": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with pytest.raises(StorageError, match=r"checkpoint\.pt: .*File too large; .*unchanged"):
            save_checkpoint(path, {"run": {}, "weights": torch.ones(5000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert read_checkpoint(path)["step"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_all_finite():
    assert all_finite([torch.ones(2), torch.zeros(0)])
    assert not all_finite([torch.ones(2), torch.tensor([1.0, float("nan")])])
    assert not all_finite([torch.tensor(float("inf"))])
