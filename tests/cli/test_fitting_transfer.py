"""The command `transfer`; the recipe has tests of its own."""

import dataclasses
import shutil

import numpy as np

from bayesprior.cli.main import main
from bayesprior.recipes.committee import RULE

MODEL = ["--model", "small_conv", "--model_options", "norm=batch", "--model_options.widths=[8,8]"]
QUIET = ["--progress", "false", "--device", "cpu"]


def test_transfer_from_a_file_of_weights_to_predictions(work, tmp_path, capsys, monkeypatch):
    short = dataclasses.replace(RULE, num_steps=(6, 6))
    monkeypatch.setattr("bayesprior.recipes.transferring.RULE", short)
    source = str(work / "source" / "source.safetensors")
    out = tmp_path / "run"
    odd = shutil.copy(source, tmp_path / "two,names.safetensors")
    arguments = ["transfer", "--data", str(work / "target.npz"), *MODEL, "--out", str(out)]
    arguments += ["--source", source, "--source", str(odd), "--num_data", "15", *QUIET]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "source.safetensors: NLL" in said
    assert "two,names.safetensors: NLL" in said
    assert "head prior: learned; 45 examples, test" in said
    for method in ("transfer", "fine-tuning", "probe"):
        assert f"\n{method}" in said
    assert {"report.html", "report.nc", "prior.safetensors", "chain-00", "results.json"} <= {
        path.name for path in out.iterdir()
    }
    pixels = np.random.default_rng(5).integers(0, 255, (2, 8, 8)).astype(np.uint8)
    np.savez(tmp_path / "new.npz", x=pixels)
    table = tmp_path / "predictions.csv"
    new = ["predict", str(out), str(tmp_path / "new.npz"), "--out", str(table), *QUIET]
    assert main(new) == 0
    assert len(table.read_text().splitlines()) == 3
    assert main(arguments) == 0  # finished: it is read


def test_a_class_without_an_example_is_told_once(work, tmp_path, refused):
    with np.load(work / "target.npz") as arrays:
        rare = arrays["y_train"] != 2
        kept = {n: a[rare] if n.endswith("train") else a for n, a in arrays.items()}
    np.savez(tmp_path / "rare.npz", **kept)
    argv = ["transfer", "--data", tmp_path / "rare.npz", *MODEL, *QUIET, "--out", tmp_path / "run"]
    line = refused(*argv, "--source", work / "source" / "source.safetensors")
    assert "has no training example of '2'; add one" in line
