"""What one run of a Pyro model tells: its latent sites, their starts and supports, and N."""

import functools
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from pyro import poutine
from pyro.infer.autoguide.initialization import InitMessenger, init_to_mean, init_to_median
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Distribution, Transform, biject_to
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import identity_transform

from bayesprior.errors import BayesPriorError, ConfigError, nearest_name
from bayesprior.inference.generators import seeded
from bayesprior.inference.protocols import WeightDistribution
from bayesprior.tasks.protocols import Batch, check_finite
from bayesprior.weights.layout import ParameterLayout

__all__ = [
    "InitStrategy",
    "LatentSite",
    "ModelStructure",
    "Site",
    "call_model",
    "init_to_finite_mean",
    "is_latent",
    "is_observed",
    "is_weight_distribution",
    "log_joint",
    "trace_at",
    "trace_model",
]

Site = dict[str, Any]
"""A message of Pyro's at a sample or param statement, and a node of a trace."""

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

    ``transform`` is the bijection from the reals to its support, ``start`` its initial value in
    unconstrained space. A network's weights have a ``layout``, and stand as the network's own
    parameters, with a ``prefix``; any other site is one parameter of its own name.
    ``distribution`` is that of a network's weights, if it depends on no other site, ``buffers``
    are the network's BatchNorm statistics by its own names.
    """

    name: str
    transform: Transform
    start: Tensor
    layout: ParameterLayout | None = None
    prefix: str = ""
    distribution: Any = None
    buffers: Mapping[str, Tensor] = field(default_factory=dict)

    @cached_property
    def names(self) -> list[str]:
        """Names of the parameters."""
        own = self.layout.names if self.layout is not None else [self.name]
        return [self.prefix + name for name in own]

    def join(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return the unconstrained value from tensors by parameter name; leading axes stay."""
        if self.layout is None:
            return parameters[self.name]
        parts = [parameters[name] for name in self.names]
        lead = parts[0].shape[: parts[0].dim() - len(self.layout.shapes[0])]
        return torch.cat([part.reshape(*lead, -1) for part in parts], -1)

    def split(self, value: Tensor) -> dict[str, Tensor]:
        """Return the tensors by parameter name: the inverse of `join`."""
        parts = [value] if self.layout is None else self.layout.unflatten(value).values()
        return dict(zip(self.names, parts, strict=True))


@dataclass(frozen=True, eq=False)
class ModelStructure:
    """What one run of a model tells.

    ``sites`` are the latent ones by name, in the model's order, ``counts`` how many data each
    observed site stands for. ``is_subsampled``: the model takes a batch for a part of the data, by
    plates or by scaling. ``has_fixed_start``: the init strategy gives the same values again.
    """

    sites: Mapping[str, LatentSite]
    num_data: int
    is_subsampled: bool
    counts: Mapping[str, float]
    has_fixed_start: bool

    def check(self, trace: Any) -> None:
        """Refuse a later run with other latent sites, priors or sizes of plates."""
        for name, site in self.sites.items():
            node = trace.nodes.get(name)
            if node is None or not is_latent(node):
                raise ConfigError(
                    f"the latent sites change between calls: {name!r} did not occur; every call "
                    "must have the same ones"
                )
            if site.distribution not in (None, node["fn"]):
                raise ConfigError(
                    f"the prior of {name!r} is another object than before; make it once, outside "
                    "the model, or make a new potential after changing it"
                )
        for node in filter(is_observed, trace.nodes.values()):
            name, now = node["name"], _count_of(node)
            before = self.counts.get(name)
            if now is None or before is None:
                continue
            if not math.isclose(now, before, rel_tol=1e-6):
                plate = next(f.name for f in node["cond_indep_stack"] if f.size > 0)
                raise ConfigError(
                    f"the plate {plate!r} of site {name!r} stands for {now:g} data now and for "
                    f"{before:g} before; give it the whole size: pyro.plate({plate!r}, N, "
                    "subsample_size=len(batch))"
                )


def call_model(model: Callable[..., Any], batch: Batch) -> Any:
    """Call a model on a batch: a tuple of arguments, a mapping of keywords or one argument."""
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, tuple | list) else model(batch)


def trace_at(
    model: Callable[..., Any], batch: Batch, values: Mapping[str, Tensor] | InitStrategy
) -> Any:
    """Run a model at given values of all latents, or where a strategy starts them; trace it.

    With values the points (``pyro.param``) are constants.
    """
    start = values if callable(values) else functools.partial(_known, values)
    # The trace as a context: as a handler it would append a table of all shapes to our errors.
    with poutine.block(), poutine.trace() as tracer, _At(start, detach=not callable(values)):
        call_model(model, batch)
    return tracer.trace


def _known(values: Mapping[str, Tensor], site: Site) -> Tensor:
    if (name := site["name"]) not in values:
        raise ConfigError(
            f"the model's latent site {name!r} has no value{nearest_name(name, values)}; every "
            "call must have the same latent sites, and samples all of them"
        )
    return values[name]


class _At(InitMessenger):
    def __init__(self, start: InitStrategy, *, detach: bool) -> None:
        super().__init__(start)
        self.detach = detach

    def _pyro_sample(self, msg: Site) -> None:
        if site_is_subsample(msg):
            size = msg["fn"].size
            batch = msg["fn"].subsample_size if msg["value"] is None else len(msg["value"])
            if batch is not None and batch > size:
                raise ConfigError(
                    f"a batch of {batch} is larger than the plate {msg['name']!r} of {size}; a "
                    "plate has the size of the whole training set"
                )
        super()._pyro_sample(msg)
        if is_latent(msg) and msg["value"].shape != msg["fn"].shape():
            raise ConfigError(
                f"the value of {msg['name']!r} has shape {tuple(msg['value'].shape)}, its "
                f"distribution {tuple(msg['fn'].shape())}; a latent site has one shape in every "
                "call, its initial value the same"
            )

    def _pyro_post_param(self, msg: Site) -> None:
        if self.detach:
            msg["value"] = msg["value"].detach()


def log_joint(
    trace: Any,
    sites: Mapping[str, LatentSite],
    latents: Mapping[str, Tensor],
    closed: Collection[str] = (),
) -> Tensor:
    """Return a trace's log density over unconstrained latents, ``closed`` sites' own left out."""
    total = trace.log_prob_sum(lambda name, _: name not in closed)
    for name, site in sites.items():
        if site.layout is None:
            value = trace.nodes[name]["value"]
            total = total + site.transform.log_abs_det_jacobian(latents[name], value).sum()
    return torch.as_tensor(total)


def trace_model(
    model: Callable[..., Any],
    batch: Batch,
    num_data: int | None = None,
    init_strategy: InitStrategy = init_to_finite_mean,
    seed: int = 0,
) -> ModelStructure:
    """Run a model once, from its initial values; see `PyroPotential` for the arguments."""

    def start(site: Site) -> Tensor:
        _check_latent(site)
        return init_strategy(site).detach().requires_grad_()  # tells what is computed from it

    # Models may draw on any GPU, if CUDA is in use already.
    gpus = torch.cuda.device_count() if torch.cuda.is_initialized() else 0
    with seeded(seed, [torch.device("cuda", index) for index in range(gpus)]):
        with torch.enable_grad():
            try:
                trace = trace_at(model, batch, start)
            except ValueError as error:  # of a law's own validation, with all its numbers
                if not isinstance(error, BayesPriorError):
                    check_finite(batch, 0)
                raise
        latent = [site for site in trace.nodes.values() if is_latent(site)]
        fixed = all(torch.equal(site["value"], init_strategy(site)) for site in latent)
    if not latent:
        raise ConfigError("the model has no latent site; there is nothing to infer")
    sites = _latent_sites(latent)
    with torch.no_grad():
        energy = log_joint(trace, sites, {name: site.start for name, site in sites.items()})
    if not bool(energy.isfinite()):
        check_finite(batch, 0)
        raise ConfigError(
            f"the log joint density is {float(energy)} at the initial values; choose others with "
            "init_strategy=init_to_value(values={...})"
        )
    observed = [site for site in trace.nodes.values() if is_observed(site)]
    counts = {site["name"]: count for site in observed if (count := _count_of(site)) is not None}
    subsampled = any(_subsampled(site) or _is_scaled(site) for site in observed)
    return ModelStructure(sites, _num_data(observed, num_data), subsampled, counts, fixed)


def is_latent(site: Site) -> bool:
    """Whether a site is a random variable that nothing observes."""
    return site["type"] == "sample" and not site["is_observed"] and not site_is_subsample(site)


def is_observed(site: Site) -> bool:
    """Whether a site holds data (or a factor), and is neither deterministic nor a subsample."""
    if site["type"] != "sample" or not site["is_observed"] or site_is_subsample(site):
        return False
    return not site["infer"].get("_deterministic")


def is_weight_distribution(distribution: Any) -> bool:
    """Whether something is a distribution over named weights, such as a `GaussianWeights`."""
    return isinstance(distribution, Distribution) and isinstance(distribution, WeightDistribution)


def _count_of(site: Site) -> float | None:
    """Return how many data a site stands for: what lies in its plates times its scale.

    It stays the same from batch to batch, whether a plate subsamples (scale N / B, B data) or
    `pyro.poutine.scale` does by hand. None where it is not known: without plates, or where the
    scale is a tensor.
    """
    sizes = [frame.size for frame in site["cond_indep_stack"] if frame.size > 0]
    if not sizes or isinstance(site["scale"], Tensor):
        return None
    return float(site["scale"]) * math.prod(sizes)


def _subsampled(site: Site) -> list[Any]:
    return [frame for frame in site["cond_indep_stack"] if 0 < frame.size < frame.full_size]


def _is_scaled(site: Site) -> bool:
    return isinstance(site["scale"], Tensor) or site["scale"] != 1.0


def _check_latent(site: Site) -> None:
    name, distribution = site["name"], site["fn"]
    if site["infer"].get("enumerate") or distribution.support.is_discrete:
        raise ConfigError(
            f"the latent site {name!r} ({type(distribution).__name__}) is discrete or enumerated, "
            "and has no gradient; sum it out by hand, e.g. with dist.MixtureSameFamily"
        )
    for frame in _subsampled(site):
        raise ConfigError(
            f"the latent site {name!r} lies in the subsampled plate {frame.name!r}, so its "
            "values would belong to other examples in every batch; run it on all data"
        )
    if _depends_on_latents(distribution.support):
        raise ConfigError(
            f"the support of the latent site {name!r} depends on another latent; write it as a "
            "function of a site with a constant support"
        )


def _depends_on_latents(constraint: Constraint) -> bool:
    return any(
        value.requires_grad if isinstance(value, Tensor) else _depends_on_latents(value)
        for value in vars(constraint).values()
        if isinstance(value, Tensor | Constraint)
    )


def _latent_sites(latent: list[Site]) -> dict[str, LatentSite]:
    laws = {site["name"]: site["fn"] for site in latent}
    networks = {n for n, law in laws.items() if is_weight_distribution(law) and not law.batch_shape}
    names = [own for n in laws for own in (laws[n].layout.names if n in networks else [n])]
    # A network keeps its own names, unless two sites would share one.
    prefixed = len(set(names)) < len(names)
    out = {}
    for site in latent:
        name, law, value = site["name"], site["fn"], site["value"].detach()
        if name not in networks:
            transform = biject_to(law.support)
            out[name] = LatentSite(name, transform, transform.inv(value))
            continue
        buffers = site["infer"].get("buffers", law.buffers)
        out[name] = LatentSite(
            name,
            identity_transform,
            value,
            law.layout,
            prefix=f"{name}." if prefixed else "",
            distribution=law if _is_constant(site) else None,
            buffers={key: buffer.detach().clone() for key, buffer in buffers.items()},
        )
    return out


def _is_constant(site: Site) -> bool:
    """Whether a distribution counts once and as it is, and depends on no other site."""
    if site["mask"] is not None or _is_scaled(site):
        return False
    with torch.enable_grad():
        return not site["fn"].log_prob(site["value"].detach()).requires_grad


def _num_data(observed: Iterable[Site], given: int | None) -> int:
    """Return N from the plates around the observed sites, or as given where they leave it open.

    Only subsampled plates count: around 600 data, a plate over 3 dimensions does not make them
    1800. Without one N is the largest plate's size, times the scale of `pyro.poutine.scale`.
    """
    if given is not None and given < 1:
        raise ConfigError(f"num_data must be the size of the training set, got {given}")
    claims = {
        math.prod(frame.full_size for frame in frames): site["name"]
        for site in observed
        if (frames := _subsampled(site))
    }
    binding = bool(claims)
    for site in observed if not claims else ():
        sizes = [frame.full_size for frame in site["cond_indep_stack"] if frame.full_size > 0]
        if sizes and not isinstance(site["scale"], Tensor):
            claims |= {round(site["scale"] * size): site["name"] for size in sizes}
            binding |= site["scale"] == 1.0  # else the likelihood may be tempered
    if given is None and not claims:
        raise ConfigError(
            "num_data is missing: no plate around an observed site says how many data there are; "
            "pass num_data="
        )
    if given is not None and binding and given not in claims:
        raise ConfigError(
            f"num_data = {given}, but the plates around the observed site {claims[max(claims)]!r} "
            f"hold {max(claims)}; give the plate the whole size: pyro.plate(name, N, "
            "subsample_size=len(batch))"
        )
    return max(claims) if given is None else given
