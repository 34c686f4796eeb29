"""Weights from local files into a network, with errors that name what does not fit."""

import pickle
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from bayesprior.errors import CheckpointError
from bayesprior.weights.layout import ParameterLayout

__all__ = ["load_weights", "read_state_dict", "reason"]

# Where training scripts put the state dict inside a larger dictionary.
_WRAPPERS = ("state_dict", "model_state_dict", "model")


def reason(error: Exception) -> str:
    """Return the first line of another library's message."""
    return (str(error) or type(error).__name__).splitlines()[0]


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a `.safetensors` file, or of one that ``torch.save`` wrote.

    The latter is read with ``weights_only=True``: no code in it is run. A dictionary that holds
    the state dict under ``state_dict``, ``model_state_dict`` or ``model`` is unwrapped, and the
    ``module.`` that data-parallel training puts before every name is dropped.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    CheckpointError
        If the file is missing, unreadable, or holds something else than named tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such checkpoint file")
    try:
        if path.suffix == ".safetensors":
            from safetensors import SafetensorError
            from safetensors.torch import load_file

            try:
                state = load_file(path)
            except SafetensorError as error:
                raise ValueError(str(error)) from None
        else:
            with warnings.catch_warnings():
                # An unusual pickle protocol: if it matters, the reading fails.
                warnings.simplefilter("ignore", UserWarning)
                state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path}: holds more than tensors, or is no torch file; "
            "save torch.save(module.state_dict(), path)"
        ) from None
    except Exception as error:  # a foreign byte stream makes the readers raise anything
        raise CheckpointError(
            f"{path}: cannot be read, it is truncated or no checkpoint ({reason(error)})"
        ) from None
    for key in _WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise CheckpointError(
            f"{path}: holds no dictionary of tensors; save torch.save(module.state_dict(), path)"
        )
    prefix = "module." if all(name.startswith("module.") for name in state) else ""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def load_weights(
    module: nn.Module, state: dict[str, Tensor], source: str | Path, ignore: Sequence[str] = ()
) -> None:
    """Copy a state dict into a module, name by name, all or nothing.

    Parameters
    ----------
    module
        Changed in place.
    state
        Tensors by name, as from `read_state_dict`.
    source
        Where they come from, for the message.
    ignore
        Prefixes of names that are neither needed nor loaded, such as ``"fc."``.

    Raises
    ------
    CheckpointError
        If a tensor is missing, unexpected, or has another shape. BatchNorm's
        ``num_batches_tracked`` may be missing.
    """

    def layout(tensors: dict[str, Tensor]) -> ParameterLayout:
        kept = {n: tuple(t.shape) for n, t in tensors.items() if not n.startswith(tuple(ignore))}
        return ParameterLayout(tuple(kept), tuple(kept.values()))

    needed = {
        name: tensor
        for name, tensor in module.state_dict().items()
        if name in state or not name.endswith("num_batches_tracked")
    }
    diff = layout(needed).compare(layout(state))
    if not diff.is_equal:
        raise CheckpointError(
            f"{source} does not fit {type(module).__name__} (here: the module, there: the file): "
            f"{diff.describe()}; pick the network that the file was saved from"
        )
    module.load_state_dict({name: state[name] for name in diff.shared}, strict=False)
