import shutil

import numpy as np
import pytest
import torch
from bayesprior.cli.loading import load_run

from bayesprior.cli.main import main
from bayesprior.recipes.runs import read_results
from bayesprior.tree.files import load_tree

QUIET = ["--progress", "false", "--device", "cpu"]


@pytest.fixture
def copied(work, tmp_path):
    """Runs whose folders a test may change."""
    for name in ("map", "swag", "sgld"):
        shutil.copytree(work / name, tmp_path / name, ignore=shutil.ignore_patterns("*.nc"))
        (tmp_path / name / "results.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize(("name", "draws"), [("map", 1), ("swag", 30), ("sgld", 12)])
def test_metrics_are_those_of_the_average_over_draws(copied, name, draws, capsys):
    run = copied / name
    assert main(["predict", str(run), *QUIET]) == 0
    found = read_results(run)["predict-test"]
    assert (found["num_points"], found["draws"]) == (45, draws)
    fit = load_run(run)
    inputs, labels = next(iter(fit.data.loader("test", 45)))
    fit.module.eval()
    total = torch.zeros(45, 3, dtype=torch.float64)
    for draw in fit.posterior.draws():
        state = dict(fit.posterior.layout.unflatten(draw.weights)) | dict(draw.buffers)
        fit.module.load_state_dict(state)
        with torch.no_grad():
            total += fit.module(inputs).double().softmax(1)
    mean = (total / draws).numpy()
    picked = mean[np.arange(45), labels.numpy()]
    assert found["nll"] == pytest.approx(-np.log(picked).mean(), rel=1e-4)
    assert found["accuracy"] == pytest.approx((mean.argmax(1) == labels.numpy()).mean())
    tree = load_tree(run / "predictive-test.nc")
    np.testing.assert_allclose(tree["predictions"].probs, mean, atol=1e-5)
    assert tree["predictions"].log_likelihood.sizes["point"] == 45
    assert tree.attrs["split"] == "test"
    assert f"{found['nll']:.4g}" in capsys.readouterr().out


def test_every_split_has_its_file_and_a_second_call_reads_it(copied):
    run = copied / "map"
    for split, num in (("validation", 6), ("train", 12)):
        assert main(["predict", str(run), "--split", split, *QUIET]) == 0
        assert read_results(run)[f"predict-{split}"]["num_points"] == num
    path = run / "predictive-train.nc"
    before = path.read_bytes()
    assert main(["predict", str(run), "--split", "train", *QUIET]) == 0
    assert path.read_bytes() == before


def test_reestimated_statistics_differ_from_stored_ones(copied):
    run = copied / "swag"
    assert main(["predict", str(run), *QUIET]) == 0
    stored = read_results(run)["predict-test"]["nll"]
    (run / "predictive-test.nc").unlink()
    assert main(["predict", str(run), "--batch_norm", "reestimate", *QUIET]) == 0
    assert read_results(run)["predict-test"]["nll"] != stored


def test_other_options_do_not_overwrite(copied, refused):
    run = copied / "swag"
    assert main(["predict", str(run), "--num_draws", "3", *QUIET]) == 0
    before = (run / "predictive-test.nc").read_bytes()
    line = refused("predict", run, "--num_draws", "4", *QUIET)
    assert "was made with num_draws = 3, not 4" in line
    assert (run / "predictive-test.nc").read_bytes() == before


def test_what_cannot_be_predicted(work, copied, refused):
    assert "is no run folder" in refused("predict", copied / "nothing")
    assert "was made by 'bayesprior make-prior'" in refused("predict", work / "prior")
    assert "num_draws must be at least 1" in refused(
        "predict", copied / "swag", "--num_draws", "0", *QUIET
    )
    (copied / "map" / "map.safetensors").unlink()
    assert "map.safetensors" in refused("predict", copied / "map", *QUIET)
    (copied / "sgld" / "chain-01" / "draw-0003.safetensors").unlink()
    assert "draw-0003.safetensors is missing" in refused("predict", copied / "sgld", *QUIET)
