"""The covariance of `GaussianWeights`: independent blocks over named parameters."""

import functools
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from bayesprior.errors import LayoutMismatchError
from bayesprior.weights.checks import check_positive
from bayesprior.weights.covariance import Covariance, linear, quadratic
from bayesprior.weights.layout import ParameterLayout
from bayesprior.weights.lowrank import LowRankCovariance, take, tiles

__all__ = [
    "Block",
    "BlockCovariance",
    "Placed",
    "low_rank_blocks",
    "merged",
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
    within
        Positions inside a parameter that another block holds in part; the others are whole.
    """

    names: tuple[str, ...]
    covariance: Covariance
    scale: Tensor = field(default_factory=lambda: torch.ones((), dtype=torch.float64))
    new: bool = False
    within: Mapping[str, slice] = field(default_factory=dict)

    def take(self, kept: list[int], slices: list[slice]) -> "Block":
        """Return the block of some of its parameters, at these positions of M."""
        if len(kept) == len(self.names):
            return self
        names = tuple(self.names[i] for i in kept)
        scale = self.scale[kept] if self.scale.dim() else self.scale
        return replace(self, names=names, covariance=self.covariance.take(slices), scale=scale)

    def to(self, device: str | torch.device | None, dtype: torch.dtype | None) -> "Block":
        """Return the block elsewhere or in another type; the scale stays."""
        anchor = self.covariance.anchor
        if device is None and dtype in (None, anchor.dtype):
            return self
        return replace(self, covariance=self.covariance.to(device, dtype))

    def rename(self, to: Callable[[str], str]) -> "Block":
        """Return the same block of other names."""
        within = {to(name): where for name, where in self.within.items()}
        return replace(self, names=tuple(map(to, self.names)), within=within)


def low_rank_blocks(
    layout: ParameterLayout,
    diag: Float[Tensor, " D"],
    factor: Float[Tensor, "F K"] | None,
    *,
    dtype: torch.dtype,
    scale: float = 1.0,
) -> tuple[Block, ...]:
    """Make the blocks of diag (D,), factor (F, K) and s: s (diag(d) + W W^T), then the new ones.

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
    split = factor.shape[0]
    # checked on contiguous rows: on other strides torch would copy
    shared = LowRankCovariance(diag[:split].to(dtype).contiguous(), factor.T.to(dtype).contiguous())
    tail = LowRankCovariance(diag[split:].to(dtype))
    for covariance in (shared, tail):
        covariance.check()
    names: tuple[list[str], list[str]] = ([], [])
    within: tuple[dict[str, slice], dict[str, slice]] = ({}, {})
    for name, where in layout.slices.items():
        if where.start < split < where.stop:
            cut, size = split - where.start, where.stop - where.start
            within[0][name], within[1][name] = slice(0, cut), slice(cut, size)
        for part in (0, 1) if name in within[0] else [int(where.stop > split or not split)]:
            names[part].append(name)
    width = torch.tensor(scale, dtype=torch.float64)
    blocks = (
        Block(tuple(names[0]), shared, width, within=within[0]),
        Block(tuple(names[1]), tail, new=True, within=within[1]),
    )
    return tuple(block for block in blocks if block.names)


class Placed:
    """A block and where its parameters lie in the D-vector of a layout."""

    def __init__(self, block: Block, layout: ParameterLayout) -> None:
        self.block, self.covariance = block, block.covariance
        self.where: list[slice] = []  # of each parameter in the D-vector
        self.local: list[slice] = []  # and in the block
        end = 0
        for name in block.names:
            whole = layout.slice(name)
            part = block.within.get(name, slice(0, whole.stop - whole.start))
            start, stop = whole.start + part.start, whole.start + part.stop
            if not whole.start <= start <= stop <= whole.stop:
                raise LayoutMismatchError(f"a block holds positions {part} outside {name!r}")
            self.where.append(slice(start, stop))
            self.local.append(slice(end, end + stop - start))
            end += stop - start
        if end != self.covariance.dim:
            raise LayoutMismatchError(
                f"the parameters {', '.join(block.names[:3])} of a block have {end} weights, its "
                f"covariance is over {self.covariance.dim}"
            )
        self.runs = merged(self.where)

    def gather(self, vector: Tensor) -> Tensor:
        """Return the block's part of a D-vector, a view where it lies in one piece."""
        if self.runs == [slice(0, vector.shape[-1])]:
            return vector
        return take(vector, self.runs)

    def scale(self, like: Tensor | None = None) -> Tensor:
        """A^2 in the law's type: a number on the CPU, or one for each of the F weights."""
        like = self.covariance.anchor if like is None else like
        scale = self.block.scale.to(like.dtype)
        if not scale.dim():
            return scale
        sizes = [at.stop - at.start for at in self.local]
        scale = scale.to(like.device)
        return torch.cat([s.expand(n) for s, n in zip(scale, sizes, strict=True)])

    def total(self, chosen: Collection[int]) -> Tensor:
        """Sum of the variances of some parameters, float64 on the CPU."""
        scale = self.block.scale
        if not scale.dim() and len(chosen) == len(self.where):
            return scale * self.covariance.trace
        variance = self.covariance.variance()
        sums = [variance[at].sum(dtype=torch.float64).cpu() for at in self.local]
        return sum((scale[i] if scale.dim() else scale) * sums[i] for i in chosen)  # type: ignore[return-value]

    def score(self, value: Tensor, loc: Tensor, out: Tensor) -> None:
        """Write -Sigma^-1 (value - loc) into the block's part of ``out``."""
        if self.block.scale.dim():
            width = self.scale().sqrt()
            residual = (self.gather(value) - self.gather(loc)) / width
            solved = self.covariance.solve(residual, multiplier=-1.0).div_(width)
        else:
            multiplier = -1 / float(self.block.scale.detach())
            given = self.gather(value), self.gather(loc)
            if len(self.runs) == 1:
                self.covariance.solve(*given, multiplier=multiplier, out=out[..., self.runs[0]])
                return
            solved = self.covariance.solve(*given, multiplier=multiplier)
        start = 0
        for at in self.runs:
            stop = start + at.stop - at.start
            out[..., at] = solved[..., start:stop]
            start = stop


class BlockCovariance:
    """Independent blocks that cover the D weights of a layout.

    Raises
    ------
    LayoutMismatchError
        Unless the blocks hold every weight of the layout once.
    """

    def __init__(self, layout: ParameterLayout, blocks: Iterable[Block]) -> None:
        self.layout, self.blocks = layout, tuple(blocks)
        self.placed = [Placed(block, layout) for block in self.blocks]
        names = [name for block in self.blocks for name in block.names]
        held = sorted((at.start, at.stop) for placed in self.placed for at in placed.where)
        edges = [0, *(stop for _, stop in held)]
        if edges != [*(start for start, _ in held), layout.dim]:
            lacking = [n for n in layout.names if n not in set(names)]
            twice = [n for n in layout.names if names.count(n) > 1]
            raise LayoutMismatchError(
                "blocks must hold every parameter of the layout once; "
                + (f"none holds {', '.join(lacking[:3])}" if lacking else "")
                + (f"several hold {', '.join(twice[:3])}" if twice and not lacking else "")
            )

    @property
    def shared_dim(self) -> int:
        """F, the number of weights in blocks that are not new."""
        return sum(b.covariance.dim for b in self.blocks if not b.new)

    @property
    def rank(self) -> int:
        """Number of learned directions of all blocks."""
        return sum(b.covariance.rank for b in self.blocks)

    @functools.cached_property
    def _order(self) -> list[tuple[int, slice]]:
        """The pieces of a D-vector in its order: which block, and where in the block's part."""
        pieces = []
        for index, placed in enumerate(self.placed):
            start = 0
            for at in placed.runs:
                stop = start + at.stop - at.start
                pieces.append((at.start, at.stop, index, slice(start, stop)))
                start = stop
        return [(index, where) for *_, index, where in sorted(pieces, key=lambda p: p[:3])]

    def join(self, parts: list[Tensor]) -> Tensor:
        """Put the blocks' parts (..., F) into the order of the layout, (..., D)."""
        if len(self._order) == 1:
            return parts[0]
        return torch.cat([parts[i][..., where] for i, where in self._order], -1)

    def _joined(self, part: Callable[[Placed], Tensor], like: Tensor) -> Tensor:
        return self.join([part(p) for p in self.placed]) if self.placed else like[..., :0].clone()

    def diagonal(self, like: Tensor) -> Float[Tensor, " D"]:
        """Diagonal part, a new tensor; ``like`` gives type and device where D = 0."""
        return self._joined(lambda p: p.covariance.diagonal() * p.scale(), like)

    def factor(self, like: Tensor) -> Float[Tensor, "D B"]:
        """Columns of all blocks with zeros elsewhere, a new tensor."""
        columns = [like.new_zeros((0, self.layout.dim))]
        for index, placed in enumerate(self.placed):
            rows = placed.covariance.factor().mT * placed.scale().sqrt()
            if len(rows):
                parts = [
                    like.new_zeros((1, b.covariance.dim)).expand(len(rows), -1) for b in self.placed
                ]
                parts[index] = rows
                columns.append(self.join(parts))
        return torch.cat(columns).mT

    @property
    def num_columns(self) -> int:
        """Number of columns of `factor`."""
        return sum(b.covariance.num_columns for b in self.blocks)

    def variance(self, like: Tensor) -> Float[Tensor, " D"]:
        """Marginal variances, a new tensor."""
        return self._joined(lambda p: p.covariance.variance() * p.scale(), like)

    def max_precision(self, like: Tensor) -> Float[Tensor, " D"]:
        """B with Sigma^-1 <= diag(b), a new tensor."""
        return self._joined(lambda p: p.covariance.max_precision() / p.scale(), like)

    def inverse_diagonal(self, like: Tensor) -> Float[Tensor, " D"]:
        """Diagonal of Sigma^-1 in float64."""
        like = like.double()
        return self._joined(lambda p: p.covariance.inverse_diagonal / p.scale(like), like)

    def log_det(self) -> Float[Tensor, ""]:
        """Log-determinant in float64; differentiable in the widths."""
        total = torch.zeros((), dtype=torch.float64)
        for placed in self.placed:
            log_width = placed.block.scale.log()
            if log_width.dim():
                sizes = [at.stop - at.start for at in placed.local]
                log_widths = (log_width * torch.tensor(sizes, dtype=torch.float64)).sum()
            else:
                log_widths = placed.covariance.dim * log_width
            total = placed.covariance.log_det + (log_widths + total)
        return total

    def quadratic(self, residual: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch"]:
        """r^T Sigma^-1 r in float64; twice differentiable in r and the widths."""
        total: Tensor | None = None
        for placed in self.placed:
            part, scale = placed.gather(residual), placed.block.scale
            if scale.dim():
                term = quadratic(part / placed.scale(part).sqrt(), placed.covariance)
            else:
                term = quadratic(part, placed.covariance) / scale
            total = term if total is None else total + term
        if total is None:
            return residual.new_zeros(residual.shape[:-1], dtype=torch.float64)
        return total

    def score(
        self, value: Float[Tensor, "*batch D"], loc: Float[Tensor, " D"], out: Tensor | None = None
    ) -> Float[Tensor, "*batch D"]:
        """-Sigma^-1 (value - loc), the only new tensor of D elements; not differentiable."""
        if out is None:
            out = value.new_empty(value.shape, dtype=torch.promote_types(value.dtype, loc.dtype))
        for placed in self.placed:
            placed.score(value, loc, out)
        return out

    def quadratic_of_score(
        self, value: Float[Tensor, "*batch D"], loc: Float[Tensor, " D"], score: Tensor
    ) -> Float[Tensor, "*batch"]:
        """(value - loc)^T Sigma^-1 (value - loc) where ``score`` is already known."""
        total = value.new_zeros(value.shape[:-1], dtype=torch.float64)
        for at in tiles(loc.device, self.layout.dim):
            product = (value[..., at] - loc[at]) * score[..., at]
            total = total - product.sum(-1, dtype=torch.float64)
        return total

    def solve(self, residual: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """Sigma^-1 r, with all derivatives."""

        def part(p: Placed) -> Tensor:
            width = p.scale().sqrt()
            return linear(p.gather(residual) / width, p.covariance.solve) / width

        return self._joined(part, residual)

    def product(self, value: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """Sigma v, with all derivatives."""

        def part(p: Placed) -> Tensor:
            width = p.scale().sqrt()
            return linear(p.gather(value) * width, p.covariance.product) * width

        return self._joined(part, value)

    def color(self, noise: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """R z with R R^T = Sigma, with all derivatives."""

        def part(p: Placed) -> Tensor:
            adjoint = functools.partial(p.covariance.color, transposed=True)
            return linear(p.gather(noise), p.covariance.color, adjoint) * p.scale().sqrt()

        return self._joined(part, noise)

    def whiten(self, residual: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """R^-1 r, with all derivatives."""

        def part(p: Placed) -> Tensor:
            adjoint = functools.partial(p.covariance.whiten, transposed=True)
            return linear(p.gather(residual) / p.scale().sqrt(), p.covariance.whiten, adjoint)

        return self._joined(part, residual)

    def draw(
        self, noise: Float[Tensor, "*batch D"], low_rank: Float[Tensor, "*batch K"]
    ) -> Float[Tensor, "*batch D"]:
        """Turn standard normals into a draw from N(0, Sigma) in one pass; differentiable in s."""
        extra = iter(low_rank.split([b.covariance.rank for b in self.blocks], -1))

        def part(p: Placed) -> Tensor:
            return p.covariance.draw(p.gather(noise), next(extra)) * p.scale().sqrt()

        return self._joined(part, noise)

    def coordinates(self, residual: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch R"]:
        """Positions along the learned directions, block after block; standard normal."""
        found = [residual.new_zeros((*residual.shape[:-1], 0), dtype=torch.float64)]
        for p in self.placed:
            found.append(p.covariance.coordinates(p.gather(residual) / p.scale().sqrt()))
        return torch.cat(found, -1)

    def shares(self) -> Float[Tensor, " R"]:
        """Shares of the learned directions in W W^T's trace, descending; empty if W = 0."""
        spectra = [torch.zeros(0, dtype=torch.float64)]
        for p in self.placed:
            scale = p.scale().detach().double()
            spectrum = p.covariance.spectrum(scale.sqrt() if scale.dim() else None)
            spectra.append((spectrum if scale.dim() else spectrum * scale).cpu())
        values = torch.cat(spectra).sort(descending=True).values
        return values / values.sum() if values.sum() > 0 else values[:0]


def merged(slices: Iterable[slice]) -> list[slice]:
    """Join slices that follow on each other; empty ones vanish."""
    out: list[slice] = []
    for at in slices:
        if out and out[-1].stop == at.start:
            out[-1] = slice(out[-1].start, at.stop)
        elif at.stop > at.start:
            out.append(at)
    return out
