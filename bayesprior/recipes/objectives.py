"""Objectives without labels, by their options: the views of the data, and the loss."""

import functools
from typing import Any

from torch import nn

from bayesprior.data import DataBundle, check_fit
from bayesprior.data.masks import are_masks
from bayesprior.data.two_view import LightlyViews, augmentations, two_views
from bayesprior.errors import ConfigError, DataError, kind_of, nearest_name
from bayesprior.inference.generators import seeded
from bayesprior.recipes.options import SourceOptions
from bayesprior.tasks.objectives import METHODS, self_supervised
from bayesprior.tasks.objectives.methods import Projected
from bayesprior.tasks.protocols import inputs_forward

__all__ = ["asks_for_accuracy", "self_supervision", "told_of"]


def asks_for_accuracy(options: SourceOptions, data: DataBundle) -> bool:
    """Whether the accuracies of features are to be measured.

    Raises
    ------
    DataError
        If they are, of images without labels.
    """
    splits = {"training": data.train, "test": data.test}
    labels = {name: getattr(split, "targets", None) for name, split in splits.items()}
    bare = [name for name, known in labels.items() if known is None or are_masks(known)]
    if options.accuracy and bare:
        raise DataError(
            f"accuracy needs labeled training and test images, and the {' and '.join(bare)} "
            f"images of {data.name!r} have no labels; store x_train, y_train, x_test and y_test, "
            "or leave it out"
        )
    known = not bare and data.train.targets.ndim == 1 and bool(data.class_names)
    return options.objective != "supervised" and known and options.accuracy is not False


def self_supervision(
    module: nn.Module, data: DataBundle, head: Any, options: SourceOptions
) -> tuple[DataBundle, Projected]:
    """Return the data with views of every training image, and the objective.

    Raises
    ------
    ConfigError, DataError
        If the head is no layer, the network does not take the images, or a batch of one example
        would be left: nothing contrasts in it.
    MissingDependencyError
        If lightly is not installed.
    """
    layers = [name for name, _ in module.named_modules() if name]
    if head is not None and head not in layers:
        hint = nearest_name(head, layers) if isinstance(head, str) else f" (got {kind_of(head)})"
        raise ConfigError(
            f"objective {options.objective!r} needs the name of the head's layer: "
            f"{type(module).__name__} has no {head!r}{hint}"
        )
    asks_for_accuracy(options, data)
    smallest = data.num_data % options.batch_size or min(options.batch_size, data.num_data)
    if smallest == 1:
        raise ConfigError(
            f"batch_size = {options.batch_size} leaves a batch of one of {data.num_data} images, "
            "and nothing contrasts in it; choose another batch_size"
        )
    views = augmentations(data, options.objective, options.augmentations)
    check_fit(module, data, functools.partial(_no_outputs, head))
    device = next(module.parameters()).device
    images = data.peek(2)
    images = (images[0] if isinstance(images, tuple) else images).to(device)
    queue = options.queue
    if queue is None and (usual := METHODS[options.objective].queue):
        queue = max(min(usual, data.num_data // 2), 1)  # else an image meets itself
    with seeded(options.seed):
        objective = self_supervised(
            options.objective,
            module,
            images,
            head=head,
            temperature=options.temperature,
            projection=options.projection,
            ema=options.ema,
            queue=queue,
            frozen=options.batch_norm == "frozen",
        )
    return two_views(data, view=views), objective


def _no_outputs(head: str | None, module: nn.Module, batch: Any) -> tuple[Any, None]:
    """Call the network on images with or without labels; what it answers does not matter."""
    return inputs_forward(module, batch[0] if isinstance(batch, tuple) else batch)[1], None


def told_of(call: Any) -> dict[str, Any]:
    """Return what the law of an objective depends on, for its provenance."""
    views: LightlyViews = call.data.train.augment.view
    objective, criterion = call.loss_fn, call.loss_fn.criterion
    projected = [m for m in objective.projector.modules() if isinstance(m, nn.Linear)]
    told = {
        "augmentations": {"transform": views.transform, "size": views.size, **views.settings},
        "projection": projected[-1].out_features,
        "network": "momentum copy" if call.collect_momentum else "trained",
    }
    for name, owner in (("temperature", criterion), ("ema", objective)):
        if hasattr(owner, name):
            told[name] = getattr(owner, name)
    if METHODS[call.objective].queue:
        told["queue"] = criterion.memory_bank.size[0]
    return told
