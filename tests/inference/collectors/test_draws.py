import multiprocessing
from itertools import pairwise

import pytest
import torch
from torch import distributed, nn

from bayesprior.errors import CheckpointError, ConfigError, StorageError
from bayesprior.inference.collectors.draws import DrawWriter
from bayesprior.inference.posteriors import StoredDraws, stored_draw_paths
from bayesprior.inference.protocols import Phase, StepEvent
from bayesprior.weights.layout import ParameterLayout


def module():
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def trajectory(net, num_steps, seed=0):
    """Move weights and statistics, as training does."""
    generator = torch.Generator().manual_seed(seed)
    layout = ParameterLayout.from_module(net)
    for step in range(1, num_steps + 1):
        with torch.no_grad():
            for param in net.parameters():
                param.copy_(torch.randn(param.shape, generator=generator))
        net(torch.randn(8, 3, generator=generator))
        yield StepEvent(step, Phase(1.0, 1.0, True), net, layout)


def test_draws_come_back_with_their_statistics(tmp_path):
    writer, seen = DrawWriter(tmp_path), []
    for event in trajectory(module(), 3):
        writer.update(event)
        seen.append((event.weights(), event.buffers()))
    stored = StoredDraws(tmp_path)
    assert stored.layout == ParameterLayout.from_module(module())
    for draw, (weights, buffers) in zip(stored.draws(), seen, strict=True):
        assert torch.equal(draw.weights, weights)
        assert draw.buffers.keys() == buffers.keys()
        for name, buffer in buffers.items():
            assert torch.equal(draw.buffers[name], buffer)
            assert draw.buffers[name].dtype == buffer.dtype
    assert all(not torch.equal(a[0], b[0]) for a, b in pairwise(seen))


def test_a_resumed_run_leaves_the_draws_of_an_uninterrupted_one(tmp_path):
    whole, died = DrawWriter(tmp_path / "whole"), DrawWriter(tmp_path / "resumed")
    for event in trajectory(module(), 5):
        whole.update(event)
    for event in trajectory(module(), 8):
        died.update(event)
        if event.step == 2:
            saved = died.state_dict()
    resumed = DrawWriter(tmp_path / "resumed")
    resumed.load_state_dict(saved)
    assert len(stored_draw_paths(resumed.folder)) == 2
    for event in trajectory(module(), 5):
        if event.step > 2:
            resumed.update(event)
    left, right = (StoredDraws(tmp_path / name).draws() for name in ("whole", "resumed"))
    for a, b in zip(left, right, strict=True):
        assert torch.equal(a.weights, b.weights)
        assert all(torch.equal(a.buffers[name], b.buffers[name]) for name in a.buffers)


def test_state_is_a_primitive(tmp_path):
    writer = DrawWriter(tmp_path)
    assert writer.state_dict() == {"next_index": 0}


def test_draws_of_another_run_are_not_overwritten(tmp_path):
    (event,) = trajectory(module(), 1)
    DrawWriter(tmp_path).update(event)
    before = stored_draw_paths(tmp_path / "chain-00")[0].read_bytes()
    with pytest.raises(ConfigError, match=r"chain-00 holds draws of another run"):
        DrawWriter(tmp_path).update(event)
    assert stored_draw_paths(tmp_path / "chain-00")[0].read_bytes() == before
    DrawWriter(tmp_path, chain=1).update(event)
    assert StoredDraws(tmp_path).num_chains == 2


def test_a_checkpoint_that_counts_more_draws_than_there_are(tmp_path):
    with pytest.raises(CheckpointError, match="holds 0 draws but the checkpoint counts 4"):
        DrawWriter(tmp_path).load_state_dict({"next_index": 4})


def test_a_negative_chain_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="chain must be 0 or more, got -1"):
        DrawWriter(tmp_path, chain=-1)


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "chain-00").write_text("a file where the folder should be")
    (event,) = trajectory(module(), 1)
    with pytest.raises(StorageError, match="chain-00"):
        DrawWriter(tmp_path).update(event)


def _write_in_process(rank, folder):
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    writer = DrawWriter(f"{folder}/run-{rank}")  # separate folders show who writes
    for event in trajectory(module(), 2):
        writer.update(event)
    other = DrawWriter(f"{folder}/run-{rank}")
    other.load_state_dict(writer.state_dict())
    assert other.next_index == 2
    distributed.destroy_process_group()


def test_only_the_first_of_two_processes_writes(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_write_in_process, args=(rank, str(tmp_path))) for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert StoredDraws(tmp_path / "run-0").num_draws == 2
    assert not (tmp_path / "run-1").exists()
