"""`RandomNetwork`: a network with random weights, alone or inside a larger Pyro model."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, transform_to
from torch.utils._pytree import tree_map

from bayesprior.errors import ConfigError, LayoutMismatchError, nearest_name
from bayesprior.inference.batch_norm import freeze_batch_norm
from bayesprior.probabilistic.sites import is_weight_distribution
from bayesprior.weights.selection import Selection, select_names

__all__ = ["RandomNetwork", "check_hyperprior", "leading_axes", "sample_scalar"]


class RandomNetwork(nn.Module):
    r"""A network whose weights are one random variable: a part of any Pyro model.

    Calling it samples the site, flat in the order of ``prior.layout``, and returns what the
    module returns under those weights. `BayesianNetwork` adds a likelihood; a larger model calls
    it like any function and goes on with the outputs.

    Parameters
    ----------
    module
        Run by `torch.func.functional_call` on views of the weights; its own random parameters
        are never read or written. BatchNorm layers are put into evaluation mode.
    prior
        Distribution of the random weights, such as a `GaussianWeights`; its names must be the
        module's. Where it carries BatchNorm ``buffers`` they are used, otherwise the module's.
    random
        Which of the prior's parameters are random: a glob pattern (``"head.*"``), several, or a
        predicate of the name; all by default. Every other parameter is a point: a
        ``pyro.param`` that SVI optimizes, or a constant after ``requires_grad_(False)``.
    site
        Name of the site.
    rms_std, cov_scale
        A distribution of the prior's width, see ``prior.rescale``: a site of that name.

    Raises
    ------
    LayoutMismatchError
        If the prior's names or shapes are not the module's, or a trainable parameter has no prior
        and ``random`` does not say that this is meant.

    Notes
    -----
    Buffers are cloned for every call: neither building a guide nor predicting changes running
    statistics. Weights with leading axes (``Predictive(parallel=True)``, vectorized particles,
    plates) are run through `torch.func.vmap` and lead the outputs; random widths cannot be
    vectorized so. ``.to(...)`` takes the prior along. Points have the names that `pyro.module`
    would give them: ``module$$$<name>`` (``<site>$$$<name>`` for a site of another name).

    Examples
    --------
    A learned feature inside a larger model:

    >>> import pyro.distributions as dist
    >>> from bayesprior.weights.gaussian import GaussianWeights
    >>> from bayesprior.weights.layout import ParameterLayout
    >>> module = nn.Linear(2, 1)
    >>> prior = GaussianWeights.point(ParameterLayout.from_module(module), torch.zeros(3), std=1.0)
    >>> feature = RandomNetwork(module, prior)
    >>> def model(x, counts=None):
    ...     offset = pyro.sample("offset", dist.Normal(0.0, 1.0))
    ...     rate = (offset + feature(x)[:, 0]).exp()
    ...     with pyro.plate("data", 100, subsample_size=len(x)):
    ...         pyro.sample("counts", dist.Poisson(rate), obs=counts)
    >>> pyro.poutine.trace(model).get_trace(torch.ones(5, 2)).stochastic_nodes
    ['offset', 'weights', 'data', 'counts']
    """

    def __init__(
        self,
        module: nn.Module,
        prior: Any,
        *,
        random: Selection | None = None,
        site: str = "weights",
        rms_std: Any = None,
        cov_scale: Any = None,
    ) -> None:
        super().__init__()
        if not is_weight_distribution(prior):
            raise ConfigError(
                "prior must be a GaussianWeights, such as GaussianWeights.load(path), got "
                f"{type(prior).__name__}"
            )
        if random is not None:
            prior = prior.marginal(select_names(prior.layout.names, random))
        prior.layout.parameters(module)  # raises where names or shapes disagree
        trainable = [name for name, p in module.named_parameters() if p.requires_grad]
        self._points = [name for name in trainable if name not in prior.layout.slices]
        if self._points and random is None:
            raise LayoutMismatchError(
                f"the prior says nothing of the trainable parameter {self._points[0]!r}"
                f"{nearest_name(self._points[0], prior.layout.names)}; extend() the prior over it, "
                "freeze it with requires_grad_(False), or say with random= which ones are meant"
            )
        widths = {"rms_std": rms_std, "cov_scale": cov_scale}
        self.widths = {name: width for name, width in widths.items() if width is not None}
        for name, width in self.widths.items():
            check_hyperprior(name, width)
            if not prior.shared_dim:
                raise ConfigError(
                    f"{name!r} acts on the shared block of the prior, of which no weight is random"
                )
            if transform_to(width.support)(torch.tensor(-1e3)) < 0:
                raise ConfigError(
                    f"the width {name!r} needs a positive distribution such as dist.LogNormal, got "
                    f"{type(width).__name__}"
                )
        self.site, self.prior, self.module = site, prior, module
        self._watched = (0, 0)
        self.train(module.training)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Sample the weights; return the module's outputs, with leading axes of vectorized ones."""
        return self.call(self.sample_weights(), lambda module: module(*args, **kwargs))

    def sample_weights(self) -> Tensor:
        """Sample the widths' sites and the weights' site; return the weights, (..., D)."""
        self._check_untouched()
        prior = self.prior
        for name, law in self.widths.items():
            # A trajectory of NUTS that diverges overflows to 0, infinity or NaN, and is refused by
            # its energy; a finite width keeps the matrices behind it free of errors.
            width = sample_scalar(name, law).nan_to_num().clamp(1e-30, 1e30)
            prior = prior.rescale(**{name: width})
        infer = {"buffers": dict(self._buffers_in_use())}  # for whoever keeps draws
        return pyro.sample(self.site, prior, infer=infer)

    def call(self, weights: Tensor, run: Callable[[nn.Module], Any]) -> Any:
        """Return what ``run`` makes of the module under weights of shape (D,) or (..., D)."""
        layout, runner = self.prior.layout, _Runner(self.module)
        sizes = list(map(math.prod, layout.shapes))
        fixed = self._declared() | {n: buffer.clone() for n, buffer in self._buffers_in_use()}

        def call(flat: Tensor) -> Any:
            # One split, not D-long slices: its gradient is one concatenation.
            parts = zip(layout.names, flat.split(sizes), layout.shapes, strict=True)
            values = fixed | {name: part.view(shape) for name, part, shape in parts}
            named = {f"module.{name}": value for name, value in values.items()}
            return torch.func.functional_call(runner, named, (run,))

        if weights.dim() == 1:
            return call(weights)
        lead = leading_axes(weights)
        vectorized = torch.func.vmap(call, randomness="different")
        outputs = vectorized(weights.reshape(-1, weights.shape[-1]))
        return tree_map(lambda value: value.reshape(*lead, *value.shape[1:]), outputs)

    def train(self, mode: bool = True) -> "RandomNetwork":
        """Set training mode, except for BatchNorm layers: their statistics stay as they are."""
        super().train(mode)
        freeze_batch_norm(self)
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> "RandomNetwork":
        super()._apply(fn, recurse)
        then = fn(self.prior.loc.detach()[:0])
        if (then.device, then.dtype) != (self.prior.loc.device, self.prior.loc.dtype):
            self.prior = self.prior.to(device=then.device, dtype=then.dtype)
        return self

    def _check_untouched(self) -> None:
        """Notice a guide that was started at ``prior.loc`` itself and now optimizes it."""
        loc = self.prior.loc
        if loc.requires_grad or loc.is_inference():
            return
        seen, self._watched = self._watched, (id(loc), loc._version)
        if seen[0] == id(loc) and seen != self._watched:
            raise ConfigError(
                "the prior's mean was changed in place, as by a guide that shares its memory; "
                "load the prior again, and start guides at a copy: init_to_value(values="
                "{'weights': prior.loc.clone()})"
            )

    def _buffers_in_use(self) -> Iterator[tuple[str, Tensor]]:
        for name, own in self.module.named_buffers():
            yield name, self.prior.buffers.get(name, own).to(own)

    def _declared(self) -> dict[str, Tensor]:
        """Declare the parameters that are not random, as `pyro.module` would."""
        if not self._points or pyro.settings.get("module_local_params"):
            return {}  # the module's own are used as they are
        own = dict(self.module.named_parameters())
        prefix = "module" if self.site == "weights" else self.site
        free = [name for name in self._points if own[name].requires_grad]
        return {name: pyro.param(f"{prefix}$$${name}", own[name]) for name in free}


class _Runner(nn.Module):
    """Gives a function the module itself while `torch.func.functional_call` lends it weights."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, run: Callable[[nn.Module], Any]) -> Any:
        return run(self.module)


def leading_axes(weights: Tensor) -> tuple[int, ...]:
    """Return the axes that vectorized weights (..., D) put before the examples.

    Inside outer plates the last one has size 1: the place of the data's own plate.
    """
    lead = tuple(weights.shape[:-1])
    return lead[:-1] if lead[-1:] == (1,) else lead


def sample_scalar(name: str, distribution: Distribution) -> Tensor:
    """Sample a hyperparameter's site; return a 0-dim tensor. Vectorized ones are refused."""
    value = pyro.sample(name, distribution)
    if value.numel() != 1:
        raise ConfigError(
            f"the hyperparameter {name!r} has shape {tuple(value.shape)}: a model with "
            "hyperpriors cannot be vectorized; use parallel=False or vectorize_particles=False"
        )
    return value.reshape(())


def check_hyperprior(name: str, distribution: Any) -> None:
    """Raise `ConfigError` unless a hyperprior is a distribution."""
    if not isinstance(distribution, Distribution):
        raise ConfigError(f"the hyperprior {name!r} must be a distribution, got {distribution!r}")
