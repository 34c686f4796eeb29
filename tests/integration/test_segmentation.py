"""Masks on the command line, from pictures to a report."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import bayesprior as bp
from bayesprior.cli.main import main
from bayesprior.data import from_arrays, get_data
from bayesprior.models import model_for

QUICK = ["--progress", "false", "--device", "cpu"]
NET = ["--model", "tiny_nets:Segmenter"]
SIZE = ["--data_options.size", "[12, 16]"]


def scenes(root, count, seed=0, size=(12, 16)):
    """Dark and bright halves of a picture, the border in a place of its own."""
    rng = np.random.default_rng(seed)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for i in range(count):
        labels = np.zeros(size, np.uint8)
        labels[:, rng.integers(3, size[1] - 3) :] = 1
        noise = rng.integers(0, 60, (*size, 3))
        picture = (noise + 150 * labels[..., None]).astype(np.uint8)
        labels[0] = 255
        Image.fromarray(picture).save(root / "images" / f"{i:02}.png")
        Image.fromarray(labels).save(root / "masks" / f"{i:02}.png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("masks")
    for seed, (split, count) in enumerate((("train", 12), ("test", 5))):
        scenes(folder / "scenes" / split, count, seed)
    (folder / "scenes" / "classes.txt").write_text("dark\nbright\n")
    scenes(folder / "other", 8, seed=5)
    return folder


@pytest.fixture(scope="module")
def run(folder):
    """Every command up to a fit."""
    here = [*NET, *QUICK, *SIZE]
    source, prior, fit = (str(folder / name) for name in ("source", "prior", "fit"))
    steps = ["--num_steps", "30", "--num_snapshots", "4", "--rank", "2", "--collect_every", "2"]
    of_source = ["--data", str(folder / "other"), "--out", source, *steps, "--batch_size", "4"]
    assert main(["fit-source", *here, *of_source, "--lr", "0.1"]) == 0
    target = ["--data", str(folder / "scenes"), *here]
    file = f"{source}/source.safetensors"
    assert main(["make-prior", "--source", file, *target, "--out", prior]) == 0
    file = f"{prior}/prior.safetensors"
    options = ["--num_steps", "60", "--batch_size", "4", "--batch_norm", "train"]
    assert main(["fit", "map", "--prior", file, *target, "--out", fit, *options]) == 0
    return folder / "fit"


def test_a_fit_says_that_it_is_tempered(run):
    text = (run / "config.yaml").read_text()
    assert "class: PixelCategorical" in text
    assert "reduction: mean" in text
    assert bp.load_run(run, trust=True).likelihood == bp.PixelCategorical()


def test_predictions_of_a_split(run):
    assert main(["predict", str(run), "--trust", *QUICK]) == 0
    found = json.loads((run / "results.json").read_text())["predict-test"]
    assert found["accuracy"] > 0.9
    assert 0 < found["mean_iou"] <= 1
    assert found["num_points"] == 5


def test_masks_of_new_pictures(run, folder, tmp_path, capsys):
    rng = np.random.default_rng(3)
    new = tmp_path / "new"
    new.mkdir()
    bright = np.zeros((24, 40, 3), np.uint8)
    bright[:, 20:] = 180
    Image.fromarray(bright + rng.integers(0, 40, bright.shape, dtype=np.uint8)).save(new / "a.png")
    Image.fromarray(bright[:12, 12:28]).save(new / "b.png")
    (new / "c.png").write_bytes(b"none")
    out = tmp_path / "out"
    command = ["predict", str(run), str(new), "--trust", *QUICK]
    assert main([*command, "--out", str(out)]) == 2  # of a picture that cannot be read
    assert "c.png: is no readable picture" in capsys.readouterr().err
    with Image.open(out / "a.png") as mask, Image.open(out / "a.entropy.png") as entropy:
        assert (mask.mode, mask.size, entropy.mode, entropy.size) == ("P", (40, 24), "L", (40, 24))
        labels = np.asarray(mask)
    assert (labels[2:, :17] == 0).mean() > 0.8
    assert (labels[2:, 23:] == 1).mean() > 0.8
    with (out / "masks.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["file"]).name for row in rows] == ["a.png", "b.png"]
    assert float(rows[0]["dark"]) == pytest.approx((labels == 0).mean(), rel=1e-4)
    assert 0 < float(rows[0]["entropy"]) < np.log(2)
    (new / "c.png").unlink()
    assert main([*command, "--out", str(out)]) == 0  # replaces its own files
    for wrong, message in (
        ([], "--out is missing: name a folder"),
        (["--out", str(tmp_path / "a.csv")], "must be a folder"),
        (["--out", str(folder / "scenes")], "holds something else"),
    ):
        capsys.readouterr()
        assert main([*command, *wrong]) == 2
        assert message in capsys.readouterr().err


def test_a_report_of_masks(run):
    assert main(["report", str(run), "--trust", *QUICK]) == 0
    page = (run / "report.md").read_text()
    for text in (
        "an image counts as one pixel",
        "Metrics of the test set (880 pixels of 5 images)",
        "mean IoU",
        "Every class",
        "bright",
        "Most uncertain images",
        "Reliability diagram",
    ):
        assert text in page, text


@pytest.mark.slow
def test_fits_side_by_side(run, folder, capsys):
    prior, short = str(folder / "prior" / "prior.safetensors"), str(folder / "short")
    options = ["--num_steps", "1", "--lr", "0.001", "--batch_size", "4", "--batch_norm", "train"]
    words = ["--prior", prior, "--data", str(folder / "scenes"), *NET, *SIZE, *QUICK, *options]
    assert main(["fit", "map", *words, "--out", short]) == 0
    capsys.readouterr()
    assert main(["compare", str(run), short, "--trust", *QUICK]) == 0
    table = capsys.readouterr().out
    assert "mean_iou" in table
    assert "unknown" in table  # of one seed
    command = ["report", str(run), short, "--trust", "--out", str(folder / "both"), *QUICK]
    assert main(command) == 0
    assert "Paired differences to short" in (folder / "both" / "report.md").read_text()


def refused(capsys, *words):
    assert main([*words, *QUICK]) == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    return error


def test_errors_are_one_line_with_the_mend(folder, tmp_path, capsys):
    source = ["fit-source", "--data", str(folder / "other"), "--out", str(tmp_path / "x"), *SIZE]
    small = refused(capsys, *source, *NET, "--model_options.stride", "2")
    assert "gives maps of 6 x 8, the masks of 'other' are 12 x 16" in small
    assert "take one that gives a map" in refused(capsys, *source, "--model", "small_conv")
    gray = refused(capsys, *source, *NET, "--model_options.in_channels", "1")
    assert "its first layer takes 1 channels, the data have 3" in gray
    images, masks = np.zeros((6, 8, 8, 3), np.uint8), np.zeros((6, 4, 8), int)
    np.savez(tmp_path / "a.npz", x=images, y=masks)
    words = ["fit-source", "--out", str(tmp_path / "x"), *NET, "--data", str(tmp_path / "a.npz")]
    assert "y_train is 6 x 4 x 8, the images are 6 x 8 x 8" in refused(capsys, *words)
    np.savez(tmp_path / "a.npz", x=images, y=np.full((6, 8, 8), 3), class_names=["a", "b"])
    assert "has the label 3, classes are 0 to 1" in refused(capsys, *words)


def test_binary_masks_of_one_channel(folder):
    data = get_data(folder / "scenes", size=(12, 16))
    made = model_for(
        "tiny_nets:Segmenter",
        num_classes=2,
        input_shape=data.input_shape,
        options={"num_classes": 1},
    )
    net, quick = made.module, {"progress": False, "device": "cpu"}
    steps = {"num_steps": 4, "num_snapshots": 3, "rank": 2, "collect_every": 1, "batch_size": 4}
    source = bp.fit_source(net, data, head=made.head, **steps, **quick)
    prior = bp.make_prior(source, net, head=made.head, data=data, rms_std=0.1)
    chain = {"chains": 1, "num_draws": 3, "burn_in": 2, "thin": 1, "lr": 1e-4}
    fit = bp.sample(net, prior, data, **chain, **quick)
    found = bp.predict(net, fit, data.loader("test", 4), bp.PixelCategorical())
    assert found.images.confusion.shape == (5, 2, 2)
    assert found.metrics["accuracy"] == pytest.approx(
        float(found.images.confusion.diagonal(dim1=1, dim2=2).sum() / found.images.confusion.sum())
    )


@pytest.mark.long
def test_default_options_learn_street_scenes(data_dir):
    with np.load(data_dir / "camvid.npz") as arrays:
        rows = np.random.default_rng(0).permutation(len(arrays["x_train"]))[:30]
        images, masks = (arrays[name][rows][:, ::2, ::2] for name in ("x_train", "y_train"))
        names = arrays["class_names"]
    data = from_arrays("camvid", (images, masks), class_names=names, normalize="imagenet")
    assert data.num_data == 24
    made = model_for("lraspp_mobilenet_v3_large", num_classes=11, input_shape=data.input_shape)
    layout = bp.ParameterLayout.from_module(made.module)
    buffers = dict(made.module.named_buffers())
    source = bp.GaussianWeights.point(layout, layout.flatten(made.module), 0.1, buffers=buffers)
    prior = bp.make_prior(source, made.module, head=made.head, data=data)
    fit = bp.fit_map(made.module, prior, data, num_steps=60, batch_norm="train", progress=False)
    found = bp.predict(made.module, fit, data.loader("train", 8), bp.PixelCategorical())
    assert found.metrics["accuracy"] > 0.3
