"""The command `transfer`; the recipe has tests of its own."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bayesprior.cli.main import main
from bayesprior.models import get_model
from bayesprior.recipes.rule import RULE
from bayesprior.recipes.runs import read_results

MODEL = ["--model", "small_conv", "--model_options", "norm=batch", "--model_options.widths=[8,8]"]
QUIET = ["--progress", "false", "--device", "cpu"]
WIDTHS = ["--model", "small_conv", "--model_options.widths", "[8, 8]"]


def write_photos(folder, per_class):
    """A folder of bright and one of dark pictures."""
    colors = np.random.default_rng(0)
    for name, level in (("poppy", 180), ("cornflower", 60)):
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            pixels = colors.integers(level - 40, level + 40, (40, 36, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{name}-{number}.jpg")


def network():
    """One of other classes than the pictures have."""
    return get_model("small_conv", in_channels=3, num_classes=7, widths=[8, 8])


def test_source_files_become_predictions(work, tmp_path, capsys, monkeypatch):
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
    assert "head prior: learned\n15 training examples; numbers of 45, test" in said
    assert "these examples; within 0.005 a tie" in said
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


def test_photographs_and_a_checkpoint_become_predictions(tmp_path, capsys, monkeypatch):
    short = dataclasses.replace(RULE, num_steps=(6, 6))
    monkeypatch.setattr("bayesprior.recipes.transferring.RULE", short)
    write_photos(tmp_path / "photos", 10)
    (tmp_path / "new").mkdir()
    for path in sorted((tmp_path / "photos").glob("*/*-9.jpg")):
        path.rename(tmp_path / "new" / path.name)
    state = {f"backbone.{name}": value for name, value in network().state_dict().items()}
    torch.save({"teacher": state, "epoch": 9}, tmp_path / "wild.pth.tar")
    out, table = tmp_path / "run", tmp_path / "predictions.csv"
    arguments = ["--data", str(tmp_path / "photos"), "--data_options.size", "16", *WIDTHS]
    arguments += ["--weights", str(tmp_path / "wild.pth.tar"), "--out", str(out), *QUIET]
    assert main(["transfer", *arguments]) == 0
    said = capsys.readouterr().out
    assert "from 'teacher', 'backbone.' cut off their names" in said
    assert "left out: head (2)" in said
    assert "14 training examples; numbers of 4, test" in said
    (row,) = read_results(out)["fit"]["candidates"]
    assert row["loaded"] in said
    assert main(["predict", str(out), str(tmp_path / "new"), "--out", str(table), *QUIET]) == 0
    header, *rows = table.read_text().splitlines()
    assert header.startswith("file,class,cornflower,poppy,")
    names = sorted(Path(row.split(",")[0]).name for row in rows)
    assert names == ["cornflower-9.jpg", "poppy-9.jpg"]


@pytest.mark.parametrize(
    ("per_class", "told"),
    [
        (1, "2 training examples; none to tell numbers of\n"),
        (2, "4 training examples; numbers of 4, out of fold\n"),
    ],
)
def test_without_a_test_split_there_is_no_report_and_it_is_said(
    tmp_path, capsys, monkeypatch, per_class, told
):
    short = dataclasses.replace(RULE, num_steps=(6, 6))
    monkeypatch.setattr("bayesprior.recipes.transferring.RULE", short)
    write_photos(tmp_path / "photos", per_class)
    torch.save(network().state_dict(), tmp_path / "wild.pth")
    out, photos = tmp_path / "run", ["--data", str(tmp_path / "photos"), "--data_options.size=16"]
    argv = ["transfer", *photos, "--data_options.test_fraction", "0.1", *WIDTHS, *QUIET]
    assert main([*argv, "--weights", str(tmp_path / "wild.pth"), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert told in said
    assert "no test split with labels, so no report" in said
    assert not list(out.glob("report.*"))
    new = [
        "predict",
        str(out),
        str(tmp_path / "photos" / "poppy"),
        "--out",
        str(tmp_path / "p.csv"),
    ]
    assert main([*new, *QUIET]) == 0


def test_a_class_without_an_example_is_told_once(work, tmp_path, refused):
    with np.load(work / "target.npz") as arrays:
        rare = arrays["y_train"] != 2
        kept = {n: a[rare] if n.endswith("train") else a for n, a in arrays.items()}
    np.savez(tmp_path / "rare.npz", **kept)
    argv = ["transfer", "--data", tmp_path / "rare.npz", *MODEL, *QUIET, "--out", tmp_path / "run"]
    line = refused(*argv, "--source", work / "source" / "source.safetensors")
    assert "has no training example of '2'; add one" in line
