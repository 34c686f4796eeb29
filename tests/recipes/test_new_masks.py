import csv

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_nets import Segmenter

import bayesprior as bp
from bayesprior.data import from_arrays
from bayesprior.errors import ConfigError, DataError
from bayesprior.recipes.new_masks import predict_masks
from bayesprior.tasks.likelihoods import Categorical

QUICK = {"progress": False, "device": "cpu"}


@pytest.fixture(scope="module")
def fit(tmp_path_factory):
    """Masks of gray pictures that are bright where class 1 is."""
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 2, (12, 6, 8))
    images = (120 * masks + rng.integers(0, 40, masks.shape)).astype(np.uint8)
    data = from_arrays("spots", (images, masks), class_names=("file", "spot"), test_fraction=0.25)
    net = Segmenter(in_channels=1)
    layout = bp.ParameterLayout.from_module(net)
    prior = bp.make_prior(bp.GaussianWeights.point(layout, layout.flatten(net), 1.0), net)
    out = tmp_path_factory.mktemp("runs") / "fit"
    options = {"num_steps": 150, "lr": 0.1, "batch_norm": "train", "out": out}
    bp.fit_map(net, prior, data, **options, **QUICK)
    return bp.load_run(out, network=Segmenter(in_channels=1), data=data), masks, images


def test_rows_of_an_archive(fit, tmp_path):
    run, masks, images = fit
    np.savez(tmp_path / "new.npz", x=images)
    found = predict_masks(run, [tmp_path / "new.npz"], out=tmp_path / "out", batch_size=5, **QUICK)
    assert len(found.rows) == 12
    for i, row in enumerate(found.rows):
        assert row["mask"] == f"new-{i:04}.png"
        with Image.open(found.folder / row["mask"]) as picture:
            labels = np.asarray(picture)
        assert (labels == masks[i]).mean() > 0.95
        assert row["share(file)"] + row["spot"] == pytest.approx(1)
        assert row["share(file)"] == pytest.approx((labels == 0).mean())
        with Image.open(found.folder / f"new-{i:04}.entropy.png") as picture:
            white = np.asarray(picture) / 255
        assert white.mean() * np.log(2) == pytest.approx(row["entropy"], abs=2e-3)
    with (found.folder / "masks.csv").open() as file:
        assert [row["mask"] for row in csv.DictReader(file)] == [r["mask"] for r in found.rows]


def test_pictures_of_one_name_keep_their_own_files(fit, tmp_path):
    run, _, images = fit
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.fromarray(images[0]).save(tmp_path / folder / "x.png")
    (tmp_path / "b" / "y.png").write_bytes(b"none")
    found = predict_masks(run, [tmp_path / "a", tmp_path / "b"], out=tmp_path / "out", **QUICK)
    assert [row["mask"] for row in found.rows] == ["x.png", "x-2.png"]
    assert list(found.unreadable) == [str(tmp_path / "b" / "y.png")]
    with pytest.raises(DataError, match=r"nothing could be read: .*y\.png"):
        predict_masks(run, tmp_path / "b" / "y.png", out=tmp_path / "none", **QUICK)
    assert not (tmp_path / "none").exists()


def test_nothing_else_is_overwritten(fit, tmp_path):
    run, _, images = fit
    np.savez(tmp_path / "new.npz", x=images[:1])
    for out, message in (("a.csv", "out must be a folder"), ("", "holds something else")):
        with pytest.raises(ConfigError, match=message):
            predict_masks(run, tmp_path / "new.npz", out=tmp_path / out, **QUICK)


def test_a_run_without_masks_is_sent_to_predict_new(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (8, 4, 4), dtype=np.uint8)
    data = from_arrays("labels", (images, np.arange(8) % 2), test_fraction=0.25)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
    layout = bp.ParameterLayout.from_module(net)
    prior = bp.make_prior(bp.GaussianWeights.point(layout, layout.flatten(net), 1.0), net)
    bp.fit_map(net, prior, data, num_steps=1, out=tmp_path / "fit", **QUICK)
    run = bp.load_run(tmp_path / "fit", network=net, data=data)
    assert run.likelihood == Categorical()
    with pytest.raises(ConfigError, match="no masks: use predict_new"):
        predict_masks(run, tmp_path, out=tmp_path / "out", **QUICK)
