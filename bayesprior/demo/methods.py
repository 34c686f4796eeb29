"""The six methods of the demo, and one fit of one of them.

All go through the same recipes with the same network, optimizer, step budget and head prior;
they differ in where the prior of the backbone is centered, its shape, where training starts and
how the posterior is explored.
"""

import functools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bayesprior import recipes
from bayesprior.data import DataBundle, digits, few_shot
from bayesprior.errors import DivergenceError
from bayesprior.inference.protocols import Posterior
from bayesprior.prediction.predict import Prediction, predict
from bayesprior.recipes.named import load_model
from bayesprior.recipes.options import DataOptions, MadeFrom, ModelOptions
from bayesprior.tasks.likelihoods import Categorical
from bayesprior.weights.gaussian import GaussianWeights

__all__ = ["HEAD_STD", "METHODS", "MODEL", "Method", "Setting", "predict_with"]

MODEL = ModelOptions(model="small_conv")
HEAD_STD = 3**0.5
"""Standard deviation of the head's weights, the same for every method."""
HEAD_TEMPERATURE = 1e-4
"""Of SGLD. At temperature 1 a new head drowns 20 labels; the backbone is sampled at 1."""
MOMENTUM = 0.9
"""Of MAP and SWAG. SGLD has none, so its head takes 1 / (1 - momentum) times the rate."""
SWAG_RANK = 10
CHAINS, DRAWS, THIN = 2, 25, 4


@dataclass(frozen=True)
class Method:
    """What sets a method apart.

    Attributes
    ----------
    title
        In the table.
    prior
        Of the backbone: "zero" (weight decay), "isotropic" (around the source) or "low-rank"
        (learned).
    start
        "random" or "source" weights.
    inference
        "map", "swag" or "sgld".
    """

    title: str
    prior: str
    start: str = "source"
    inference: str = "map"


METHODS = {
    "scratch": Method("from scratch", "zero", start="random"),
    "fine-tuning": Method("fine-tuning", "zero"),
    "l2-sp": Method("L2-SP", "isotropic"),
    "map": Method("MAP, learned prior", "low-rank"),
    "swag": Method("SWAG, learned prior", "low-rank", inference="swag"),
    "sgld": Method("SGLD, learned prior", "low-rank", inference="sgld"),
}
"""Methods by name, in the table's order."""


@dataclass(frozen=True)
class Setting:
    """One fit: a method, its two tuned values, and the seed of examples, head and noise.

    Attributes
    ----------
    method
        A key of `METHODS`.
    lr
        Learning rate; for SGLD see `MOMENTUM`.
    rms_std
        Width of the backbone's prior: its effective strength.
    seed, num_data, num_steps
        Seed, labeled images, and steps of MAP (the others take a multiple).
    """

    method: str
    lr: float
    rms_std: float
    seed: int
    num_data: int
    num_steps: int


def predict_with(
    setting: Setting, prior_file: Path, split: str, keep: Path | None = None
) -> tuple[Prediction, float] | None:
    """Fit one setting and predict a split.

    Parameters
    ----------
    setting
        What to fit.
    prior_file
        The learned prior; brought to the setting's width.
    split
        "validation" or "test".
    keep
        Run folder for a fit with the learned prior, as ``bayesprior fit`` makes it.

    Returns
    -------
    prediction, seconds
        Or None if the fit diverged.
    """
    start = time.perf_counter()
    try:
        bundle, module, posterior = _fit(setting, prior_file, keep)
        seconds = time.perf_counter() - start
        loader = bundle.loader(split, batch_size=1000)
        return predict(module, posterior, loader, Categorical()), seconds
    except DivergenceError:
        return None


@functools.cache
def _law(path: Path) -> GaussianWeights:
    return GaussianWeights.load(path)


@functools.cache
def _pool() -> DataBundle:
    return digits()


def _fit(
    setting: Setting, prior_file: Path, keep: Path | None
) -> tuple[DataBundle, torch.nn.Module, Posterior]:
    method = METHODS[setting.method]
    seed = setting.seed
    bundle = few_shot(_pool(), num_data=setting.num_data, seed=seed)
    module, head = load_model(MODEL, bundle, seed=seed)
    learned = _law(prior_file).rescale(rms_std=setting.rms_std)
    options: dict[str, Any] = {"seed": seed, "device": "cpu", "progress": False}
    options |= tuning(setting, learned)
    if keep is not None:
        data = DataOptions(data="digits", num_data=setting.num_data, data_seed=seed)
        made_from = MadeFrom(data=data, model=MODEL, prior=str(prior_file), rms_std=setting.rms_std)
        options |= {"out": keep, "made_from": made_from}
    if method.inference == "sgld":
        return bundle, module, recipes.sample(module, learned, bundle, sampler="sgld", **options)
    if method.inference == "swag":
        return bundle, module, recipes.fit_swag(module, learned, bundle, **options)
    if method.prior == "low-rank":
        return bundle, module, recipes.fit_map(module, learned, bundle, **options)
    if method.prior == "isotropic":
        return bundle, module, recipes.fit_map(module, learned.isotropic(), bundle, **options)
    # A fit that starts at the module's weights keeps its head: the one that the others draw.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module.get_submodule(head).reset_parameters()  # type: ignore[operator]
    if method.start == "source":
        recipes.initialize_(module, learned)
    zero = _around_zero(learned, setting.rms_std)
    return bundle, module, recipes.fit_map(module, zero, bundle, start="module", **options)


def _around_zero(learned: GaussianWeights, std: float) -> GaussianWeights:
    """Return the prior that weight decay is: N(0, std^2) of each weight, the head as ever."""
    shared = [n for n in learned.layout.names if learned.layout.slice(n).start < learned.shared_dim]
    backbone = learned.layout.select(shared)
    zero = GaussianWeights.point(backbone, torch.zeros(backbone.dim), std)
    return zero.extend(learned.layout, std=HEAD_STD)


def tuning(setting: Setting, learned: GaussianWeights) -> dict[str, Any]:
    """Return the options that `bayesprior fit` would take for a setting."""
    steps, lr = setting.num_steps, setting.lr
    inference = METHODS[setting.method].inference
    if inference == "map":
        return {"num_steps": steps, "lr": lr, "momentum": MOMENTUM}
    if inference == "swag":
        return {
            "num_steps": steps,
            "lr": lr,
            "momentum": MOMENTUM,
            "rank": SWAG_RANK,
            "num_snapshots": 2 * SWAG_RANK,
            "collect_every": max(steps // 50, 1),
        }
    # The backbone takes half the largest step that is stable under the prior.
    stable = setting.num_data / float(learned.max_precision()[: learned.shared_dim].max())
    return {
        "chains": CHAINS,
        "num_draws": DRAWS,
        "burn_in": steps,
        "thin": max(round(steps * THIN / 100), 1),
        "lr": min(lr, stable),
        "head_lr": lr / (1 - MOMENTUM),
        "temperature": 1.0,
        "head_temperature": HEAD_TEMPERATURE,
    }
