"""Any Pyro model as a torch module whose parameters are its unconstrained latents."""

import math
from collections.abc import Callable, Mapping

import pyro
import torch
from jaxtyping import Float
from pyro.distributions.util import scale_and_mask
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.distributions.transforms import identity_transform

from bayesprior.errors import ConfigError, nearest_name
from bayesprior.inference.generators import fold_seed
from bayesprior.probabilistic.site_prior import SitePrior
from bayesprior.probabilistic.sites import (
    InitStrategy,
    LatentSite,
    PlateGuard,
    Site,
    call_model,
    count_of,
    init_to_finite_mean,
    is_latent,
    is_observed,
    trace_at,
    trace_model,
)
from bayesprior.tasks.protocols import Batch
from bayesprior.weights.layout import ParameterLayout

__all__ = ["PyroPotential", "potential_loss"]


def potential_loss(module: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Return what `engine.train` minimizes when its model is a `PyroPotential` (a `LossFn`)."""
    return module(batch), {}


class PyroPotential(nn.Module):
    r"""The potential energy of a Pyro model as a module, in the engine's unit U / N.

    Its parameters are the latents in unconstrained space, :math:`u` with
    :math:`\theta = t(u)` and t the bijection from the reals to the site's support:

    .. math:: U(u) = -\sum_{\mathrm{observed}} \log p - \sum_{\mathrm{latent}} \log p(t(u))
        - \log |\det t'(u)|,

    estimated without bias from a batch where plates subsample. A site with a weight distribution
    (`GaussianWeights`) is the parameters and buffers of its network, under their own names (after
    ``<site>.`` if two sites would share one): stored draws and SWAG of a potential belong to the
    network. Every other site is a parameter of its own name.

    Parameters
    ----------
    model
        A Pyro model, already on its device; it is run once. Its points (``pyro.param``) are
        constants here.
    batch
        One batch as the loader yields it: a tuple of positional arguments, a mapping of keyword
        arguments, or a single argument. It is not kept.
    num_data
        N. By default the size of the subsampled plates around the observed sites (of the largest
        plate where none is); must agree with them. Needed where no plate tells it.
    num_chains
        None for one chain. C gives every parameter a leading axis of C independent chains that
        are run in one pass of `torch.func.vmap` and see the same batches.
    init_strategy
        From `pyro.infer.autoguide.initialization`, such as ``init_to_value(values={...})``.
    seed
        Of random starts; chain c of several has the seed ``fold_seed(seed, c)``. Several chains
        with random starts run the model once each.

    Attributes
    ----------
    prior
        The sites with a constant weight distribution, for the ``prior`` of `engine.train`; None
        if there are none. Their log density is *not* in `forward`: the engine adds its
        closed-form gradient, so autograd never sees the D x K factor.
    layout, num_data, is_subsampled
        Names and shapes of the parameters; N; whether a batch is a part of the data.
    sites
        The latent sites by name, see `bayesprior.probabilistic.sites.LatentSite`.

    Raises
    ------
    ConfigError
        If a latent is discrete, lies in a subsampled plate or has a support that depends on
        another latent; if latents or plates change between calls; if N is unknown, contradicts
        the plates or is smaller than a batch.

    Examples
    --------
    >>> import pyro.distributions as dist
    >>> def model(y):
    ...     rate = pyro.sample("rate", dist.Gamma(2.0, 2.0))
    ...     with pyro.plate("data", 100, subsample_size=len(y)):
    ...         pyro.sample("y", dist.Exponential(rate), obs=y)
    >>> potential = PyroPotential(model, torch.ones(10))
    >>> potential.num_data, potential.is_subsampled, dict(potential.named_parameters())
    (100, True, {'rate': Parameter containing:
    tensor(0., requires_grad=True)})
    >>> potential.constrain(torch.zeros(3, 1))
    {'rate': tensor([1., 1., 1.])}
    """

    layout: ParameterLayout
    prior: SitePrior | None

    def __init__(
        self,
        model: Callable[..., object],
        batch: Batch,
        *,
        num_data: int | None = None,
        num_chains: int | None = None,
        init_strategy: InitStrategy = init_to_finite_mean,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if num_chains is not None and num_chains < 1:
            raise ConfigError(f"num_chains must be at least 1, got {num_chains}")
        # In a tuple: as a submodule its own parameters would count as latents.
        self._model, self.num_chains, self._init_strategy = (model,), num_chains, init_strategy
        self._first = self._seeds(seed)[0]
        self._structure = trace_model(
            model, batch, num_data=num_data, init_strategy=init_strategy, seed=self._first
        )
        self.num_data, self.sites = self._structure.num_data, self._structure.sites
        self.is_subsampled = self._structure.is_subsampled
        start = self._starts(batch, seed)
        # Scalars beside a network's weights are often made on the CPU.
        device = next((v.device for v in start.values() if v.device.type != "cpu"), None)
        for name, value in start.items():
            self._put(name, nn.Parameter(value.to(device).clone()))
        for site in self.sites.values():
            for name, buffer in site.buffers.items():
                self._put(site.prefix + name, buffer)
        layout = ParameterLayout.from_module(self)
        parts = [site for site in self.sites.values() if site.distribution is not None]
        # Not by attribute assignment: a latent may be called "prior".
        self.__dict__.update(layout=layout, prior=SitePrior(layout, parts) if parts else None)

    def forward(self, batch: Batch) -> Tensor:
        """Return U / N without the part of ``prior``: what autograd is for.

        With several chains the value is their mean, the gradient each chain's own.
        """
        parameters = dict(self.named_parameters())
        if self.num_chains is None:
            return self._log_joint(parameters, batch) / -self.num_data
        try:
            run = torch.func.vmap(lambda p: self._log_joint(p, batch), randomness="same")
            each = run(parameters) / -self.num_data
        except (RuntimeError, NotImplementedError) as error:
            if not any(word in str(error) for word in ("vmap", "functorch", "setup_context")):
                raise
            raise ConfigError(
                "the model cannot be run for all chains at once, as its distributions do what "
                f"torch.func.vmap cannot ({str(error).strip().splitlines()[0][:100]}); use "
                "chain_method='sequential'"
            ) from error
        return each.sum() - (each.sum() - each.mean()).detach()

    def is_random(self, batch: Batch) -> bool:
        """Whether two evaluations of the likelihood at one point on one batch differ.

        They do with dropout in train mode; such a model has no fixed target. Only likelihoods are
        compared, since a prior's log density over many weights would hide the difference.
        """
        own = {n: v if self.num_chains is None else v[0] for n, v in self.values().items()}
        first = trace_at(self.model, batch, own)
        second = trace_at(self.model, batch, own, like=first)
        one, other = (
            torch.as_tensor(trace.log_prob_sum(lambda name, site: name not in own)).detach()
            for trace in (first, second)
        )
        return not torch.isclose(one, other, rtol=1e-5)

    @torch.no_grad()
    def initialize(self, batch: Batch, *, seed: int = 0) -> None:
        """Put the latents back to where the init strategy says; ``seed`` is for random ones."""
        own = dict(self.named_parameters())
        for name, value in self._starts(batch, seed).items():
            own[name].copy_(value)

    def constrain(self, weights: Float[Tensor, "*batch D"]) -> dict[str, Tensor]:
        """Turn flat parameters (..., D) into constrained values by site name.

        Each has shape (..., *site shape), with the axis of chains before the site's own.
        """
        parameters = self.layout.unflatten(weights)
        return {name: s.transform(s.join(parameters)) for name, s in self.sites.items()}

    @torch.no_grad()
    def values(self) -> dict[str, Tensor]:
        """Return the present constrained values by site name, as copies."""
        return self.constrain(self.layout.flatten(self))

    @property
    def model(self) -> Callable[..., object]:
        """The Pyro model."""
        return self._model[0]

    def _log_joint(self, parameters: Mapping[str, Tensor], batch: Batch) -> Tensor:
        latents = {name: site.join(parameters) for name, site in self.sites.items()}
        joint = _LogJoint(self.sites, latents, self._structure.counts)
        with pyro.validation_enabled(False), joint:  # the run in the constructor was validated
            call_model(self.model, batch)
        for name in joint.latents:
            raise ConfigError(
                f"the latent sites change between calls: {name!r} did not occur; every call must "
                "have the same ones"
            )
        return joint.total

    def _seeds(self, seed: int) -> list[int]:
        count = self.num_chains
        return [seed] if count is None else [fold_seed(seed, chain) for chain in range(count)]

    def _starts(self, batch: Batch, seed: int) -> dict[str, Tensor]:
        """Return initial values by parameter name, stacked over chains."""
        known, strategy = self._structure, self._init_strategy
        runs = [
            known
            if known.has_fixed_start or own == self._first
            else trace_model(
                self.model, batch, num_data=self.num_data, init_strategy=strategy, seed=own
            )
            for own in self._seeds(seed)
        ]
        out: dict[str, Tensor] = {}
        for site in self.sites.values():
            values = [run.sites[site.name].start for run in runs]
            out |= site.split(values[0] if self.num_chains is None else torch.stack(values))
        return out

    def _put(self, name: str, tensor: Tensor) -> None:
        # Past register_parameter, which refuses names with dots and names of attributes.
        *path, last = name.split(".")
        module: nn.Module = self
        for part in path:
            module = module._modules.setdefault(part, nn.Module())  # type: ignore[assignment]
        target = module._parameters if isinstance(tensor, nn.Parameter) else module._buffers
        target[last] = tensor  # type: ignore[assignment]


class _LogJoint(PlateGuard):
    """Substitute latents and add up the log density, log |Jacobian| included.

    It does what a trace with ``compute_log_prob`` does without building the trace. Sites with a
    constant weight distribution are left out; ``counts`` of data per observed site must stay.
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
