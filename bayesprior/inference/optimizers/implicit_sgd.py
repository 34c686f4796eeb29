"""Momentum SGD that takes the stiff part of a Gaussian prior implicitly."""

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from bayesprior.errors import ConfigError, checked
from bayesprior.inference.optimizers._groupwise import GroupwiseOptimizer
from bayesprior.inference.protocols import PriorShare

__all__ = ["ImplicitPriorSGD"]


@final
class ImplicitPriorSGD(GroupwiseOptimizer):
    """Momentum SGD, stable under a Gaussian prior of any width; for MAP and SWAG.

    ``m <- (mu m + G) / (1 + lr p)``, ``w <- w - lr m``, where G = ``.grad`` is the whole gradient
    of U / N, the prior's included, and p = 1 / (N d) the curvature of the prior's diagonal part.
    Without `set_prior_precision` p = 0, which is ``torch.optim.SGD`` bit for bit.

    Parameters
    ----------
    params
        Parameters or groups of them; groups may carry their own values of the rest.
    lr
        Step on the mean loss.
    momentum
        mu in [0, 1).
    nesterov
        Look ahead: w moves by ``(G + mu m) / (1 + lr p)``.

    Raises
    ------
    ConfigError
        If ``lr`` is not positive, ``momentum`` not in [0, 1), or Nesterov has no momentum.

    Notes
    -----
    A step is implicit in the diagonal part of the prior's precision diag(1/d) - V V^T
    (`bayesprior.weights.gaussian`) and explicit in the rest. With r = w - loc, data gradient g and
    G = g + r / (N d) - V V^T r / N::

        r_new = (r - lr (mu m + g - V V^T r / N)) / (1 + lr p)
              = (r (1 + lr p) - lr (mu m + G)) / (1 + lr p)  =  r - lr m_new

    so the implicit step needs neither loc nor r, and is defined at lr = 0. At rest m = 0 and
    G = 0: the fixed point is the exact MAP, with momentum too.

    No prior, however narrow, lowers the largest stable ``lr``, which is that of the data alone.
    On a quadratic potential with data curvature H (of U / N) and P = diag(p), an eigenvector x of
    the step and its factor z satisfy ``(1 + a) z^2 - (1 + a + mu - k) z + mu = 0`` with
    ``a = lr x'Px`` and, because V V^T <= diag(1/d), ``0 <= k <= lr x'Hx + a``. Hence ``|z| < 1`` if
    ``k < 2 (1 + a + mu)``, for which ``lr x'Hx < 2 (1 + mu)`` is enough: the limit of plain
    momentum SGD.

    Examples
    --------
    >>> w = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = ImplicitPriorSGD([w], lr=0.1, momentum=0.0)
    >>> optimizer.set_prior_precision({w: torch.tensor([1e6])})
    >>> w.grad = 1e6 * w.detach()
    >>> optimizer.step()  # an explicit step would land at -1e5
    >>> f"{w.item():.1e}"
    '1.0e-05'
    """

    @checked(params="parameters", lr="number", momentum="number")
    def __init__(
        self, params: ParamsT, *, lr: float, momentum: float = 0.9, nesterov: bool = False
    ) -> None:
        self._precision: dict[Tensor, Tensor] = {}
        super().__init__(params, {"lr": lr, "momentum": momentum, "nesterov": nesterov})

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A copied or unpickled optimizer comes without the attributes that are not state.
        self.__dict__.setdefault("_precision", {})
        super().__setstate__(state)

    def check_group(self, group: Mapping[str, Any]) -> None:
        """Raise `ConfigError` unless a group's values can work."""
        super().check_group(group)
        if not 0 <= group["momentum"] < 1:
            raise ConfigError(f"momentum must be in [0, 1), got {group['momentum']}")
        if group["nesterov"] and group["momentum"] == 0:
            raise ConfigError("nesterov=True needs momentum > 0")

    def take_prior(self, prior: PriorShare | None) -> None:
        """Take a prior's curvature (None: of none); the engine and `attach_prior` call this."""
        self.set_prior_precision({} if prior is None else prior.curvature())

    def set_prior_precision(self, precision: Mapping[Tensor, Tensor]) -> None:
        """Say how stiff the prior is.

        It replaces what was set before. It is not part of ``state_dict``, as it derives from the
        prior, and must be set again on a copy of the optimizer.

        Parameters
        ----------
        precision
            For each parameter p = 1 / (N d), an upper bound on the curvature of the prior's part
            of U / N, in the parameter's shape. Parameters left out are stepped explicitly.

        Raises
        ------
        ConfigError
            If a parameter is not this optimizer's, or its precision has another shape, is
            negative or not finite.
        """
        mine = {p for group in self.param_groups for p in group["params"]}
        for p, values in precision.items():
            if p not in mine:
                raise ConfigError(
                    f"a prior precision was given for a parameter of shape {tuple(p.shape)} that "
                    "this optimizer does not hold; give it all parameters that the prior covers"
                )
            if values.shape != p.shape or not (values.isfinite() & (values >= 0)).all():
                raise ConfigError(
                    f"the prior precision of a parameter of shape {tuple(p.shape)} must have that "
                    f"shape and no negative or infinite entries, got shape {tuple(values.shape)}"
                )
        # In place: Fabric's wrapper of this optimizer shares the dictionary, not the attribute.
        self._precision.clear()
        self._precision.update({p: v.to(p) for p, v in precision.items()})

    def update_(
        self,
        group: dict[str, Any],
        params: list[Tensor],
        weights: list[Tensor],
        grads: list[Tensor],
    ) -> None:
        """Move a group's weights and momentum in place."""
        lr, momentum = group["lr"], group["momentum"]
        for p in params:
            if p not in self.state:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        buffers = [self.state[p]["momentum_buffer"] for p in params]
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, grads)
        covered = [i for i, p in enumerate(params) if p in self._precision]
        shrink = [self._precision[params[i]].mul(lr).add_(1) for i in covered]
        if covered:
            torch._foreach_div_([buffers[i] for i in covered], shrink)
        if group["nesterov"]:
            buffers = list(torch._foreach_add(grads, buffers, alpha=momentum))
            if covered:
                torch._foreach_div_([buffers[i] for i in covered], shrink)
        torch._foreach_add_(weights, buffers, alpha=-lr)
