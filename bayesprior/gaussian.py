"""`GaussianWeights`: a low-rank-plus-diagonal Normal over the named weights of a network."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, register_kl

from bayesprior.covariance import (
    BlockCovariance,
    check_finite,
    check_positive,
    kl_divergence_to,
)
from bayesprior.errors import ConfigError, LayoutMismatchError, PriorFileError
from bayesprior.gaussian_file import read, write
from bayesprior.inference.protocols import Draw
from bayesprior.layout import ParameterLayout

__all__ = ["GaussianWeights"]

_LOG_2PI = math.log(2 * math.pi)


class GaussianWeights(dist.LowRankMultivariateNormal):
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
        Factor of the covariance, shape (F, K) with F <= D; None means rank 0 and F = D. A
        constant; held as contiguous rows (K, F).
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
    It is a `pyro.distributions.LowRankMultivariateNormal` with event shape (D,). The log density
    and its gradient are closed-form and accumulated in float64 (`bayesprior.lowrank`): at
    D = 1e6 the stock class is off by tens to a million nats in float32. Memory stays near the
    size of the tensors. `covariance_matrix` and `precision_matrix` are D x D: small D only.

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
        layout.check_dim(loc)
        layout.check_dim(cov_diag)
        check_finite("loc", loc)
        cov = BlockCovariance.from_tensors(cov_diag, cov_factor, dtype=loc.dtype)
        self._set(layout, loc, cov, dict(buffers or {}), dict(provenance or {}))

    def _set(
        self,
        layout: ParameterLayout,
        loc: Tensor,
        cov: BlockCovariance,
        buffers: dict[str, Tensor],
        provenance: dict[str, Any],
    ) -> "GaussianWeights":
        self.layout, self.loc, self._cov = layout, loc, cov
        self.buffers, self.provenance = buffers, provenance
        Distribution.__init__(self, torch.Size(), loc.shape[-1:], validate_args=False)
        return self

    def _with(self, **changes: Any) -> "GaussianWeights":
        """Make a copy that shares every tensor not in ``changes``."""
        state = {
            "layout": self.layout,
            "loc": self.loc,
            "cov": self._cov,
            "buffers": self.buffers,
            "provenance": self.provenance,
        }
        return object.__new__(GaussianWeights)._set(**(state | changes))

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
        """Make the isotropic prior around given weights (L2-SP); ``std`` in weight units.

        References
        ----------
        Li et al., Explicit Inductive Bias for Transfer Learning, arXiv:1802.01483.
        """
        check_positive("std", std)
        return cls(
            layout,
            loc,
            torch.full_like(loc, std**2, requires_grad=False),
            buffers=buffers,
            provenance=provenance,
        )

    # ------------------------------------------------------------------ shape and moments

    def __repr__(self) -> str:
        return (
            f"GaussianWeights(dim={self.dim}, shared_dim={self.shared_dim}, rank={self.rank}, "
            f"rms_std={self.rms_std:.4g}, device={self.loc.device})"
        )

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

    # What torch's and Pyro's code for the parent class reads, computed on demand.
    _unbroadcasted_cov_diag = cov_diag
    _unbroadcasted_cov_factor = cov_factor

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
        return math.sqrt(self.cov_scale * self._cov.shared_trace() / max(self.shared_dim, 1))

    def block_rms_std(self) -> dict[str, float]:
        """Return per parameter sqrt(mean marginal variance)."""
        views = self.layout.unflatten(self._cov.variance().detach())
        return {name: math.sqrt(view.double().mean().item()) for name, view in views.items()}

    @property
    def effective_rank(self) -> float:
        """(sum of e)^2 / sum of e^2 over the eigenvalues e of W W^T; 0 at rank 0."""
        values = self._cov.spectrum()
        total = values.sum()
        return float(total.square() / values.square().sum()) if total > 0 else 0.0

    @property
    def drift_share(self) -> float:
        """Share of the factor's variance in its first direction; near 1 means one drift."""
        values = self._cov.spectrum()
        total = values.sum()
        return float(values[-1] / total) if total > 0 else 0.0

    def expand(
        self, batch_shape: Iterable[int], _instance: "GaussianWeights | None" = None
    ) -> "GaussianWeights":
        """Return the same law with a batch shape; no tensor is copied."""
        new = self._with()
        new._batch_shape = torch.Size(batch_shape)
        return new

    # ------------------------------------------------------------------ densities

    def _residual(self, value: Tensor) -> Tensor:
        self.layout.check_dim(value)
        return value - self.loc

    def log_normalizer(self) -> Float[Tensor, ""]:
        """Return log|Sigma| + D log 2 pi in float64; differentiable in the width."""
        return self._cov.log_det() + self.dim * _LOG_2PI

    def mahalanobis(self, value: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch"]:
        """Return (w - loc)^T Sigma^-1 (w - loc) in float64; chi-square(D) under this law."""
        return self._cov.quadratic(self._residual(value))

    def log_prob(
        self, value: Float[Tensor, "*batch D"], dtype: torch.dtype | None = None
    ) -> Float[Tensor, "*out"]:
        """Return the log density in nats, shape (...).

        Parameters
        ----------
        value
            Weights, shape (..., D).
        dtype
            Of the result: value's own by default, as Pyro's HMC needs; float64 for energies and
            evidence, since at D = 1e7 one float32 ulp is about a nat.
        """
        out = -0.5 * (self.mahalanobis(value) + self.log_normalizer())
        return out.to(dtype or value.dtype).expand(
            torch.broadcast_shapes(out.shape, self._batch_shape)
        )

    @torch.no_grad()
    def score(self, value: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """Return the gradient of the log density, -Sigma^-1 (w - loc); two passes over W."""
        return self._cov.solve(self._residual(value)).neg_()

    @torch.no_grad()
    def score_and_log_prob(
        self, value: Float[Tensor, "*batch D"]
    ) -> tuple[Float[Tensor, "*batch D"], Float[Tensor, "*batch"]]:
        """Return the score and the float64 log density for the cost of the score.

        The quadratic form is taken from the score (its float32 rounding included); for an exact
        one call ``log_prob(value, dtype=torch.float64)``.
        """
        residual = self._residual(value)
        score = self._cov.solve(residual).neg_()
        quadratic = -(residual.mul_(score)).sum(-1, dtype=torch.float64)
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

    # ------------------------------------------------------------------ draws

    def rsample(
        self, sample_shape: Iterable[int] = (), generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch D"]:
        """Draw, differentiably in ``loc`` and the width, from ``generator`` or the global one."""
        shape = self._extended_shape(torch.Size(sample_shape))
        like = {"dtype": self.loc.dtype, "device": self.loc.device, "generator": generator}
        noise, low_rank = torch.randn(shape, **like), torch.randn((*shape[:-1], self.rank), **like)
        return self.loc + self._cov.color(noise, low_rank)

    def draws(self, num_draws: int | None = None, seed: int = 0) -> Iterator[Draw]:
        """Yield draws one at a time from an own generator; 30 if ``num_draws`` is None."""
        count = 30 if num_draws is None else num_draws
        check_positive("num_draws", count)
        generator = torch.Generator(self.loc.device).manual_seed(seed)
        for index in range(count):
            with torch.no_grad():
                weights = self.rsample(generator=generator)
            yield Draw(chain=0, index=index, weights=weights, buffers=self.buffers)

    # ------------------------------------------------------------------ algebra

    def rescale(
        self, *, cov_scale: float | Tensor | None = None, rms_std: float | Tensor | None = None
    ) -> "GaussianWeights":
        """Return the same shape at another width; acts on the shared block only.

        Parameters
        ----------
        cov_scale
            Multiplies the covariance (so the factor by its square root).
        rms_std
            Sets sqrt(trace / F), so that priors of different shape are equally wide on average.
            Either may be a 0-dim tensor that requires a gradient.

        Raises
        ------
        ConfigError
            Unless exactly one of the two is given and it is positive.
        """
        if (cov_scale is None) == (rms_std is None):
            raise ConfigError("rescale takes exactly one of cov_scale and rms_std")
        given = cov_scale if cov_scale is not None else rms_std
        check_positive("cov_scale" if cov_scale is not None else "rms_std", given)
        factor = torch.as_tensor(given, dtype=torch.float64, device=self.loc.device).reshape(())
        if rms_std is None:
            factor = self._cov.scale * factor
        else:
            factor = factor.square() * self.shared_dim / self._cov.shared_trace()
        return self._with(cov=replace(self._cov, scale=factor))

    def marginal(self, names: Iterable[str]) -> "GaussianWeights":
        """Return the law of some parameters, in this layout's order."""
        layout = self.layout.select(names)
        views = self.layout.unflatten(self.loc)
        loc = torch.cat([views[n].reshape(-1) for n in layout.names] or [self.loc[:0]])
        cov = self._cov.take(self.layout.slice(n) for n in layout.names)
        return self._with(layout=layout, loc=loc, cov=cov)

    def extend(self, layout: ParameterLayout, *, std: float) -> "GaussianWeights":
        """Add independent zero-mean weights for the parameters this law lacks (a new head).

        Parameters
        ----------
        layout
            Must contain every parameter of this law; the new ones come last, in its order.
        std
            Standard deviation of each new weight.

        Raises
        ------
        LayoutMismatchError
            If ``layout`` lacks one of this law's parameters or has it in another shape.
        """
        check_positive("std", std)
        diff = self.layout.compare(layout)
        if diff.only_here or diff.shape_conflicts:
            what = diff._replace(only_there=()).describe()
            raise LayoutMismatchError(f"cannot extend: {what}; take the marginal first")
        new = layout.select(diff.only_there)
        return self._with(
            layout=ParameterLayout(self.layout.names + new.names, self.layout.shapes + new.shapes),
            loc=torch.cat([self.loc, self.loc.new_zeros(new.dim)]),
            cov=self._cov.append(new.dim, std**2),
        )

    def rename(self, mapping: Mapping[str, str] | Callable[[str], str]) -> "GaussianWeights":
        """Return the same law under other parameter (and buffer) names."""
        to = mapping if callable(mapping) else lambda name: mapping.get(name, name)
        return self._with(
            layout=self.layout.rename(mapping),
            buffers={to(name): buffer for name, buffer in self.buffers.items()},
        )

    def isotropic(self) -> "GaussianWeights":
        """Return the law of equal mean and rms_std whose shared block is isotropic."""
        return self._with(cov=self._cov.isotropic())

    def diagonal(self) -> "GaussianWeights":
        """Return the diagonal law of equal mean and equal marginal variances."""
        return self.truncate(0)

    def truncate(self, rank: int) -> "GaussianWeights":
        """Keep the ``rank`` directions of largest variance; the rest joins the diagonal.

        Marginal variances stay, so ``truncate(0)`` is `diagonal`.
        """
        return self._with(cov=self._cov.truncate(rank))

    def to(
        self, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ) -> "GaussianWeights":
        """Return the same law on another device or in another floating-point type."""
        return self._with(
            loc=self.loc.to(device=device, dtype=dtype),
            cov=self._cov.to(device, dtype),
            buffers={name: b.to(device=device) for name, b in self.buffers.items()},
        )

    def to_pyro(self) -> dist.LowRankMultivariateNormal:
        """Return Pyro's plain `LowRankMultivariateNormal` (rank 0 becomes one zero column)."""
        factor = self.cov_factor if self.rank else self.loc.new_zeros((self.dim, 1))
        return dist.LowRankMultivariateNormal(self.loc, factor, self.cov_diag)

    # ------------------------------------------------------------------ files

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, atomically (format: `bayesprior.gaussian_file`).

        Raises
        ------
        StorageError
            If the file cannot be written; an older one stays.
        """
        tensors = {
            "loc": self.loc,
            "cov_diag": torch.cat([self._cov.shared.diag, self._cov.tail]),
            "cov_rows": self._cov.shared.rows,
            "cov_scale": self._cov.scale,
        }
        write(path, self.layout, tensors, self.buffers, self.provenance)

    @classmethod
    def load(
        cls, path: str | Path, *, device: str | torch.device = "cpu", rank: int | None = None
    ) -> "GaussianWeights":
        """Read what `save` wrote, keeping the ``rank`` largest directions (see `truncate`).

        Raises
        ------
        PriorFileError
            If the file is missing, truncated, corrupt, foreign or inconsistent.
        ConfigError
            If ``rank`` is larger than the file's.
        """
        layout, tensors, buffers, provenance = read(path, device)
        try:
            loaded = cls(
                layout,
                tensors["loc"],
                tensors["cov_diag"],
                tensors["cov_rows"].T,
                buffers=buffers,
                provenance=provenance,
            )
        except (ConfigError, LayoutMismatchError) as error:
            raise PriorFileError(f"{path} is no valid prior file: {error}") from error
        loaded._cov = replace(loaded._cov, scale=tensors["cov_scale"].double())
        return loaded if rank is None else loaded.truncate(rank)


@register_kl(GaussianWeights, GaussianWeights)
@register_kl(dist.LowRankMultivariateNormal, GaussianWeights)
@register_kl(torch.distributions.LowRankMultivariateNormal, GaussianWeights)
def _kl_to(p: torch.distributions.LowRankMultivariateNormal, q: GaussianWeights) -> Tensor:
    if p.event_shape != q.event_shape:
        raise LayoutMismatchError(f"no KL between D = {p.event_shape[0]} and {q.dim} weights")
    log_det = p._cov.log_det() if isinstance(p, GaussianWeights) else None
    return kl_divergence_to(p.loc - q.loc, p.cov_diag, p.cov_factor, log_det, q._cov)


@register_kl(GaussianWeights, dist.LowRankMultivariateNormal)
@register_kl(GaussianWeights, torch.distributions.LowRankMultivariateNormal)
def _kl_from(p: GaussianWeights, q: torch.distributions.LowRankMultivariateNormal) -> Tensor:
    def double(law: torch.distributions.LowRankMultivariateNormal) -> Distribution:
        moments = (law.loc.double(), law.cov_factor.double(), law.cov_diag.double())
        return torch.distributions.LowRankMultivariateNormal(*moments, validate_args=False)

    return torch.distributions.kl_divergence(double(p.to_pyro()), double(q))
