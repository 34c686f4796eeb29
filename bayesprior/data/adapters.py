"""Whatever people hold their data in, as a `DataBundle`; and whether a network fits it."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler

from bayesprior.data.bundle import HINT, DataBundle
from bayesprior.data.datasets import label_key
from bayesprior.errors import ConfigError, DataError
from bayesprior.inference.generators import seeded
from bayesprior.tasks.protocols import (
    Forward,
    keyword_forward,
    pair_forward,
    tensors_of,
    to_device,
)

__all__ = ["SPELLINGS", "as_bundle", "check_fit", "forward_for"]

SPELLINGS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
"""What people call the splits."""


def as_bundle(
    value: Any,
    *,
    test: Any = None,
    validation: Any = None,
    columns: tuple[str, str] | None = None,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    class_names: Any = None,
) -> DataBundle:
    """Return any data that a network can be trained on as a `DataBundle`.

    Parameters
    ----------
    value
        A `DataBundle`; a data set with ``len(data)`` and ``data[i]``, such as torchvision's or
        Hugging Face's; a ``DataLoader``, of which the data set and ``collate_fn`` are taken, order
        and batch size being the recipe's; or a mapping of such splits by name.
    test, validation
        More splits.
    columns
        Keys of input and target where rows are dictionaries but the network takes pairs.
    collate_fn
        Makes a batch of a list of examples.
    class_names
        As in `DataBundle`; by default what the data set itself tells.

    Raises
    ------
    DataError
        If it is none of these; names the constructor that helps.

    Examples
    --------
    >>> pairs = [(torch.zeros(3), 0), (torch.ones(3), 1)]
    >>> as_bundle(pairs, class_names=("no", "yes")).class_counts
    tensor([1, 1])
    """
    more = {"validation": validation, "test": test}
    name, splits = "", {"train": value}
    if isinstance(value, DataBundle):
        if test is validation is columns is collate_fn is class_names is None:
            return value
        name, class_names, splits = value.name, class_names or value.class_names, value.splits
    elif isinstance(value, Mapping):
        splits = {key: value[n] for key, names in SPELLINGS.items() for n in names if n in value}
        if "train" not in splits:
            raise DataError(f"a mapping of splits needs 'train', got {', '.join(value)}; {HINT}")
    splits |= {key: data for key, data in more.items() if data is not None}
    train = splits["train"]
    if isinstance(train, DataLoader):
        _check_order(train)
        train = train.dataset
    if class_names is None:
        class_names = _told_names(train)
    if columns is not None:
        splits = {key: _Columns(data, *columns) for key, data in splits.items()}
    name = name or type(train).__name__
    return DataBundle(name, **splits, class_names=class_names, collate_fn=collate_fn)


def _check_order(loader: DataLoader[Any]) -> None:
    sampler = getattr(loader.batch_sampler, "sampler", loader.sampler)
    plain = isinstance(sampler, RandomSampler | SequentialSampler | None)
    if hasattr(loader.dataset, "__len__") and not plain:
        raise DataError(
            f"the loader draws its examples by {type(sampler).__name__}, but a prior is weighed "
            "against every example once: pass the data set, or write the loop with bp.train"
        )


def _told_names(data: Any) -> Any:
    """Return the class names that torchvision's and Hugging Face's data sets know."""
    features = getattr(data, "features", None)
    if isinstance(features, Mapping):
        return getattr(features.get(label_key(features)), "names", None) or ()
    names = getattr(data, "classes", ())
    return names if isinstance(names, list | tuple) and all(map(str, names)) else ()


class _Columns:
    """Rows that are dictionaries, as pairs."""

    def __init__(self, data: Any, *keys: str) -> None:
        self.data, self.keys = data, keys
        columns = getattr(data, "column_names", None)
        self.targets = data[keys[1]] if isinstance(columns, list) else None

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        row = self.data[index]
        return tuple(row[key] for key in self.keys)


def forward_for(bundle: DataBundle, given: Forward = pair_forward) -> Forward:
    """Return the forward given, but where that is for pairs and the batches are dictionaries.

    Then it is `bayesprior.tasks.protocols.keyword_forward` with the key that their targets have.

    Examples
    --------
    >>> rows = [{"input_ids": torch.arange(3), "label": i} for i in range(2)]
    >>> forward_for(as_bundle(rows))
    KeywordForward(labels='label', outputs='logits')
    """
    if given is not pair_forward or not isinstance(batch := bundle.peek(1), Mapping):
        return given
    return keyword_forward(label_key(batch))


@torch.no_grad()
def check_fit(module: nn.Module, bundle: DataBundle, forward: Forward = pair_forward) -> None:
    """Check before any work that a network takes the data and answers with their classes.

    One pass of two examples in evaluation mode, after which the network is as before.

    Parameters
    ----------
    module
        The network.
    bundle
        The task.
    forward
        How a batch goes through the network.

    Raises
    ------
    ConfigError
        If the network does not take the inputs, or has other outputs than the data have classes.
    DataError
        If the data are inputs alone, and the forward is for pairs.

    Examples
    --------
    >>> from bayesprior.data import digits
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 50))
    >>> check_fit(net, digits())
    Traceback (most recent call last):
    bayesprior.errors.ConfigError: the network gives 50 outputs, 'digits' has 10 classes; ...
    """
    batch = bundle.peek(2)
    if forward is pair_forward and isinstance(batch, Tensor):
        raise DataError(
            f"{bundle.name!r} has no targets; store y with its x, or give every class of pictures "
            "a folder"
        )
    device = next(module.parameters(), torch.empty(0)).device
    modes = {child: child.training for child in module.modules()}
    module.eval()
    try:
        with seeded(0):
            outputs, targets = forward(module, to_device(batch, device))
    except (RuntimeError, TypeError, IndexError) as error:
        inputs = next(tensors_of(batch), torch.empty(0))
        raise ConfigError(_refusal(module, bundle.name, inputs, error)) from error
    finally:
        for child, mode in modes.items():
            child.training = mode
    if not bundle.class_names or not isinstance(outputs, Tensor) or outputs.ndim < 2:
        return
    allowed = {bundle.num_classes}
    if bundle.has_masks:
        _check_maps(outputs, targets, bundle.name)
        allowed |= {1} if bundle.num_classes == 2 else set()  # log odds
    if outputs.shape[1] not in allowed:
        raise ConfigError(
            f"the network gives {outputs.shape[1]} outputs, {bundle.name!r} has "
            f"{bundle.num_classes} classes; build it with num_classes={bundle.num_classes}, or "
            "replace its head: bayesprior.models.replace_head(module, num_classes)"
        )


def _check_maps(outputs: Tensor, targets: Tensor, name: str) -> None:
    if outputs.ndim != 4:
        raise ConfigError(
            f"the network gives outputs of shape {tuple(outputs.shape[1:])}, {name!r} has masks: "
            "take one that gives a map (C, H, W), such as lraspp_mobilenet_v3_large"
        )
    if outputs.shape[2:] != targets.shape[1:]:
        ours, theirs = (" x ".join(map(str, t.shape[-2:])) for t in (outputs, targets))
        raise ConfigError(
            f"the network gives maps of {ours}, the masks of {name!r} are {theirs}; let it bring "
            "its map to the size of the image"
        )


def _refusal(module: nn.Module, name: str, inputs: Tensor, error: Exception) -> str:
    shape = tuple(inputs.shape[1:])
    text = f"{type(module).__name__} does not take the inputs of {name!r}, {shape} each"
    layer = next((m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)), None)
    if isinstance(layer, nn.Conv2d) and len(shape) == 3 and shape[0] != layer.in_channels:
        return (
            f"{text}: its first layer takes {layer.in_channels} channels, the data have "
            f"{shape[0]}; build it with in_channels={shape[0]}, or change the pictures"
        )
    if isinstance(layer, nn.Linear) and not isinstance(error, TypeError):
        text += f": its first layer takes {layer.in_features} numbers"
    dtype = next(module.parameters(), inputs).dtype
    if inputs.is_floating_point() and inputs.dtype != dtype:
        text += f"; its weights are {dtype}, the inputs {inputs.dtype}"
    return f"{text} ({str(error).splitlines()[0]})"
