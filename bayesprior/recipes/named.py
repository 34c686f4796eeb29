"""What the names of data, networks and weights stand for."""

import dataclasses
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bayesprior.data import (
    DataBundle,
    few_shot,
    get_data,
    select_classes,
    split_validation,
)
from bayesprior.data.datasets import LabeledDataset
from bayesprior.data.transforms import PixelTransform
from bayesprior.errors import ConfigError, DataError
from bayesprior.models import expected_images, learn_noise, model_for
from bayesprior.recipes.options import DataOptions, ModelOptions
from bayesprior.tasks.likelihoods import HeteroscedasticNormal
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout

__all__ = ["as_test_of", "foreign_set", "load_data", "load_model", "point_source"]


def load_data(
    choice: DataOptions, model: ModelOptions | None = None, *, trusted: bool = True
) -> DataBundle:
    """Return the data that a choice stands for.

    Parameters
    ----------
    choice
        Which data.
    model
        The network that they are for: folders of pictures get the size and the normalization that
        it expects, where the choice does not say.
    trusted
        Whether the user wrote the name; an import path out of a file is refused otherwise.

    Raises
    ------
    ConfigError, DataError
        If a name or option is unknown, or the data cannot be had.
    """
    name, options = choice.data, choice.data_options
    is_folder = name in ("image_folder", "mask_folder") or Path(name).expanduser().is_dir()
    if model is not None and is_folder:
        expected = expected_images(model.model)
        if expected is not None:
            options = {"size": expected.size, "normalize": expected[1:], **options}
    bundle = get_data(name, trusted=trusted, **options)
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
    choice: ModelOptions,
    bundle: DataBundle,
    *,
    seed: int,
    weights: str | None = None,
    rename: str | None = None,
    trusted: bool = True,
    tell: Callable[[str], None] | None = None,
) -> tuple[nn.Module, str]:
    """Return the network that a choice stands for, shaped for the data, and its head's name.

    Parameters
    ----------
    choice
        Which network.
    bundle
        Gives ``num_classes``, ``in_channels`` and ``in_features`` where the network asks. Of
        numbers the outputs are means and logarithms of the noise variance, as of
        `bayesprior.tasks.likelihoods.HeteroscedasticNormal`.
    seed
        Of the random initialization; torch's global state is left as it is.
    weights
        A local file, or a name that torchvision knows such as DEFAULT. Their head is kept only
        if it has as many outputs as there are classes.
    rename
        As of `model_for`.
    trusted
        Whether the user wrote the name; an import path out of a file is refused otherwise.
    tell
        Is given the line that says what was taken from a file of weights.

    Raises
    ------
    ConfigError, CheckpointError
        If a name or option is unknown, or the weights do not fit.
    """
    if weights is not None:
        _check_normalization(choice.model, bundle)
    numbers, noise = bundle.num_numbers, choice.noise
    outputs = numbers * (1 + (noise == "predicted")) or bundle.num_classes
    module, head, loaded = model_for(
        choice.model,
        num_classes=max(outputs, 1),  # without labels the head is not used
        input_shape=bundle.input_shape,
        weights=weights,
        rename=rename,
        head=choice.head,
        seed=seed,
        trusted=trusted,
        options=choice.model_options,
    )
    if loaded is not None and tell is not None:
        tell(loaded.summary)
    if numbers and noise != "predicted":
        learn_noise(module, head, std=None if noise == "learned" else _known(noise, bundle))
    return module, head


def _known(noise: str, bundle: DataBundle) -> list[float]:
    """Return a known noise in units of the standardized targets."""
    try:
        std = float(noise)
    except ValueError:
        raise ConfigError(f"noise must be learned, predicted or a number, got {noise!r}") from None
    unit = HeteroscedasticNormal.of_targets(bundle.train.targets).target_std
    return (std / torch.as_tensor(unit)).tolist()


def _check_normalization(model: str, bundle: DataBundle) -> None:
    """Warn where pretrained weights would see images normalized otherwise than they expect."""
    expected, transform = expected_images(model), getattr(bundle.train, "transform", None)
    if expected is None or not isinstance(transform, PixelTransform):
        return
    own = torch.tensor([transform.mean or (0.0,), transform.std or (1.0,)])
    want = torch.tensor([expected.mean, expected.std])
    if own.shape[1] not in (1, want.shape[1]):
        return  # which the network refuses anyway
    if not torch.allclose(own.expand_as(want) if own.shape[1] == 1 else own, want, atol=0.01):
        mean, std = ([round(x, 3) for x in row] for row in own.tolist())
        warnings.warn(
            f"the weights of {model} expect images normalized by mean {list(expected.mean)} and "
            f"std {list(expected.std)}; {bundle.name!r} is normalized by {mean} and {std}: give "
            f"--data_options.normalize '{[list(expected.mean), list(expected.std)]}'",
            UserWarning,
            stacklevel=3,
        )


def point_source(
    module: nn.Module, rms_std: float | None, checkpoint: str | None = None
) -> GaussianWeights:
    """Return the isotropic law around a network's weights, for a source that is a checkpoint.

    Its provenance has the checkpoint's name.
    """
    layout = ParameterLayout.from_module(module)
    buffers = {name: buffer.detach().clone() for name, buffer in module.named_buffers()}
    model = type(module).__name__
    provenance = {"role": "checkpoint", "model": model, "checkpoint": checkpoint}
    return GaussianWeights.point(
        layout, layout.flatten(module), rms_std or 1.0, buffers=buffers, provenance=provenance
    )


def foreign_set(source: str, task: DataBundle) -> tuple[LabeledDataset, int]:
    """Return another test set, its images prepared as the task's own are, and its classes' number.

    Parameters
    ----------
    source
        An .npz file with x_test and y_test, or with x and y, all of which are used; or the name
        of a data set.
    task
        Gives the transform.

    Raises
    ------
    ConfigError, DataError
        If there is no such set, or it cannot be read.
    """
    own, source = getattr(task.test, "transform", None), os.path.expanduser(source)
    if not source.endswith(".npz"):
        bundle = load_data(DataOptions(data=source))
        return bundle.test, bundle.num_classes
    bundle = get_data("npz", path=source, normalize=None)
    test: Any = bundle.test
    with np.load(source) as arrays:
        if "x_test" not in arrays.files:  # split for training: put together again
            inputs = torch.cat([bundle.train.inputs, test.inputs])
            targets = torch.cat([bundle.train.targets, test.targets])
            test = dataclasses.replace(test, inputs=inputs, targets=targets)
    test = test if own is None else dataclasses.replace(test, transform=own)
    return test, bundle.num_classes


def as_test_of(
    task: DataBundle, test: LabeledDataset, num_classes: int, *, labeled: bool
) -> DataBundle:
    """Return the task with what `foreign_set` read for its test split.

    Raises
    ------
    DataError
        If the images do not fit the task, or labels that count do not.
    """
    if (shape := tuple(test[0][0].shape)) != task.input_shape:
        raise DataError(
            f"its images are {shape} as the network would see them, the task's are "
            f"{task.input_shape}; resize them or fit with --data_options.size"
        )
    if labeled and num_classes > task.num_classes:
        raise DataError(
            f"it has {num_classes} classes, the task {task.num_classes}; give foreign images as "
            "--ood"
        )
    if not labeled:  # foreign labels mean nothing to the task's likelihood
        test = test.subset(torch.arange(len(test)), targets=torch.zeros(len(test)).long())
    return dataclasses.replace(task, test=test, validation=None)
