"""Independent blocks over named parameters: what the covariance of `GaussianWeights` is made of."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from itertools import accumulate

import torch
from jaxtyping import Float
from torch import Tensor

from bayesprior.errors import LayoutMismatchError
from bayesprior.weights.checks import check_positive
from bayesprior.weights.covariance import Covariance
from bayesprior.weights.layout import ParameterLayout
from bayesprior.weights.lowrank import LowRankCovariance, take

__all__ = [
    "Block",
    "Placed",
    "expanded",
    "lives",
    "low_rank_blocks",
    "merged",
    "moved_blocks",
    "place",
    "taken",
]


@dataclass(frozen=True, eq=False)
class Block:
    """Some parameters and their joint covariance A M A, independent of all other blocks.

    Attributes
    ----------
    names
        The parameters, in the order in which ``covariance`` has them.
    covariance
        M: a `LowRankCovariance`, a `RowCovariance` (one parameter (C, ...) whose rows share it),
        or another kind. A constant.
    scale
        A^2, what `GaussianWeights.rescale` has put on M: one number, or one a name. Float64 on
        the CPU (so that no step waits for a device); may require a gradient.
    new
        Whether the parameters were added to what was learned, as a head is: `rescale` leaves
        their width alone unless ``select`` says otherwise.
    """

    names: tuple[str, ...]
    covariance: Covariance
    scale: Tensor = field(default_factory=lambda: torch.ones((), dtype=torch.float64))
    new: bool = False


class Placed:
    """A block and where its parameters lie in the D-vector of a layout."""

    def __init__(self, block: Block, layout: ParameterLayout) -> None:
        self.block, self.covariance = block, block.covariance
        where = [layout.slice(name) for name in block.names]
        self.sizes = [at.stop - at.start for at in where]
        self.runs = merged(where)
        stops = list(accumulate(self.sizes, initial=0))
        # of each parameter in the block
        self.local = dict(zip(block.names, map(slice, stops, stops[1:]), strict=True))
        if stops[-1] != self.covariance.dim:
            raise LayoutMismatchError(
                f"the parameters {', '.join(block.names[:3])} of a block have {stops[-1]} weights, "
                f"its covariance is over {self.covariance.dim}"
            )

    def gather(self, vector: Tensor) -> Tensor:
        """Return the block's part of a D-vector, a view where it lies in one piece."""
        return take(vector, self.runs)

    def pieces(self, part: Tensor) -> list[tuple[slice, Tensor]]:
        """Return where in the D-vector the block's part (..., F) belongs, piece by piece."""
        if len(self.runs) == 1:
            return [(self.runs[0], part)]
        sizes = [at.stop - at.start for at in self.runs]
        return list(zip(self.runs, part.split(sizes, -1), strict=True)) if sizes else []

    def scale(self, like: Tensor | None = None) -> Tensor:
        """A^2 in the law's type: a number on the CPU, or one for each of the F weights."""
        like = self.covariance.anchor if like is None else like
        scale = self.block.scale.to(like.dtype)
        if not scale.dim():
            return scale
        return expanded(scale.to(like.device, non_blocking=True), self.sizes)

    def total(self, chosen: Collection[str] | None = None) -> Tensor:
        """Sum of the variances of all or some parameters, float64 on the CPU."""
        scale, names = self.block.scale, self.block.names
        if not scale.dim() and (chosen is None or len(chosen) == len(names)):
            return scale * self.covariance.trace
        variance = self.covariance.variance()
        sums = torch.stack([variance[at].sum(dtype=torch.float64) for at in self.local.values()])
        kept = [chosen is None or name in chosen for name in names]
        return (scale.cpu() * sums.cpu() * torch.tensor(kept)).sum()

    def score_(self, value: Tensor, loc: Tensor, out: Tensor) -> None:
        """Write -Sigma^-1 (value - loc) into the block's part of ``out``, which may be value."""
        value, loc, scale = self.gather(value), self.gather(loc), self.block.scale
        if len(self.runs) == 1 and not scale.dim():
            self.covariance.solve(value, loc, -1 / float(scale), out[..., self.runs[0]])
            return
        width = self.scale().sqrt()
        solved = self.covariance.solve((value - loc) / width, by=-1.0).div_(width)
        for at, piece in self.pieces(solved):
            out[..., at] = piece


def place(layout: ParameterLayout, blocks: Iterable[Block]) -> tuple[Placed, ...]:
    """Find the blocks in a layout.

    Raises
    ------
    LayoutMismatchError
        Unless the blocks hold every parameter of the layout once.
    """
    placed = tuple(Placed(block, layout) for block in blocks)
    names = [name for p in placed for name in p.local]
    held = set(names)
    for what, wrong in (
        ("none holds", [n for n in layout.names if n not in held]),
        ("several hold", [n for n in layout.names if names.count(n) > 1]),
    ):
        if wrong:
            raise LayoutMismatchError(
                "blocks must hold every parameter of the layout once; "
                f"{what} {', '.join(wrong[:3])}"
            )
    return placed


def low_rank_blocks(
    layout: ParameterLayout,
    diag: Float[Tensor, " D"],
    factor: Float[Tensor, "F K"] | None,
    *,
    dtype: torch.dtype,
    scale: float = 1.0,
) -> tuple[Block, ...]:
    """Make the blocks of diag (D,), factor (F, K) and s: s (diag(d) + W W^T), then the new ones.

    A factor that ends inside a parameter goes on with zeros to that parameter's end.

    Raises
    ------
    ConfigError
        If a variance is not positive, anything is not finite, or a tensor wants a gradient.
    LayoutMismatchError
        If the factor has more than D rows.
    """
    if factor is None:
        factor = diag.new_zeros((diag.shape[0], 0))
    if factor.dim() != 2 or factor.shape[0] > diag.shape[0]:
        raise LayoutMismatchError(
            f"cov_factor must have shape (F, K) with F at most D = {diag.shape[0]}, one row a "
            f"weight; got {tuple(factor.shape)}"
        )
    check_positive("cov_scale", scale)
    diag, rows, split = diag.to(dtype), factor.T.to(dtype), factor.shape[0]
    shared = [n for n, at in layout.slices.items() if at.start < split or 0 < at.stop <= split]
    end = layout.slices[shared[-1]].stop if shared else 0
    if end > split:
        rows = torch.nn.functional.pad(rows, (0, end - split))
        diag = torch.cat([diag[:split], diag[split:end] / scale, diag[end:]])
    # checked on contiguous rows: on other strides torch would copy
    learned = LowRankCovariance(diag[:end].contiguous(), rows.contiguous())
    width = torch.tensor(scale, dtype=torch.float64)
    blocks = (
        Block(tuple(shared), learned, width),
        Block(layout.names[len(shared) :], LowRankCovariance(diag[end:]), new=True),
    )
    for block in blocks:
        block.covariance.check()
    return tuple(block for block in blocks if block.names)


def taken(placed: Iterable[Placed], layout: ParameterLayout) -> list[Block]:
    """Return what the blocks say of the parameters of another layout."""
    blocks = []
    for p in placed:
        block, kept = p.block, [name for name in p.block.names if name in layout.slices]
        if 0 < len(kept) < len(block.names):
            at = [i for i, name in enumerate(block.names) if name in layout.slices]
            covariance = block.covariance.take(merged(p.local[name] for name in kept))
            scale = block.scale[at] if block.scale.dim() else block.scale
            block = replace(block, names=tuple(kept), covariance=covariance, scale=scale)
        if kept:
            blocks.append(block)
    return blocks


def expanded(numbers: Tensor, sizes: list[int]) -> Tensor:
    """Repeat each number as often as its size says."""
    return torch.cat([x.expand(n) for x, n in zip(numbers, sizes, strict=True)])


def merged(slices: Iterable[slice]) -> list[slice]:
    """Join slices that follow on each other; empty ones vanish."""
    out: list[slice] = []
    for at in slices:
        if out and out[-1].stop == at.start:
            out[-1] = slice(out[-1].start, at.stop)
        elif at.stop > at.start:
            out.append(at)
    return out


def moved_blocks(
    blocks: tuple[Block, ...], device: str | torch.device | None, dtype: torch.dtype | None
) -> tuple[Block, ...]:
    """Put the covariances elsewhere or into another type; widths made on the CPU stay there."""
    if device is None and all(dtype in (None, b.covariance.anchor.dtype) for b in blocks):
        return blocks
    return tuple(
        replace(
            b,
            covariance=b.covariance.to(device, dtype),
            scale=b.scale if b.scale.device.type == "cpu" else b.scale.to(device),
        )
        for b in blocks
    )


def lives(buffer: str, before: ParameterLayout, after: ParameterLayout) -> bool:
    """Whether the nearest module around a buffer that had parameters still has some."""
    module = buffer
    while "." in module:
        module = module.rpartition(".")[0]
        if any(name.startswith(f"{module}.") for name in before.names):
            return any(name.startswith(f"{module}.") for name in after.names)
    return True
