"""The log joint density of a Pyro model at given unconstrained latents, in one run of it."""

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
from bayesprior.inference.protocols import Batch
from bayesprior.probabilistic.sites import Site, is_latent
from bayesprior.weights.gaussian import GaussianWeights

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
    laws
        Sites whose log density is left out, with the constant law each must have.
    plates
        The full size that each plate must have; None leaves it open.

    Attributes
    ----------
    total
        The log joint density, a scalar.
    latent_sites
        The latent sites that were met, by name.
    """

    def __init__(
        self,
        latents: Mapping[str, Tensor],
        transforms: Mapping[str, Transform],
        laws: Mapping[str, GaussianWeights],
        plates: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.latents, self.transforms, self.laws, self.plates = latents, transforms, laws, plates
        self.total = torch.zeros(())
        self.latent_sites: dict[str, Site] = {}

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
        transform, unconstrained = self.transforms[name], self.latents[name]
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
        if site_is_subsample(msg):
            return
        name, law = msg["name"], msg["fn"]
        self._check_plates(msg)
        if not msg["is_observed"]:
            self.latent_sites[name] = msg
            if name in self.laws:
                if law is not self.laws[name]:
                    raise ConfigError(
                        f"the prior of {name!r} changed between calls; make a new potential"
                    )
                return
        elif msg["infer"].get("_deterministic"):
            return
        log_prob = law.log_prob(msg["value"], *msg["args"], **msg["kwargs"])
        self.total = self.total + scale_and_mask(log_prob, msg["scale"], msg["mask"]).sum()

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

    def _check_plates(self, msg: Site) -> None:
        for frame in msg["cond_indep_stack"]:
            if self.plates is not None and self.plates.get(frame.name) != frame.full_size:
                raise ConfigError(
                    f"the plate {frame.name!r} of site {msg['name']!r} has size "
                    f"{frame.full_size} now and had {self.plates.get(frame.name)}; give it the "
                    f"whole size: pyro.plate({frame.name!r}, N, subsample_size=len(batch))"
                )
