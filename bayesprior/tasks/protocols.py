"""What a batch is: the only code that takes one apart, moves it or asks its size."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bayesprior.errors import DataError

__all__ = [
    "Batch",
    "Forward",
    "KeywordForward",
    "batch_size",
    "check_finite",
    "dictionary_forward",
    "field_of",
    "inputs_forward",
    "keyword_forward",
    "pair_forward",
    "tensors_of",
    "to_device",
]

_OWN = ", a function (module, batch) -> (outputs, targets)"

Batch = Any
"""Whatever a loader yields; usually ``(inputs, targets)``. Only a `Forward` looks inside."""

Forward = Callable[[nn.Module, Batch], tuple[Any, Any]]
"""``forward(module, batch) -> (outputs, targets)``: calls the module on what a batch holds.

Outputs are a tensor that the likelihood reads; targets are None where there are none. The module
is the network itself, under a draw's weights where it predicts, so any of its methods may be used.
"""


def pair_forward(module: nn.Module, batch: Batch) -> tuple[Tensor, Any]:
    """Call the module on the inputs of ``(inputs, targets)``: the default.

    Raises
    ------
    DataError
        If the batch is no pair or the outputs are no tensor; names the forward that helps.
    """
    inputs, targets = _pair(batch)
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
    return KeywordForward(labels, outputs)


@dataclass(frozen=True)
class KeywordForward:
    """What `keyword_forward` returns: a value, so that a run's folder can name it."""

    labels: str
    outputs: str

    def __call__(self, module: nn.Module, batch: Batch) -> tuple[Tensor, Any]:
        """Call the module on what a dictionary holds beside the targets."""
        if not isinstance(batch, Mapping):
            hint = f"; pass forward=dictionary_forward({self.outputs!r})" if _is_pair(batch) else ""
            raise DataError(f"keyword_forward needs a dictionary, got {_described(batch)}{hint}")
        found = module(**{name: value for name, value in batch.items() if name != self.labels})
        if not isinstance(found, Tensor):
            found = field_of(found, self.outputs)
        return _tensor(found), batch.get(self.labels)


def dictionary_forward(outputs: str = "out") -> Forward:
    """Return a forward for pairs and modules that return ``{"out": ...}``, as torchvision's.

    Parameters
    ----------
    outputs
        Key, or attribute, of the outputs that the likelihood reads: ``"logits"`` for the results
        of transformers. Auxiliary outputs are the loss's business: see ``auxiliary=`` of
        `bayesprior.tasks.objectives.supervised`.
    """

    def forward(module: nn.Module, batch: Batch) -> tuple[Tensor, Any]:
        inputs, targets = _pair(batch)
        return _tensor(field_of(module(inputs), outputs)), targets

    return forward


def inputs_forward(module: nn.Module, batch: Batch) -> tuple[Tensor, Any]:
    """Call the module on a batch that is its inputs alone: new data without targets.

    A tuple or list of one, as a loader over ``TensorDataset(inputs)`` yields, is unpacked.
    """
    if isinstance(batch, tuple | list) and len(batch) == 1:
        (batch,) = batch
    return _tensor(module(batch)), None


def field_of(outputs: Any, name: str) -> Any:
    """Return one entry of what a module returned: a key of a mapping, or an attribute.

    Raises
    ------
    DataError
        If there is none of this name.
    """
    if isinstance(outputs, Tensor) or not _has(outputs, name):
        raise DataError(f"the module returned {_described(outputs)}, without {name!r}")
    return outputs[name] if isinstance(outputs, Mapping) else getattr(outputs, name)


def to_device(batch: Batch, device: torch.device | str) -> Batch:
    """Return the batch with every tensor inside it on a device; the host waits for no copy."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=torch.device(device).type != "cpu")
    if hasattr(batch, "to"):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {name: to_device(value, device) for name, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(value, device) for value in batch))
    if isinstance(batch, tuple | list):
        return type(batch)(to_device(value, device) for value in batch)
    return batch


def tensors_of(batch: Batch) -> Iterator[Tensor]:
    """Yield every tensor inside a batch, in order."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping | tuple | list):
        for value in batch.values() if isinstance(batch, Mapping) else batch:
            yield from tensors_of(value)


def batch_size(batch: Batch) -> int:
    """Return how many examples a batch holds: the length of its first tensor.

    Raises
    ------
    DataError
        If there is no tensor in it.
    """
    size = next((len(tensor) for tensor in tensors_of(batch) if tensor.dim()), None)
    if size is None:
        raise DataError(f"a batch must hold a tensor, got {_described(batch)}")
    return size


def check_finite(batch: Batch, number: int, besides: Any = None) -> None:
    """Raise `DataError` if a batch holds NaN or infinite values, the targets ``besides`` left out.

    To be asked where outputs are not finite: what a network does not read may be.
    """
    for tensor in tensors_of(batch):
        real = tensor.is_floating_point() or tensor.is_complex()
        if tensor is not besides and real and not bool(tensor.isfinite().all()):
            raise DataError(
                f"batch {number} of the inputs holds NaN or infinite values; clean or impute "
                "the data"
            )


def _is_pair(batch: Batch) -> bool:
    return isinstance(batch, tuple | list) and len(batch) == 2


def _pair(batch: Batch) -> tuple[Any, Any]:
    if not _is_pair(batch):
        raise DataError(f"a batch must be (inputs, targets), got {_described(batch)}{_hint(batch)}")
    return batch[0], batch[1]


def _tensor(outputs: Any) -> Tensor:
    if isinstance(outputs, Tensor):
        return outputs
    names = (name for name in ("out", "logits") if _has(outputs, name))
    hint = _OWN if (name := next(names, None)) is None else f"dictionary_forward({name!r})"
    raise DataError(f"the module returned {_described(outputs)}, not a tensor; pass forward={hint}")


def _has(outputs: Any, name: str) -> bool:
    return name in outputs if isinstance(outputs, Mapping) else hasattr(outputs, name)


def _described(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{type(value).__name__} with {', '.join(map(str, list(value)[:4])) or 'no keys'}"
    if isinstance(value, tuple | list):
        return f"{type(value).__name__} of {len(value)}"
    return type(value).__name__


def _hint(batch: Batch) -> str:
    """Which ready-made forward takes such a batch."""
    if isinstance(batch, Mapping):
        return "; pass forward=keyword_forward()"
    if isinstance(batch, Tensor) or (isinstance(batch, tuple | list) and len(batch) == 1):
        return (
            "; pass forward=inputs_forward to predict without targets; to train, give every "
            "example one (pictures: every class a folder)"
        )
    return f"; pass forward={_OWN}"
