import dataclasses
import os

import numpy as np
import pytest
import torch
from PIL import Image
from recipes_cases import Net, blobs
from torch import nn
from torch.utils.data import Dataset, Subset, TensorDataset

from bayesprior.data import DataBundle, image_folder
from bayesprior.recipes.digests import (
    data_digests,
    described,
    frozen_digest,
    network_digest,
    prior_digest,
    state_digest,
)
from bayesprior.tasks.likelihoods import Categorical, Normal
from bayesprior.tasks.objectives import supervised
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout


def test_arrays_count_by_content():
    first = data_digests(blobs(2))
    assert first.keys() == {"train", "test"}
    assert first["train"].split()[0] == "60"
    assert data_digests(blobs(2)) == first
    data = blobs(2)
    data.train.inputs[7, 0, 0, 0] += 1
    assert data_digests(data)["train"] != first["train"]
    assert data_digests(data)["test"] == first["test"]
    fewer = dataclasses.replace(data, test=data.test.subset(torch.arange(5)))
    assert data_digests(fewer)["test"] != first["test"]
    plain = dataclasses.replace(data.train, transform=None)
    assert data_digests(dataclasses.replace(data, train=plain))["train"] != first["train"]


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(("ants", "bees") * 4):
        path = tmp_path / "pictures" / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 20 * number, np.uint8)).save(path)
    return tmp_path / "pictures"


def test_folders_count_by_relative_name_size_and_time(folder, tmp_path):
    first = data_digests(image_folder(folder, size=8))
    moved = folder.rename(tmp_path / "elsewhere")
    found = image_folder(moved, size=8)
    assert data_digests(dataclasses.replace(found, name="pictures")) == first
    [path] = moved.glob("ants/0.png")
    os.utime(path, (1.0, 1.0))
    assert data_digests(image_folder(moved, size=8)) != first


class Words(Dataset):
    """A set whose content can only be asked for."""

    def __init__(self, words):
        self.words, self.asked = words, 0

    def __len__(self):
        return len(self.words)

    def __getitem__(self, index):
        self.asked += 1
        noise = torch.randn(2) if index % 2 else np.random.rand(2)  # noqa: NPY002
        return {"text": self.words[index], "noise": noise}, len(self.words[index])


def digest_of(dataset):
    bundle = object.__new__(DataBundle)
    for name, value in {"train": dataset, "validation": None, "test": None}.items():
        object.__setattr__(bundle, name, value)
    object.__setattr__(bundle, "class_names", ())
    return data_digests(bundle)["train"]


def test_other_sets_count_by_type_length_and_sixteen_examples():
    words = [f"word {i}" for i in range(1000)]
    dataset = Words(words)
    state = torch.get_rng_state()
    first = digest_of(dataset)
    assert dataset.asked == 16
    assert torch.equal(torch.get_rng_state(), state)
    assert digest_of(Words(list(words))) == first
    assert digest_of(Words(words[:-1])) != first
    assert digest_of(Words([*words[:-1], "another"])) != first
    assert digest_of(Words(["one"])) == digest_of(Words(["one"]))
    arrays = TensorDataset(torch.arange(6), torch.ones(6))
    assert digest_of(arrays) == digest_of(TensorDataset(torch.arange(6), torch.ones(6)))
    assert digest_of(Subset(arrays, [1, 2])) != digest_of(Subset(arrays, [1, 3]))


def test_a_law_is_the_same_after_a_file_and_another_at_another_width(tmp_path):
    layout = ParameterLayout.from_module(Net(2))
    generator = torch.Generator().manual_seed(0)
    law = GaussianWeights(
        layout,
        torch.randn(layout.dim, generator=generator),
        torch.ones(layout.dim),
        torch.randn(layout.dim - 26, 3, generator=generator),
        buffers={"b": torch.ones(2), "a": torch.zeros(1)},
    ).rescale(rms_std=0.1)
    law.save(tmp_path / "prior")
    assert prior_digest(GaussianWeights.load(tmp_path / "prior")) == prior_digest(law)
    others = [
        law.rescale(rms_std=0.2),
        law.isotropic(),
        law.rename(lambda name: name + "x"),
        law.truncate(2),
    ]
    assert len({prior_digest(other) for other in (law, *others)}) == 5


def test_networks_count_by_construction_and_state_by_content():
    module = Net(2)
    assert network_digest(module) == network_digest(Net(2)) != network_digest(Net(3))
    state = module.state_dict()
    assert state_digest(state) == state_digest(dict(reversed(state.items())))
    before = state_digest(state, {"head.bias"})
    with torch.no_grad():
        module.head.bias.add_(1)
    assert state_digest(state, {"head.bias"}) == before
    assert state_digest(state) != state_digest(Net(2).state_dict())


def test_descriptions_are_json_and_have_no_addresses():
    class Own(Categorical):
        pass

    assert described(Own()) == {"class": "Own"}
    assert described(Normal(torch.tensor([1.0, 2.0]))) == {"class": "Normal", "std": [1.0, 2.0]}
    assert described(("a", 1)) == ["a", 1]
    assert described(nn.Linear(1, 2)) == described(nn.Linear(1, 2))
    assert described(supervised(Categorical())) == "supervised.<locals>.loss_fn"
    assert described(object()) == "object"


def test_frozen_weights_have_a_digest_of_their_own():
    module = Net(2)
    assert frozen_digest(module) == {}
    module.backbone.requires_grad_(False)
    before = frozen_digest(module)
    with torch.no_grad():
        module.head.weight.add_(1)
    assert frozen_digest(module) == before
    with torch.no_grad():
        module.backbone[1].weight.add_(1)
    assert frozen_digest(module) != before
