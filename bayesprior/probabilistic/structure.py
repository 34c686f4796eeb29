"""What one run of a Pyro model tells: its latent sites, their starts and supports, and N."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from pyro import poutine
from pyro.infer.autoguide.initialization import InitMessenger, init_to_mean, init_to_median
from torch import Tensor
from torch.distributions import Transform
from torch.distributions.transforms import identity_transform

from bayesprior.errors import BayesPriorError, ConfigError
from bayesprior.inference.generators import seeded
from bayesprior.probabilistic.log_joint import PlateGuard, call_model
from bayesprior.probabilistic.sites import (
    Site,
    check_latent,
    count_of,
    depends_on_latents,
    is_constant,
    is_latent,
    is_observed,
    is_weight_distribution,
    num_data_of,
    transform_of,
)
from bayesprior.tasks.protocols import Batch
from bayesprior.weights.layout import ParameterLayout

__all__ = [
    "InitStrategy",
    "LatentSite",
    "ModelStructure",
    "gpus",
    "init_to_finite_mean",
    "initial_trace",
    "starts",
    "trace_model",
]

InitStrategy = Callable[[Site], Tensor]
"""One of `pyro.infer.autoguide.initialization`: from a site to its initial value."""


def init_to_finite_mean(site: Site | None = None) -> Any:
    """Start at the prior mean, or at the median where the mean is infinite."""
    if site is None:  # Pyro's convention for a strategy without options
        return init_to_finite_mean
    value = init_to_mean(site)
    return value if bool(value.isfinite().all()) else init_to_median(site)


@dataclass(frozen=True, eq=False)
class LatentSite:
    """A latent site and the parameters that stand for it.

    Attributes
    ----------
    name
        Of the site.
    transform
        The bijection from the reals to its support.
    start
        Its initial value in unconstrained space.
    names
        Of its parameters in a potential: the network's for named weights, else the site's own.
    layout
        Of a network's weights, without prefixes; None for every other site.
    distribution
        Of a network's weights, if it depends on no other site.
    buffers
        The network's BatchNorm statistics by name.
    """

    name: str
    transform: Transform
    start: Tensor
    names: tuple[str, ...]
    layout: ParameterLayout | None = None
    distribution: Any = None
    buffers: Mapping[str, Tensor] = field(default_factory=dict)

    def join(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return the unconstrained value from tensors by parameter name; leading axes stay."""
        if self.layout is None:
            return parameters[self.name]
        parts = [parameters[name] for name in self.names]
        kept = [
            part.dim() - len(shape) for part, shape in zip(parts, self.layout.shapes, strict=True)
        ]
        return torch.cat(
            [p.reshape(*p.shape[:k], -1) for p, k in zip(parts, kept, strict=True)], -1
        )

    def split(self, value: Tensor) -> dict[str, Tensor]:
        """Return the tensors by parameter name: the inverse of `join`."""
        if self.layout is None:
            return {self.name: value}
        return dict(zip(self.names, self.layout.unflatten(value).values(), strict=True))

    def buffers_by_name(self) -> dict[str, Tensor]:
        """Return the buffers under names prefixed like those of the parameters."""
        own = self.layout.names[0] if self.layout is not None else self.name
        prefix = self.names[0].removesuffix(own)
        return {prefix + name: buffer for name, buffer in self.buffers.items()}


@dataclass(frozen=True, eq=False)
class ModelStructure:
    """What one run of a model tells.

    Attributes
    ----------
    sites
        The latent sites by name, in the model's order.
    num_data
        N.
    is_subsampled
        Whether the model takes a batch for a part of the data, by plates or by scaling.
    counts
        How many data each observed site stands for.
    has_fixed_start
        Whether the init strategy gives the same values again.
    """

    sites: Mapping[str, LatentSite]
    num_data: int
    is_subsampled: bool
    counts: Mapping[str, float]
    has_fixed_start: bool


def trace_model(
    model: Callable[..., Any],
    batch: Batch,
    *,
    num_data: int | None = None,
    init_strategy: InitStrategy = init_to_finite_mean,
    seed: int = 0,
) -> ModelStructure:
    """Run a model once, from its initial values, and read off its structure.

    Parameters
    ----------
    model
        A Pyro model.
    batch
        One batch, as for `call_model`.
    num_data
        N where the plates leave it open.
    init_strategy
        From `pyro.infer.autoguide.initialization`.
    seed
        Of random starts.

    Raises
    ------
    ConfigError
        See `bayesprior.probabilistic.potential.PyroPotential`.
    """
    with seeded(seed, gpus()):
        # Values require a gradient, so whatever is computed from one can be told.
        trace = initial_trace(model, batch, init_strategy)
        nodes = [site for site in trace.nodes.values() if site["type"] == "sample"]
        latent = [site for site in nodes if is_latent(site)]
        if not latent:
            raise ConfigError("the model has no latent site; there is nothing to infer")
        fixed = all(torch.equal(site["value"], init_strategy(site)) for site in latent)
    sites = _latent_sites(latent)
    _check_energy(trace, sites)
    observed = [site for site in nodes if is_observed(site)]
    frames = [frame for site in observed for frame in site["cond_indep_stack"]]
    scaled = any(isinstance(site["scale"], Tensor) or site["scale"] != 1.0 for site in observed)
    counts = {site["name"]: count_of(site) for site in observed}
    return ModelStructure(
        sites,
        num_data_of(observed, num_data),
        scaled or any(0 < frame.size < frame.full_size for frame in frames),
        {name: count for name, count in counts.items() if count is not None},
        fixed,
    )


def initial_trace(model: Callable[..., Any], batch: Batch, init_strategy: InitStrategy) -> Any:
    """Run a model with latent values that the strategy chooses; return Pyro's trace."""

    def strategy(site: Site) -> Tensor:
        check_latent(site)
        value = init_strategy(site)
        if value.shape != site["fn"].shape():
            raise ConfigError(
                f"the initial value of {site['name']!r} has shape {tuple(value.shape)}, the site "
                f"has {tuple(site['fn'].shape())}"
            )
        return value.detach().requires_grad_()

    started = InitMessenger(strategy)(model)
    try:
        with poutine.block(), PlateGuard(), torch.enable_grad():
            return poutine.trace(lambda: call_model(started, batch)).get_trace()
    except BayesPriorError as error:
        # Pyro appends a table of all shapes; one line says it.
        raise type(error)(str(error).split("\nTrace Shapes")[0]) from error


def gpus() -> list[torch.device]:
    """Return the GPUs that models may draw on: all, if CUDA is in use already."""
    count = torch.cuda.device_count() if torch.cuda.is_initialized() else 0
    return [torch.device("cuda", index) for index in range(count)]


def starts(trace: Any, sites: Iterable[LatentSite]) -> dict[str, Tensor]:
    """Return the unconstrained values of a trace by site name."""
    return {s.name: s.transform.inv(trace.nodes[s.name]["value"].detach()) for s in sites}


def _latent_sites(latent: list[Site]) -> dict[str, LatentSite]:
    layouts = {s["name"]: s["fn"].layout for s in latent if _is_network(s)}
    names = [n for s in latent for n in getattr(layouts.get(s["name"]), "names", [s["name"]])]
    # A network keeps its own names, unless two sites would share one.
    prefixed = len(set(names)) < len(names)
    out = {}
    for site in latent:
        name, distribution = site["name"], site["fn"]
        if depends_on_latents(distribution.support):
            raise ConfigError(
                f"the support of the latent site {name!r} depends on another latent; write it "
                "as a function of a site with a constant support"
            )
        transform = transform_of(site)
        start = transform.inv(site["value"].detach())
        if name not in layouts:
            out[name] = LatentSite(name, transform, start, (name,))
            continue
        layout = layouts[name]
        own = tuple(f"{name}.{key}" if prefixed else key for key in layout.names)
        constant = distribution if is_constant(site) else None
        stored = site["infer"].get("buffers", distribution.buffers)
        buffers = {key: buffer.detach().clone() for key, buffer in stored.items()}
        out[name] = LatentSite(name, transform, start, own, layout, constant, buffers)
    return out


def _is_network(site: Site) -> bool:
    return is_weight_distribution(site["fn"]) and not site["fn"].batch_shape


@torch.no_grad()
def _check_energy(trace: Any, sites: Mapping[str, LatentSite]) -> None:
    total = trace.log_prob_sum()
    for site in sites.values():
        if site.transform is not identity_transform:
            value = trace.nodes[site.name]["value"]
            total = total + site.transform.log_abs_det_jacobian(site.start, value).sum()
    if not bool(torch.as_tensor(total).isfinite()):
        raise ConfigError(
            f"the log joint density is {float(total)} at the initial values; choose others with "
            "init_strategy=init_to_value(values={...})"
        )
