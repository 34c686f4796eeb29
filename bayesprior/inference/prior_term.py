"""The one explicit line after ``backward``: the prior's gradient joins the data's.

`attach_prior` does it for anyone's own loop or a Lightning Trainer, `bayesprior.inference.engine`
for ours; both use `PriorTerm`.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from bayesprior.errors import ConfigError, LayoutMismatchError, checked, nearest_name
from bayesprior.inference.protocols import TakesPrior, WeightDistribution
from bayesprior.inference.wrappers import plain_module, plain_optimizer, refuse_shards

__all__ = ["PriorTerm", "attach_prior", "attached_terms", "by_group", "check_num_data"]


def by_group(
    groups: Sequence[Mapping[str, Any]],
    name: str,
    values: Sequence[float | None],
    sizes: Sequence[int],
) -> dict[str, float]:
    """Return the mean of a scalar over all weights and, of several groups, each one's own.

    Parameters
    ----------
    groups
        An optimizer's, called by their ``name``, where they have one, or number.
    name
        Of the scalar; a group's is ``name.<group>``.
    values, sizes
        One for each group: the mean over its weights, None where there is none, and their number.
    """
    labels = (str(group.get("name", i)) for i, group in enumerate(groups))
    known = [(n, v, s) for n, v, s in zip(labels, values, sizes, strict=True) if v is not None]
    if not known:
        return {}
    total = sum(size for *_, size in known)
    mean = sum(value * size for _, value, size in known) / total
    # A mean of equal values is to be that very value.
    mean = known[0][1] if len({value for _, value, _ in known}) == 1 else mean
    several = known if len(sizes) > 1 else []
    return {name: mean, **{f"{name}.{label}": value for label, value, _ in several}}


def check_num_data(optimizer: Optimizer, num_data: int) -> None:
    """Raise `ConfigError` if an optimizer that counts the data counts others."""
    for group in optimizer.param_groups:
        if (counted := group.get("num_data", num_data)) != num_data:
            raise ConfigError(
                f"the optimizer counts num_data = {counted}, the run {num_data}: both are N, the "
                "size of the whole training set"
            )


class _Held(NamedTuple):
    """A parameter that the optimizer holds: its place in the prior, its group, and -(+)1 / N."""

    parameter: nn.Parameter
    position: int
    group: int
    alpha: float


class PriorTerm:
    """Adds -score / N of a prior to the gradients of a module's parameters.

    Parameters
    ----------
    module
        Its trainable parameters must be exactly those of the prior's layout. Wrappers of
        ``torch.compile`` and of data parallelism are looked through.
    prior
        A law of the weights; see `bayesprior.weights.gaussian.GaussianWeights`. It is moved to
        the module's device.
    num_data
        N, the size of the whole training set: gradients estimate grad U / N.

    Raises
    ------
    LayoutMismatchError
        If names or shapes disagree, a trainable parameter has no prior, or one with a prior is
        frozen.
    ConfigError
        If ``num_data`` is not positive, or the parameters are sharded.
    """

    def __init__(self, module: nn.Module, prior: WeightDistribution, num_data: int) -> None:
        if num_data <= 0:
            raise ConfigError(f"num_data must be the size of the training set, got {num_data}")
        self.num_data = num_data
        self.parameters = _parameters(plain_module(module), prior)
        for name, layer in plain_module(module).named_modules():
            pads = isinstance(layer, nn.Embedding) and layer.padding_idx is not None
            if pads and layer.weight.requires_grad:
                warnings.warn(
                    f"{name!r} has a padding row: no data move it, but the prior and a sampler's "
                    "noise do; the network must mask what it stands for",
                    stacklevel=3,
                )
        device = self.parameters[0].device if self.parameters else prior.loc.device
        law: Any = prior
        self.prior = law if prior.loc.device == device else law.to(device)
        self._flat: Tensor | None = None  # one D-vector, filled anew at every step
        self._optimizer: Optimizer | None = None
        self._held = [_Held(p, i, 0, -1 / num_data) for i, p in enumerate(self.parameters)]

    @torch.no_grad()
    def add_to_grad(self, *, diagnose: bool = False) -> dict[str, float]:
        """Add the prior's gradient to ``.grad``; call once a step, after the last backward.

        After `prepare` only what that optimizer holds is touched, ``maximize`` turns the sign, and
        a loss scale that the optimizer itself will divide by multiplies.

        Parameters
        ----------
        diagnose
            Also return ``log_prior`` (nats) and ``configurational_temperature``, the mean over
            weights of (w - loc) dU/dw, whose expectation is T at stationarity; of several
            parameter groups each one's mean, too (``configurational_temperature.<label>``).
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
        # GradScaler leaves the division by its scale to fused optimizers.
        scale = getattr(self._optimizer, "grad_scale", None)
        if scale is not None:
            score = score * scale
        views = list(layout.unflatten(score).values())
        for parameter, position, _, alpha in self._held:
            if parameter.grad is None:
                parameter.grad = torch.mul(views[position], alpha)
            else:
                parameter.grad.add_(views[position], alpha=alpha)
        if diagnose:
            stats |= self._temperatures(weights.sub_(self.prior.loc), scale)
        return stats

    def _temperatures(self, residual: Tensor, scale: Tensor | None) -> dict[str, float]:
        views = list(self.prior.layout.unflatten(residual).values())
        groups = self._optimizer.param_groups if self._optimizer is not None else [{}]
        sums, sizes = residual.new_zeros(len(groups), dtype=torch.float64), [0] * len(groups)
        for parameter, position, group, alpha in self._held:
            sums[group] -= (views[position] * parameter.grad).sum(dtype=torch.float64) / alpha
            sizes[group] += parameter.numel()
        values = (sums if scale is None else sums / scale).tolist()
        means = [value / size if size else None for value, size in zip(values, sizes, strict=True)]
        return by_group(groups, "configurational_temperature", means, sizes)

    def prepare(self, optimizer: Optimizer) -> None:
        """Bind the term to one optimizer, which may take the prior (`TakesPrior`).

        From now on only the parameters that it holds get the prior's gradient, so several
        optimizers over one module, each with its own term, add it once.

        Raises
        ------
        ConfigError
            If the optimizer holds none of the parameters (but copies, say), counts other data, or
            a group's learning rate exceeds the largest stable one, which is named.

        Warns
        -----
        UserWarning
            If a group has a weight decay: a second prior.
        """
        optimizer = plain_optimizer(optimizer)
        check_num_data(optimizer, self.num_data)
        position = {p: i for i, p in enumerate(self.parameters)}
        self._optimizer, self._held = optimizer, []
        for number, group in enumerate(optimizer.param_groups):
            held = [p for p in group["params"] if p in position]
            alpha = (1 if group.get("maximize") else -1) / self.num_data
            self._held += [_Held(p, position[p], number, alpha) for p in held]
            if held and group.get("weight_decay"):
                warnings.warn(
                    f"weight_decay = {group['weight_decay']} is a second prior beside this one; "
                    "make the optimizer with weight_decay=0",
                    stacklevel=3,
                )
        if not self._held:
            raise ConfigError(
                "the optimizer holds none of the parameters that the prior covers (copies of "
                "them?): make it from the parameters of this very module, after the module is made"
            )
        if isinstance(optimizer, TakesPrior):
            optimizer.take_prior(self)
        self._check_stability(optimizer)

    def _check_stability(self, optimizer: Optimizer) -> None:
        curvature = self.curvature()
        for index, group in enumerate(optimizer.param_groups):
            held = [curvature[p] for p in group["params"] if p in curvature and p.numel()]
            if not held:
                continue
            white = group.get("whiten")  # the prior is standard normal there
            largest = 1 / self.num_data if white else max(c.max().item() for c in held)
            limit = _stability_limit(optimizer, group, largest)
            lr = float(group.get("initial_lr", group["lr"]))
            if lr > limit:
                raise ConfigError(
                    f"lr = {lr:.4g} of parameter group {index} is unstable under this prior "
                    f"(largest stable: {limit:.4g}); lower it, widen the prior with "
                    "rescale(rms_std=), or use ImplicitPriorSGD for MAP and SWAG"
                )

    @torch.no_grad()
    def curvature(self) -> dict[Tensor, Tensor]:
        """Return by held parameter 1 / (N d), a bound on the curvature of the prior's U / N."""
        return self._split(self.prior.max_precision() / self.num_data)

    @torch.no_grad()
    def gradient_in_z(self, gradients: Mapping[Tensor, Tensor]) -> dict[Tensor, Tensor]:
        """Return R^T g by held parameter; parameters left out of ``gradients`` count as zero."""
        return self._split(self.prior.gradient_in_z(self._joined(gradients)))

    @torch.no_grad()
    def color(self, normals: Mapping[Tensor, Tensor]) -> dict[Tensor, Tensor]:
        """Return R z by held parameter, Sigma = R R^T, the law's square root."""
        return self._split(self.prior.color(self._joined(normals)) - self.prior.loc)

    def covers(self, other: "PriorTerm") -> bool:
        """Whether both speak of a common parameter."""
        return not set(self.parameters).isdisjoint(other.parameters)

    def _joined(self, vectors: Mapping[Tensor, Tensor]) -> Tensor:
        parts = (vectors[p] if p in vectors else torch.zeros_like(p) for p in self.parameters)
        return self.prior.layout.flatten_tensors(parts)

    def _split(self, flat: Tensor) -> dict[Tensor, Tensor]:
        views = list(self.prior.layout.unflatten(flat).values())
        return {parameter: views[position] for parameter, position, *_ in self._held}


def _parameters(module: nn.Module, prior: WeightDistribution) -> list[nn.Parameter]:
    """Return the parameters in the prior's order; their names may come from compiled parts."""
    refuse_shards(module)
    named = dict(module.named_parameters(remove_duplicate=False))
    actual = {name.replace("_orig_mod.", ""): name for name in named}
    found = prior.layout.rename(lambda name: actual.get(name, name)).parameters(module)
    if frozen := [n for n, p in zip(prior.layout.names, found, strict=True) if not p.requires_grad]:
        raise LayoutMismatchError(
            f"the prior covers {len(frozen)} frozen parameters ({frozen[0]!r} first), which must "
            "stay: pass prior.marginal(names) of the trainable ones, or unfreeze them"
        )
    covered = set(found)
    for name, parameter in named.items():
        if parameter.requires_grad and parameter not in covered:
            hint = nearest_name(name, prior.layout.names)
            raise LayoutMismatchError(
                f"the prior says nothing of the trainable parameter {name!r}{hint}; extend() "
                "the prior over it, or freeze it with requires_grad_(False)"
            )
    return found


def _stability_limit(optimizer: Optimizer, group: dict[str, Any], curvature: float) -> float:
    """Return the largest stable lr for curvature c of U / N; infinite where none is known.

    Known are those of samplers, which state it, and of ``torch.optim.SGD``. Adam and its like
    scale their steps by the gradients, so no learning rate of theirs is refused.
    """
    if hasattr(optimizer, "stability_limit"):
        return float(optimizer.stability_limit(curvature, group))
    if type(optimizer) is torch.optim.SGD and curvature > 0:
        momentum = group["momentum"]
        if group["nesterov"]:
            return 2 * (1 + momentum) / (1 + 2 * momentum) / curvature
        return 2 * (1 + momentum) / curvature
    return math.inf


class _AddPrior:
    """The hook of `attach_prior`, which can be found among an optimizer's hooks."""

    def __init__(self, term: PriorTerm) -> None:
        self.term = term

    def __call__(
        self, _: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self.term.add_to_grad()
            return None

        def with_prior() -> Any:
            loss = closure()
            self.term.add_to_grad()
            return loss

        return args[:1], {**kwargs, "closure": with_prior}


class _PriorHandle(RemovableHandle):
    """Also takes the prior away from an optimizer that took it."""

    def __init__(self, optimizer: Optimizer) -> None:
        super().__init__(optimizer._optimizer_step_pre_hooks)
        self._optimizer = optimizer

    def remove(self) -> None:
        attached = self.id in self._optimizer._optimizer_step_pre_hooks
        super().remove()
        if attached and isinstance(self._optimizer, TakesPrior):
            self._optimizer.take_prior(None)


def attached_terms(optimizer: Optimizer) -> dict[int, PriorTerm]:
    """Return what `attach_prior` attached to an optimizer, by the number of the hook."""
    hooks = plain_optimizer(optimizer)._optimizer_step_pre_hooks
    return {key: hook.term for key, hook in hooks.items() if isinstance(hook, _AddPrior)}


@checked(optimizer="optimizer", module="network", prior="law", num_data="integer")
def attach_prior(
    optimizer: Optimizer, module: nn.Module, prior: WeightDistribution, *, num_data: int
) -> RemovableHandle:
    """Give any training loop a prior: from now on ``optimizer.step()`` sees its gradient.

    The gradient enters coupled (added to ``.grad``), so the fixed point is the stated
    posterior's mode for Adam as well. Loops that pass a closure, such as Lightning's Trainer or
    LBFGS, are served too. Do not clip after the step's hook; gradient clipping before
    ``optimizer.step()`` acts on the data gradient, as it should.

    Attaching again, with another width say, replaces the earlier prior of these parameters. Where
    several optimizers share a module, attach to each: each adds the prior to its own parameters.

    Parameters
    ----------
    optimizer
        Any torch optimizer over the module's parameters (or some), wrapped by Fabric or
        accelerate or not.
    module
        Its trainable parameters must be exactly those of the prior's layout; compiled and
        data-parallel modules are looked through.
    prior
        A `GaussianWeights`; it is moved to the module's device.
    num_data
        N, the size of the whole training set. The loss must be a mean per example.

    Returns
    -------
    torch.utils.hooks.RemovableHandle
        Call ``remove()`` to detach the prior.

    Raises
    ------
    LayoutMismatchError, ConfigError
        As `PriorTerm` and `PriorTerm.prepare`.

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
    optimizer = plain_optimizer(optimizer)
    term = PriorTerm(module, prior, num_data)
    term.prepare(optimizer)
    for key, earlier in attached_terms(optimizer).items():
        if earlier.covers(term):
            del optimizer._optimizer_step_pre_hooks[key]
    handle = _PriorHandle(optimizer)
    optimizer._optimizer_step_pre_hooks[handle.id] = _AddPrior(term)
    return handle
