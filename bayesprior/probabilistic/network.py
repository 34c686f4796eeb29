"""`BayesianNetwork`: a network, a prior over its weights and a likelihood as one Pyro model."""

import copy
import dataclasses
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from jaxtyping import Shaped
from pyro.distributions import constraints
from pyro.nn import PyroModule
from pyro.poutine.condition_messenger import ConditionMessenger
from pyro.poutine.runtime import _PYRO_STACK, effectful
from pyro.poutine.util import is_validation_enabled
from torch import Tensor, nn
from torch.distributions import transform_to

from bayesprior.errors import ConfigError, DataError, LayoutMismatchError, nearest_name
from bayesprior.probabilistic.stacked import StackedDistribution
from bayesprior.tasks.likelihoods import Likelihood
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.selection import Selection, select_names

__all__ = ["BayesianNetwork"]

_WIDTHS = ("rms_std", "cov_scale")
_FINITE = (1e-30, 1e30)


class BayesianNetwork(PyroModule):
    r"""A Pyro model ``model(x, y=None)`` of a network with random weights.

    .. math:: w \sim \mathrm{prior}, \qquad
        y_i \sim \mathrm{likelihood}(f_w(x_i)), \quad i = 1 \dots N

    Sites: ``weights`` (event shape (D,), in the order of ``prior.layout``), ``obs`` inside the
    plate ``data`` of size N (so a batch of B examples is weighted by N / B), and one for each
    hyperprior, under its own name.

    Parameters
    ----------
    module
        Maps a batch of inputs to the likelihood's outputs. It is run by
        `torch.func.functional_call` on views of ``weights``; its own random parameters are never
        read or written. BatchNorm layers are put into evaluation mode.
    prior
        Law of the random weights; its names must be the module's. Where it carries BatchNorm
        ``buffers`` they are used, otherwise the module's own.
    likelihood
        How outputs speak about targets (`bayesprior.tasks.likelihoods`), or its class if
        hyperpriors give its arguments.
    num_data
        N, the size of the whole training set, never of the batch.

    Other Parameters
    ----------------
    random
        Which of the prior's parameters are random: a glob pattern (``"head.*"``), several, or a
        predicate of the name; all by default. Every other parameter is a point: a
        ``pyro.param`` that SVI optimizes, or a constant after ``requires_grad_(False)``.
    **hyperpriors
        Distributions of hyperparameters, named as the arguments they stand for: ``rms_std`` (or
        ``cov_scale``) of ``prior.rescale``, every other of the likelihood (``std`` of `Normal`).

    Raises
    ------
    LayoutMismatchError
        If the prior's names or shapes are not the module's, or a trainable parameter has no prior
        and ``random`` does not say that this is meant.
    ConfigError
        If ``num_data`` is no positive number or smaller than a batch, prior or likelihood are
        something else, a pattern matches nothing, or a hyperprior fits no argument.

    Notes
    -----
    Buffers are cloned for every call: neither building a guide nor predicting changes running
    statistics. Weights with leading axes (``Predictive(parallel=True)``, vectorized particles)
    are run through `torch.func.vmap`; hyperparameters cannot be vectorized.
    ``model.to(...)`` takes the prior along. Points have the names that `pyro.module` would give
    them in the parameter store: ``module$$$<name>``.

    Examples
    --------
    >>> import pyro.distributions as dist
    >>> from bayesprior.weights.layout import ParameterLayout
    >>> from bayesprior.tasks.likelihoods import Normal
    >>> module = nn.Linear(2, 1)
    >>> layout = ParameterLayout.from_module(module)
    >>> prior = GaussianWeights.point(layout, torch.zeros(3), std=1.0)
    >>> model = BayesianNetwork(module, prior, Normal(std=0.1), num_data=100)
    >>> trace = pyro.poutine.trace(model).get_trace(torch.ones(5, 2))
    >>> trace.nodes["weights"]["value"].shape, trace.nodes["obs"]["value"].shape
    (torch.Size([3]), torch.Size([5, 1]))

    An unknown width and an unknown noise:

    >>> width, noise = dist.LogNormal(-2.0, 1.0), dist.HalfNormal(1.0)
    >>> model = BayesianNetwork(module, prior, Normal, 100, rms_std=width, std=noise)
    >>> pyro.poutine.trace(model).get_trace(torch.ones(5, 2)).stochastic_nodes
    ['rms_std', 'std', 'weights', 'data', 'obs']
    """

    def __init__(
        self,
        module: nn.Module,
        prior: GaussianWeights,
        likelihood: Likelihood | type[Likelihood],
        num_data: int,
        *,
        random: Selection | None = None,
        **hyperpriors: Any,
    ) -> None:
        super().__init__()
        if not hasattr(num_data, "__index__") or num_data < 1:
            raise ConfigError(f"num_data must be the size of the training set, got {num_data!r}")
        if not isinstance(prior, GaussianWeights):
            raise ConfigError(
                "prior must be a GaussianWeights, such as GaussianWeights.load(path), got "
                f"{type(prior).__name__}"
            )
        if random is not None:
            prior = prior.marginal(select_names(prior.layout.names, random))
        prior.layout.parameters(module)  # raises where names or shapes disagree
        self._point_names = [
            n
            for n, p in module.named_parameters()
            if p.requires_grad and n not in prior.layout.slices
        ]
        if self._point_names and random is None:
            name = self._point_names[0]
            raise LayoutMismatchError(
                f"the prior says nothing of the trainable parameter {name!r}"
                f"{nearest_name(name, prior.layout.names)}; extend() the prior over it, freeze it "
                "with requires_grad_(False), or say with random= which ones are meant"
            )
        self.num_data = num_data
        self.prior = prior
        self.hyperpriors = hyperpriors
        self.likelihood = _template(likelihood, prior, hyperpriors)
        self.module = module
        self._tied = _has_ties(module)
        self._watched = (0, 0)
        self.train(module.training)

    def train(self, mode: bool = True) -> "BayesianNetwork":
        """Set training mode, except for BatchNorm layers: their statistics stay as they are."""
        super().train(mode)
        for layer in self.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.eval()
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "BayesianNetwork":
        super()._apply(fn, recurse)
        now = self.prior.loc.detach()[:0]
        then = fn(now)
        if (then.device, then.dtype) != (now.device, now.dtype):
            self.prior = self.prior.to(device=then.device, dtype=then.dtype)
        return self

    def forward(
        self, x: Shaped[Tensor, "B *input"], y: Shaped[Tensor, "B *target"] | None = None
    ) -> Shaped[Tensor, "..."]:
        """Run the model on a batch of B inputs, observing ``y`` if given; return the outputs.

        Returns
        -------
        Tensor
            The module's outputs, shape (B, ...), with the leading axes of vectorized weights.
        """
        if len(x) > self.num_data:
            raise ConfigError(
                f"a batch of {len(x)} is larger than num_data = {self.num_data}; num_data is the "
                "size of the whole training set"
            )
        self._check_untouched()
        self._warn_of_dropout()
        prior, likelihood = self._with_hyperparameters()
        weights = pyro.sample("weights", prior)
        lead = weights.shape[:-1]
        if lead[-1:] == (1,):  # from inside outer plates: the place of the plate "data"
            lead = lead[:-1]
        shape = (-1, weights.shape[-1]) if lead else (-1,)
        outputs = self._run(weights.reshape(shape), x)
        law = likelihood.distribution(outputs)
        if lead:
            law = StackedDistribution(law, lead)
            outputs = outputs.reshape(*law.batch_shape, *outputs.shape[1:])
        elif y is not None and is_validation_enabled():
            likelihood.validate(outputs, y)
        if law.batch_shape[-1:] != (len(x),):
            raise DataError(
                f"the module's outputs of shape {tuple(outputs.shape)} do not belong to a batch "
                f"of {len(x)} inputs"
            )
        with pyro.plate("data", self.num_data, subsample=torch.arange(len(x)), dim=-1):
            pyro.sample("obs", law, obs=y)
        return outputs

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

    def _warn_of_dropout(self) -> None:
        """Pyro's HMC and NUTS condition on values that want a gradient: a fixed target is meant."""
        if not any(
            isinstance(value, Tensor) and value.requires_grad
            for handler in _PYRO_STACK
            if isinstance(handler, ConditionMessenger) and isinstance(handler.data, Mapping)
            for value in handler.data.values()
        ):
            return
        for name, layer in self.named_modules():
            if isinstance(layer, nn.modules.dropout._DropoutNd) and layer.training and layer.p:
                warnings.warn(
                    f"the dropout layer {name!r} is in train mode, so the density of the weights "
                    "is another one at every call and MCMC has no fixed target; call .eval()",
                    stacklevel=2,
                )
                return

    def _with_hyperparameters(self) -> tuple[GaussianWeights, Likelihood]:
        """Draw the hyperparameters and put them where they belong."""
        prior, given = self.prior, {}
        for name, law in self.hyperpriors.items():
            value = pyro.sample(name, law)
            if value.numel() != 1:
                raise ConfigError(
                    f"the hyperparameter {name!r} has shape {tuple(value.shape)}: a model with "
                    "hyperpriors cannot be vectorized; use parallel=False or "
                    "vectorize_particles=False"
                )
            if name in _WIDTHS:
                prior = _at_width(prior, name, value.reshape(()))
            else:
                given[name] = value.reshape(())
        return prior, _replace(self.likelihood, given) if given else self.likelihood

    def _run(self, weights: Tensor, x: Tensor) -> Tensor:
        """Return outputs (B, ...) for weights (D,), (S * B, ...) for weights (S, D)."""
        layout, module = self.prior.layout, self._modules["module"]
        sizes = [where.stop - where.start for where in layout.slices.values()]
        fixed = self._points() | self._buffers_of_call()

        def call(flat: Tensor) -> Tensor:
            # One split, not D-long slices: its gradient is one concatenation.
            parts = zip(layout.names, flat.split(sizes), layout.shapes, strict=True)
            views = {name: part.view(shape) for name, part, shape in parts}
            values = {**fixed, **views}
            return torch.func.functional_call(module, values, (x,), tie_weights=self._tied)

        if weights.dim() == 1:
            return call(weights)
        return torch.func.vmap(call, randomness="different")(weights).flatten(0, 1)

    def _buffers_of_call(self) -> dict[str, Tensor]:
        stored = self.prior.buffers
        own = self._modules["module"].named_buffers()
        return {n: stored.get(n, buffer).to(buffer, copy=True) for n, buffer in own}

    def _points(self) -> dict[str, Tensor]:
        """Declare the parameters that are not random, as `pyro.module` would."""
        if not self._point_names:
            return {}
        own, out = dict(self._modules["module"].named_parameters()), {}
        for name in self._point_names:
            if own[name].requires_grad:
                full = f"{self._pyro_get_fullname('module')}$$${name}"
                if pyro.settings.get("module_local_params"):  # as PyroModule itself does
                    declare = effectful(lambda *_, value, **__: value, type="param")
                    real = constraints.real
                    declare(full, own[name], value=own[name], constraint=real, name=full)
                    out[name] = own[name]
                else:
                    out[name] = pyro.param(full, own[name])
        return out


def _has_ties(module: nn.Module) -> bool:
    """Whether a parameter or buffer has two names; looking for them costs time in every call."""
    tensors = (module.named_parameters, module.named_buffers)
    return any(len(list(t())) < len(list(t(remove_duplicate=False))) for t in tensors)


def _template(
    likelihood: Likelihood | type[Likelihood],
    prior: GaussianWeights,
    hyperpriors: Mapping[str, Any],
) -> Likelihood:
    """Check the hyperpriors; return the likelihood with feasible values of its arguments."""
    if not hasattr(likelihood, "distribution"):
        raise ConfigError(
            "likelihood must be one of bayesprior.tasks.likelihoods, such as Normal(std=0.1), got "
            f"{likelihood!r}"
        )
    for name, law in hyperpriors.items():
        if not isinstance(law, torch.distributions.Distribution):
            raise ConfigError(f"the hyperprior {name!r} must be a distribution, got {law!r}")
        if name not in _WIDTHS:
            continue
        if not prior.shared_dim:
            raise ConfigError(
                f"{name!r} acts on the shared block of the prior, of which no weight is random"
            )
        if transform_to(law.support)(torch.tensor(-1e3)) < 0:
            raise ConfigError(
                f"the width {name!r} needs a positive distribution such as dist.LogNormal, got "
                f"{type(law).__name__}"
            )
    feasible = {
        name: transform_to(law.support)(torch.zeros(()))
        for name, law in hyperpriors.items()
        if name not in _WIDTHS
    }
    if not isinstance(likelihood, type):
        for name in feasible:
            if not hasattr(likelihood, name):
                raise ConfigError(
                    f"the hyperprior {name!r} fits no argument: neither rescale() nor "
                    f"{type(likelihood).__name__} has one of this name"
                )
    try:
        if isinstance(likelihood, type):
            return likelihood(**feasible)
        if dataclasses.is_dataclass(likelihood):
            dataclasses.replace(likelihood, **feasible)  # do the supports suit the arguments?
    except (TypeError, ConfigError) as error:
        kind = likelihood if isinstance(likelihood, type) else type(likelihood)
        names = ", ".join(sorted(feasible)) or "none"
        raise ConfigError(
            f"{kind.__name__} cannot be made from the hyperpriors ({names}): {error}"
        ) from error
    return likelihood


def _at_width(prior: GaussianWeights, name: str, width: Tensor) -> GaussianWeights:
    # A divergent trajectory of NUTS may overflow; its energy is infinite as it is.
    return prior.rescale(**{name: width.nan_to_num().clamp(*_FINITE)})


def _replace(likelihood: Likelihood, given: Mapping[str, Tensor]) -> Likelihood:
    # Not dataclasses.replace: its checks are branches on values, which vmap cannot take.
    new = copy.copy(likelihood)
    for name, value in given.items():
        object.__setattr__(new, name, value)
    return new
