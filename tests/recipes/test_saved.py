"""A fit's folder read back: by names, with what is given, and never by an import path unasked."""

import dataclasses
import shutil
import sys

import numpy as np
import pytest
import torch
import yaml
from recipes_cases import MAP, QUIET, Net, blobs, fresh, target_task
from torch import nn

from bayesprior.errors import BayesPriorError, ConfigError, PriorFileError
from bayesprior.recipes import fit_map, load_posterior, load_run, make_prior
from bayesprior.recipes import training as training_module
from bayesprior.recipes.named import load_data, load_model, point_source
from bayesprior.recipes.options import DataOptions, MadeFrom, ModelOptions
from bayesprior.storage import CONFIG, PRIOR
from bayesprior.tasks.likelihoods import Categorical, Normal
from bayesprior.tasks.protocols import dictionary_forward

DATA = DataOptions(data="digits", num_data=20, data_seed=2)
MODEL = ModelOptions(model="small_conv", model_options={"widths": [4, 4]})


@pytest.fixture(scope="module")
def task():
    return target_task()


def images(seed=0, count=40):
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    pixels = generator.integers(0, 256, (count, 6, 6), dtype=np.uint8)
    half = count // 2
    return {
        "x_train": pixels[:half],
        "y_train": labels[:half],
        "x_test": pixels[half:],
        "y_test": labels[half:],
    }


def named_run(folder, **changes):
    """Fit by names, as the command line does: data of a file, a prior in a file, one folder."""
    np.savez(folder / "data.npz", **images())
    data_options = DataOptions(data=str(folder / "data.npz"), **changes)
    model_options = ModelOptions(model="mlp", model_options={"widths": [5]})
    data = load_data(data_options)
    module, head = load_model(model_options, data, seed=1)
    prior = make_prior(
        point_source(module, 0.1), module, rms_std=0.1, head=head, out=folder / "prior"
    )
    made_from = MadeFrom(
        data=data_options, model=model_options, prior=str(folder / "prior" / PRIOR)
    )
    fit = fit_map(
        module, prior, data, out=folder / "run", made_from=made_from, seed=1, **QUIET, **MAP
    )
    return fit, data


def test_a_folder_that_knows_its_names_is_read_alone(tmp_path):
    fit, data = named_run(tmp_path)
    found = load_run(tmp_path / "run")
    assert torch.equal(found.posterior.weights, fit.weights)
    assert torch.equal(found.data.train.inputs, data.train.inputs)
    assert (found.method, found.recipe, found.options["num_steps"]) == ("map", "fit_map", 12)
    assert isinstance(found.likelihood, Categorical)
    assert torch.equal(found.posterior.layout.flatten(found.module), fit.weights)
    inputs = torch.stack([data.test[i][0] for i in range(4)])
    assert torch.equal(found.predict_proba(inputs), fit.predict_proba(inputs))
    shown = found._repr_html_()
    assert f"<caption>map on {data.name}</caption>" in shown
    assert f"<tr><th>num_data</th><td>{data.num_data}</td></tr>" in shown


def test_a_folder_that_moved_with_its_files_is_found(tmp_path, monkeypatch):
    (tmp_path / "old").mkdir()
    monkeypatch.setattr(training_module, "_LARGEST_COPY", 0)
    fit, _ = named_run(tmp_path / "old")
    assert not (tmp_path / "old" / "run" / PRIOR).exists()  # too large: it is found by its path
    shutil.move(tmp_path / "old", tmp_path / "new")
    found = load_run(tmp_path / "new" / "run")
    assert torch.equal(found.posterior.weights, fit.weights)
    assert found.prior.layout == fit.layout


def test_inputs_that_changed_are_noticed(tmp_path):
    named_run(tmp_path)
    data, prior = tmp_path / "data.npz", tmp_path / "run" / PRIOR
    kept = data.read_bytes(), prior.read_bytes()
    np.savez(data, **(images() | {"x_test": images(1)["x_test"]}))
    with pytest.raises(ConfigError, match="the test data have changed since the fit; restore"):
        load_run(tmp_path / "run")
    np.savez(data, **images(count=44))
    with pytest.raises(ConfigError, match=r"train data have changed .*20 examples then, 22 now"):
        load_run(tmp_path / "run")
    data.unlink()
    with pytest.raises(BayesPriorError, match=r"data\.npz"):
        load_run(tmp_path / "run")
    data.write_bytes(kept[0])
    law = load_run(tmp_path / "run").prior
    law.rescale(rms_std=0.3).save(prior)
    with pytest.raises(PriorFileError, match="is not the prior that .* was fitted with"):
        load_run(tmp_path / "run")
    prior.unlink()
    assert load_run(tmp_path / "run").prior.rms_std == law.rms_std  # made_from names its file
    shutil.rmtree(tmp_path / "prior")
    with pytest.raises(PriorFileError, match=r"no such file: .*prior\.safetensors"):
        load_run(tmp_path / "run")


MODULE = """
from pathlib import Path
def called(**options):
    (Path(__file__).parent / "called").touch()
    raise RuntimeError("called")
"""


@pytest.mark.parametrize("group", ["data", "model"])
def test_no_import_path_of_a_folder_is_executed_unasked(tmp_path, monkeypatch, group):
    named_run(tmp_path)
    (tmp_path / "foreign_code.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "run" / CONFIG
    parts = yaml.safe_load(path.read_text())
    parts["made_from"][group] = {group: "foreign_code:called", f"{group}_options": {}}
    path.write_text(yaml.safe_dump(parts, sort_keys=False))
    with pytest.raises(ConfigError, match="'foreign_code:called' is an import path out of a file"):
        load_run(tmp_path / "run")
    assert "foreign_code" not in sys.modules
    with pytest.raises(ConfigError, match="fails with .*RuntimeError: called"):
        load_run(tmp_path / "run", trust=True)
    assert (tmp_path / "called").exists()
    del sys.modules["foreign_code"]


def test_what_the_folder_does_not_name_is_given_and_checked(task, tmp_path):
    prior, state, data = task
    fit = fit_map(fresh(state), prior, data, out=tmp_path, **QUIET, **MAP)
    with pytest.raises(ConfigError, match="does not name its data; give data="):
        load_run(tmp_path)
    with pytest.raises(ConfigError, match="does not name its network; give network="):
        load_run(tmp_path, data=data)
    with pytest.raises(ConfigError, match="the train data have changed since the fit"):
        load_run(tmp_path, data=blobs(2, num_data=40, seed=2), network=Net(2))
    with pytest.raises(ConfigError, match="the network is not the one of"):
        load_run(tmp_path, data=data, network=Net(3))
    with pytest.raises(ConfigError, match="was fitted with the likelihood"):
        load_run(tmp_path, data=data, network=Net(2), likelihood=Normal(0.5))
    other_test = dataclasses.replace(data, test=data.test.subset(torch.arange(3)))
    found = load_run(tmp_path, data=other_test, network=Net(2))
    assert torch.equal(found.posterior.weights, fit.weights)
    assert torch.equal(
        found.module.get_buffer("backbone.2.running_mean"), prior.buffers["backbone.2.running_mean"]
    )


class Dictionary(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = Net(2)

    def forward(self, inputs):
        return {"out": self.net(inputs)}


def test_likelihood_and_forward_come_back_or_must_be_given(task, tmp_path):
    _, _, data = task
    module = Dictionary()
    prior = make_prior(point_source(module, 0.1), module, rms_std=0.1, head="net.head")
    std = torch.tensor([0.5, 2.0])

    class Squares(Normal):
        """One-hot targets."""

        def validate(self, outputs, targets):
            super().validate(outputs, nn.functional.one_hot(targets, 2).float())

        def log_prob(self, outputs, targets):
            return super().log_prob(outputs, nn.functional.one_hot(targets, 2).float())

        def monitor(self, outputs, targets):
            return {}

    options = {**QUIET, **MAP, "forward": dictionary_forward()}
    fit_map(module, prior, data, likelihood=Squares(std), out=tmp_path / "own", **options)
    given = {"network": Dictionary(), "data": data}
    with pytest.raises(ConfigError, match="with a likelihood of its own; give likelihood="):
        load_run(tmp_path / "own", **given)
    with pytest.raises(ConfigError, match="dictionary_forward.*; give forward="):
        load_run(tmp_path / "own", **given, likelihood=Squares(std))
    found = load_run(
        tmp_path / "own", **given, likelihood=Squares(std), forward=dictionary_forward()
    )
    assert torch.equal(found.likelihood.std, std)
    fit_map(module, prior, data, out=tmp_path / "ours", **options)
    found = load_run(tmp_path / "ours", **given, forward=dictionary_forward())
    assert isinstance(found.likelihood, Categorical)


def test_only_finished_fits_are_read(task, tmp_path):
    prior, state, data = task
    fit_map(fresh(state), prior, data, out=tmp_path, **QUIET, **MAP)
    (tmp_path / "results.json").unlink()
    for read in (load_posterior, load_run):
        with pytest.raises(ConfigError, match="is not finished; run the same fit again"):
            read(tmp_path)
    make_prior(prior, Net(2), out=tmp_path / "prior")
    with pytest.raises(ConfigError, match="was made by make_prior; this needs the folder of fit"):
        load_run(tmp_path / "prior")


def test_a_configuration_cut_short_anywhere_is_one_line(task, tmp_path):
    named_run(tmp_path)
    path = tmp_path / "run" / CONFIG
    text = path.read_text()
    lines = text.splitlines(keepends=True)
    whole = lines.index("versions:\n")
    for end in range(len(lines)):
        path.write_text("".join(lines[:end]))
        if end > whole + 1:  # nothing but versions is lost
            load_run(tmp_path / "run")
            continue
        with pytest.raises(ConfigError) as caught:
            load_run(tmp_path / "run")
        assert "\n" not in str(caught.value)
