"""Any Pyro model as a torch module whose parameters are its unconstrained latents."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyro
import torch
from jaxtyping import Float
from pyro import poutine
from pyro.infer.autoguide.initialization import InitMessenger, init_to_mean, init_to_median
from torch import Tensor, nn

from bayesprior.errors import BayesPriorError, ConfigError
from bayesprior.inference.protocols import Batch
from bayesprior.probabilistic.log_joint import LogJoint, PlateGuard, call_model
from bayesprior.probabilistic.site_prior import SitePrior
from bayesprior.probabilistic.sites import (
    Site,
    check_latent,
    depends_on_latents,
    is_constant_law,
    is_latent,
    num_data_of,
    sample_sites,
    transform_of,
)
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout

__all__ = ["InitStrategy", "PyroPotential", "init_to_finite_mean", "potential_loss"]

InitStrategy = Callable[[Site], Tensor]
"""One of `pyro.infer.autoguide.initialization`: from a site to its initial value."""


def init_to_finite_mean(site: Site | None = None) -> Any:
    """Start at the prior mean, or at the median where the mean is infinite."""
    if site is None:  # Pyro's convention for a strategy without options
        return init_to_finite_mean
    value = init_to_mean(site)
    return value if bool(value.isfinite().all()) else init_to_median(site)


def potential_loss(module: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Return what `engine.train` minimizes when its model is a `PyroPotential` (a `LossFn`)."""
    return module(batch), {}


class PyroPotential(nn.Module):
    r"""The potential energy of a Pyro model as a module, in the engine's unit U / N.

    Its parameters are the latents in unconstrained space, :math:`u` with
    :math:`\theta = t(u)` and t the bijection from the reals to the site's support:

    .. math:: U(u) = -\sum_{\mathrm{observed}} \log p - \sum_{\mathrm{latent}} \log p(t(u))
        - \log |\det t'(u)|,

    estimated without bias from a batch where plates subsample. Results come back by site name
    through `constrain`.

    Parameters
    ----------
    model
        A Pyro model, already on its device. Its points (``pyro.param``) are constants here.
    batch
        One batch as the loader yields it: a tuple of positional arguments, a mapping of keyword
        arguments, or a single argument. It is not kept.
    num_data
        N. By default the size of the plates around the observed sites; must agree with them.
        Give the optimizer the same number, ``potential.num_data``.
    num_chains
        None for one chain. C gives every parameter a leading axis of C independent chains that
        are run in one pass of `torch.func.vmap` and see the same batches.
    init_strategy
        From `pyro.infer.autoguide.initialization`, such as ``init_to_value(values={...})``.
    seed
        Of random starts.

    Attributes
    ----------
    num_data
        N.
    prior
        The sites whose law is one constant `GaussianWeights`, for the ``prior`` of
        `engine.train`; None if there are none. Their log density is *not* in `forward`: the
        engine adds its closed-form gradient, so autograd never sees the D x K factor.
    layout
        Names and shapes of the unconstrained latents.
    networks
        The laws of all `GaussianWeights` sites, at the initial values.
    is_random
        Whether two evaluations at one point on one batch differ, as with dropout in train mode.
    is_subsampled
        Whether a plate around an observed site sees a part of its data in each call.

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
        model: Callable[..., Any],
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
        self._model = (model,)
        self._init_strategy = init_strategy
        self.num_chains = num_chains
        with _seeded(seed):
            trace = self._initial_trace(batch)
        sites = {name: site for name, site in trace.nodes.items() if is_latent(site)}
        if not sites:
            raise ConfigError("the model has no latent site; there is nothing to infer")
        self._transforms = {name: transform_of(site) for name, site in sites.items()}
        frames = [f for site in sample_sites(trace) for f in site["cond_indep_stack"]]
        self._plates = {frame.name: frame.full_size for frame in frames}
        self.is_subsampled = any(0 < frame.size < frame.full_size for frame in frames)
        self.num_data = num_data_of(trace, num_data)
        self.networks = {
            name: site["fn"]
            for name, site in sites.items()
            if isinstance(site["fn"], GaussianWeights)
        }
        laws = self._examine(batch, trace)
        start = self._start(batch, seed)
        # Scalars beside a network's weights are often made on the CPU.
        device = next((v.device for v in start.values() if v.device.type != "cpu"), None)
        for name, value in start.items():
            self._register(name, value.to(device))
        # Not by attribute assignment: a latent may be called "prior".
        layout = ParameterLayout.from_module(self)
        self.__dict__.update(layout=layout, prior=SitePrior(layout, laws) if laws else None)
        self._laws = laws

    def forward(self, batch: Batch) -> Tensor:
        """Return U / N without the part of ``prior``: what autograd is for.

        With several chains the value is their mean, the gradient each chain's own.
        """
        latents = dict(self.named_parameters())
        with pyro.validation_enabled(False):  # the run in the constructor was validated
            if self.num_chains is None:
                return self._run(latents, batch).total / -self.num_data
            each = torch.func.vmap(lambda u: self._run(u, batch).total, randomness="same")(latents)
        energy = each / -self.num_data
        return energy.sum() - (energy.sum() - energy.mean()).detach()

    @torch.no_grad()
    def potential_energy(self, batch: Batch) -> Float[Tensor, ""]:
        """Return U in nats, ``prior`` included, in float64 (the mean over chains)."""
        energy = self(batch).double() * self.num_data
        if self.prior is None:
            return energy
        weights = self.layout.flatten(self)
        return energy - self.prior.log_prob(weights) / (self.num_chains or 1)

    def initialize(self, batch: Batch, *, seed: int = 0) -> None:
        """Put the latents back to where the init strategy says; ``seed`` is for random ones."""
        own = dict(self.named_parameters())
        with torch.no_grad():
            for name, value in self._start(batch, seed).items():
                own[name].copy_(value)

    def constrain(self, weights: Float[Tensor, "*batch D"]) -> dict[str, Tensor]:
        """Turn flat unconstrained draws (..., D) into constrained values by site name.

        Each has shape (..., *site shape), with the axis of chains before the site's own.
        """
        views = self.layout.unflatten(weights)
        return {name: self._transforms[name](views[name]) for name in self._transforms}

    def unconstrain(self, values: Mapping[str, Tensor]) -> Float[Tensor, "*batch D"]:
        """Inverse of `constrain`."""
        parts = []
        for name, shape in zip(self.layout.names, self.layout.shapes, strict=True):
            value = self._transforms[name].inv(values[name])
            parts.append(value.reshape(*value.shape[: value.dim() - len(shape)], -1))
        return torch.cat(parts, -1)

    @property
    def model(self) -> Callable[..., Any]:
        """The Pyro model."""
        return self._model[0]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "PyroPotential":
        for parameter in self.parameters():
            now = parameter.detach().flatten()[:0]
            then = fn(now)
            if (then.device, then.dtype) != (now.device, now.dtype):
                raise ConfigError(
                    f"a potential stays where its model is ({now.device}, {now.dtype}): move the "
                    "model and the data, and make the potential from them"
                )
        super()._apply(fn, recurse)
        return self

    def _run(self, latents: Mapping[str, Tensor], batch: Batch) -> LogJoint:
        with LogJoint(latents, self._transforms, self._laws, self._plates) as log_joint:
            call_model(self._model[0], batch)
        log_joint.check_complete()
        return log_joint

    # ------------------------------------------------------------------ construction

    def _initial_trace(self, batch: Batch) -> Any:
        def strategy(site: Site) -> Tensor:
            check_latent(site)
            return self._init_strategy(site)

        started = InitMessenger(strategy)(self._model[0])
        try:
            with poutine.block(), PlateGuard(), torch.no_grad():
                return poutine.trace(lambda: call_model(started, batch)).get_trace()
        except BayesPriorError as error:
            # Pyro appends a table of all shapes; one line says it.
            raise type(error)(str(error).split("\nTrace Shapes")[0]) from error

    def _start(self, batch: Batch, seed: int) -> dict[str, Tensor]:
        """Return initial unconstrained values by name, stacked over chains."""

        def start() -> dict[str, Tensor]:
            nodes = self._initial_trace(batch).nodes
            return {n: t.inv(nodes[n]["value"]) for n, t in self._transforms.items()}

        count = self.num_chains
        with _seeded(seed):
            if count is None:
                return start()
            runs = [start() for _ in range(min(count, 2))]
            if all(torch.equal(value, runs[-1][name]) for name, value in runs[0].items()):
                return {n: v.expand(count, *v.shape) for n, v in runs[0].items()}  # not random
            runs += [start() for _ in range(count - 2)]
        return {name: torch.stack([run[name] for run in runs]) for name in self._transforms}

    def _register(self, name: str, value: Tensor) -> None:
        # Past register_parameter, which refuses names with dots and names of attributes.
        *path, last = name.split(".")
        module: nn.Module = self
        for part in path:
            module = module._modules.setdefault(part, nn.Module())  # type: ignore[assignment]
        module._parameters[last] = nn.Parameter(value.clone())

    def _examine(self, batch: Batch, trace: Any) -> dict[str, GaussianWeights]:
        """Run the model twice at one point; return the laws that were the same object."""
        chosen = poutine.Trace()
        for site in sample_sites(trace, subsamples=True):
            chosen.add_node(site["name"], **site)
        runs = []
        for _ in range(2):
            latents = {
                name: transform.inv(trace.nodes[name]["value"]).requires_grad_()
                for name, transform in self._transforms.items()
            }
            with poutine.block(), LogJoint(latents, self._transforms, {}, self._plates) as run:
                call_model(poutine.replay(self._model[0], trace=chosen), batch)
            run.check_complete()
            runs.append(run)
        first, second = runs
        for name, site in first.latent_sites.items():
            if depends_on_latents(site["fn"].support):
                raise ConfigError(
                    f"the support of the latent site {name!r} depends on another latent; write it "
                    "as a function of a site with a constant support"
                )
        energies = torch.stack([run.total.detach() for run in runs])
        if not bool(energies.isfinite().all()):
            raise ConfigError(
                f"the log joint density is {energies[0].item()} at the initial values; choose "
                "others with init_strategy=init_to_value(values={...})"
            )
        self.is_random = not torch.isclose(energies[0], energies[1], rtol=1e-5)
        return {
            name: site["fn"]
            for name, site in first.latent_sites.items()
            if site["fn"] is second.latent_sites[name]["fn"] and is_constant_law(site)
        }


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generators, which Pyro draws from, and put them back afterwards."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=list(devices)):
        torch.manual_seed(seed)
        yield
