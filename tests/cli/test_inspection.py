import json
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bayesprior.cli.main import main
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout


def shown(path, capsys) -> str:
    assert main(["inspect", str(path)]) == 0
    return " ".join(capsys.readouterr().out.split())


def test_a_prior_tells_width_rank_blocks_and_origin(work, capsys):
    path = work / "prior" / "prior.safetensors"
    out = shown(path, capsys)
    prior = GaussianWeights.load(path)
    assert "Gaussian over weights (prior)" in out
    assert f"weights D {prior.dim:,} in {len(prior.layout.names)} parameters" in out
    assert f"rank 3 (effective {prior.effective_rank:.2f};" in out
    assert f"{prior.drift_share:.0%} of the factor's variance" in out
    assert "rms std 0.05" in out
    for name, value in prior.block_rms_std().items():
        assert name in out
        assert f"{value:.4g}" in out
    assert "8 x 8 x 3 x 3" in out
    assert "data source" in out
    assert "head_std 1.5" in out
    assert prior.layout.digest()[:16] in out
    assert "running_mean" in out


def test_the_other_kinds_say_what_they_are(work, capsys):
    assert "Gaussian over weights (posterior)" in shown(work / "swag" / "swag.safetensors", capsys)
    assert "one vector of weights" in shown(work / "map" / "map.safetensors", capsys)
    draw = shown(work / "sgld" / "chain-01" / "draw-0002.safetensors", capsys)
    assert "draw 2 of chain 1, after 8 steps" in draw


def test_the_card_is_what_the_hub_would_show(work, capsys):
    path = work / "prior" / "prior.safetensors"
    assert main(["inspect", "--card", str(path)]) == 0
    card = capsys.readouterr().out
    assert card == GaussianWeights.load(path).card("load('prior.safetensors')")
    known = GaussianWeights.load(path).provenance
    assert known["normalization"]["std"][0] > 0
    assert f'"normalization": {json.dumps(known["normalization"])}' in card


def test_markup_in_names_is_text(capsys, tmp_path):
    layout = ParameterLayout(("w[bold]",), ((2,),))
    law = GaussianWeights.point(layout, torch.zeros(2), 0.5, provenance={"data": "[red]x"})
    law.save(tmp_path / "p.safetensors")
    out = shown(tmp_path / "p.safetensors", capsys)
    assert "w[bold]" in out
    assert "[red]x" in out


@pytest.mark.parametrize("damage", ["missing", "truncated", "text", "network", "corrupt"])
def test_what_is_no_file_of_ours(work, damage, refused, tmp_path):
    path = tmp_path / "bad.safetensors"
    data = bytearray((work / "map" / "map.safetensors").read_bytes())
    if damage == "truncated":
        path.write_bytes(data[:100])
    elif damage == "text":
        path.write_text("no tensors here")
    elif damage == "network":
        save_file({"w": torch.from_numpy(np.zeros(3, np.float32))}, path)
    elif damage == "corrupt":
        data[-3] ^= 1
        path.write_bytes(data)
    line = refused("inspect", path)
    said = {
        "missing": "no such file",
        "truncated": "or truncated",
        "text": "none of bayesprior's files",
        "network": "none of ours",
        "corrupt": "do not match its checksum",
    }
    assert str(path) in line
    assert said[damage] in line


@pytest.mark.parametrize("name", ["light.ckpt", "old.pth", "hub.bin"])
def test_weights_of_a_network_are_sent_to_make_prior(name, refused, tmp_path):
    state = {"w": torch.ones(2), "b": torch.ones(1)}
    lightning = {"state_dict": state, "epoch": 3, "hyper_parameters": {"lr": 0.1}}
    path = tmp_path / name
    {
        "light.ckpt": partial(torch.save, lightning),
        "old.pth": partial(torch.save, state, _use_new_zipfile_serialization=False),
        "hub.bin": partial(save_file, state),
    }[name](path)
    line = refused("inspect", path)
    assert line.startswith(f"{path} holds the weights of a network (2 tensors)")
    assert f"bayesprior make-prior --weights {path}" in line
    assert "checksum" not in line


def test_weights_beside_foreign_objects_are_told_as_such(refused, tmp_path):
    torch.save({"state_dict": {"w": torch.ones(2)}, "call": partial(print, 1)}, tmp_path / "c.ckpt")
    line = refused("inspect", tmp_path / "c.ckpt")
    assert "holds a functools.partial beside tensors, which would need code" in line


def test_a_damaged_checkpoint_of_ours_is_no_foreign_one(work, refused, tmp_path):
    data = bytearray((work / "map" / "checkpoint.pt").read_bytes())
    data[-3] ^= 1
    (tmp_path / "checkpoint.pt").write_bytes(data)
    line = refused("inspect", tmp_path / "checkpoint.pt")
    assert "does not match its checksum" in line
    assert "--weights" not in line


def test_a_run_folder_says_how_it_was_made_and_what_it_found(work, capsys, tmp_path):
    out = shown(work / "sgld", capsys)
    assert "run of sample, finished" in out
    assert "num_draws 6" in out
    assert 'model_options {"norm": "batch", "widths": [8, 8]}' in out
    assert "method sgld" in out
    assert "chain-00, chain-01" in out
    shutil.copytree(work / "map", tmp_path / "half")
    (tmp_path / "half" / "results.json").unlink()
    assert "not finished; the same command goes on with it" in shown(tmp_path / "half", capsys)


def test_a_folder_of_runs_names_them(work, refused, tmp_path):
    assert "its folders map, prior, sgld, source, swag are" in refused("inspect", work)
    assert "is no run folder: it has no config.yaml" in refused("inspect", tmp_path)


def test_files_are_told_by_their_content(work, capsys, tmp_path):
    odd = tmp_path / "without-an-ending"
    shutil.copy(work / "map" / "checkpoint.pt", odd)
    assert "checkpoint of an interrupted or finished run step 15" in shown(odd, capsys)
    shutil.copy(work / "target.npz", odd)
    assert "x_train 30 x 8 x 8 uint8" in shown(odd, capsys)
    assert main(["inspect", str(odd), str(work / "map" / "map.safetensors")]) == 0
    assert "one vector of weights" in capsys.readouterr().out


def hostile(path, **header):
    """A safetensors file of ours with a header that we would not write."""
    tensors = {"weights": torch.zeros(2)}
    save_file(tensors, path, metadata={"format": "bayesprior.draw/1", **header})
    return path


def test_hostile_headers_are_one_line(refused, tmp_path):
    shapes = json.dumps({"names": ["w"], "shapes": [[-2]]})
    for header in ({}, {"layout": "[]"}, {"layout": shapes, "index": "0"}, {"layout": "\ud800"}):
        try:
            path = hostile(tmp_path / "x.safetensors", **header)
        except UnicodeEncodeError:
            continue
        assert str(path) in refused("inspect", path)


def test_escape_sequences_never_reach_the_terminal(capsys, tmp_path):
    layout = ParameterLayout(("w",), ((2,),))
    provenance = {"data": "\x1b]0;owned\x07\x1b[31m", "role": "\x1b[2J"}
    law = GaussianWeights.point(layout, torch.zeros(2), 0.5, provenance=provenance)
    law.save(tmp_path / "p.safetensors")
    assert main(["inspect", str(tmp_path / "p.safetensors")]) == 0
    out = capsys.readouterr().out
    assert not {c for c in out if ord(c) < 32 and c != "\n"}
    assert "owned" in out


def test_neighbors_of_one_value_are_one_row(capsys, tmp_path):
    layout = ParameterLayout(tuple(f"p{i}" for i in range(83)), ((2, 3),) * 83)
    GaussianWeights.point(layout, torch.zeros(498), 0.05).save(tmp_path / "prior.safetensors")
    out = shown(tmp_path / "prior.safetensors", capsys)
    assert out.endswith("p0 ... p82 83 parameters 498 0.05")
    assert "p1 " not in out
