"""Turn a source posterior into a prior."""

from collections.abc import Callable
from pathlib import Path

from torch import nn

from bayesprior.errors import ConfigError, LayoutMismatchError
from bayesprior.recipes.training import is_under
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout

__all__ = ["make_prior", "shaped"]


def make_prior(
    source: GaussianWeights,
    target: nn.Module,
    *,
    head: str | None = None,
    rms_std: float | None = None,
    cov_scale: float | None = None,
    head_std: float = 1.0,
    jitter: float = 0.1,
    shape: str = "low-rank",
    rank: int | None = None,
    out: str | Path | None = None,
) -> GaussianWeights:
    """Turn a source posterior into a prior for another network: marginal, rescale, extend.

    Parameters
    ----------
    source
        The source posterior; `GaussianWeights.rename` it first if names differ.
    target
        The network to come.
    head
        Prefix of the target's new head: never taken from the source. Every other trainable
        parameter of the target must be in the source with its shape.
    rms_std
        Root mean square standard deviation of the shared weights, in weight units; one grid
        serves all shapes.
    cov_scale
        Or: factor on the source covariance. Neither given keeps it as it is.
    head_std
        Standard deviation of each new weight.
    jitter
        Share of the mean variance added to each shared weight's before the width is set: SWAG's
        least variances, of weights that hardly moved, would bound a sampler's step. Recorded.
    shape
        "low-rank", "diagonal" or "isotropic" (L2-SP), around the same mean.
    rank
        Keep fewer directions.
    out
        Folder for ``prior.safetensors``.

    Returns
    -------
    GaussianWeights
        Its provenance lists what was transferred, what is new and what was left behind.

    Raises
    ------
    LayoutMismatchError
        If a parameter outside the head is not in the source, with the nearest name.
    """
    layout = ParameterLayout.from_module(target)
    diff = source.layout.compare(layout)
    new = {n for n in layout.names if head is not None and is_under(n, head)}
    if head is not None and not new:
        raise LayoutMismatchError(
            f"the target has no trainable parameter under the head {head!r}; its parameters are "
            f"{', '.join(layout.names[-4:])} (last four)"
        )
    unknown = [n for n in (*diff.only_there, *diff.shape_conflicts) if n not in new]
    if unknown:
        described = diff._replace(
            only_here=tuple(n for n in diff.only_here),
            only_there=tuple(n for n in diff.only_there if n not in new),
            shape_conflicts={n: s for n, s in diff.shape_conflicts.items() if n not in new},
        ).describe()
        raise LayoutMismatchError(
            f"the source does not cover {len(unknown)} parameters of the target outside its head "
            f"(source against target: {described}); rename() the source or name the head"
        )
    prior = source.marginal(n for n in diff.shared if n not in new)
    prior = shaped(prior.jitter(jitter), shape, rank)
    if rms_std is not None or cov_scale is not None:
        prior = prior.rescale(rms_std=rms_std, cov_scale=cov_scale)
    transferred = list(prior.layout.names)
    if new:
        prior = prior.extend(layout, std=head_std)
    prior.provenance = prior.provenance | {
        "role": "prior",
        "shape": shape,
        "rms_std": prior.rms_std,
        "head_std": head_std if new else None,
        "jitter_share": jitter / (1 + jitter),
        "transferred": len(transferred),
        "new": sorted(new),
        "left_behind": [n for n in source.layout.names if n not in set(transferred)],
    }
    if out is not None:
        prior.save(Path(out) / "prior.safetensors")
    return prior


def shaped(prior: GaussianWeights, shape: str, rank: int | None = None) -> GaussianWeights:
    """Return the prior as "low-rank", "diagonal" or "isotropic", with equal mean and trace."""
    shapes: dict[str, Callable[[], GaussianWeights]] = {
        "low-rank": lambda: prior if rank is None else prior.truncate(rank),
        "diagonal": prior.diagonal,
        "isotropic": prior.isotropic,
    }
    if shape not in shapes:
        raise ConfigError(f"shape must be one of {', '.join(shapes)}, got {shape!r}")
    return shapes[shape]()
