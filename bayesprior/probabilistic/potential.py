"""Any Pyro model as a torch module whose parameters are its unconstrained latents."""

from collections.abc import Callable, Mapping

import pyro
import torch
from jaxtyping import Float
from pyro import poutine
from torch import Tensor, nn

from bayesprior.errors import ConfigError
from bayesprior.inference.generators import fold_seed
from bayesprior.inference.protocols import WeightDistribution
from bayesprior.probabilistic.site_prior import closed_form
from bayesprior.probabilistic.sites import (
    InitStrategy,
    init_to_finite_mean,
    is_observed,
    log_joint,
    trace_at,
    trace_model,
)
from bayesprior.tasks.protocols import Batch
from bayesprior.weights.layout import ParameterLayout

__all__ = ["PyroPotential", "potential_loss", "put"]


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
    prior: WeightDistribution | None

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
        self._structure = trace_model(model, batch, num_data, init_strategy, self._first)
        self.num_data, self.sites = self._structure.num_data, self._structure.sites
        self.is_subsampled = self._structure.is_subsampled
        start = self._starts(batch, seed)
        # Scalars beside a network's weights are often made on the CPU.
        device = next((v.device for v in start.values() if v.device.type != "cpu"), None)
        for name, value in start.items():
            put(self, name, nn.Parameter(value.to(device).clone()))
        for site in self.sites.values():
            for name, buffer in site.buffers.items():
                put(self, site.prefix + name, buffer)
        layout = ParameterLayout.from_module(self)
        # Not by attribute assignment: a latent may be called "prior".
        self.__dict__.update(layout=layout, prior=closed_form(layout, self.sites.values()))

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

    @torch.no_grad()
    def is_random(self, batch: Batch) -> bool:
        """Whether two evaluations of the likelihood at one point on one batch differ.

        They do with dropout in train mode; such a model has no fixed target. Only likelihoods are
        compared, since a prior's log density over many weights would hide the difference.
        """
        own = {n: v if self.num_chains is None else v[0] for n, v in self.values().items()}
        first = trace_at(self.model, batch, own)
        again = trace_at(poutine.replay(self.model, trace=first), batch, own)  # plates choose alike
        one, other = (
            torch.as_tensor(trace.log_prob_sum(lambda _, site: is_observed(site)))
            for trace in (first, again)
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
        """Return the log density of a batch without that of ``prior``."""
        sites = self.sites
        latents = {name: site.join(parameters) for name, site in sites.items()}
        values = {name: site.transform(latents[name]) for name, site in sites.items()}
        closed = [name for name, site in sites.items() if site.distribution is not None]
        with pyro.validation_enabled(False):  # the run in the constructor was validated
            trace = trace_at(self.model, batch, values)
            self._structure.check(trace)
            return log_joint(trace, sites, latents, closed)

    def _seeds(self, seed: int) -> list[int]:
        count = self.num_chains
        return [seed] if count is None else [fold_seed(seed, chain) for chain in range(count)]

    def _starts(self, batch: Batch, seed: int) -> dict[str, Tensor]:
        """Return initial values by parameter name, stacked over chains."""
        known, how = self._structure, (self.num_data, self._init_strategy)
        runs = [
            known
            if known.has_fixed_start or own == self._first
            else trace_model(self.model, batch, *how, own)
            for own in self._seeds(seed)
        ]
        out: dict[str, Tensor] = {}
        for site in self.sites.values():
            values = [run.sites[site.name].start for run in runs]
            out |= site.split(values[0] if self.num_chains is None else torch.stack(values))
        return out


def put(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Give a module a parameter or buffer under a dotted name, which may be an attribute's."""
    # Past register_parameter, which refuses both.
    *path, last = name.split(".")
    for part in path:
        module = module._modules.setdefault(part, nn.Module())  # type: ignore[assignment]
    target = module._parameters if isinstance(tensor, nn.Parameter) else module._buffers
    target[last] = tensor  # type: ignore[assignment]
