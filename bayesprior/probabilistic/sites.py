"""Single sites of a Pyro model: which are latent, their supports, how many data they stand for."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Distribution, IndependentTransform, Transform, biject_to
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import identity_transform

from bayesprior.errors import ConfigError
from bayesprior.inference.protocols import WeightDistribution

__all__ = [
    "Site",
    "check_latent",
    "count_of",
    "depends_on_latents",
    "is_constant",
    "is_latent",
    "is_observed",
    "is_weight_distribution",
    "num_data_of",
    "transform_of",
]

Site = dict[str, Any]
"""A message of Pyro's at a sample or param statement, and a node of a trace."""


def is_latent(site: Site) -> bool:
    """Whether a site is a random variable that nothing observes."""
    return site["type"] == "sample" and not site["is_observed"] and not site_is_subsample(site)


def is_observed(site: Site) -> bool:
    """Whether a site holds data (or a factor), and is neither deterministic nor a subsample."""
    if site["type"] != "sample" or not site["is_observed"] or site_is_subsample(site):
        return False
    return not site["infer"].get("_deterministic")


def check_latent(site: Site) -> None:
    """Raise `ConfigError` for a latent site without a gradient, or one for each example."""
    name, distribution = site["name"], site["fn"]
    if site["infer"].get("enumerate") or distribution.support.is_discrete:
        raise ConfigError(
            f"the latent site {name!r} ({type(distribution).__name__}) is discrete or enumerated, "
            "and has no gradient; sum it out by hand, e.g. with dist.MixtureSameFamily"
        )
    for frame in site["cond_indep_stack"]:
        if 0 < frame.size < frame.full_size:
            raise ConfigError(
                f"the latent site {name!r} lies in the subsampled plate {frame.name!r}, so its "
                "values would belong to other examples in every batch; run it on all data"
            )


def transform_of(site: Site) -> Transform:
    """Return the bijection from the reals to a site's support; `identity_transform` if real."""
    try:
        transform = base = biject_to(site["fn"].support)
        while isinstance(base, IndependentTransform):
            base = base.base_transform
        return identity_transform if base is identity_transform else transform
    except NotImplementedError as error:
        raise ConfigError(
            f"no bijection from the reals to the support of the latent site {site['name']!r} "
            f"({site['fn'].support}): {error}"
        ) from error


def is_weight_distribution(distribution: Any) -> bool:
    """Whether something is a distribution over named weights, such as a `GaussianWeights`."""
    return isinstance(distribution, Distribution) and isinstance(distribution, WeightDistribution)


def is_constant(site: Site) -> bool:
    """Whether a site is one plain weight distribution that depends on no other site."""
    if site["fn"].batch_shape or site["mask"] is not None:
        return False
    if isinstance(site["scale"], Tensor) or site["scale"] != 1.0:
        return False
    with torch.enable_grad():
        return not site["fn"].log_prob(site["value"].detach()).requires_grad


def depends_on_latents(constraint: Constraint) -> bool:
    """Whether a support was computed from tensors that require a gradient."""
    return any(
        value.requires_grad if isinstance(value, Tensor) else depends_on_latents(value)
        for value in vars(constraint).values()
        if isinstance(value, Tensor | Constraint)
    )


def count_of(site: Site) -> float | None:
    """Return how many data a site stands for: what lies in its plates times its scale.

    It stays the same from batch to batch, whether a plate subsamples (scale N / B, B data) or
    `pyro.poutine.scale` does by hand. None where it is not known: without plates, or where the
    scale is a tensor.
    """
    sizes = [frame.size for frame in site["cond_indep_stack"] if frame.size > 0]
    if not sizes or isinstance(site["scale"], Tensor):
        return None
    return float(site["scale"]) * math.prod(sizes)


def num_data_of(sites: Iterable[Site], given: int | None) -> int:
    """Return N from the plates around the observed sites, or as given where they leave it open.

    Only subsampled plates count: around 600 data, a plate over 3 dimensions does not make them
    1800. Without one N is the largest plate's size, times the scale of `pyro.poutine.scale`.

    Raises
    ------
    ConfigError
        If N is unknown, not positive, or given and contradicted by a plate.
    """
    if given is not None and given < 1:
        raise ConfigError(f"num_data must be the size of the training set, got {given}")
    found: dict[int, str] = {}
    accepted = {given}
    for site in filter(is_observed, sites):
        sizes = [f.full_size for f in site["cond_indep_stack"] if f.full_size > 0]
        parts = [f.full_size for f in site["cond_indep_stack"] if 0 < f.size < f.full_size]
        scale = site["scale"]
        if parts:
            found.setdefault(math.prod(parts), site["name"])
            accepted = set()
        elif sizes and not isinstance(scale, Tensor):
            found.setdefault(round(scale * max(sizes)), site["name"])
            accepted = accepted if scale != 1.0 else accepted & set(sizes)
    if given is None:
        if not found:
            raise ConfigError(
                "num_data is missing: no plate around an observed site says how many data there "
                "are; pass num_data="
            )
        return max(found)
    if given not in found and found and given not in accepted:
        size = max(found)
        raise ConfigError(
            f"num_data = {given}, but the plates around the observed site {found[size]!r} hold "
            f"{size}; give the plate the whole size: pyro.plate(name, N, "
            "subsample_size=len(batch))"
        )
    return given
