"""A run folder belongs to its recipe: the same call goes on or returns, another is refused."""

import dataclasses
import signal

import pytest
import torch
from forked import run_code
from recipes_cases import (
    MAP,
    QUIET,
    SAMPLE,
    SOURCE,
    SWAG,
    Net,
    blobs,
    fresh,
    interrupt_at,
    target_task,
)

from bayesprior.errors import ConfigError
from bayesprior.inference.progress import read_trace
from bayesprior.recipes import fit_map, fit_source, fit_swag, load_run, sample
from bayesprior.recipes.runs import read_config, read_results
from bayesprior.storage import CHECKPOINT, CONFIG, PRIOR, SESSION, TRACE, chain_dir
from bayesprior.tasks.likelihoods import Categorical
from bayesprior.weights.gaussian import GaussianWeights


@pytest.fixture(scope="module")
def task():
    return target_task()


FITS = {
    "fit_map": (fit_map, MAP),
    "fit_swag": (fit_swag, SWAG),
    "sample": (sample, SAMPLE),
}


def weights_of(posterior):
    return torch.stack([draw.weights for draw in posterior.draws(None)])


def state_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", FITS)
def test_a_finished_folder_gives_its_result_and_the_network_back(task, tmp_path, name):
    prior, state, data = task
    recipe, options = FITS[name]
    options = {**QUIET, **options, "seed": 3, "out": tmp_path / "run"}
    module = fresh(state)
    first = weights_of(recipe(module, prior, data, **options))
    left = state_of(module)
    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
    for again in (module, Net(2)):  # trained, and another one altogether
        assert torch.equal(weights_of(recipe(again, prior, data, **options)), first)
        assert same(left, state_of(again))
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")} == files
    config, found = read_config(tmp_path / "run", name), read_results(tmp_path / "run")["fit"]
    size = data.num_data if recipe is sample else 64
    assert config.options["batch_size"] == size  # defaults are written down
    assert {"prior", "start", "network", "data.train", "data.test"} == config.digests.keys()
    assert (found["seed"], found["num_data"]) == (3, data.num_data)
    assert found["rms_std"] == pytest.approx(0.1)
    assert found["seconds"] > 0


@pytest.mark.parametrize("name", FITS)
def test_the_result_does_not_depend_on_what_the_network_was_before(task, name):
    prior, state, data = task
    recipe, options = FITS[name]
    module = fresh(state)
    first = weights_of(recipe(module, prior, data, seed=3, **QUIET, **options))
    with torch.no_grad():
        module.head.weight.fill_(float("nan"))  # as after a divergence
    assert torch.equal(weights_of(recipe(module, prior, data, seed=3, **QUIET, **options)), first)


KILLED = """
import os, signal, sys
from recipes_cases import *
from bayesprior.inference import engine
from bayesprior.recipes import sample
from bayesprior.weights.gaussian import GaussianWeights
original, calls = engine.StepEvent, []
def killing(*arguments, **named):
    calls.append(1)
    if len(calls) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments, **named)
engine.StepEvent = killing
prior = GaussianWeights.load(sys.argv[1])
sample(Net(2), prior, blobs(2, num_data=40, seed=1), out=sys.argv[2], checkpoint_every=3, seed=3,
       **QUIET, **SAMPLE)
"""


def test_round_trip_fit_kill_resume_refuse_load_predict(task, tmp_path):
    prior, state, data = task
    prior.save(tmp_path / "prior.safetensors")
    # The other process reads the prior: the same law, which may round otherwise there.
    options = {**QUIET, **SAMPLE, "seed": 3, "checkpoint_every": 3}
    whole = weights_of(sample(fresh(state), prior, data, out=tmp_path / "whole", **options))
    out = tmp_path / "run"
    for step in (8, 7):  # in the first chain, then, resumed from step 6 of it, in the second
        arguments = [str(tmp_path / "prior.safetensors"), str(out), str(step)]
        done = run_code(KILLED, *arguments)
        assert done.returncode == -signal.SIGKILL, done.stderr
    assert chain_dir(out, 1).exists()

    # A half-written row and the temporary files of killed writers stop nothing.
    with (chain_dir(out, 0) / TRACE).open("a") as file:
        file.write("8,0.1")
    for name in (".config.yaml.abcd1234", "chain-01/.checkpoint.pt.abcd1234"):
        (out / name).write_text("half")
    with pytest.raises(ConfigError, match="is not finished"):
        load_run(out, network=fresh(state), data=data)
    with pytest.raises(ConfigError, match="its chains is 2, this one's 3"):
        sample(fresh(state), prior, data, out=out, **{**options, "chains": 3})

    resumed = weights_of(sample(fresh(state), prior, data, out=out, **options))
    assert torch.equal(resumed, whole)
    assert not [p.name for p in out.rglob(".*")]
    assert [row["step"] for row in read_trace(chain_dir(out, 0) / TRACE)] == [10]

    found = load_run(out, network=Net(2), data=data)
    assert torch.equal(weights_of(found.posterior), whole)
    inputs = torch.stack([data.test[i][0] for i in range(5)])
    probabilities = found.predict_proba(inputs)
    assert probabilities.shape == (5, 2)
    torch.testing.assert_close(probabilities.double().sum(1), torch.ones(5).double())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lr": 0.06}, r"its lr is 0\.05, this one's 0\.06"),
        ({"seed": 4}, "its seed is 3, this one's 4"),
        ({"likelihood": "other"}, "its likelihood is"),
        ({"prior": "other"}, "its prior is another law"),
        ({"data": "other"}, "its training data were others"),
        ({"test": "other"}, "its test data were others"),
        ({"network": "other"}, "its network is"),
        ({"recipe": fit_swag}, "it was made by fit_map, not fit_swag"),
    ],
)
def test_a_folder_of_another_run_is_refused_by_its_first_difference(task, tmp_path, changes, said):
    prior, state, data = task
    fit_map(fresh(state), prior, data, out=tmp_path, seed=3, **QUIET, **MAP)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    module, recipe = fresh(state), changes.pop("recipe", fit_map)
    if changes.pop("network", None):
        module.backbone[3] = torch.nn.ReLU()
    if changes.pop("prior", None):
        prior = prior.rescale(rms_std=0.2)
    if changes.pop("data", None):
        data = blobs(2, num_data=40, seed=2)
    if changes.pop("test", None):
        fewer = data.test.subset(torch.arange(len(data.test) - 1))
        data = dataclasses.replace(data, test=fewer)
    if "likelihood" in changes:
        changes["likelihood"] = type("Own", (Categorical,), {})()
    options = MAP if recipe is fit_map else SWAG
    with pytest.raises(ConfigError, match=said) as caught:
        recipe(module, prior, data, out=tmp_path, **{**QUIET, **options, "seed": 3, **changes})
    assert "nothing was overwritten" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_start_of_its_own_belongs_to_the_run(task, tmp_path, monkeypatch):
    """start="module": the recorded start, the end and the state in between, and nothing else."""
    prior, state, data = task
    options = {**QUIET, **MAP, "start": "module", "checkpoint_every": 2, "seed": 3}
    out = tmp_path / "run"
    whole = weights_of(fit_map(fresh(state), prior, data, out=tmp_path / "whole", **options))
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5)
        module = fresh(state)
        with pytest.raises(KeyboardInterrupt):
            fit_map(module, prior, data, out=out, **options)
    assert (out / SESSION).exists()
    with pytest.raises(ConfigError, match="its network started from other weights"):
        fit_map(Net(2), prior, data, out=out, **options)
    assert torch.equal(weights_of(fit_map(module, prior, data, out=out, **options)), whole)
    for again in (fresh(state), module):
        found = fit_map(again, prior, data, out=out, **options)
        assert torch.equal(weights_of(found), whole)
    with torch.no_grad():
        module.head.bias.add_(1)
    with pytest.raises(ConfigError, match="its network started from other weights"):
        fit_map(module, prior, data, out=out, **options)


def test_a_source_fit_resumes_and_refuses_likewise(tmp_path, monkeypatch):
    module = Net(3)
    state = state_of(module)
    options = {**QUIET, **SOURCE, "seed": 5, "head": "head"}
    with monkeypatch.context() as patch:
        interrupt_at(patch, 7)
        with pytest.raises(KeyboardInterrupt):
            fit_source(module, blobs(3), out=tmp_path, **options)
    resumed = fit_source(module, blobs(3), out=tmp_path, **options)
    module.load_state_dict(state)
    whole = fit_source(module, blobs(3), **options)
    assert torch.equal(resumed.loc, whole.loc)
    assert torch.equal(resumed.cov_factor, whole.cov_factor)
    assert read_results(tmp_path)["fit-source"]["rank"] == whole.rank
    with pytest.raises(ConfigError, match="its head is 'head', this one's None"):
        fit_source(module, blobs(3), out=tmp_path, **{**options, "head": None})


def test_a_wrong_step_size_may_be_corrected_in_the_same_folder(task, tmp_path):
    prior, state, data = task
    with pytest.raises(ConfigError, match="unstable under this prior"):
        sample(fresh(state), prior, data, out=tmp_path, **{**QUIET, **SAMPLE, "lr": 1e9})
    sample(fresh(state), prior, data, out=tmp_path, lr=1e-3, **QUIET, **SAMPLE)
    assert read_config(tmp_path).options["lr"] == 1e-3


def test_a_folder_of_leftovers_is_an_empty_one(task, tmp_path):
    prior, state, data = task
    (tmp_path / ".config.yaml.abcd1234").write_text("half")
    fit_map(fresh(state), prior, data, out=tmp_path, **QUIET, **MAP)
    assert {p.name for p in tmp_path.iterdir()} == {
        CONFIG,
        CHECKPOINT,
        PRIOR,
        TRACE,
        "map.safetensors",
        "results.json",
    }


def test_chains_of_different_seeds_share_nothing(task):
    prior, state, data = task
    options = {**QUIET, "num_draws": 1, "burn_in": 0, "thin": 1, "lr": 1e-6}
    found = [
        draw.weights[prior.shared_dim :]
        for seed, chains in ((0, 3), (1, 2), (2, 1))
        for draw in sample(fresh(state), prior, data, seed=seed, chains=chains, **options).draws()
    ]
    assert not [1 for i, one in enumerate(found) for other in found[:i] if torch.equal(one, other)]


def test_draws_in_memory_are_those_on_disk(task, tmp_path):
    prior, state, data = task
    prior.save(tmp_path / "prior")
    prior = GaussianWeights.load(tmp_path / "prior")  # as the folder's copy lies in memory
    options = {**QUIET, **SAMPLE, "seed": 3}
    memory = sample(fresh(state), prior, data, **options)
    disk = sample(fresh(state), prior, data, out=tmp_path / "run", **options)
    assert torch.equal(weights_of(memory), weights_of(disk))
    assert (memory.num_chains, memory.num_draws) == (2, 3)


def test_the_home_folder(task, tmp_path, monkeypatch):
    prior, state, data = task
    monkeypatch.setenv("HOME", str(tmp_path))
    fit_map(fresh(state), prior, data, out="~/runs/map", **QUIET, **MAP)
    assert (tmp_path / "runs" / "map" / CONFIG).is_file()
    assert load_run("~/runs/map", network=Net(2), data=data).method == "map"
