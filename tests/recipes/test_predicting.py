import shutil

import numpy as np
import pytest
import torch

from bayesprior.diagnostics.compare import paired_differences
from bayesprior.errors import ConfigError
from bayesprior.recipes.named import load_data
from bayesprior.recipes.options import AverageOptions, DataOptions, MadeFrom, ModelOptions
from bayesprior.recipes.predicting import averaged, compare_runs, predict_run
from bayesprior.recipes.runs import read_results
from bayesprior.recipes.saved import load_run
from bayesprior.recipes.target import fit_map
from bayesprior.storage import predictive_path
from bayesprior.tree.files import load_tree


def quiet(**options):
    return AverageOptions(device="cpu", progress=False, **options)


@pytest.fixture
def runs(striped, tmp_path):
    """Runs whose folders a test may change."""
    for name in ("map", "sgld"):
        shutil.copytree(striped / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(("name", "draws"), [("map", 1), ("sgld", 6)])
def test_metrics_are_those_of_the_average_over_draws(runs, name, draws):
    run = runs / name
    assert predict_run(run, options=quiet()) == "predict-test"
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
        predict_run(runs / "map", split, quiet())
        assert read_results(runs / "map")[f"predict-{split}"]["num_points"] == num
    before = predictive_path(runs / "map", "train").stat().st_mtime_ns
    predict_run(runs / "map", "train", quiet())
    assert predictive_path(runs / "map", "train").stat().st_mtime_ns == before


def test_other_options_have_files_of_their_own(runs):
    names = {predict_run(runs / "sgld", options=quiet(**more)) for more in ({}, {"num_draws": 2})}
    names |= {predict_run(runs / "sgld", options=quiet(num_draws=2))}
    names |= {predict_run(runs / "sgld", options=quiet(batch_norm="reestimate"))}
    assert len(names) == 3
    assert read_results(runs / "sgld")[min(names)]["draws"] == 6
    counts = {read_results(runs / "sgld")[name]["draws"] for name in names}
    assert counts == {2, 6}


def test_more_draws_than_a_run_has_are_all_of_them(runs):
    for name, draws in (("map", 1), ("sgld", 6)):
        fit = load_run(runs / name)
        found = averaged(fit, fit.data.loader("test", 45), quiet(num_draws=60))
        assert len(found.draw) == draws
    found = compare_runs([runs / "map", runs / "sgld"], options=quiet(num_draws=60))
    assert [row.name for row in found.results] == ["map", "sgld"]


def test_an_unfinished_run_is_neither_predicted_nor_read_from_its_file(runs):
    predict_run(runs / "sgld", options=quiet())
    results = runs / "sgld" / "results.json"
    results.write_text('{"predict-test": {"nll": 1.0}}')
    with pytest.raises(ConfigError, match="is not finished"):
        predict_run(runs / "sgld", options=quiet())


def test_priors_without_a_file_are_told_apart_by_their_content(striped, tmp_path):
    fit = load_run(striped / "map")
    made_from = MadeFrom(
        data=DataOptions(data=str(striped / "data.npz"), num_validation=18),
        model=ModelOptions(model="mlp", model_options={"widths": [8]}),
    )
    for name, rms_std, seed in (("a", 0.1, 0), ("a1", 0.1, 1), ("b", 1.0, 0)):
        fit_map(
            fit.module,
            fit.prior.rescale(rms_std=rms_std),
            fit.data,
            out=tmp_path / name,
            made_from=made_from,
            num_steps=3,
            seed=seed,
            device="cpu",
            progress=False,
        )
    found = compare_runs([tmp_path / name for name in ("a", "a1", "b")], options=quiet())
    assert [row.name for row in found.results] == ["a and 1 more", "b"]
    assert (found.method, found.baseline, found.only_prior) == ("a and 1 more", "b", True)
    assert not compare_runs([tmp_path / "a", striped / "map"], options=quiet()).only_prior


def test_runs_are_paired_by_the_seeds_of_their_data_and_of_their_fit(striped, tmp_path):
    fit = load_run(striped / "map")
    model = ModelOptions(model="mlp", model_options={"widths": [8]})
    small = {"num_validation": 18, "per_class": 4}
    for name, lr, data_seed, seed in (
        ("a", 0.1, 0, 0),
        ("a1", 0.1, 1, 0),
        ("a2", 0.1, 1, 1),
        ("b", 0.01, 1, 1),
        ("b1", 0.01, 1, 0),
        ("b2", 0.01, 2, 0),
    ):
        choice = DataOptions(data=str(striped / "data.npz"), data_seed=data_seed, **small)
        fit_map(
            fit.module,
            fit.prior,
            load_data(choice),
            out=tmp_path / name,
            made_from=MadeFrom(data=choice, model=model),
            num_steps=2,
            lr=lr,
            seed=seed,
            device="cpu",
            progress=False,
        )
    runs = sorted(tmp_path.iterdir())
    one, other = compare_runs(runs, options=quiet()).results
    assert set(one.by_seed()) & set(other.by_seed()) == {2, 3}  # data 1, fit 0 and 1
    assert [len(result.by_seed()) for result in (one, other)] == [3, 3]
    assert {d.num_pairs for d in paired_differences([one, other], other.name)} == {2}
    shutil.copytree(runs[0], tmp_path / "copy")
    with pytest.raises(ConfigError, match="copy.* same seeds .* a copy is no repetition"):
        compare_runs([*runs, tmp_path / "copy"], options=quiet())
