"""A finished fit of three kinds of 8 x 8 images, made once for the tests that only read it."""

import numpy as np
import pytest
from recipes_cases import source_and_target

from bayesprior import recipes
from bayesprior.recipes.named import load_data, load_model
from bayesprior.recipes.options import DataOptions, MadeFrom, ModelOptions
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout

MODEL = ModelOptions(model="mlp", model_options={"widths": [8]})


def stripes(labels: np.ndarray, seed: int) -> np.ndarray:
    """Bright stripes at a place that depends on the label, in noise."""
    images = np.random.default_rng(seed).integers(0, 120, (len(labels), 8, 8)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[2 * label : 2 * label + 2] += 100
    return images


@pytest.fixture(scope="session")
def source():
    """A source posterior over the small network of `recipes_cases`."""
    return source_and_target()[0]


@pytest.fixture(scope="session")
def striped(tmp_path_factory):
    """Folders ``map`` and ``sgld`` of fits with validation data, and ``bare`` without."""
    folder = tmp_path_factory.mktemp("striped")
    arrays = {"class_names": np.array(["entropy", "low", "high"])}
    for seed, (split, num) in enumerate((("train", 60), ("test", 45))):
        labels = np.arange(num) % 3
        arrays |= {f"x_{split}": stripes(labels, seed), f"y_{split}": labels}
    np.savez(folder / "data.npz", **arrays)
    for name in ("map", "sgld", "bare"):
        num = None if name == "bare" else 18
        choice = DataOptions(data=str(folder / "data.npz"), num_validation=num)
        data = load_data(choice)
        module, _ = load_model(MODEL, data, seed=0)
        layout = ParameterLayout.from_module(module)
        prior = GaussianWeights.point(layout, layout.flatten(module), std=1.0)
        common = {
            "out": folder / name,
            "device": "cpu",
            "progress": False,
            "made_from": MadeFrom(data=choice, model=MODEL),
        }
        if name == "sgld":
            lengths = {"num_draws": 3, "chains": 2, "burn_in": 20, "thin": 1, "lr": 1e-2}
            recipes.sample(module, prior, data, sampler="sgld", **lengths, **common)
        else:
            recipes.fit_map(module, prior, data, num_steps=60, lr=0.03, **common)
    return folder
