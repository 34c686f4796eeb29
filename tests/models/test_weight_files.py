import pickle
from functools import partial

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bayesprior.errors import CheckpointError
from bayesprior.models.weight_files import load_weights, read_state_dict


def network():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 3))


def state_of(net):
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("name", ["net.safetensors", "net.pth", "net.pt"])
def test_round_trip(tmp_path, name):
    state = state_of(network())
    (save_file if name.endswith("safetensors") else torch.save)(state, tmp_path / name)
    target = network()
    load_weights(target, read_state_dict(tmp_path / name), tmp_path / name)
    assert equal(state_of(target), state)


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_training_scripts_wrappings_are_taken_off(tmp_path, key):
    state = state_of(network())
    wrapped = {"epoch": 3, key: {f"module.{name}": tensor for name, tensor in state.items()}}
    torch.save(wrapped, tmp_path / "net.pth")
    assert equal(read_state_dict(tmp_path / "net.pth"), state)


def write_code(path):
    """A pickle that would call a function when read by the old `torch.load`."""
    torch.save({"weight": partial(print, "pwned")}, path)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("absent.pth", lambda path: None, "there is no such checkpoint file"),
        ("code.pth", write_code, "holds more than tensors"),
        ("junk.pth", lambda path: path.write_bytes(b"junk"), "no torch file|cannot be read"),
        ("empty.pt", lambda path: path.write_bytes(b""), "cannot be read"),
        ("pickle.pt", lambda path: path.write_bytes(pickle.dumps({1, 2})), "no dictionary|torch"),
        ("junk.safetensors", lambda path: path.write_bytes(b"junk"), "cannot be read"),
        ("list.pth", lambda path: torch.save([torch.zeros(1)], path), "no dictionary of tensors"),
        ("epoch.pth", lambda path: torch.save({"epoch": 3}, path), "no dictionary of tensors"),
    ],
)
def test_unreadable_files(tmp_path, capsys, name, write, message):
    write(tmp_path / name)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_state_dict(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)
    assert "pwned" not in capsys.readouterr().out


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_truncated_files(tmp_path, suffix):
    path = tmp_path / f"net.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(state_of(network()), path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CheckpointError, match="cannot be read, it is truncated or no checkpoint"):
        read_state_dict(path)


def test_what_does_not_fit_is_named_and_nothing_is_changed():
    net, state = network(), state_of(network())
    before = state_of(net)
    state["3.wieght"] = state.pop("3.weight")
    state["0.bias"] = torch.zeros(7)
    message = (
        r"file.pth does not fit Sequential .*different shapes: 0.bias \(2,\) against \(7,\); "
        "only here: 3.weight; did you mean '3.wieght'.; only there: 3.wieght"
    )
    with pytest.raises(CheckpointError, match=message) as caught:
        load_weights(net, state, "file.pth")
    assert "\n" not in str(caught.value)
    assert equal(state_of(net), before)


def test_ignored_prefixes_stay_and_batch_counts_may_lack():
    net, state = network(), state_of(network())
    before = state_of(net)
    state |= {"3.weight": torch.zeros(9, 9), "aux.weight": torch.zeros(1)}
    del state["1.num_batches_tracked"]
    load_weights(net, state, "file.pth", ignore=("3.", "aux."))
    assert torch.equal(net[3].weight, before["3.weight"])
    assert torch.equal(net[0].weight, state["0.weight"])
