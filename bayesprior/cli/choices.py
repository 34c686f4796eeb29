"""Options that several commands share."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

__all__ = ["DataChoice", "ModelChoice", "RunChoice", "flat", "grouped", "with_full_paths"]


@dataclass(frozen=True)
class DataChoice:
    """Data.

    Parameters
    ----------
    data
        A short name (digits, glyphs, cifar10, cifar100, mnist, fashion_mnist, flowers102,
        oxford_pets, image_folder), a .npz file with x_train, y_train, x_test, y_test (or x, y),
        or an import path pkg.module:function that returns a DataBundle.
    data_options
        Options of the data set, as --data_options.NAME VALUE, such as root or size.
    classes
        Keep these classes (names or numbers, separated by commas), relabeled 0, 1, ...
    num_data
        Keep this many training examples, class-balanced.
    per_class
        Or this many of each class.
    num_validation
        Take this many validation examples out of the training split first.
    data_seed
        Decides which examples; --seed decides everything else.
    """

    data: str
    data_options: dict[str, Any] = field(default_factory=dict)
    classes: str | None = None
    num_data: int | None = None
    per_class: int | None = None
    num_validation: int | None = None
    data_seed: int = 0


@dataclass(frozen=True)
class ModelChoice:
    """Network.

    Parameters
    ----------
    model
        A short name (small_conv, small_resnet, mlp, mobilenet_v1), a torchvision classification
        network, or an import path pkg.module:callable.
    model_options
        Options of the network, as --model_options.NAME VALUE, such as widths. The numbers of
        classes, channels and features come from the data.
    head
        Name of the layer that does not transfer; by default the last linear one.
    """

    model: str
    model_options: dict[str, Any] = field(default_factory=dict)
    head: str | None = None


@dataclass(frozen=True)
class RunChoice:
    """Run.

    Parameters
    ----------
    out
        Folder to write; an unfinished run in it is resumed.
    seed
        Decides initialization, order of the data, and noise.
    device
        Where to compute; auto takes a GPU if there is one.
    progress
        Show progress bars.
    """

    out: str
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    progress: bool = True


def flat(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return a command's arguments as options: the fields of choices beside the rest.

    Examples
    --------
    >>> flat({"model": ModelChoice("mlp"), "rank": 5})
    {'model': 'mlp', 'model_options': {}, 'head': None, 'rank': 5}
    """
    options: dict[str, Any] = {}
    for name, value in arguments.items():
        is_choice = dataclasses.is_dataclass(value) and not isinstance(value, type)
        options |= dataclasses.asdict(value) if is_choice else {name: value}
    return options


def grouped(kind: type[Any], options: Mapping[str, Any]) -> Any:
    """Return a choice made of its own options among others; the rest keep their defaults.

    Examples
    --------
    >>> grouped(ModelChoice, {"model": "mlp", "rank": 5}).model
    'mlp'
    """
    names = {f.name for f in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in options.items() if name in names})


def with_full_paths(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with files under full paths, so that the run is found from anywhere."""
    files = ("data", "weights", "source", "prior")
    full = {k: str(Path(v).resolve()) for k in files if (v := options.get(k)) and Path(v).is_file()}
    return {**options, **full}
