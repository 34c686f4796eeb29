"""`GaussianWeights`: a low-rank-plus-diagonal Normal over the named weights of a network."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, register_kl

from bayesprior.inference.bound import Bindable
from bayesprior.inference.protocols import Draw
from bayesprior.weights.blocks import BlockCovariance, check_positive, check_vector, take
from bayesprior.weights.file import read, write
from bayesprior.weights.layout import ParameterLayout

__all__ = ["GaussianWeights"]


class GaussianWeights(Bindable, dist.LowRankMultivariateNormal):
    r"""A Normal over D named weights: source posterior, transferred prior, SWAG posterior.

    The first F weights of the layout, the *shared block*, have covariance
    :math:`s\,(\mathrm{diag}(d) + W W^T)`; the other D - F weights (a new head, say) are
    independent. :math:`s` is the width set by `rescale`.

    Parameters
    ----------
    layout
        Names and shapes of the D weights.
    loc
        Mean, shape (D,). May require a gradient.
    cov_diag
        Diagonal part of the covariance, shape (D,), positive. A constant.
    cov_factor
        Factor of the covariance, shape (F, K), F <= D; None means rank 0, F = D. A constant.
    buffers
        BatchNorm statistics that belong to ``loc``, by name.
    provenance
        JSON primitives that say where the distribution comes from.

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
    tensors' size; `covariance_matrix` and `precision_matrix` are D x D, for small D only.

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

    def __init__(
        self,
        layout: ParameterLayout,
        loc: Float[Tensor, " D"],
        cov_diag: Float[Tensor, " D"],
        cov_factor: Float[Tensor, "F K"] | None = None,
        *,
        buffers: Mapping[str, Tensor] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        check_vector("loc", loc, layout.dim)
        check_vector("cov_diag", cov_diag, layout.dim)
        self.layout, self.loc = layout, loc
        self._cov = BlockCovariance.from_tensors(cov_diag, cov_factor, dtype=loc.dtype)
        self.buffers, self.provenance = dict(buffers or {}), dict(provenance or {})
        Distribution.__init__(self, torch.Size(), loc.shape, validate_args=False)

    def _with(self, **changes: Any) -> "GaussianWeights":
        """Make a copy that shares every tensor not in ``changes``, and nothing torch cached."""
        new = object.__new__(GaussianWeights)
        for name in ("layout", "loc", "_cov", "buffers", "provenance", "_batch_shape"):
            setattr(new, name, changes.get(name, getattr(self, name)))
        Distribution.__init__(new, new._batch_shape, new.loc.shape, validate_args=False)
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
        check_positive("std", std)
        diag = torch.full_like(loc, std**2, requires_grad=False)
        return cls(layout, loc, diag, buffers=buffers, provenance=provenance)

    def __repr__(self) -> str:
        sizes = f"dim={self.dim}, shared_dim={self.shared_dim}, rank={self.rank}"
        return f"GaussianWeights({sizes}, rms_std={self.rms_std:.4g}, device={self.loc.device})"

    @property
    def dim(self) -> int:
        """D, the number of weights."""
        return self.layout.dim

    @property
    def shared_dim(self) -> int:
        """F, the length of the shared block (the first F weights of the layout)."""
        return self._cov.shared_dim

    @property
    def rank(self) -> int:
        """K, the number of columns of the factor."""
        return self._cov.shared.rank

    @property
    def cov_scale(self) -> float:
        """The factor that `rescale` has put on the shared block's covariance."""
        return float(self._cov.scale.detach())

    @property
    def cov_diag(self) -> Float[Tensor, " D"]:
        """Diagonal part of the covariance, shape (D,), a new tensor."""
        return self._cov.diagonal()

    @property
    def cov_factor(self) -> Float[Tensor, "D K"]:
        """Factor of the covariance padded with zero rows, shape (D, K), a new tensor."""
        return self._cov.factor()

    # what torch's code for the parent class reads, computed on demand
    _unbroadcasted_cov_diag, _unbroadcasted_cov_factor = cov_diag, cov_factor

    @property
    def _capacitance_tril(self) -> Tensor:
        return self._cov.shared.capacitance_tril.to(self.loc.dtype)

    @property
    def mean(self) -> Float[Tensor, "*batch D"]:
        """``loc``, expanded to the batch shape."""
        return self.loc.expand(self._extended_shape())

    mode = mean

    @property
    def variance(self) -> Float[Tensor, "*batch D"]:
        """Marginal variances, diagonal plus factor."""
        return self._cov.variance().expand(self._extended_shape())

    @property
    def rms_std(self) -> float:
        """sqrt(trace of the shared block's covariance / F), in weight units."""
        return math.sqrt(self.cov_scale * self._cov.shared.trace / max(self.shared_dim, 1))

    def block_rms_std(self) -> dict[str, float]:
        """Return per parameter sqrt(mean marginal variance)."""
        views = self.layout.unflatten(self._cov.variance().detach())
        return {name: math.sqrt(view.double().mean().item()) for name, view in views.items()}

    @property
    def effective_rank(self) -> float:
        """1 / sum of p^2 over the shares p of W W^T's trace by direction; 0 without a factor."""
        shares = self._cov.shared.shares()
        return 1 / float(shares.square().sum()) if len(shares) else 0.0

    @property
    def drift_share(self) -> float:
        """Largest of those shares; near 1 the trajectory was one drift, not a sampling chain."""
        shares = self._cov.shared.shares()
        return float(shares[0]) if len(shares) else 0.0

    def expand(
        self, batch_shape: Iterable[int], _instance: "GaussianWeights | None" = None
    ) -> "GaussianWeights":
        """Return the same law with a batch shape; no tensor is copied."""
        return self._with(_batch_shape=torch.Size(batch_shape))

    def _residual(self, value: Tensor) -> Tensor:
        self.layout.check_dim(value)
        return value - self.loc

    def log_normalizer(self) -> Float[Tensor, ""]:
        """Return log|Sigma| + D log 2 pi in float64; differentiable in the width."""
        return self._cov.log_det() + self.dim * math.log(2 * math.pi)

    def mahalanobis(self, value: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch"]:
        """Return (w - loc)^T Sigma^-1 (w - loc) in float64; chi-square(D) under this law."""
        return self._cov.quadratic(self._residual(value))

    def log_prob(
        self, value: Float[Tensor, "*batch D"], dtype: torch.dtype | None = None
    ) -> Float[Tensor, "*out"]:
        """Return the log density in nats, shape (...), at weights of shape (..., D).

        It has value's ``dtype``, as Pyro's HMC needs, unless told otherwise: energies and
        evidence want float64, since at D = 1e7 one float32 ulp is about a nat.
        """
        out = -0.5 * (self.mahalanobis(value) + self.log_normalizer())
        shape = torch.broadcast_shapes(out.shape, self._batch_shape)
        return out.to(dtype or value.dtype).expand(shape)

    @torch.no_grad()
    def score(
        self, value: Float[Tensor, "*batch D"], *, out: Tensor | None = None
    ) -> Float[Tensor, "*batch D"]:
        """Return the gradient of the log density, -Sigma^-1 (w - loc); two passes over W.

        Only the result has D elements. ``out`` saves its allocation, a third of the time at D =
        2e7; it may be ``value`` itself.
        """
        self.layout.check_dim(value)
        return self._cov.score(value, self.loc, out)

    @torch.no_grad()
    def score_and_log_prob(
        self, value: Float[Tensor, "*batch D"]
    ) -> tuple[Float[Tensor, "*batch D"], Float[Tensor, "*batch"]]:
        """Return the score and the log density in float64 (from the score, so rounded as it is)."""
        score = self.score(value)
        quadratic = self._cov.quadratic_of_score(value, self.loc, score)
        return score, -0.5 * (quadratic + self.log_normalizer())

    @torch.no_grad()
    def max_precision(self) -> Float[Tensor, " D"]:
        """Return 1 / cov_diag, shape (D,): Sigma^-1 <= diag(1 / cov_diag)."""
        return self._cov.diagonal().reciprocal_()

    @torch.no_grad()
    def coordinates(self, value: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch R"]:
        """Return the position along the factor's own directions, float64, shape (..., R).

        Under this law the R <= K coordinates are independent standard normals, sorted by how far
        the direction's variance exceeds the diagonal's. R is K less the numerically null ones.
        """
        return self._cov.coordinates(self._residual(value))

    def entropy(self) -> Float[Tensor, "*batch"]:
        """Return the differential entropy in nats, float64."""
        return (0.5 * (self.dim + self.log_normalizer())).expand(self._batch_shape)

    def rsample(
        self, sample_shape: Iterable[int] = (), generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch D"]:
        """Draw, differentiably in ``loc`` and the width, from ``generator`` or the global one."""
        shape = self._extended_shape(torch.Size(sample_shape))

        def normal(*size: int) -> Tensor:
            loc = self.loc
            return torch.randn(size, generator=generator, dtype=loc.dtype, device=loc.device)

        return self.loc + self._cov.color(normal(*shape), normal(*shape[:-1], self.rank))

    @torch.no_grad()
    def draws(self, num_draws: int | None = None, seed: int = 0) -> Iterator[Draw]:
        """Yield draws one at a time from an own generator; 30 if ``num_draws`` is None."""
        count = 30 if num_draws is None else num_draws
        check_positive("num_draws", count)
        generator = torch.Generator(self.loc.device).manual_seed(seed)
        for index in range(count):
            weights = self.rsample(generator=generator)
            yield Draw(chain=0, index=index, weights=weights, buffers=self.buffers)

    def rescale(
        self, *, cov_scale: float | Tensor | None = None, rms_std: float | Tensor | None = None
    ) -> "GaussianWeights":
        """Return the same shape at another width; acts on the shared block only.

        Parameters
        ----------
        cov_scale
            Multiplies the covariance (so the factor by its square root).
        rms_std
            Sets sqrt(trace / F): priors of any shape become equally wide on average. Either may
            be a 0-dim tensor that requires a gradient.

        Raises
        ------
        ConfigError
            Unless exactly one of the two is given and it is positive.
        """
        return self._with(_cov=self._cov.rescale(cov_scale, rms_std))

    def marginal(self, names: Iterable[str]) -> "GaussianWeights":
        """Return the law of some parameters, in this layout's order."""
        layout = self.layout.select(names)
        slices = [self.layout.slice(name) for name in layout.names]
        return self._with(layout=layout, loc=take(self.loc, slices), _cov=self._cov.take(slices))

    def extend(self, layout: ParameterLayout, *, std: float) -> "GaussianWeights":
        """Add independent N(0, std^2) weights for what ``layout`` has and this law lacks.

        The new ones (a head, say) come last, in the order of ``layout``.

        Raises
        ------
        LayoutMismatchError
            If ``layout`` lacks one of this law's parameters or has it in another shape.
        """
        check_positive("std", std)
        full = self.layout.extend(layout)
        loc = torch.cat([self.loc, self.loc.new_zeros(full.dim - self.dim)])
        cov = self._cov.append(full.dim - self.dim, std**2)
        return self._with(layout=full, loc=loc, _cov=cov)

    def rename(self, mapping: Mapping[str, str] | Callable[[str], str]) -> "GaussianWeights":
        """Return the same law under other parameter (and buffer) names."""
        to = mapping if callable(mapping) else lambda name: mapping.get(name, name)
        buffers = {to(name): buffer for name, buffer in self.buffers.items()}
        return self._with(layout=self.layout.rename(mapping), buffers=buffers)

    def jitter(self, share: float) -> "GaussianWeights":
        """Add ``share`` times the mean variance to each shared weight's (bounds the least)."""
        return self._with(_cov=self._cov.jittered(share))

    def isotropic(self) -> "GaussianWeights":
        """Return the law of equal mean and rms_std whose shared block is isotropic."""
        return self._with(_cov=self._cov.isotropic())

    def diagonal(self) -> "GaussianWeights":
        """Return the diagonal law of equal mean and equal marginal variances."""
        return self.truncate(0)

    def truncate(self, rank: int) -> "GaussianWeights":
        """Keep the ``rank`` directions of largest variance; the rest joins the diagonal part."""
        return self._with(_cov=self._cov.truncate(rank))

    def to(
        self, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ) -> "GaussianWeights":
        """Return the same law on another device or in another floating-point type."""
        return self._with(
            loc=self.loc.to(device=device, dtype=dtype),
            _cov=self._cov.to(device, dtype),
            buffers={name: b.to(device=device) for name, b in self.buffers.items()},
        )

    def to_pyro(self) -> dist.LowRankMultivariateNormal:
        """Return Pyro's plain `LowRankMultivariateNormal` (rank 0 becomes one zero column)."""
        factor = self.cov_factor if self.rank else self.loc.new_zeros((self.dim, 1))
        return dist.LowRankMultivariateNormal(self.loc, factor, self.cov_diag)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file (`bayesprior.weights.file`); a failure leaves an older one."""
        write(path, self.layout, self.loc, self._cov, self.buffers, self.provenance)

    @classmethod
    def load(
        cls, path: str | Path, *, device: str | torch.device = "cpu", rank: int | None = None
    ) -> "GaussianWeights":
        """Read what `save` wrote, keeping the ``rank`` largest directions (see `truncate`).

        Raises
        ------
        PriorFileError
            If the file is missing, truncated, corrupt, foreign or inconsistent.
        """
        new = object.__new__(cls)
        new.layout, new.loc, new._cov, new.buffers, new.provenance = read(path, device)
        Distribution.__init__(new, torch.Size(), new.loc.shape, validate_args=False)
        return new if rank is None else new.truncate(rank)


@register_kl(GaussianWeights, GaussianWeights)
@register_kl(torch.distributions.LowRankMultivariateNormal, GaussianWeights)
def _kl_to(p: torch.distributions.LowRankMultivariateNormal, q: GaussianWeights) -> Tensor:
    log_det = p._cov.log_det() if isinstance(p, GaussianWeights) else None
    return q._cov.kl_divergence_from(q._residual(p.loc), p.cov_diag, p.cov_factor, log_det)


@register_kl(torch.distributions.Independent, GaussianWeights)
def _kl_independent_to(p: dist.Independent, q: GaussianWeights) -> Tensor:
    if not isinstance(p.base_dist, torch.distributions.Normal):
        raise NotImplementedError
    no_factor = p.variance.new_zeros((*p.variance.shape, 0))
    return q._cov.kl_divergence_from(q._residual(p.mean), p.variance, no_factor)


@register_kl(GaussianWeights, torch.distributions.LowRankMultivariateNormal)
def _kl_from(p: GaussianWeights, q: torch.distributions.LowRankMultivariateNormal) -> Tensor:
    moments = (q.loc.double(), q.cov_factor.double(), q.cov_diag.double())
    wide = dist.LowRankMultivariateNormal(*moments, validate_args=False)
    return torch.distributions.kl_divergence(p.to(dtype=torch.float64).to_pyro(), wide)
