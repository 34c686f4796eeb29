import shutil

import numpy as np
import pytest
import torch

from bayesprior.errors import ConfigError
from bayesprior.recipes.predicting import averaged, load_results, predict_run
from bayesprior.recipes.runs import read_results
from bayesprior.recipes.saved import load_run
from bayesprior.storage import predictive_path
from bayesprior.tree.files import load_tree

QUIET = {"device": "cpu", "progress": False}


@pytest.fixture
def runs(striped, tmp_path):
    """Runs whose folders a test may change."""
    for name in ("map", "sgld"):
        shutil.copytree(striped / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(("name", "draws"), [("map", 1), ("sgld", 6)])
def test_metrics_are_those_of_the_average_over_draws(runs, name, draws):
    run = runs / name
    assert predict_run(run, **QUIET) == "predict-test"
    found = read_results(run)["predict-test"]
    assert (found["num_points"], found["draws"]) == (45, draws)
    fit = load_run(run)
    inputs, labels = next(iter(fit.data.loader("test", 45)))
    total = torch.zeros(45, 3, dtype=torch.float64)
    for draw in fit.posterior.draws():
        fit.posterior.layout.load_(fit.module, draw.weights)
        with torch.no_grad():
            total += fit.module.eval()(inputs).double().softmax(1)
    mean = (total / draws).numpy()
    picked = mean[np.arange(45), labels.numpy()]
    assert found["nll"] == pytest.approx(-np.log(picked).mean(), rel=1e-4)
    assert found["accuracy"] == pytest.approx((mean.argmax(1) == labels.numpy()).mean())
    tree = load_tree(predictive_path(run, "test"))
    np.testing.assert_allclose(tree["predictions"].probs, mean, atol=1e-5)
    assert tree["predictions"].log_likelihood.sizes["point"] == 45
    assert tree.attrs["split"] == "test"


def test_every_split_has_its_file_and_a_second_call_reads_it(runs):
    for split, num in (("validation", 18), ("train", 42)):
        predict_run(runs / "map", split, **QUIET)
        assert read_results(runs / "map")[f"predict-{split}"]["num_points"] == num
    before = predictive_path(runs / "map", "train").stat().st_mtime_ns
    predict_run(runs / "map", "train", **QUIET)
    assert predictive_path(runs / "map", "train").stat().st_mtime_ns == before


def test_other_options_have_files_of_their_own(runs):
    names = {predict_run(runs / "sgld", **QUIET, **more) for more in ({}, {"num_draws": 2})}
    names |= {predict_run(runs / "sgld", **QUIET, num_draws=2)}
    names |= {predict_run(runs / "sgld", **QUIET, batch_norm="reestimate")}
    assert len(names) == 3
    assert read_results(runs / "sgld")[min(names)]["draws"] == 6
    counts = {read_results(runs / "sgld")[name]["draws"] for name in names}
    assert counts == {2, 6}


def test_more_draws_than_a_run_has_are_all_of_them(runs):
    for name, draws in (("map", 1), ("sgld", 6)):
        fit = load_run(runs / name)
        found = averaged(fit, fit.data.loader("test", 45), num_draws=60, **QUIET)
        assert len(found.draw) == draws
    rows = load_results([str(runs / "map"), str(runs / "sgld")], num_draws=60, **QUIET)
    assert [row.name for row in rows] == ["map", "sgld"]


def test_an_unfinished_run_is_neither_predicted_nor_read_from_its_file(runs):
    predict_run(runs / "sgld", **QUIET)
    results = runs / "sgld" / "results.json"
    results.write_text('{"predict-test": {"nll": 1.0}}')
    with pytest.raises(ConfigError, match="is not finished"):
        predict_run(runs / "sgld", **QUIET)
