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

from bayesprior.errors import ConfigError, PriorFileError
from bayesprior.storage import load_tensors, save_tensors
from bayesprior.weights.blocks import BlockCovariance, check_vector
from bayesprior.weights.layout import ParameterLayout

__all__ = ["FORMAT", "TENSORS", "read", "write"]

FORMAT = "bayesprior.gaussian/1"
TENSORS = ("loc", "cov_diag", "cov_rows", "cov_scale")
_BUFFER = "buffer."


def write(
    path: str | Path,
    layout: ParameterLayout,
    loc: Tensor,
    cov: BlockCovariance,
    buffers: Mapping[str, Tensor],
    provenance: Mapping[str, Any],
) -> None:
    """Write the file atomically.

    Raises
    ------
    ConfigError
        If the provenance is not made of JSON primitives.
    StorageError
        If the file cannot be written; an older one stays.
    """
    try:
        text = json.dumps(provenance)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"provenance must hold JSON primitives only: {error}") from error
    header = {
        "format": FORMAT,
        "layout": layout.to_json(),
        "digest": layout.digest(),
        "provenance": text,
    }
    tensors = {
        "loc": loc,
        "cov_diag": torch.cat([cov.shared.diag, cov.tail]),
        "cov_rows": cov.shared.rows,
        "cov_scale": cov.scale,
    }
    prefixed = {_BUFFER + name: buffer for name, buffer in buffers.items()}
    save_tensors(path, {**tensors, **prefixed}, header)


def read(
    path: str | Path, device: str | torch.device = "cpu"
) -> tuple[ParameterLayout, Tensor, BlockCovariance, dict[str, Tensor], dict[str, Any]]:
    """Read layout, mean, covariance, buffers and provenance.

    Raises
    ------
    PriorFileError
        If the file is missing, truncated, corrupt, foreign or inconsistent.
    """
    found, header = load_tensors(path, format=FORMAT, device=device)
    buffers = {n.removeprefix(_BUFFER): t for n, t in found.items() if n.startswith(_BUFFER)}
    try:
        layout = ParameterLayout.from_json(header["layout"])
        provenance = json.loads(header["provenance"])
        loc, diag, rows, scale = (found[name] for name in TENSORS)
        if header.get("digest") != layout.digest():
            raise PriorFileError("its layout does not match its digest")
        check_vector("loc", loc, layout.dim)
        check_vector("cov_diag", diag, layout.dim)
        cov = BlockCovariance.from_tensors(diag, rows.mT, dtype=loc.dtype, scale=scale.item())
    except KeyError as error:
        raise PriorFileError(f"{path} is no valid prior file: it lacks {error}") from error
    except (ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise PriorFileError(f"{path} is no valid prior file: {error}") from error
    return layout, loc, cov, buffers, provenance
