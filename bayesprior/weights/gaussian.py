"""`GaussianWeights`: a low-rank-plus-diagonal Normal over the named weights of a network."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bayesprior.errors import ConfigError, LayoutMismatchError, checked, nearest_name
from bayesprior.inference.bound import Bindable
from bayesprior.inference.protocols import Draw
from bayesprior.weights import algebra
from bayesprior.weights.blocks import Block, lives, low_rank_blocks, moved_blocks
from bayesprior.weights.checks import check_device, check_positive, check_range, check_vector
from bayesprior.weights.file import NARROW, Contents
from bayesprior.weights.layout import ParameterLayout
from bayesprior.weights.lowrank import LowRankCovariance
from bayesprior.weights.normal import BlockNormal
from bayesprior.weights.selection import Selection
from bayesprior.weights.sharing import Shareable

__all__ = ["GaussianWeights"]


class GaussianWeights(Shareable, Bindable, BlockNormal):
    r"""A Normal over D named weights: source posterior, transferred prior, SWAG posterior.

    It is made of independent blocks (`from_blocks`). This constructor makes the usual two: the
    first F weights of the layout, the *shared* ones, have covariance
    :math:`s\,(\mathrm{diag}(d) + W W^T)`; the other D - F (a new head, say) are independent.
    :math:`s` is the width set by `rescale`. No parameter is shared in part: a factor that ends
    inside one goes on with zeros to its end.

    Parameters
    ----------
    layout
        Names and shapes of the D weights.
    loc
        Mean, shape (D,). May require a gradient. Float16 and bfloat16 become float32.
    cov_diag
        Diagonal part of the covariance, shape (D,), positive. A constant.
    cov_factor
        Factor of the covariance, shape (F, K), F <= D; None means rank 0, F = D. A constant. Held
        as its K columns: give ``rows.T`` of contiguous ``rows`` (K, F) and nothing is copied.
    buffers
        BatchNorm statistics that belong to ``loc``, by name.
    provenance
        JSON primitives that say where the distribution comes from.
    statistics
        Tensors by name that were learned beside the weights, such as the features' covariance.

    Raises
    ------
    LayoutMismatchError
        If a length is not the layout's D.
    ConfigError
        If a variance is not positive, anything is not finite, or a constant requires a gradient.

    Notes
    -----
    Log density and gradient are closed-form with float64 sums (`bayesprior.weights.lowrank`): at
    D = 1e6 the stock class is off by tens to a million nats in float32. Memory stays near the
    tensors' size. ``cov_factor``, ``covariance_matrix`` and `to_pyro` are made on demand and
    refused above 1 GiB.

    References
    ----------
    Maddox et al., A Simple Baseline for Bayesian Uncertainty in Deep Learning, arXiv:1902.02476.
    Shwartz-Ziv et al., Pre-Train Your Loss, arXiv:2205.10279.

    Examples
    --------
    >>> layout = ParameterLayout(("w", "b"), ((2,), (1,)))
    >>> prior = GaussianWeights(layout, torch.zeros(3), torch.ones(3), torch.ones(3, 1))
    >>> prior.variance
    tensor([2., 2., 2.])
    >>> round(prior.rescale(rms_std=0.1).rms_std, 6)
    0.1
    """

    @checked(layout="layout", loc="tensor", cov_diag="tensor", cov_factor="tensor")
    def __init__(
        self,
        layout: ParameterLayout,
        loc: Float[Tensor, " D"],
        cov_diag: Float[Tensor, " D"],
        cov_factor: Float[Tensor, "F K"] | None = None,
        *,
        buffers: Mapping[str, Tensor] | None = None,
        provenance: Mapping[str, Any] | None = None,
        statistics: Mapping[str, Tensor] | None = None,
    ) -> None:
        loc = _wide(layout, loc)
        check_vector("cov_diag", cov_diag, layout.dim)
        blocks = low_rank_blocks(layout, cov_diag, cov_factor, dtype=loc.dtype)
        self._hold(Contents(layout, loc, blocks, buffers, provenance, statistics))

    _fields = (*BlockNormal._fields, "buffers", "provenance", "statistics")

    def _hold(self, given: Contents) -> None:
        self.buffers, self.provenance = dict(given.buffers or {}), dict(given.provenance or {})
        self.statistics = dict(given.statistics or {})
        self.layout, self.loc, self.blocks = given.layout, given.loc, given.blocks
        self._start(torch.Size())

    @classmethod
    def from_blocks(
        cls,
        layout: ParameterLayout,
        loc: Float[Tensor, " D"],
        blocks: Iterable[Block],
        *,
        buffers: Mapping[str, Tensor] | None = None,
        provenance: Mapping[str, Any] | None = None,
        statistics: Mapping[str, Tensor] | None = None,
    ) -> "GaussianWeights":
        """Make the law whose blocks are independent; each holds some parameters, in any order.

        Parameters
        ----------
        layout, loc, buffers, provenance, statistics
            As in the constructor.
        blocks
            They hold every parameter of the layout once.

        Examples
        --------
        >>> from bayesprior.weights.blocks import Block
        >>> from bayesprior.weights.rows import RowCovariance
        >>> layout = ParameterLayout(("body", "head"), ((4,), (3, 2)))
        >>> body = Block(("body",), LowRankCovariance(torch.ones(4), torch.ones(1, 4)))
        >>> head = Block(("head",), RowCovariance(torch.eye(2), count=3), new=True)
        >>> prior = GaussianWeights.from_blocks(layout, torch.zeros(10), [head, body])
        >>> prior.shared_dim, prior.new_names
        (4, ('head',))
        """
        new, loc, blocks = object.__new__(cls), _wide(layout, loc), tuple(blocks)
        for block in blocks:
            block.covariance.check()
        held = moved_blocks(blocks, None, loc.dtype)
        new._hold(Contents(layout, loc, held, buffers, provenance, statistics))
        return new

    @classmethod
    def point(
        cls,
        layout: ParameterLayout,
        loc: Float[Tensor, " D"],
        std: float,
        *,
        buffers: Mapping[str, Tensor] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> "GaussianWeights":
        """Make the isotropic prior around given weights; ``std`` in weight units.

        L2-SP: Li et al., Explicit Inductive Bias for Transfer Learning, arXiv:1802.01483.
        """
        loc = _wide(layout, loc)
        diag = torch.full_like(loc, _variance("std", std, loc.dtype), requires_grad=False)
        return cls(layout, loc, diag, buffers=buffers, provenance=provenance)

    def __repr__(self) -> str:
        sizes = f"dim={self.dim}, shared_dim={self.shared_dim}, rank={self.rank}"
        return f"GaussianWeights({sizes}, rms_std={self.rms_std:.4g}, device={self.loc.device})"

    @property
    def new_names(self) -> tuple[str, ...]:
        """Parameters that were added to what was learned (a head), in the layout's order."""
        new = {name for block in self.blocks if block.new for name in block.names}
        return tuple(name for name in self.layout.names if name in new)

    @property
    def shared_dim(self) -> int:
        """F, the number of weights that are not new (the first ones, unless reordered)."""
        return sum(block.covariance.dim for block in self.blocks if not block.new)

    @property
    def cov_scale(self) -> float:
        """The factor that `rescale` has put on the shared blocks' covariance.

        Raises
        ------
        ConfigError
            If there are several; each block has its ``scale``.
        """
        scales = {float(x) for b in self.blocks if not b.new for x in b.scale.detach().view(-1)}
        if len(scales) > 1:
            raise ConfigError("the blocks have widths of their own; see blocks[i].scale")
        return scales.pop() if scales else 1.0

    @property
    def rms_std(self) -> float:
        """sqrt(trace of the shared blocks' covariance / F), in weight units."""
        traces = [float(p.total().detach()) for p in self._placed if not p.block.new]
        return math.sqrt(sum(traces) / max(self.shared_dim, 1))

    def block_rms_std(self) -> dict[str, float]:
        """Return per parameter sqrt(mean marginal variance)."""
        views = self.layout.unflatten(self._with(_batch_shape=torch.Size()).variance.detach())
        return {name: math.sqrt(view.double().mean().item()) for name, view in views.items()}

    def _shares(self) -> Float[Tensor, " R"]:
        """Shares of the learned directions in W W^T's trace, descending; empty if W = 0."""
        spectra = [torch.zeros(0, dtype=torch.float64)]
        for p in self._placed:
            scale = p.scale().detach().double()
            width, rest = (scale.sqrt(), 1.0) if scale.dim() else (None, float(scale))
            spectra.append(torch.linalg.eigvalsh(p.covariance.gram(width)).cpu() * rest)
        values = torch.cat(spectra).clamp_min(0).sort(descending=True).values
        return values / values.sum() if values.sum() > 0 else values[:0]

    @property
    def effective_rank(self) -> float:
        """1 / sum of p^2 over the shares p of W W^T's trace by direction; 0 without a factor."""
        shares = self._shares()
        return 1 / float(shares.square().sum()) if len(shares) else 0.0

    @property
    def drift_share(self) -> float:
        """Largest of those shares; near 1 the trajectory was one drift, not a sampling chain."""
        return float(self._shares().max()) if len(self._shares()) else 0.0

    @torch.no_grad()
    def draws(self, num_draws: int | None = None, seed: int = 0) -> Iterator[Draw]:
        """Yield draws one at a time from an own generator; 30 if ``num_draws`` is None.

        Their ``confidence`` is the statistic of that name, where the law has it.
        """
        count = 30 if num_draws is None else num_draws
        check_positive("num_draws", count)
        generator = torch.Generator(self.loc.device).manual_seed(seed)
        confidence = float(self.statistics.get("confidence", 1.0))
        for index in range(count):
            weights = self.rsample(generator=generator)
            yield Draw(0, index, weights, self.buffers, self.layout, confidence=confidence)

    @checked(rms_std="number", cov_scale="number")
    def rescale(
        self,
        *,
        cov_scale: float | Tensor | None = None,
        rms_std: float | Tensor | None = None,
        select: Selection | None = None,
    ) -> "GaussianWeights":
        """Return the same shape at another width: A Sigma A, A diagonal, so correlations stay.

        Parameters
        ----------
        cov_scale
            Multiplies the covariance; may be a 0-dim tensor, with a gradient or under vmap.
        rms_std
            Sets sqrt(trace / F), likewise: priors of any shape become equally wide on average.
        select
            Parameters that it acts on; None for all but `new_names`.

        Raises
        ------
        ConfigError
            Unless exactly one of the two is given, positive, and the type holds the variances.
        """
        return self._with(blocks=algebra.rescaled(self._placed, cov_scale, rms_std, select))

    def extend(
        self, layout: ParameterLayout, *, std: float, loc: Mapping[str, Tensor] | None = None
    ) -> "GaussianWeights":
        """Add independent N(loc, std^2) weights for what ``layout`` has and this law lacks.

        The new ones (a head, say) come last, in the order of ``layout``; see `reorder`.

        Parameters
        ----------
        layout
            Of the whole network.
        std
            In weight units.
        loc
            Means by name, such as a norm layer's initial scale of 1; 0 where a name is missing.

        Raises
        ------
        LayoutMismatchError
            If ``layout`` lacks one of this law's parameters or has it in another shape, or
            ``loc`` has a name that is not new.
        """
        variance = _variance("std", std, self.loc.dtype)
        full, given = self.layout.extend(layout), dict(loc or {})
        names, means = full.names[len(self.layout) :], [self.loc]
        if wrong := given.keys() - set(names):
            name = min(wrong)
            raise LayoutMismatchError(f"loc: {name!r} is not new{nearest_name(name, names)}")
        for name in names:
            at = full.slice(name)
            mean = given.get(name, self.loc.new_zeros(at.stop - at.start)).detach().reshape(-1)
            check_vector(f"loc of {name!r}", mean, at.stop - at.start)
            means.append(mean.to(self.loc))
        blocks = self.blocks
        if names:
            independent = torch.full_like(torch.cat(means[1:]), variance)
            blocks = (*blocks, Block(names, LowRankCovariance(independent), new=True))
        return self._with(layout=full, loc=torch.cat(means), blocks=blocks)

    def rename(self, mapping: Mapping[str, str] | Callable[[str], str]) -> "GaussianWeights":
        """Return the same law under other parameter (and buffer) names."""
        layout = self.layout.rename(mapping)
        to = mapping if callable(mapping) else lambda name: mapping.get(name, name)
        return self._with(
            layout=layout,
            blocks=[replace(block, names=tuple(map(to, block.names))) for block in self.blocks],
            buffers={to(name): buffer for name, buffer in self.buffers.items()},
        )

    def marginal(self, names: Iterable[str]) -> "GaussianWeights":
        """Return the law of some parameters, in this layout's order.

        Buffers of modules whose parameters are all gone go with them.
        """
        new = super().marginal(names)
        kept = {n: b for n, b in self.buffers.items() if lives(n, self.layout, new.layout)}
        return new._with(buffers=kept)

    def jitter(self, share: float) -> "GaussianWeights":
        """Add ``share`` times its block's mean variance to each shared weight's."""
        return self._with(blocks=algebra.jittered(self.blocks, share))

    def isotropic(self) -> "GaussianWeights":
        """Return the law of equal mean and rms_std whose shared blocks are isotropic."""
        return self._with(blocks=algebra.isotropic(self._placed))

    def diagonal(self) -> "GaussianWeights":
        """Return the diagonal law of equal mean and equal marginal variances."""
        return self._with(blocks=algebra.diagonal(self.blocks))

    def truncate(self, rank: int) -> "GaussianWeights":
        """Keep each block's ``rank`` largest directions; the rest joins the diagonal."""
        return self._with(blocks=algebra.truncated(self.blocks, rank))

    def to(
        self, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ) -> "GaussianWeights":
        """Return the same law on another device or in another type, float32 or float64."""
        if dtype in NARROW:
            raise ConfigError(f"a law holds float32 or float64: {dtype} would change its variances")

        def moved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor.to(device=device) for name, tensor in tensors.items()}

        check_device(device)
        return self._with(
            loc=self.loc.to(device=device, dtype=dtype),
            blocks=moved_blocks(self.blocks, device, dtype),
            buffers=moved(self.buffers),
            statistics=moved(self.statistics),
        )


def _wide(layout: ParameterLayout, loc: Tensor) -> Tensor:
    """Check the mean; 16-bit weights become float32, since no variance survives in 16 bits."""
    check_vector("loc", loc, layout.dim)
    return loc.float() if loc.dtype in NARROW else loc


def _variance(name: str, std: float, dtype: torch.dtype) -> float:
    check_positive(name, std)
    std = float(std)
    variance = std * std
    check_range(f"{name} = {std:.3g}", variance, variance, dtype)
    return variance
