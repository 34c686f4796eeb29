"""Exact algebra of independent blocks: widths, simpler shapes, traces of two laws."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from bayesprior.errors import ConfigError
from bayesprior.weights.blocks import Block, Placed, expanded, merged
from bayesprior.weights.checks import check_positive, check_range, transformed
from bayesprior.weights.lowrank import LowRankCovariance
from bayesprior.weights.selection import Selection, select_names

__all__ = [
    "diagonal",
    "isotropic",
    "jittered",
    "rescaled",
    "rescaled_each",
    "trace_of_product",
    "truncated",
]


def rescaled(
    placed: Sequence[Placed],
    cov_scale: float | Tensor | None = None,
    rms_std: float | Tensor | None = None,
    select: Selection | None = None,
) -> list[Block]:
    """Multiply variances, or set the root of their mean; exactly one of the two.

    ``select`` names the parameters; None means those of the blocks that are not new.
    """
    if (cov_scale is None) == (rms_std is None):
        raise ConfigError("rescale takes exactly one of cov_scale and rms_std")
    name, given = ("cov_scale", cov_scale) if rms_std is None else ("rms_std", rms_std)
    # A learned width on a GPU is not looked at: the host would wait for it in every step.
    seen = not (isinstance(given, Tensor) and given.requires_grad and given.device.type != "cpu")
    if seen:
        check_positive(name, given)
    factor = torch.as_tensor(given).to(torch.float64).reshape(())
    if factor.device.type != "cpu":
        factor = factor.to(next((p.covariance.anchor.device for p in placed), factor.device))
    if select is None:
        names = {n for p in placed if not p.block.new for n in p.local}
    else:
        names = set(select_names((n for p in placed for n in p.local), select))
    chosen = [names & p.local.keys() for p in placed]
    if rms_std is not None:
        pairs = [pair for pair in zip(placed, chosen, strict=True) if pair[1]]
        count = sum(p.local[n].stop - p.local[n].start for p, held in pairs for n in held)
        if not count:
            raise ConfigError(
                "rms_std sets the width of the shared block, which is empty here; name new "
                "parameters with select="
            )
        factor = factor.square() * count / sum(p.total(held) for p, held in pairs)
    blocks = []
    for block, held in zip((p.block for p in placed), chosen, strict=True):
        if held:
            part = factor
            if len(held) < len(block.names):
                mask = torch.tensor([n in held for n in block.names], device=factor.device)
                part = torch.where(mask, factor, torch.ones_like(factor))
            here = block.scale.device if factor.device.type == "cpu" else factor.device
            scale, part = (t.to(here, non_blocking=True) for t in (block.scale, part))
            block = replace(block, scale=scale * part)
            if seen and not transformed():
                _check_scale(name, block, strict=not isinstance(given, Tensor))
        blocks.append(block)
    return blocks


def rescaled_each(placed: Iterable[Placed], stds: Mapping[str, float]) -> list[Block]:
    """Bring each named parameter to a root mean square std of its own: A Sigma A."""
    blocks = []
    for p in placed:
        block = p.block
        if any(name in stds for name in block.names):
            variance = p.covariance.variance()
            now = [float(variance[at].mean(dtype=torch.float64)) for at in p.local.values()]
            old = block.scale.expand(len(now)).tolist()
            scales = [
                stds[name] ** 2 / mean if name in stds else scale
                for name, mean, scale in zip(block.names, now, old, strict=True)
            ]
            block = replace(block, scale=torch.tensor(scales, dtype=torch.float64))
            _check_scale("rms_std", block, strict=True)
        blocks.append(block)
    return blocks


def _check_scale(name: str, block: Block, *, strict: bool) -> None:
    """Refuse a width that the law's type cannot hold (a learned one is let overflow)."""
    least, largest = (float(x) for x in torch.aminmax(block.scale.detach()))
    if not 0 < least <= largest < math.inf:
        raise ConfigError(f"{name} is so extreme that the covariance's factor is {least:.3g}")
    if strict and block.covariance.dim:
        cov = block.covariance
        check_range(name, least * cov.least_variance, largest * cov.trace, cov.anchor.dtype)


def isotropic(placed: Iterable[Placed]) -> list[Block]:
    """Replace every block that is not new by a multiple of the identity with equal trace."""
    blocks = []
    for p in placed:
        block, old = p.block, p.covariance
        if not block.new:
            # widths inside the block are part of its shape
            scale = p.total() / old.trace if block.scale.dim() else block.scale
            diag = torch.full_like(old.variance(), old.trace / max(old.dim, 1))
            block = replace(block, covariance=LowRankCovariance(diag), scale=scale)
        blocks.append(block)
    return blocks


def diagonal(blocks: Iterable[Block]) -> list[Block]:
    """Replace every block by its marginal variances."""
    return [replace(b, covariance=LowRankCovariance(b.covariance.variance())) for b in blocks]


def truncated(blocks: Sequence[Block], rank: int) -> list[Block]:
    """Keep the leading directions of every low-rank block; the rest joins the diagonals."""
    largest = max((b.covariance.rank for b in blocks), default=0)
    if not 0 <= rank <= largest:
        raise ConfigError(f"rank must be between 0 and {largest}, got {rank}")
    return [replace(b, covariance=b.covariance.truncated(rank)) for b in blocks]


def jittered(blocks: Iterable[Block], share: float) -> list[Block]:
    """Add ``share`` times its mean variance to each block's diagonal, new ones left out."""
    if not 0 <= share < math.inf:
        raise ConfigError(f"jitter must be 0 or more, got {share}")
    out = []
    for block in blocks:
        old = block.covariance
        if not block.new and old.dim:
            extra = share * old.trace / old.dim
            check_range("jitter", old.least_variance, old.trace + extra, old.anchor.dtype)
            block = replace(block, covariance=old.jittered(extra))
        out.append(block)
    return out


def trace_of_product(p: Iterable[Placed], q: Sequence[Placed]) -> Float[Tensor, ""]:
    """Trace of Q^-1 P, both over the same names; of Q^-1 only what meets a block of P is needed.

    Differentiable in all widths.
    """
    total = torch.zeros((), dtype=torch.float64)
    for here in p:
        for there in q:
            names = [name for name in here.block.names if name in there.local]
            if names:
                total = _trace(here, there, names) + total
    return total


def _trace(p: Placed, q: Placed, names: list[str]) -> Tensor:
    place = p.covariance.anchor.device
    above, below = (x.block.scale.to(place).expand(len(x.sizes)) for x in (p, q))
    mine, its = ([list(x.local).index(n) for n in names] for x in (p, q))
    ratio = above[mine] / below[its]
    if p.block.scale.dim() or q.block.scale.dim():
        ratio = expanded(ratio, [p.sizes[i] for i in mine])
    else:
        ratio = ratio[0]
    at_p, at_q = (merged(x.local[n] for n in names) for x in (p, q))
    return p.covariance.take(at_p).trace_of_product(q.covariance.take(at_q, precision=True), ratio)
