"""What the shared options stand for: data, networks, posteriors, finished fits."""

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bayesprior.cli.choices import DataChoice, ModelChoice, grouped
from bayesprior.data import (
    DataBundle,
    few_shot,
    get_data,
    select_classes,
    split_validation,
)
from bayesprior.errors import DataError
from bayesprior.inference.posteriors import PointPosterior, StoredDraws
from bayesprior.models import model_for
from bayesprior.recipes.runs import read_config
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout

__all__ = [
    "FitRun",
    "checksums",
    "foreign_set",
    "load_data",
    "load_model",
    "load_posterior",
    "load_run",
    "point_source",
]


def load_data(choice: DataChoice) -> DataBundle:
    """Return the data that a choice stands for.

    Raises
    ------
    ConfigError, DataError
        If a name or option is unknown, or the data cannot be had.
    """
    name, options = choice.data, dict(choice.data_options)
    if _is_npz(name):
        name, options = "npz", {**options, "path": name}
    bundle = get_data(name, **options)
    if choice.classes is not None:
        tokens = [token.strip() for token in str(choice.classes).split(",")]
        known = bundle.class_names
        chosen = [int(t) if t.isdigit() and t not in known else t for t in tokens]
        bundle = select_classes(bundle, chosen)
    if choice.num_validation is not None:
        bundle = split_validation(bundle, num=choice.num_validation, seed=choice.data_seed)
    if choice.num_data is not None or choice.per_class is not None:
        bundle = few_shot(
            bundle, num_data=choice.num_data, per_class=choice.per_class, seed=choice.data_seed
        )
    return bundle


def load_model(
    choice: ModelChoice, bundle: DataBundle, *, seed: int, weights: str | None = None
) -> tuple[nn.Module, str]:
    """Return the network that a choice stands for, shaped for the data, and its head's name.

    Parameters
    ----------
    choice
        Which network.
    bundle
        Gives ``num_classes``, ``in_channels`` and ``in_features`` where the network asks.
    seed
        Of the random initialization; torch's global state is left as it is.
    weights
        A local file, or a name that torchvision knows such as DEFAULT. Their head is kept only
        if it has as many outputs as there are classes.

    Raises
    ------
    ConfigError, CheckpointError
        If a name or option is unknown, or the weights do not fit.
    """
    module, head, _ = model_for(
        choice.model,
        num_classes=bundle.num_classes,
        input_shape=bundle.input_shape,
        weights=weights,
        head=choice.head,
        seed=seed,
        options=choice.model_options,
    )
    return module, head


def point_source(module: nn.Module, rms_std: float | None) -> GaussianWeights:
    """Return the isotropic law around a network's weights, for a source that is a checkpoint."""
    layout = ParameterLayout.from_module(module)
    buffers = {name: buffer.detach().clone() for name, buffer in module.named_buffers()}
    provenance = {"role": "checkpoint", "model": type(module).__name__}
    return GaussianWeights.point(
        layout, layout.flatten(module), rms_std or 1.0, buffers=buffers, provenance=provenance
    )


def checksums(**paths: str | None) -> dict[str, str]:
    """Return the SHA-256 of files by option; names that are no files are left out."""
    found = {}
    for option, path in paths.items():
        if path is not None and Path(path).is_file():
            with Path(path).open("rb") as file:
                found[option] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def load_posterior(run: str | Path, method: str) -> PointPosterior | GaussianWeights | StoredDraws:
    """Return what a fit left in its folder.

    Raises
    ------
    PriorFileError
        If the fit is not finished, or a file is missing or corrupt.
    """
    folder = Path(run)
    if method == "map":
        return PointPosterior.load(folder / "map.safetensors")
    if method == "swag":
        return GaussianWeights.load(folder / "swag.safetensors")
    return StoredDraws(folder)


@dataclass(frozen=True)
class FitRun:
    """A finished fit, put together again from its folder.

    Attributes
    ----------
    options
        Of ``bayesprior fit``.
    data, module
        The task, and the network with the BatchNorm statistics of the first draw.
    posterior, prior
        The fitted law, and the prior at the width that it had.
    """

    options: Mapping[str, Any]
    data: DataBundle
    module: nn.Module
    posterior: PointPosterior | GaussianWeights | StoredDraws
    prior: GaussianWeights


@torch.no_grad()
def load_run(run: str | Path) -> FitRun:
    """Read a folder that ``fit`` wrote.

    Raises
    ------
    ConfigError, PriorFileError
        If the folder is no finished fit, or its prior's file is gone.
    """
    options = read_config(run, "fit").options
    data = load_data(grouped(DataChoice, options))
    module, _ = load_model(grouped(ModelChoice, options), data, seed=options["seed"])
    posterior = load_posterior(run, options["method"])
    buffers = dict(module.named_buffers())
    for name, value in next(iter(posterior.draws())).buffers.items():
        buffers[name].copy_(value)
    prior = GaussianWeights.load(options["prior"])
    if options["rms_std"] is not None:
        prior = prior.rescale(rms_std=options["rms_std"])
    return FitRun(options, data, module, posterior, prior)


def foreign_set(source: str, task: DataBundle, *, labeled: bool) -> DataBundle:
    """Return another test set, its images prepared as the task's own are.

    Parameters
    ----------
    source
        An .npz file with x_test and y_test, or with x and y, all of which are used; or the name
        of a data set.
    task
        Gives the transform, the shape and the classes.
    labeled
        Whether the labels must be the task's.

    Raises
    ------
    DataError
        If the images or the classes do not fit the task.
    """
    own = getattr(task.test, "transform", None)
    if _is_npz(source):
        bundle = get_data("npz", path=source, normalize=None)
        test: Any = bundle.test
        with np.load(source) as arrays:
            if "x_test" not in arrays.files:  # split for training: put together again
                inputs = torch.cat([bundle.train.inputs, test.inputs])  # type: ignore[attr-defined]
                targets = torch.cat([bundle.train.targets, test.targets])
                test = dataclasses.replace(test, inputs=inputs, targets=targets)
        test = test if own is None else dataclasses.replace(test, transform=own)
    else:
        bundle = load_data(DataChoice(source))
        test = bundle.test
    if (shape := tuple(test[0][0].shape)) != task.input_shape:
        raise DataError(
            f"{source}: its images are {shape} as the network would see them, the task's are "
            f"{task.input_shape}; resize them or fit with --data_options.size"
        )
    if labeled and bundle.num_classes > task.num_classes:
        raise DataError(
            f"{source} has {bundle.num_classes} classes, the task {task.num_classes}; give foreign "
            "images as --ood"
        )
    if not labeled:  # foreign labels mean nothing to the task's likelihood
        test = test.subset(torch.arange(len(test)), targets=torch.zeros(len(test)).long())
    return dataclasses.replace(task, test=test, validation=None)


def _is_npz(name: str) -> bool:
    return name.endswith(".npz")
