"""Options of a source: a fit's objective and optimizer, and how checkpoints are collected."""

import os
from typing import Literal

from bayesprior.errors import ConfigError
from bayesprior.recipes.fields import Options, option

__all__ = ["CollectOptions", "ObjectiveOptions"]

# The objectives that have an option; without a row all have it.
_BELONGS = {
    "temperature": ("simclr", "moco"),
    "queue": ("moco",),
    "ema": ("moco", "byol"),
    "collect_momentum": ("moco", "byol"),
    **{
        name: ("simclr", "moco", "byol", "vicreg", "barlow_twins")
        for name in ("projection", "augmentations", "accuracy")
    },
}


class ObjectiveOptions(Options):
    """Objective and optimizer."""

    objective: Literal["supervised", "simclr", "moco", "byol", "vicreg", "barlow_twins"] = (
        "supervised"
    )
    """supervised learns labels; the others learn from two random views of every image, without
    labels (pip install 'bayesprior[ssl]')."""
    augmentations: Literal["gray", "small", "photographs"] | None = option(
        None, shown="what the images are"
    )
    """Random views for images of one channel (crops, rotations, contrast), for small ones in color
    (crops, mirroring, colors), or the objective's published ones for photographs."""
    temperature: float | None = option(None, above=0, shown="0.5 of simclr, 0.2 of moco")
    """Of the contrast between an image and others: smaller separates harder."""
    projection: int | None = option(
        None, least=1, shown="128 of simclr and moco, 256 of byol, else four times the features"
    )
    """Outputs of the projector, the layers on top of the features that are compared."""
    ema: float | None = option(None, least=0, most=1, shown="0.99 of moco, 0.996 of byol")
    """Share of itself that the momentum copy of the network keeps at a step."""
    queue: int | None = option(None, least=1, shown="4096, at most half the training examples")
    """Earlier images that moco contrasts with."""
    collect_momentum: bool = False
    """Fit the law to the momentum copy's weights instead of the trained ones."""
    accuracy: bool | None = option(None, shown="true where training and test images have labels")
    """Measure a k-nearest-neighbor and a linear classifier on the features, and warn where they
    are no better than those of the network that the fit started from."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """What descends."""
    lr: float | None = option(None, above=0, shown="0.05 of sgd, 0.001 of adamw")
    """Learning rate on the mean loss; after a short warm-up it falls by a cosine to
    swag_lr_factor times itself."""
    momentum: float = option(0.9, least=0, most=1)
    """Share of the last step that SGD repeats; AdamW's first decay rate."""
    weight_decay: float = option(5e-4, least=0)
    """The optimizer's pull to zero."""
    warm_up: int | None = option(None, least=0, shown="a tenth of num_steps, at most 50")
    """Steps of rising learning rate."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, objectives in _BELONGS.items():
            if getattr(self, name) not in (None, False) and self.objective not in objectives:
                raise ConfigError(
                    f"{name} belongs to objective {' or '.join(objectives)}, not {self.objective}"
                )
        if self.lr is None:
            object.__setattr__(self, "lr", 0.05 if self.optimizer == "sgd" else 1e-3)
        if self.optimizer == "adamw" and self.momentum == 1:
            raise ConfigError("momentum must be below 1 with adamw, got 1.0")


class CollectOptions(Options):
    """SWAG of checkpoints."""

    rank: int | None = option(None, least=1, shown="20, at most the number of checkpoints")
    """K, the number of directions kept: the last K checkpoints span them."""
    diagonal_only: bool = False
    """Keep variances only."""
    rename: Literal["auto"] | None = option(None, shown="as the files have them")
    """auto: give the files' tensors the network's names, by order and shape."""
    batch_size: int = option(128, least=1)
    """Examples at a time, where there are data."""
    seed: int = option(0, least=0)
    """Decides the order of the data, and their augmentation."""
    device: str = "auto"
    """Where the data are run through the network: auto (a GPU if there is one), cpu or cuda."""
    out: str | os.PathLike[str] | None = option(None, path=True, shown="nothing is written")
    """Folder to write."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.diagonal_only and self.rank is not None:
            raise ConfigError("rank belongs to a law with directions, not to diagonal_only")
