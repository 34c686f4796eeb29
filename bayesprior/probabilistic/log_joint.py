"""The log joint density of a Pyro model at given unconstrained latents, in one run of it."""

import math
from collections.abc import Mapping

import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions.transforms import identity_transform

from bayesprior.errors import ConfigError, nearest_name
from bayesprior.probabilistic.sites import (
    LatentSite,
    PlateGuard,
    Site,
    count_of,
    is_latent,
    is_observed,
)

__all__ = ["LogJoint"]


class LogJoint(PlateGuard):
    """Substitute latents and add up the log density, log |Jacobian| included.

    It does what a trace with ``compute_log_prob`` does without building the trace. Sites with a
    constant weight distribution are left out.

    Parameters
    ----------
    sites
        The latent sites by name.
    latents
        Their unconstrained values.
    counts
        How many data each observed site stands for; it must stay so.

    Attributes
    ----------
    total
        The log density so far, a scalar.
    """

    def __init__(
        self,
        sites: Mapping[str, LatentSite],
        latents: Mapping[str, Tensor],
        counts: Mapping[str, float],
    ) -> None:
        super().__init__()
        self.sites, self.latents, self.counts = sites, dict(latents), counts
        self.total = torch.zeros(())

    def check_complete(self) -> None:
        """Raise `ConfigError` if the run missed a latent site."""
        for name in self.latents:
            raise ConfigError(
                f"the latent sites change between calls: {name!r} did not occur; every call must "
                "have the same ones"
            )

    def _pyro_sample(self, msg: Site) -> None:
        super()._pyro_sample(msg)
        if not is_latent(msg):
            return
        name = msg["name"]
        if name not in self.latents:
            raise ConfigError(
                f"the latent sites change between calls: {name!r} is new"
                f"{nearest_name(name, self.latents)}; every call must have the same ones"
            )
        transform, unconstrained = self.sites[name].transform, self.latents.pop(name)
        value = transform(unconstrained)
        if value.shape != msg["fn"].shape():
            raise ConfigError(
                f"the latent sites change between calls: {name!r} has shape "
                f"{tuple(msg['fn'].shape())} now and had {tuple(value.shape)}"
            )
        if transform is not identity_transform:
            self.total = self.total + transform.log_abs_det_jacobian(unconstrained, value).sum()
        msg["value"], msg["done"] = value, True

    def _pyro_post_sample(self, msg: Site) -> None:
        name, distribution = msg["name"], msg["fn"]
        if site_is_subsample(msg) or (msg["is_observed"] and not is_observed(msg)):
            return
        constant = None if msg["is_observed"] else self.sites[name].distribution
        if constant is not None:
            if distribution is not constant:
                raise ConfigError(
                    f"the prior of {name!r} is another object than before; make it once, outside "
                    "the model, or make a new potential after changing it"
                )
            return
        now, before = count_of(msg), self.counts.get(name)
        if now is not None and before is not None and not math.isclose(now, before, rel_tol=1e-6):
            plate = next(f.name for f in msg["cond_indep_stack"] if f.size > 0)
            raise ConfigError(
                f"the plate {plate!r} of site {name!r} stands for {now:g} data now and for "
                f"{before:g} before; give it the whole size: pyro.plate({plate!r}, N, "
                "subsample_size=len(batch))"
            )
        log_prob = distribution.log_prob(msg["value"], *msg["args"], **msg["kwargs"])
        self.total = self.total + scale_and_mask(log_prob, msg["scale"], msg["mask"]).sum()

    def _pyro_post_param(self, msg: Site) -> None:
        msg["value"] = msg["value"].detach()  # points are constants here
