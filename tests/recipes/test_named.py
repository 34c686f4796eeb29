import numpy as np
import pytest
import torch

from bayesprior.errors import ConfigError, DataError
from bayesprior.recipes.named import as_test_of, foreign_set, load_data, load_model, point_source
from bayesprior.recipes.options import DataOptions, ModelOptions


def write(path, count=24, classes=3, size=8, **names):
    """Random gray images with labels 0, 1, ... in turn; by default as x and y."""
    generator = np.random.default_rng(count)
    pixels = generator.integers(0, 256, (count, size, size), dtype=np.uint8)
    np.savez(path, **{names.get("x", "x"): pixels, names.get("y", "y"): np.arange(count) % classes})
    return str(path)


def test_data_are_chosen_by_name_classes_and_number(tmp_path):
    whole = load_data(DataOptions(data="digits"))
    assert whole.num_classes == 10
    few = load_data(DataOptions(data="digits", classes="3, 5", num_data=10))
    assert few.class_names == ("3", "5")
    assert few.class_counts.tolist() == [5, 5]
    assert load_data(DataOptions(data="digits", per_class=2)).num_data == 20
    one, other = (
        load_data(DataOptions(data="digits", num_data=10, data_seed=seed)) for seed in (0, 1)
    )
    assert not torch.equal(one.train.inputs, other.train.inputs)
    own = load_data(DataOptions(data=write(tmp_path / "a.npz", count=40), num_validation=6))
    assert (own.num_classes, len(own.validation)) == (3, 6)
    with pytest.raises(ConfigError, match="no data set or folder 'digitz'.*did you mean 'digits'"):
        load_data(DataOptions(data="digitz"))
    with pytest.raises(ConfigError, match="is an import path out of a file"):
        load_data(DataOptions(data="os:getcwd"), trusted=False)


def test_a_network_is_shaped_for_the_data_and_seeded_on_its_own():
    data = load_data(DataOptions(data="digits", classes="0,1,2"))
    choice = ModelOptions(model="small_conv", model_options={"widths": [4, 4]})
    before = torch.get_rng_state()
    module, head = load_model(choice, data, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    again, _ = load_model(choice, data, seed=3)
    layers = dict(module.named_modules())
    assert layers[head].out_features == 3
    for one, other in zip(module.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(ConfigError, match="no option 'width'; did you mean 'widths'"):
        load_model(ModelOptions(model="small_conv", model_options={"width": 1}), data, seed=0)


def test_what_was_taken_from_a_file_of_weights_is_told(tmp_path):
    data = load_data(DataOptions(data="digits"))
    choice = ModelOptions(model="mlp", model_options={"widths": [4]})
    module, head = load_model(choice, data, seed=0)
    torch.save(module.state_dict(), tmp_path / "net.pth")
    said = []
    path = str(tmp_path / "net.pth")
    found, _ = load_model(choice, data, seed=1, weights=path, tell=said.append)
    assert len(said) == 1
    for one, other in zip(module.parameters(), found.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_checkpoint_is_the_mean_of_an_isotropic_law():
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    law = point_source(module, 0.2, "net.pth")
    assert torch.equal(law.loc, law.layout.flatten(module))
    assert law.rms_std == pytest.approx(0.2)
    assert law.buffers.keys() == dict(module.named_buffers()).keys()
    assert law.provenance["checkpoint"] == "net.pth"


def test_another_test_set_takes_the_tasks_transform(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    task = load_data(DataOptions(data=write(tmp_path / "task.npz", count=40)))
    whole, classes = foreign_set(write(tmp_path / "whole.npz", count=30, classes=5), task)
    assert (len(whole), classes) == (30, 5)  # one pair of arrays is used whole
    assert whole.transform is task.test.transform
    with pytest.raises(DataError, match="it has 5 classes, the task 3; give foreign images as"):
        as_test_of(task, whole, classes, labeled=True)
    ood = as_test_of(task, whole, classes, labeled=False)
    assert not ood.test.targets.any()
    assert ood.validation is None
    write(tmp_path / "small.npz", size=5)
    with pytest.raises(DataError, match=r"images are \(1, 5, 5\) as the network would see them"):
        as_test_of(task, *foreign_set("~/small.npz", task), labeled=True)
    by_name, classes = foreign_set("digits", task)
    assert classes == 10
