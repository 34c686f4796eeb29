"""Exact algebra of block covariances: marginals, widths, simpler shapes, divergences."""

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from bayesprior.errors import ConfigError
from bayesprior.weights.blocks import Block, BlockCovariance, Placed, merged
from bayesprior.weights.checks import check_positive, check_range, transformed
from bayesprior.weights.layout import ParameterLayout
from bayesprior.weights.lowrank import LowRankCovariance
from bayesprior.weights.selection import Selection, select_names

__all__ = [
    "diagonal",
    "isotropic",
    "jittered",
    "kl_divergence",
    "kl_divergence_from",
    "marginal",
    "rescaled",
    "truncated",
]


def marginal(cov: BlockCovariance, layout: ParameterLayout) -> BlockCovariance:
    """Return the covariance of the parameters of a smaller layout, in that layout's order."""
    blocks = []
    for placed in cov.placed:
        kept = [i for i, name in enumerate(placed.block.names) if name in layout.slices]
        if kept:
            blocks.append(placed.block.take(kept, merged(placed.local[i] for i in kept)))
    return BlockCovariance(layout, blocks)


def rescaled(
    cov: BlockCovariance,
    cov_scale: float | Tensor | None = None,
    rms_std: float | Tensor | None = None,
    select: Selection | None = None,
) -> BlockCovariance:
    """Multiply variances, or set the root of their mean; exactly one of the two.

    ``select`` names the parameters; None means those of the blocks that are not new.
    """
    if (cov_scale is None) == (rms_std is None):
        raise ConfigError("rescale takes exactly one of cov_scale and rms_std")
    name, given = ("cov_scale", cov_scale) if rms_std is None else ("rms_std", rms_std)
    check_positive(name, given)
    if not isinstance(given, Tensor):
        given = float(given)  # type: ignore[arg-type]
    value = torch.as_tensor(given).to("cpu", torch.float64).reshape(())
    names = None if select is None else set(select_names(cov.layout.names, select))
    chosen = [
        [i for i, n in enumerate(b.names) if (not b.new if names is None else n in names)]
        for b in cov.blocks
    ]
    factor = value
    if rms_std is not None:
        pairs = [(p, c) for p, c in zip(cov.placed, chosen, strict=True) if c]
        count = sum(p.where[i].stop - p.where[i].start for p, c in pairs for i in c)
        if not count:
            raise ConfigError(
                "rms_std sets the width of the shared block, which is empty here; name new "
                "parameters with select="
            )
        total = sum((p.total(c) for p, c in pairs), torch.zeros((), dtype=torch.float64))
        factor = value.square() * count / total
    blocks = []
    for block, parts in zip(cov.blocks, chosen, strict=True):
        if len(parts) == len(block.names):
            scale = block.scale * factor
        elif parts:
            mask = torch.zeros(len(block.names), dtype=torch.bool)
            mask[parts] = True
            scale = block.scale * torch.where(mask, factor, torch.ones_like(factor))
        else:
            scale = block.scale
        blocks.append(replace(block, scale=scale))
        if parts and not transformed():
            _check_scale(name, blocks[-1], strict=not isinstance(given, Tensor))
    return BlockCovariance(cov.layout, blocks)


def _check_scale(name: str, block: Block, *, strict: bool) -> None:
    """Refuse a width that the law's type cannot hold (a learned one is let overflow)."""
    least, largest = (float(x) for x in torch.aminmax(block.scale.detach()))
    if not 0 < least <= largest < math.inf:
        raise ConfigError(f"{name} is so extreme that the covariance's factor is {least:.3g}")
    if strict and block.covariance.dim:
        cov = block.covariance
        check_range(name, least * cov.least_variance, largest * cov.trace, cov.anchor.dtype)


def isotropic(cov: BlockCovariance) -> BlockCovariance:
    """Replace every block that is not new by a multiple of the identity with equal trace."""
    blocks = []
    for placed in cov.placed:
        block = placed.block
        if not block.new:
            old, scale = block.covariance, block.scale
            if scale.dim():  # widths inside the block are part of its shape
                scale = placed.total(range(len(block.names))) / old.trace
            diag = torch.full_like(old.variance(), old.trace / max(old.dim, 1))
            block = replace(block, covariance=LowRankCovariance(diag), scale=scale)
        blocks.append(block)
    return BlockCovariance(cov.layout, blocks)


def diagonal(cov: BlockCovariance) -> BlockCovariance:
    """Replace every block by its marginal variances."""
    variances = [LowRankCovariance(b.covariance.variance()) for b in cov.blocks]
    pairs = zip(cov.blocks, variances, strict=True)
    return BlockCovariance(cov.layout, (replace(b, covariance=v) for b, v in pairs))


def truncated(cov: BlockCovariance, rank: int) -> BlockCovariance:
    """Keep the leading directions of every low-rank block; the rest joins the diagonals."""
    largest = max((b.covariance.rank for b in cov.blocks), default=0)
    if not 0 <= rank <= largest:
        raise ConfigError(f"rank must be between 0 and {largest}, got {rank}")
    blocks = (replace(b, covariance=b.covariance.truncated(rank)) for b in cov.blocks)
    return BlockCovariance(cov.layout, blocks)


def jittered(cov: BlockCovariance, share: float) -> BlockCovariance:
    """Add ``share`` times its mean variance to each block's diagonal, new ones left out."""
    if not 0 <= share < math.inf:
        raise ConfigError(f"jitter must be 0 or more, got {share}")
    blocks = []
    for block in cov.blocks:
        old = block.covariance
        if not block.new and old.dim:
            extra = share * old.trace / old.dim
            check_range("jitter", old.least_variance, old.trace + extra, old.anchor.dtype)
            block = replace(block, covariance=old.jittered(extra))
        blocks.append(block)
    return BlockCovariance(cov.layout, blocks)


def kl_divergence(
    p: BlockCovariance, q: BlockCovariance, shift: Float[Tensor, " D"]
) -> Float[Tensor, ""]:
    """KL(N(m + shift, P) || N(m, Q)) in nats; both over one layout, block by block.

    Differentiable in the shift and all widths. Of Q^-1 only what meets a block of P is needed.
    """
    trace = torch.zeros((), dtype=torch.float64)
    for here in p.placed:
        for there in q.placed:
            trace = _trace(here, there) + trace
    return 0.5 * (q.log_det() - p.log_det() + trace + q.quadratic(shift) - shift.shape[-1])


def _trace(p: Placed, q: Placed) -> Tensor:
    """Trace of Q^-1 P over the weights that two blocks share."""
    at_p, at_q, ratios = [], [], []
    for i, here in enumerate(p.where):
        for j, there in enumerate(q.where):
            start, stop = max(here.start, there.start), min(here.stop, there.stop)
            if start < stop:
                first, second = p.local[i].start - here.start, q.local[j].start - there.start
                at_p.append(slice(start + first, stop + first))
                at_q.append(slice(start + second, stop + second))
                above, below = p.block.scale, q.block.scale
                above = above[i] if above.dim() else above
                ratios.append(above / (below[j] if below.dim() else below))
    if not ratios:
        return torch.zeros((), dtype=torch.float64)
    ratio = ratios[0]
    if p.block.scale.dim() or q.block.scale.dim():
        sizes = [at.stop - at.start for at in at_p]
        ratio = torch.cat([r.expand(n) for r, n in zip(ratios, sizes, strict=True)])
        ratio = ratio.to(p.covariance.anchor.device)
    precision = q.covariance.take(merged(at_q), precision=True)
    return p.covariance.take(merged(at_p)).trace_of_product(precision, ratio)


def kl_divergence_from(
    cov: BlockCovariance,
    shift: Float[Tensor, "*batch D"],
    diag: Float[Tensor, "*batch D"],
    factor: Float[Tensor, "*batch D K"],
) -> Float[Tensor, "*batch"]:
    """KL(N(m + shift, diag(d) + W W^T) || N(m, Sigma)) in nats, in float64 sums.

    Differentiable in the first law's tensors and this one's widths.
    """
    trace = (diag.double() * cov.inverse_diagonal(diag)).sum(-1)
    if factor.shape[-1]:
        trace = trace + cov.quadratic(factor.mT).sum(-1)
    wide, variances = factor.double(), diag.double()
    capacitance = wide.mT @ (wide / variances.unsqueeze(-1))
    identity = torch.eye(factor.shape[-1]).to(capacitance)
    log_det = torch.logdet(capacitance + identity) + variances.log().sum(-1)
    return 0.5 * (cov.log_det() - log_det + trace + cov.quadratic(shift) - shift.shape[-1])
