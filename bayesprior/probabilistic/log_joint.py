"""The log joint density of a Pyro model at given unconstrained latents, in one run of it."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Transform
from torch.distributions.transforms import identity_transform

from bayesprior.errors import ConfigError, nearest_name
from bayesprior.probabilistic.sites import Site, count_of, is_latent, is_observed
from bayesprior.tasks.protocols import Batch

__all__ = ["LogJoint", "PlateGuard", "call_model"]


def call_model(model: Callable[..., Any], batch: Batch) -> Any:
    """Call a model on a batch: a tuple of arguments, a mapping of keywords or one argument."""
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, tuple | list) else model(batch)


class PlateGuard(Messenger):
    """Refuse a plate that is smaller than its batch, in words that name the plate."""

    def _pyro_sample(self, msg: Site) -> None:
        if site_is_subsample(msg):
            size = msg["fn"].size
            batch = msg["fn"].subsample_size if msg["value"] is None else len(msg["value"])
            if batch is not None and batch > size:
                raise ConfigError(
                    f"a batch of {batch} is larger than the plate {msg['name']!r} of {size}; a "
                    "plate has the size of the whole training set"
                )


class LogJoint(PlateGuard):
    """Substitute latents and add up the log density, log |Jacobian| included.

    It does what a trace with ``compute_log_prob`` does without building the trace.

    Parameters
    ----------
    latents
        Unconstrained values by site name.
    transforms
        From the reals to each site's support.
    constants
        Sites whose log density is left out, with the distribution that each must have.
    counts
        How many data each observed site stands for; it must stay so.
    subsamples
        What plates choose, by name; others choose anew.

    Attributes
    ----------
    log_prior, log_likelihood
        The log density of the latent sites (less the constants, and with the Jacobian) and of
        the observed ones, scalars.
    latent_sites
        The latent sites that were met, by name.
    subsamples
        What every plate chose.
    """

    def __init__(
        self,
        latents: Mapping[str, Tensor],
        transforms: Mapping[str, Transform],
        constants: Mapping[str, Any],
        counts: Mapping[str, float] | None = None,
        subsamples: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.latents, self.transforms, self.constants = latents, transforms, constants
        self.counts, self.subsamples = counts or {}, dict(subsamples or {})
        self.log_prior = self.log_likelihood = torch.zeros(())
        self.latent_sites: dict[str, Site] = {}

    @property
    def total(self) -> Tensor:
        """The log joint density, a scalar."""
        return self.log_prior + self.log_likelihood

    def _pyro_sample(self, msg: Site) -> None:
        name = msg["name"]
        if site_is_subsample(msg) and msg["value"] is None and name in self.subsamples:
            msg["value"], msg["done"] = self.subsamples[name], True
        super()._pyro_sample(msg)
        if not is_latent(msg):
            return
        if name not in self.latents:
            raise ConfigError(
                f"the latent sites change between calls: {name!r} is new"
                f"{nearest_name(name, self.latents)}; every call must have the same ones"
            )
        transform, unconstrained = self.transforms[name], self.latents[name]
        value = transform(unconstrained)
        if value.shape != msg["fn"].shape():
            raise ConfigError(
                f"the latent sites change between calls: {name!r} has shape "
                f"{tuple(msg['fn'].shape())} now and had {tuple(value.shape)}"
            )
        if transform is not identity_transform:
            jacobian = transform.log_abs_det_jacobian(unconstrained, value)
            self.log_prior = self.log_prior + jacobian.sum()
        msg["value"], msg["done"] = value, True

    def _pyro_post_sample(self, msg: Site) -> None:
        name, distribution = msg["name"], msg["fn"]
        if site_is_subsample(msg):
            self.subsamples[name] = msg["value"]
            return
        latent = not msg["is_observed"]
        if latent:
            self.latent_sites[name] = msg
            if name in self.constants:
                if distribution is not self.constants[name]:
                    raise ConfigError(
                        f"the prior of {name!r} is another object than before; make it once, "
                        "outside the model, or make a new potential after changing it"
                    )
                return
        elif not is_observed(msg):
            return
        self._check_count(msg)
        log_prob = distribution.log_prob(msg["value"], *msg["args"], **msg["kwargs"])
        scaled = scale_and_mask(log_prob, msg["scale"], msg["mask"]).sum()
        if latent:
            self.log_prior = self.log_prior + scaled
        else:
            self.log_likelihood = self.log_likelihood + scaled

    def _pyro_post_param(self, msg: Site) -> None:
        msg["value"] = msg["value"].detach()  # points are constants here

    def check_complete(self) -> None:
        """Raise `ConfigError` if the run missed a latent site."""
        for name in self.latents:
            if name not in self.latent_sites:
                raise ConfigError(
                    f"the latent sites change between calls: {name!r} did not occur"
                    f"{nearest_name(name, self.latent_sites)}; every call must have the same ones"
                )

    def _check_count(self, msg: Site) -> None:
        now, before = count_of(msg), self.counts.get(msg["name"])
        if now is None or before is None or math.isclose(now, before, rel_tol=1e-6):
            return
        plate = next(f.name for f in msg["cond_indep_stack"] if f.size > 0)
        raise ConfigError(
            f"the plate {plate!r} of site {msg['name']!r} stands for {now:g} data now and for "
            f"{before:g} before; give it the whole size: pyro.plate({plate!r}, N, "
            "subsample_size=len(batch))"
        )
