"""What is no file of tensors is said in plain words."""

import json
import os
import pickle
import warnings
import zipfile
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bayesprior.errors import CheckpointError
from bayesprior.weights.state_dicts import read_state_dict
from bayesprior.weights.tensor_files import read_file

STATE = nn.Linear(20, 30).state_dict()


def write_code(path):
    """A pickle that would call a function when read by the old `torch.load`."""
    torch.save({"weight": partial(print, "pwned")}, path)


def write_program(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch gives the format up
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)


def write_pictures(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("rose/1.png", "pixels")


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("program.pt", write_program, r"TorchScript program, .*torch.jit.load\(path\).state_dict"),
        ("absent.pth", lambda path: None, "no such file"),
        ("code.pth", write_code, r"holds a functools.partial .*save its weights alone"),
        ("junk.pth", lambda path: path.write_bytes(b"\0\1\2\3"), "nor torch.save wrote it$"),
        (
            "predictions.csv",
            lambda path: path.write_text("file,é\n" * 99),
            "it is a text$",
        ),
        ("photos.zip", write_pictures, "it is an archive that torch.save did not write$"),
        ("arrays.npz", lambda path: np.savez(path, x=np.ones(3)), "that torch.save did not write$"),
        ("call.pth", lambda path: torch.save({"x": os.system}, path), r"it calls posix\.system$"),
        (
            "empty.pt",
            lambda path: path.write_bytes(b""),
            "file of tensors: it is empty",
        ),
        (
            "pickle.pt",
            lambda path: path.write_bytes(pickle.dumps({1, 2})),
            "neither safetensors nor torch.save wrote it$",
        ),
        ("junk.safetensors", lambda path: path.write_bytes(b"junk"), "tensors: it is a text$"),
        ("odd.json", lambda path: path.write_text("{}"), "it is no index of a checkpoint in shar"),
        ("list.pth", lambda path: torch.save([torch.zeros(1)], path), "no dictionary of tensors"),
        ("epoch.pth", lambda path: torch.save({"epoch": 3}, path), "no dictionary of tensors"),
        ("number.pth", lambda path: torch.save({0: torch.zeros(1)}, path), "no dictionary of"),
    ],
)
def test_unreadable_files(tmp_path, capsys, name, write, message):
    write(tmp_path / name)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_state_dict(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert not {"\n", "\x1b"} & set(str(caught.value))
    assert "pwned" not in capsys.readouterr().out


WRITERS = {
    "net.pth": torch.save,
    "old.pth": partial(torch.save, _use_new_zipfile_serialization=False),
    "net.safetensors": save_file,
}


@pytest.mark.parametrize("name", WRITERS)
def test_truncated_files(tmp_path, name):
    path = tmp_path / name
    WRITERS[name](STATE, path)
    assert read_file(path).keys() == STATE.keys()
    for keep in (-40, 300, 20):
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(CheckpointError, match="is no readable file of tensors") as caught:
            read_state_dict(path)
        assert "it is damaged or cut short" in str(caught.value)
        assert "Errno" not in str(caught.value)


def test_a_part_that_is_damaged_is_told_as_such(tmp_path):
    path = tmp_path / "net.pth"
    torch.save(STATE, path)
    whole = path.read_bytes()
    start = whole.index(b"data.pkl") + 8
    path.write_bytes(whole[:start] + b"\xff" * 40 + whole[start + 40 :])
    with pytest.raises(CheckpointError, match=r"no readable file of tensors: it is damaged \(\w"):
        read_file(path)


def test_shards_lie_beside_their_index(tmp_path):
    save_file(STATE, tmp_path / "part-1.safetensors")
    index = tmp_path / "inner" / "model.safetensors.index.json"
    index.parent.mkdir()
    index.write_text(json.dumps({"weight_map": {"weight": "../part-1.safetensors"}}))
    with pytest.raises(CheckpointError, match="points outside its folder"):
        read_file(index)


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator reads every file")
def test_a_file_that_may_not_be_read(tmp_path):
    path = tmp_path / "net.pth"
    torch.save(STATE, path)
    path.chmod(0)
    with pytest.raises(CheckpointError, match="cannot be read: Permission denied"):
        read_file(path)
