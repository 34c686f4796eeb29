"""The one explicit line after ``backward``: the prior's gradient joins the data's.

`attach_prior` does it for anyone's own loop or a Lightning Trainer, `bayesprior.inference.engine`
for ours; both use `PriorTerm`.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from bayesprior.errors import ConfigError, LayoutMismatchError, nearest_name
from bayesprior.inference.optimizers import ImplicitPriorSGD
from bayesprior.inference.protocols import WeightDistribution

__all__ = ["PriorTerm", "attach_prior"]


class PriorTerm:
    """Adds -score / N of a prior to the gradients of a module's parameters.

    Parameters
    ----------
    module
        Its trainable parameters must be exactly those of the prior's layout.
    prior
        A law of the weights; see `bayesprior.weights.gaussian.GaussianWeights`.
    num_data
        N, the size of the whole training set: gradients estimate grad U / N.

    Raises
    ------
    LayoutMismatchError
        If names or shapes disagree, or a trainable parameter has no prior.
    ConfigError
        If ``num_data`` is not positive.
    """

    def __init__(self, module: nn.Module, prior: WeightDistribution, num_data: int) -> None:
        if num_data <= 0:
            raise ConfigError(f"num_data must be the size of the training set, got {num_data}")
        self.prior = prior
        self.num_data = num_data
        self.parameters = prior.layout.parameters(module)
        self._flat: Tensor | None = None  # one D-vector, filled anew at every step
        covered = {id(p) for p in self.parameters}
        for name, parameter in module.named_parameters():
            if parameter.requires_grad and id(parameter) not in covered:
                hint = nearest_name(name, prior.layout.names)
                raise LayoutMismatchError(
                    f"the prior says nothing of the trainable parameter {name!r}{hint}; extend() "
                    "the prior over it, or freeze it with requires_grad_(False)"
                )

    @torch.no_grad()
    def add_to_grad(self, *, diagnose: bool = False) -> dict[str, float]:
        """Add the prior's gradient to ``.grad``; call once a step, after the last backward.

        Parameters
        ----------
        diagnose
            Also return ``log_prior`` (nats) and ``configurational_temperature``, the mean over
            weights of (w - loc) dU/dw, whose expectation is T at stationarity.
        """
        layout = self.prior.layout
        weights = self._flat = layout.flatten_tensors(self.parameters, out=self._flat)
        stats = {}
        if diagnose:
            score, log_prob = self.prior.score_and_log_prob(weights)
            stats["log_prior"] = float(log_prob)
        else:
            same = weights.dtype == self.prior.loc.dtype
            score = self.prior.score(weights, out=weights if same else None)
        for parameter, view in zip(self.parameters, layout.unflatten(score).values(), strict=True):
            if parameter.grad is None:
                parameter.grad = torch.mul(view, -1 / self.num_data)
            else:
                parameter.grad.add_(view, alpha=-1 / self.num_data)
        if diagnose:
            total = torch.zeros((), dtype=torch.float64, device=weights.device)
            residual = layout.unflatten(weights.sub_(self.prior.loc))
            for parameter, view in zip(self.parameters, residual.values(), strict=True):
                if parameter.grad is not None:
                    total += (view * parameter.grad).sum(dtype=torch.float64)
            stats["configurational_temperature"] = float(total) * self.num_data / layout.dim
        return stats

    def prepare(self, optimizer: Optimizer) -> None:
        """Tell an `ImplicitPriorSGD` its curvature; refuse a step size the prior makes unstable.

        Raises
        ------
        ConfigError
            If a group's learning rate exceeds the largest stable one, which is named.
        """
        bound = self.prior.layout.unflatten(self.prior.max_precision().div_(self.num_data))
        precision: dict[Tensor, Tensor] = dict(zip(self.parameters, bound.values(), strict=True))
        if isinstance(optimizer, ImplicitPriorSGD):
            optimizer.set_prior_precision(precision)
            return
        for index, group in enumerate(optimizer.param_groups):
            curvatures = [precision[p].max().item() for p in group["params"] if p in precision]
            if not curvatures:
                continue
            limit = _stability_limit(optimizer, group, max(curvatures))
            lr = group.get("initial_lr", group["lr"])
            if lr > limit:
                raise ConfigError(
                    f"lr = {lr:.4g} of parameter group {index} is unstable under this prior "
                    f"(largest stable: {limit:.4g}); lower it, widen the prior with "
                    "rescale(rms_std=), or use ImplicitPriorSGD for MAP and SWAG"
                )


def _stability_limit(optimizer: Optimizer, group: dict[str, Any], curvature: float) -> float:
    """Return the largest stable lr for curvature c of U / N; infinite where none is known."""
    if hasattr(optimizer, "stability_limit"):
        return optimizer.stability_limit(curvature, group)
    if type(optimizer) is torch.optim.SGD:
        momentum = group["momentum"]
        if group["nesterov"]:
            return 2 * (1 + momentum) / (1 + 2 * momentum) / curvature
        return 2 * (1 + momentum) / curvature
    return math.inf


def attach_prior(
    optimizer: Optimizer, module: nn.Module, prior: WeightDistribution, *, num_data: int
) -> RemovableHandle:
    """Give any training loop a prior: from now on ``optimizer.step()`` sees its gradient.

    The gradient enters coupled (added to ``.grad``), so the fixed point is the stated
    posterior's mode for Adam as well. Loops that pass a closure, such as Lightning's Trainer or
    LBFGS, are served too. Do not clip after the step's hook; gradient clipping before
    ``optimizer.step()`` acts on the data gradient, as it should.

    Parameters
    ----------
    optimizer
        Any torch optimizer over the module's parameters, not yet or already wrapped by Fabric.
    module
        Its trainable parameters must be exactly those of the prior's layout.
    prior
        A `GaussianWeights` on the module's device.
    num_data
        N, the size of the whole training set. The loss must be a mean per example.

    Returns
    -------
    torch.utils.hooks.RemovableHandle
        Call ``remove()`` to detach the prior.

    Raises
    ------
    LayoutMismatchError, ConfigError
        As `PriorTerm`, and when the learning rate is unstable under the prior.

    Examples
    --------
    >>> from bayesprior.weights.gaussian import GaussianWeights
    >>> from bayesprior.weights.layout import ParameterLayout
    >>> module = nn.Linear(2, 1)
    >>> layout = ParameterLayout.from_module(module)
    >>> prior = GaussianWeights.point(layout, torch.zeros(3), std=0.1)
    >>> optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
    >>> handle = attach_prior(optimizer, module, prior, num_data=100)
    """
    term = PriorTerm(module, prior, num_data)
    term.prepare(optimizer)

    def hook(
        _: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            term.add_to_grad()
            return None

        def with_prior(call: Callable[[], Any] = closure) -> Any:
            loss = call()
            term.add_to_grad()
            return loss

        if len(args) > 1:
            return (args[0], with_prior, *args[2:]), kwargs
        return args, {**kwargs, "closure": with_prior}

    return optimizer.register_step_pre_hook(hook)
