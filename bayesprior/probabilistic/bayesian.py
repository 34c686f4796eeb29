"""`BayesianNetwork`: a network, a prior over its weights and a likelihood as one Pyro model."""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import pyro
import torch
from torch import nn
from torch.distributions import Distribution, transform_to

from bayesprior.errors import ConfigError, DataError, checked
from bayesprior.probabilistic.network import (
    RandomNetwork,
    check_hyperprior,
    leading_axes,
    sample_scalar,
)
from bayesprior.tasks.likelihoods import Likelihood
from bayesprior.tasks.protocols import Batch, Forward, batch_size, pair_forward
from bayesprior.weights.selection import Selection

__all__ = ["BayesianNetwork"]


class BayesianNetwork(RandomNetwork):
    r"""A Pyro model ``model(x, y=None)`` of a network with random weights.

    .. math:: w \sim \mathrm{prior}, \qquad
        y_i \sim \mathrm{likelihood}(f_w(x_i)), \quad i = 1 \dots N

    A `RandomNetwork` and a likelihood. Sites: ``weights`` (event shape (D,), in the order of
    ``prior.layout``), ``obs`` inside the plate ``data`` of size N (so a batch of B examples is
    weighted by N / B), and one for each hyperprior, under its own name.

    Parameters
    ----------
    module, prior, random
        See `RandomNetwork`.
    likelihood
        One of `bayesprior.tasks.likelihoods`, or its class if hyperpriors give its arguments.
    num_data
        N, the size of the whole training set, never of the batch. Without targets any number of
        points may be predicted.
    forward
        Calls the module on a batch (`bayesprior.tasks.protocols`): the pair of the arguments,
        ``(x, y)``, more of them if there are more, or the keyword arguments as a dictionary.
    **hyperpriors
        Distributions of hyperparameters, named as the arguments they stand for: ``rms_std`` (or
        ``cov_scale``) of ``prior.rescale``, every other of the likelihood (``std`` of `Normal`).

    Examples
    --------
    >>> import pyro.distributions as dist
    >>> from bayesprior.tasks.likelihoods import Normal
    >>> from bayesprior.weights.gaussian import GaussianWeights
    >>> from bayesprior.weights.layout import ParameterLayout
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
    ['std', 'rms_std', 'weights', 'data', 'obs']
    """

    @checked(module="network", num_data="integer")
    def __init__(
        self,
        module: nn.Module,
        prior: Any,
        likelihood: Likelihood | type[Likelihood],
        num_data: int,
        *,
        random: Selection | None = None,
        forward: Forward = pair_forward,
        **hyperpriors: Any,
    ) -> None:
        if not hasattr(num_data, "__index__") or num_data < 1:
            raise ConfigError(f"num_data must be the size of the training set, got {num_data!r}")
        widths = {n: hyperpriors.pop(n) for n in ("rms_std", "cov_scale") if n in hyperpriors}
        super().__init__(module, prior, random=random, **widths)
        self.num_data = num_data
        self.hyperpriors: dict[str, Distribution] = hyperpriors
        self._forward = forward
        self._likelihood = _template(likelihood, hyperpriors)
        self._checked_once = False

    @property
    def likelihood(self) -> Likelihood:
        """The likelihood; refused where hyperpriors give arguments of it: see `likelihood_at`."""
        if self.hyperpriors:
            names = ", ".join(map(repr, self.hyperpriors))
            raise ConfigError(
                f"the likelihood's {names} is random, so there is one likelihood a draw: "
                "likelihood_at(values), with the values from get_samples()"
            )
        return self._likelihood

    def likelihood_at(self, values: Mapping[str, Any]) -> Likelihood:
        """Return the likelihood at values of its hyperparameters; others are passed over."""
        if not self.hyperpriors:
            return self._likelihood
        # Not dataclasses.replace: its checks are branches on values, which vmap cannot take.
        new = copy.copy(self._likelihood)
        for name in self.hyperpriors:
            object.__setattr__(new, name, values[name])
        return new

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model on a batch, ``x`` and ``y`` or what ``forward=`` reads.

        Targets are observed if there are some. Returns the outputs that the likelihood reads,
        (B, ...), with the leading axes of vectorized weights.
        """
        batch = _as_batch(args, kwargs)
        count, total = batch_size(batch), self.num_data
        values = {name: sample_scalar(name, law) for name, law in self.hyperpriors.items()}
        likelihood = self.likelihood_at(values)
        weights = self.sample_weights()
        targets: Any = None

        def run(module: nn.Module) -> Any:
            nonlocal targets
            outputs, targets = self._forward(module, batch)
            return outputs

        outputs = self.call(weights, run)
        if targets is None:
            total = max(total, count)
        else:
            if count > total:
                raise ConfigError(
                    f"a batch of {count} is larger than num_data = {total}; num_data is the size "
                    "of the whole training set"
                )
            one = outputs.flatten(0, len(leading_axes(weights)))[:count]
            if not self._checked_once or targets.device.type == "cpu":  # a GPU is waited for
                likelihood.validate(one, targets)
                self._checked_once = True
        law = likelihood.distribution(outputs)
        if law.batch_shape[-1:] != (count,):
            raise DataError(
                f"the module's outputs of shape {tuple(outputs.shape)} do not belong to a batch "
                f"of {count} inputs"
            )
        with pyro.plate("data", total, subsample=torch.arange(count), dim=-1):
            pyro.sample("obs", law, obs=targets)
        return outputs


def _as_batch(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Batch:
    """Return the batch that a model's arguments are; ``y`` is None where it is missing."""
    if not args and not {"x"} <= kwargs.keys() <= {"x", "y"}:
        return kwargs
    given = dict(zip(("x", "y"), args, strict=False)) | kwargs
    return args if len(args) > 2 else (given["x"], given.get("y"))


def _template(likelihood: Any, hyperpriors: Mapping[str, Any]) -> Likelihood:
    """Check the hyperpriors; return the likelihood with feasible values of its arguments."""
    if not hasattr(likelihood, "distribution"):
        raise ConfigError(
            "likelihood must be one of bayesprior.tasks.likelihoods, such as Normal(std=0.1), got "
            f"{likelihood!r}"
        )
    for name, law in hyperpriors.items():
        check_hyperprior(name, law)
    feasible = {n: transform_to(law.support)(torch.zeros(())) for n, law in hyperpriors.items()}
    try:
        if isinstance(likelihood, type):
            return likelihood(**feasible)
        return dataclasses.replace(likelihood, **feasible) if feasible else likelihood
    except (TypeError, ConfigError) as error:
        kind = likelihood if isinstance(likelihood, type) else type(likelihood)
        raise ConfigError(
            f"{kind.__name__} cannot be made from the hyperpriors "
            f"({', '.join(sorted(feasible)) or 'none'}): {error}"
        ) from error
