"""The file of a `GaussianWeights`: one safetensors file, format ``bayesprior.gaussian/1``.

Tensors: ``loc`` (D,), ``cov_diag`` (D,) and ``cov_rows`` (K, F; the factor's columns as rows)
before the width, ``cov_scale`` () in float64 (multiplies the first F variances and, as a square
root, the rows), ``buffer.<name>`` for BatchNorm statistics. Header strings: ``format``,
``layout`` and ``provenance`` as JSON, ``digest`` of the layout, ``checksum`` of the tensors.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bayesprior.errors import PriorFileError
from bayesprior.layout import ParameterLayout
from bayesprior.storage import load_tensors, save_tensors

__all__ = ["FORMAT", "TENSORS", "read", "write"]

FORMAT = "bayesprior.gaussian/1"
TENSORS = ("loc", "cov_diag", "cov_rows", "cov_scale")
_BUFFER = "buffer."


def write(
    path: str | Path,
    layout: ParameterLayout,
    tensors: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    provenance: Mapping[str, Any],
) -> None:
    """Write the file atomically; ``tensors`` are those named in `TENSORS`."""
    header = {
        "format": FORMAT,
        "layout": layout.to_json(),
        "digest": layout.digest(),
        "provenance": json.dumps(provenance),
    }
    prefixed = {_BUFFER + name: buffer for name, buffer in buffers.items()}
    save_tensors(path, {**tensors, **prefixed}, header)


def read(
    path: str | Path, device: str | torch.device = "cpu"
) -> tuple[ParameterLayout, dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """Read layout, tensors, buffers and provenance.

    Raises
    ------
    PriorFileError
        If the file is missing, truncated, corrupt, foreign or lacks a part.
    """
    found, header = load_tensors(path, format=FORMAT, device=device)
    try:
        layout = ParameterLayout.from_json(header["layout"])
        tensors = {name: found.pop(name) for name in TENSORS}
        provenance = json.loads(header["provenance"])
    except (KeyError, ValueError, TypeError) as error:
        raise PriorFileError(f"{path} is no valid prior file: {error} is missing or off") from error
    if header.get("digest") != layout.digest():
        raise PriorFileError(f"{path} is corrupt: its layout does not match its digest")
    buffers = {name.removeprefix(_BUFFER): tensor for name, tensor in found.items()}
    return layout, tensors, buffers, provenance
