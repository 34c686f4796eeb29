"""One call from a trained network to calibrated probabilities, its folder, and what it refuses."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from recipes_cases import Net, blobs
from torch import nn

import bayesprior as bp
from bayesprior.data import few_shot, from_arrays
from bayesprior.errors import ConfigError, DataError, LayoutMismatchError, PriorFileError
from bayesprior.recipes import load_run, transfer, transferring
from bayesprior.recipes.named import load_data
from bayesprior.recipes.options import DataOptions, MadeFrom, ModelOptions
from bayesprior.recipes.predicting import predict_run
from bayesprior.recipes.rule import RULE
from bayesprior.recipes.runs import read_results

MODEL = ModelOptions(model="mlp", model_options={"widths": [8]})
QUIET = {"device": "cpu", "progress": False}


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    quick = dataclasses.replace(RULE, num_steps=(12, 24))
    monkeypatch.setattr("bayesprior.recipes.transferring.RULE", quick)


@pytest.fixture(scope="module")
def data():
    return few_shot(blobs(3, 240, noise=1.5), per_class=5, seed=1)


def trained(source):
    """A network at the source's weights, with a head of other outputs."""
    net = Net(7)
    source.layout.load_(net, source.loc)
    for name, buffer in net.named_buffers():
        buffer.copy_(source.buffers[name])
    return net


def test_a_network_and_data_are_enough(source, data):
    net = trained(source)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    found = transfer(data, net, **QUIET)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    inputs = torch.cat([x for x, _ in data.loader("test", 50)])
    probs = found.predict_proba(inputs)
    assert probs.shape == (120, 3)
    assert torch.equal(found.predict(inputs), probs.argmax(1))
    board = {row["method"]: row for row in found.leaderboard()}
    assert board.keys() == {"transfer", "map", "fine-tuning", "probe"}
    assert found.evaluate()["nll"] == pytest.approx(board["transfer"]["nll"])
    labels = torch.cat([y for _, y in data.loader("test", 50)])
    nll = -probs[range(120), labels].log().mean()
    assert board["transfer"]["nll"] == pytest.approx(float(nll), rel=1e-5)
    assert found.results["test"]["n"] == 120
    assert found.results["baselines"]["probe"]["test"]["accuracy"] > 0.4
    assert found.results["fit"]["head_prior"] == "isotropic"


def test_a_source_file_tells_the_heads_metric(source, data, tmp_path):
    source.save(tmp_path / "source.safetensors")
    found = transfer(data, Net(3), source=tmp_path / "source.safetensors", **QUIET)
    assert found.results["fit"]["head_prior"] == "learned"
    assert found.results["fit"]["source"] == "source.safetensors"
    assert found.prior.provenance["role"] == "prior"


def test_the_better_source_is_taken_and_the_ranking_told(source, data):
    worse = source.to()
    worse.loc = 3 * torch.randn_like(worse.loc)
    found = transfer(data, Net(3), source=[worse, source], baselines="none", **QUIET)
    ranking = found.results["fit"]["candidates"]
    assert found.results["fit"]["source"] == ranking[0]["source"]
    assert {row["source"] for row in ranking} == {"source 0", "source 1"}
    assert ranking[0]["nll"] <= ranking[1]["nll"]
    assert {row["method"] for row in found.leaderboard()} == {
        "transfer",
        "map",
        "fine-tuning",
    }


def test_all_baselines_stand_beside_it(source, data):
    found = transfer(data, trained(source), baselines="all", **QUIET)
    rows = {row["method"]: row for row in found.leaderboard()}
    assert {"probe", "LP-FT", "WiSE-FT", "L2-SP", "AdamW 0.001"} <= rows.keys()
    assert rows["WiSE-FT"]["fits"] == 0
    assert found.results["baselines"]["LP-FT"]["test"]["n"] == 120
    assert found.results["parts"].keys() == {"map", "fine-tuning"}


def test_without_a_test_split_the_numbers_are_out_of_fold(source, data):
    bare = dataclasses.replace(data, test=None)
    found = transfer(bare, trained(source), **QUIET)
    assert {row["on"] for row in found.leaderboard()} == {"out of fold"}
    assert {row["method"] for row in found.leaderboard()} == {
        "transfer",
        "probe",
        "map",
        "fine-tuning",
    }
    assert not any("no test split" in note for note in found.results["fit"]["notes"])
    more = transfer(bare, trained(source), baselines="all", **QUIET)
    assert any("no test split" in note for note in more.results["fit"]["notes"])
    assert "test" not in found.results


def test_a_killed_run_goes_on_and_a_finished_one_is_read(source, data, tmp_path, monkeypatch):
    whole = transfer(data, trained(source), out=tmp_path / "whole", **QUIET)
    fit = transferring.fit_committee

    def killed(task, rule, **options):
        original, calls = task.fit, []

        def interrupted(*args, **kwargs):
            calls.append(args)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return original(*args, **kwargs)

        task.fit = interrupted
        return fit(task, rule, **options)

    monkeypatch.setattr(transferring, "fit_committee", killed)
    with pytest.raises(KeyboardInterrupt):
        transfer(data, trained(source), out=tmp_path / "part", **QUIET)
    monkeypatch.setattr(transferring, "fit_committee", fit)
    again = transfer(data, trained(source), out=tmp_path / "part", **QUIET)
    for one, other in zip(whole.posterior.draws(), again.posterior.draws(), strict=True):
        assert torch.equal(one.weights, other.weights)
        assert (one.weight, one.confidence) == (other.weight, other.confidence)
    written = json.loads((tmp_path / "part" / "results.json").read_text())
    assert written["test"]["nll"] == again.results["test"]["nll"]
    read = transfer(data, trained(source), out=tmp_path / "part", **QUIET)
    assert read.leaderboard() == again.leaderboard()
    with pytest.raises(ConfigError, match="its seed is 0, this one's 1"):
        transfer(data, trained(source), out=tmp_path / "part", seed=1, **QUIET)


def test_load_run_gives_it_back(striped, tmp_path):
    choice = DataOptions(data=str(striped / "data.npz"), num_validation=18)
    data = load_data(choice)
    net = bp.get_model("mlp", in_features=64, num_classes=5, widths=(8,))
    made = MadeFrom(data=choice, model=MODEL)
    found = transfer(data, net, out=tmp_path / "run", made_from=made, **QUIET)
    again = load_run(tmp_path / "run")
    assert type(again) is type(found)
    assert (again.method, again.options) == ("transfer", found.options)
    assert again.leaderboard() == found.leaderboard()
    assert again.evaluate() == pytest.approx(found.evaluate())
    inputs = torch.cat([x for x, _ in data.loader("test", 50)])
    torch.testing.assert_close(again.predict_proba(inputs), found.predict_proba(inputs))
    assert predict_run(tmp_path / "run") == "predict-test"
    numbers = read_results(tmp_path / "run")
    assert numbers["predict-test"]["nll"] == pytest.approx(numbers["test"]["nll"], rel=1e-6)
    again.report(progress=False)
    assert (tmp_path / "run" / "report.html").is_file()


def test_refusals_are_one_line(source, data):
    def refused(kind, match, data=data, model=None, **options):
        with pytest.raises(kind, match=match) as caught:
            transfer(data, trained(source) if model is None else model, **options, **QUIET)
        assert "\n" not in str(caught.value)

    x, y = np.random.default_rng(0).random((12, 4, 4)), np.arange(12)
    refused(
        DataError,
        "has numbers to predict, and transfer is for one class",
        from_arrays("r", (x, y / 12), (x + 1e-3, y / 12)),
    )
    one = from_arrays("one", (x, 0 * y), class_names=("only",))
    refused(DataError, "'one' has one class", one)
    with pytest.warns(UserWarning, match="no training example"):
        missing = from_arrays("gap", (x, y % 2), class_names=("a", "b", "c"))
    refused(DataError, "no training example of 'c'", missing)
    behind = nn.Sequential(Net(3), nn.Softmax(1))
    refused(ConfigError, "more behind its head '0.head'", model=behind)
    refused(ConfigError, "starts from something", model="mlp")
    renamed = source.rename(lambda name: f"other.{name}")
    refused(LayoutMismatchError, "shares no parameter with the network", source=renamed)
    refused(ConfigError, "weights are for a model by name", weights="net.pth")
    refused(
        ConfigError, "does not take the inputs of 'blobs'", model=nn.Sequential(nn.Linear(5, 3))
    )
    refused(PriorFileError, "none.safetensors", source="none.safetensors")
    refused(ConfigError, "folds must be at least 3", folds=2)
