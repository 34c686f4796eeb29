import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bayesprior.cli.main import main
from bayesprior.weights.gaussian import GaussianWeights


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


def test_markup_in_names_is_text(capsys, tmp_path):
    from bayesprior.weights.layout import ParameterLayout

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
        "truncated": "truncated or foreign",
        "text": "truncated or foreign",
        "network": "none of ours",
        "corrupt": "do not match its checksum",
    }
    assert str(path) in line
    assert said[damage] in line
