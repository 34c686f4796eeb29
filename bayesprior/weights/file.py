"""The file of a `GaussianWeights`: one safetensors file of format ``bayesprior.gaussian/N``.

Both formats have ``loc`` (D,), ``buffer.<name>`` for BatchNorm statistics and the header strings
``format``, ``layout`` and ``provenance`` as JSON, ``digest`` of the layout, ``checksum`` of the
tensors.

1. A shared low-rank block before independent weights: ``cov_diag`` (D,) and ``cov_rows`` (K, F;
   the factor's columns as rows) before the width, ``cov_scale`` () in float64, which multiplies
   the first F variances and, as a square root, the rows.
2. Any blocks: ``block.<i>.scale`` in float64 and ``block.<i>.<tensor>`` by kind, such as ``diag``
   (F,) and ``rows`` (K, F), or ``tril`` (P, P); ``statistics.<name>``; the header ``blocks`` is a
   JSON list of kind, names and new.

A law is written in the first format that holds it, and every format is read for ever.

Of a file written ``by_rank``, the first rows can be read alone. Its factors are turned so that
their rows are the principal directions, and beside each ``rows`` lies ``variance`` (F,), diag and
rows together: less the rows that are kept, it is the diagonal that the others have joined. The
header ``parts`` has checksums of each row and of every other tensor.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bayesprior.errors import BayesPriorError, ConfigError, PriorFileError
from bayesprior.storage import load_tensors, read_header, save_tensors
from bayesprior.weights.blocks import Block, low_rank_blocks, place
from bayesprior.weights.checks import check_positive, check_vector
from bayesprior.weights.covariance import KINDS
from bayesprior.weights.layout import ParameterLayout
from bayesprior.weights.lowrank import LowRankCovariance
from bayesprior.weights.rows import RowCovariance

__all__ = ["FORMATS", "NARROW", "TENSORS", "Contents", "header_of", "packed", "read", "write"]

FORMATS = ("bayesprior.gaussian/1", "bayesprior.gaussian/2")
TENSORS = ("loc", "cov_diag", "cov_rows", "cov_scale")  # of format 1
NARROW = (torch.float16, torch.bfloat16)
"""Types that no law is held in: they hold no variance of a weight."""
_BUFFER, _STATISTICS = "buffer.", "statistics."
_SHIPPED = (LowRankCovariance, RowCovariance)  # imported here, so that KINDS has them


class Contents(NamedTuple):
    """What a distribution is made of and a file holds."""

    layout: ParameterLayout
    loc: Tensor
    blocks: tuple[Block, ...]
    buffers: Mapping[str, Tensor] | None = None
    provenance: Mapping[str, Any] | None = None
    statistics: Mapping[str, Tensor] | None = None


def write(path: str | Path, law: Contents, *, by_rank: bool = False) -> None:
    """Write the file atomically; ``by_rank``, so that `read` can leave directions out.

    Raises
    ------
    ConfigError
        If the provenance is not made of JSON primitives.
    StorageError
        If the file cannot be written; an older one stays.
    """
    try:
        text = json.dumps(law.provenance, ensure_ascii=False).encode(errors="replace").decode()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"provenance must hold JSON primitives only: {error}") from error
    rows: list[str] = []
    if by_rank:
        law = law._replace(blocks=tuple(map(_principal, law.blocks)))
    tensors, header = packed(law)
    if by_rank:
        rows = _factors(tensors)
        for name in rows:
            diag = tensors[_beside(name, "diag")][: tensors[name].shape[1]]
            tensors[_beside(name, "variance")] = LowRankCovariance(diag, tensors[name]).variance()
    save_tensors(path, tensors, {**header, "provenance": text}, by_row=rows)


def _principal(block: Block) -> Block:
    """Turn a low-rank factor so that its rows are orthogonal and fall in length."""
    cov = block.covariance
    if not isinstance(cov, LowRankCovariance) or not cov.rank:
        return block
    vectors = torch.linalg.eigh(cov.gram()).eigenvectors.flip(1).to(cov.diag)
    return replace(block, covariance=LowRankCovariance(cov.diag, vectors.T @ cov.rows))


def _factors(names: Iterable[str]) -> list[str]:
    """Return the names of the factors' rows in a file."""
    return [n for n in names if n.endswith("rows") and n.startswith(("cov_", "block."))]


def _beside(rows: str, kind: str) -> str:
    return rows.removesuffix("rows") + kind


def packed(law: Contents) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the header of a law's file, all but the provenance.

    Two laws with equal ones are the same law, in memory or out of a file.
    """
    simple = _as_format_1(law)
    header = {
        "format": FORMATS[simple is None],
        "layout": law.layout.to_json(),
        "digest": law.layout.digest(),
    }
    tensors = {"loc": law.loc} | _prefixed(_BUFFER, law.buffers or {})
    if simple is not None:
        tensors |= simple
    else:
        tensors |= _prefixed(_STATISTICS, law.statistics or {})
        described = []
        for index, block in enumerate(law.blocks):
            cov = block.covariance
            described.append({"kind": cov.kind, "names": block.names, "new": block.new})
            tensors |= _prefixed(f"block.{index}.", cov.tensors() | {"scale": block.scale})
        header["blocks"] = json.dumps(described)
    return tensors, header


def _as_format_1(law: Contents) -> dict[str, Tensor] | None:
    """Return the covariance's tensors where format 1 holds it: what the constructor makes."""
    shared = [b for b in law.blocks if not b.new]
    new = [b for b in law.blocks if b.new]
    names = [name for block in (*shared, *new) for name in block.names]
    if not (
        all(type(b.covariance) is LowRankCovariance and not b.scale.dim() for b in law.blocks)
        and all(block.scale == 1 and not block.covariance.rank for block in new)
        and len(shared) < 2
        and names == list(law.layout.names)
        and not law.statistics
    ):
        return None
    held = [block.covariance.tensors() for block in (*shared, *new)]
    return {
        "cov_diag": torch.cat([law.loc.detach()[:0], *(tensors["diag"] for tensors in held)]),
        "cov_rows": held[0]["rows"] if shared else law.loc.new_zeros((0, 0)),
        "cov_scale": shared[0].scale if shared else torch.ones((), dtype=torch.float64),
    }


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def header_of(path: str | Path) -> dict[str, str]:
    """Read the header of a file of any of the formats, without its tensors.

    Raises
    ------
    PriorFileError
        If the file is missing, truncated, foreign or of a later format.
    """
    try:
        return read_header(path, format=FORMATS[0])
    except PriorFileError:
        return read_header(path, format=FORMATS[1])


def read(path: str | Path, rank: int | None = None) -> Contents:
    """Read a file of any of the formats; the tensors are on the CPU, mapped from the file.

    With a ``rank``, the blocks of a file written ``by_rank`` have at most so many directions, and
    the others are not read; any other file is read whole.

    Raises
    ------
    PriorFileError
        If the file is missing, truncated, corrupt, foreign or inconsistent.
    """
    header = header_of(path)
    sizes, first = _ranks(header), {}
    if rank is not None and rank < max(sizes.values(), default=0):
        first = {name: min(rank, size) for name, size in sizes.items()}
    found, header = load_tensors(path, format=header["format"], first=first)
    try:
        for name in first:
            _join_diagonal(found, name)
        layout = ParameterLayout.from_json(header["layout"])
        provenance = json.loads(header["provenance"])
        if not isinstance(provenance, dict):
            raise PriorFileError("its provenance is no object")
        text = json.dumps(provenance, ensure_ascii=False) + header["layout"]
        text.encode()  # lone surrogates would fail where the text is printed
        if header.get("digest") != layout.digest():
            raise PriorFileError("its layout does not match its digest")
        loc = found["loc"]
        check_vector("loc", loc, layout.dim)
        loc = loc.float() if loc.dtype in NARROW else loc
        if header["format"] == FORMATS[0]:
            _, diag, rows, scale = (found[name] for name in TENSORS)
            check_vector("cov_diag", diag, layout.dim)
            blocks = low_rank_blocks(layout, diag, rows.mT, dtype=loc.dtype, scale=scale.item())
        else:
            blocks = tuple(
                _read_block(record, _under(f"block.{index}.", found), layout, loc.dtype)
                for index, record in enumerate(json.loads(header["blocks"]))
            )
        place(layout, blocks)  # raises unless they cover the layout
        named = (_under(_BUFFER, found), provenance, _under(_STATISTICS, found))
        return Contents(layout, loc, blocks, *named)
    except KeyError as error:
        raise PriorFileError(f"{path} is no valid prior file: it lacks {error}") from error
    except (BayesPriorError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise PriorFileError(f"{path} is no valid prior file: {error}") from error


def _ranks(header: Mapping[str, str]) -> dict[str, int]:
    """Return the number of rows of each factor that can be read in part."""
    try:
        parts = json.loads(header.get("parts", "{}"))
        return {name: len(parts[name]) for name in _factors(parts)}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return {}  # of whoever wrote it: the whole file is read, and compared with its checksum


def _join_diagonal(found: dict[str, Tensor], name: str) -> None:
    """Put what the directions that were not read contribute into the diagonal."""
    rows = found[name] = found[name].clone()  # holds no more of the file than itself
    diag, variance = (found[_beside(name, kind)] for kind in ("diag", "variance"))
    rest = variance.double() - rows.double().square().sum(0)
    joined = torch.maximum(rest.to(diag.dtype), diag[: len(rest)])
    found[_beside(name, "diag")] = torch.cat([joined, diag[len(rest) :]])


def _read_block(
    record: Mapping[str, Any],
    tensors: dict[str, Tensor],
    layout: ParameterLayout,
    dtype: torch.dtype,
) -> Block:
    if record["kind"] not in KINDS:
        known = ", ".join(KINDS)
        raise PriorFileError(f"its blocks are of kind {record['kind']!r}; known here are {known}")
    names = tuple(str(name) for name in record["names"])
    scale = tensors["scale"].double()
    if scale.dim() and scale.shape != (len(names),):
        raise PriorFileError(f"a block's scale has shape {tuple(scale.shape)}")
    for value in scale.reshape(-1):
        check_positive("a block's scale", float(value))
    dim = layout.select(names).dim
    covariance = KINDS[record["kind"]].from_tensors(tensors, dim).to(None, dtype)
    covariance.check()
    return Block(names, covariance, scale, bool(record["new"]))
