"""What single sites of a Pyro model say: which are latent, their supports, how many data."""

import math
from typing import Any

from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import IndependentTransform, Transform, biject_to
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import identity_transform

from bayesprior.errors import ConfigError
from bayesprior.weights.gaussian import GaussianWeights

__all__ = [
    "Site",
    "check_latent",
    "depends_on_latents",
    "is_constant_law",
    "is_latent",
    "num_data_of",
    "sample_sites",
    "transform_of",
]

Site = dict[str, Any]
"""A message of Pyro's at a sample or param statement, and a node of a trace."""


def is_latent(site: Site) -> bool:
    """Whether a site is a random variable that nothing observes."""
    return site["type"] == "sample" and not site["is_observed"] and not site_is_subsample(site)


def sample_sites(trace: Any, subsamples: bool = False) -> list[Site]:
    """Return a trace's sample sites, or those by which plates choose their subsamples."""
    sites = [site for site in trace.nodes.values() if site["type"] == "sample"]
    return [site for site in sites if bool(site_is_subsample(site)) == subsamples]


def check_latent(site: Site) -> None:
    """Raise `ConfigError` for a latent site without a gradient, or one for each example."""
    name, law = site["name"], site["fn"]
    if site["infer"].get("enumerate") or law.support.is_discrete:
        raise ConfigError(
            f"the latent site {name!r} ({type(law).__name__}) is discrete or enumerated, and has "
            "no gradient; sum it out by hand, e.g. with dist.MixtureSameFamily"
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


def is_constant_law(site: Site) -> bool:
    """Whether a site is one plain `GaussianWeights` that depends on no other site."""
    law = site["fn"]
    return (
        isinstance(law, GaussianWeights)
        and not law.batch_shape
        and not law.log_normalizer().requires_grad
        and not law.loc.requires_grad
        and not isinstance(site["scale"], Tensor)
        and site["scale"] == 1.0
        and site["mask"] is None
    )


def depends_on_latents(constraint: Constraint) -> bool:
    """Whether a support was computed from tensors that require a gradient."""
    return any(
        value.requires_grad if isinstance(value, Tensor) else depends_on_latents(value)
        for value in vars(constraint).values()
        if isinstance(value, Tensor | Constraint)
    )


def num_data_of(trace: Any, given: int | None) -> int:
    """Return N from the plates around the observed sites, or as given where there are none."""
    if given is not None and given < 1:
        raise ConfigError(f"num_data must be the size of the training set, got {given}")
    sizes = {}
    for site in sample_sites(trace):
        frames = [f for f in site["cond_indep_stack"] if f.full_size > 0]
        if site["is_observed"] and frames and not site["infer"].get("_deterministic"):
            sizes[site["name"]] = math.prod(f.full_size for f in frames)
    if not sizes:
        if given is None:
            raise ConfigError(
                "num_data is missing: no plate around an observed site says how many data there "
                "are; pass num_data="
            )
        return given
    name = max(sizes, key=sizes.__getitem__)
    if given not in (None, sizes[name]):
        raise ConfigError(
            f"num_data = {given}, but the plates around the observed site {name!r} hold "
            f"{sizes[name]}; give the plate the whole size: pyro.plate(name, N, "
            "subsample_size=len(batch))"
        )
    return sizes[name]
