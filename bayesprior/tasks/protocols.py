"""What a batch is: the only code that takes one apart, moves it or asks its size."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bayesprior.errors import DataError

__all__ = [
    "Batch",
    "Forward",
    "batch_size",
    "dictionary_forward",
    "inputs_forward",
    "keyword_forward",
    "pair_forward",
    "to_device",
]

Batch = Any
"""Whatever a loader yields; usually ``(inputs, targets)``. Only a `Forward` looks inside."""

Forward = Callable[[nn.Module, Batch], tuple[Any, Any]]
"""``forward(module, batch) -> (outputs, targets)``: calls the module on what a batch holds.

Outputs are a tensor that the likelihood reads; targets are None where there are none.
"""


def pair_forward(module: nn.Module, batch: Batch) -> tuple[Tensor, Any]:
    """Call the module on the inputs of ``(inputs, targets)``: the default.

    Raises
    ------
    DataError
        If the batch is no pair or the outputs are no tensor; names the forward that helps.
    """
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise DataError(f"a batch must be (inputs, targets), got {_described(batch)}{_hint(batch)}")
    inputs, targets = batch
    return _tensor(module(inputs)), targets


def keyword_forward(labels: str = "labels", outputs: str = "logits") -> Forward:
    """Return a forward for batches that are dictionaries of keywords, as of Hugging Face.

    Parameters
    ----------
    labels
        Key of the targets, which the module is not given; targets are None without it.
    outputs
        Field of the module's result (a ``ModelOutput`` or dictionary) that the likelihood reads;
        a plain tensor is taken as it is.

    Examples
    --------
    >>> forward = keyword_forward()
    >>> outputs, targets = forward(nn.Identity(), {"input": torch.zeros(2, 3), "labels": 1})
    >>> outputs.shape, targets
    (torch.Size([2, 3]), 1)
    """

    def forward(module: nn.Module, batch: Batch) -> tuple[Tensor, Any]:
        if not isinstance(batch, Mapping):
            raise DataError(f"keyword_forward needs a dictionary, got {_described(batch)}")
        found = module(**{name: value for name, value in batch.items() if name != labels})
        if isinstance(found, Mapping) and outputs in found:
            found = found[outputs]
        return _tensor(getattr(found, outputs, found)), batch.get(labels)

    return forward


def dictionary_forward(outputs: str = "out") -> Forward:
    """Return a forward for pairs and modules that return ``{"out": ...}``, as torchvision's.

    Parameters
    ----------
    outputs
        Key of the outputs that the likelihood reads. Auxiliary outputs are the loss's business:
        see ``auxiliary=`` of `bayesprior.tasks.objectives.supervised`.
    """

    def forward(module: nn.Module, batch: Batch) -> tuple[Tensor, Any]:
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise DataError(f"a batch must be (inputs, targets), got {_described(batch)}")
        found = module(batch[0])
        if not isinstance(found, Mapping) or outputs not in found:
            raise DataError(f"the module returned {_described(found)}, without {outputs!r}")
        return _tensor(found[outputs]), batch[1]

    return forward


def inputs_forward(module: nn.Module, batch: Batch) -> tuple[Tensor, Any]:
    """Call the module on a batch that is its inputs alone: new data without targets."""
    return _tensor(module(batch)), None


def to_device(batch: Batch, device: torch.device | str) -> Batch:
    """Return the batch with every tensor inside it on a device."""
    if hasattr(batch, "to"):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {name: to_device(value, device) for name, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(value, device) for value in batch))
    if isinstance(batch, tuple | list):
        return type(batch)(to_device(value, device) for value in batch)
    return batch


def batch_size(batch: Batch) -> int:
    """Return how many examples a batch holds: the length of its first tensor.

    Raises
    ------
    DataError
        If there is no tensor in it.
    """
    size = _first_length(batch)
    if size is None:
        raise DataError(f"a batch must hold a tensor, got {_described(batch)}")
    return size


def _first_length(batch: Batch) -> int | None:
    if isinstance(batch, Tensor):
        return len(batch) if batch.dim() else None
    if isinstance(batch, Mapping):
        batch = tuple(batch.values())
    if isinstance(batch, tuple | list):
        return next((n for part in batch if (n := _first_length(part)) is not None), None)
    return None


def _tensor(outputs: Any) -> Tensor:
    if isinstance(outputs, Tensor):
        return outputs
    raise DataError(f"the module returned {_described(outputs)}, not a tensor{_hint(outputs)}")


def _described(value: Any) -> str:
    keys = f" with {', '.join(map(str, list(value)[:4]))}" if isinstance(value, Mapping) else ""
    return f"{type(value).__name__}{keys}"


def _hint(value: Any) -> str:
    if isinstance(value, Mapping) and "out" in value:
        return "; pass forward=dictionary_forward()"
    if isinstance(value, Mapping) or hasattr(value, "logits"):
        return "; pass forward=keyword_forward()"
    if isinstance(value, Tensor):
        return "; pass forward=inputs_forward"
    return "; pass forward=, a function (module, batch) -> (outputs, targets)"
