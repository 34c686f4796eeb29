"""What all samplers share: units, arguments, noise, saved state."""

import abc
import collections
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from bayesprior.errors import ConfigError
from bayesprior.inference.generators import generator
from bayesprior.inference.optimizers._groupwise import GroupwiseOptimizer
from bayesprior.inference.optimizers._noise import NoiseStream
from bayesprior.inference.protocols import PriorShare

__all__ = ["Sampler"]


class Sampler(GroupwiseOptimizer):
    r"""Abstract base of the stochastic-gradient samplers.

    The target is ``exp(-U(w) / T)``, U the potential energy (minus log likelihood of all N data,
    minus log prior). ``.grad`` must hold an estimate of ``grad U / N``: the gradient of the mean
    loss with the prior's gradient already added, so ``lr`` means what it means in plain SGD.
    Parameters whose ``.grad`` is None stay where they are.

    With ``whiten`` the dynamics run on z, w = loc + R z with :math:`R R^T = \Sigma` of the prior
    that the optimizer is given (`train`, `attach_prior`): in units in which the prior is standard
    normal, and ``lr`` counts there. A constant R, and its part for one group, leave the target as
    it is. No z is stored: the gradient becomes ``R^T g``, the move ``R dz``.

    Noise comes from the sampler's own generators, one for each parameter group (and device and
    dtype in it), never from the global one; it is equal on all data-parallel ranks that were
    given one ``seed``. The generators' states are in ``group["noise_state"]``, so ``state_dict``
    carries them and a resumed run equals an uninterrupted one bit for bit.

    A new sampler implements `update_` and `stability_limit`; `bayesprior.testing.check_sampler`
    is its test.

    Parameters
    ----------
    params
        As for any torch optimizer; groups may carry their own values of all ``defaults``.
    defaults
        ``lr``, ``temperature``, ``num_data``, ``seed``, ``whiten``, and what the sampler adds.

    Raises
    ------
    ConfigError
        If ``lr`` or ``num_data`` is not positive, or ``temperature`` is negative; in a step, if
        there is no prior to whiten by.
    """

    def __init__(self, params: ParamsT, defaults: dict[str, Any]) -> None:
        self._streams: dict[Any, NoiseStream] = collections.defaultdict(NoiseStream)
        self._prior: PriorShare | None = None
        super().__init__(params, {"whiten": False, **defaults, "noise_state": []})

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Runs on loading, copying and unpickling alike; what was computed ahead is forgotten.
        self._streams = collections.defaultdict(NoiseStream)
        self.__dict__.setdefault("_prior", None)
        super().__setstate__(state)
        for group in self.param_groups:  # of a state from before there was a choice
            group.setdefault("whiten", False)

    def take_prior(self, prior: PriorShare | None) -> None:
        """Take the prior to whiten by; the engine and `attach_prior` call this.

        It is no part of ``state_dict``, and must be given again to a copy of the optimizer.
        """
        self._prior = prior

    def move_(self, grads: Mapping[Tensor, Tensor], weights: Mapping[Tensor, Tensor]) -> None:
        """Move the groups, those that are whitened in z."""
        white = [p for group in self.param_groups if group["whiten"] for p in group["params"]]
        white = [p for p in white if p in grads]
        if not white:
            return super().move_(grads, weights)
        if self._prior is None:
            raise ConfigError(
                "whiten=True takes its units from a prior: train(prior=), or attach_prior first"
            )
        pulled = self._prior.gradient_in_z({p: grads[p] for p in white})
        moves = {p: torch.zeros_like(p) for p in white}
        super().move_({**grads, **{p: pulled[p] for p in white}}, {**weights, **moves})
        colored = self._prior.color(moves)
        torch._foreach_add_(white, [colored[p] for p in white])

    def check_group(self, group: Mapping[str, Any]) -> None:
        """Raise `ConfigError` unless a group's values can work."""
        super().check_group(group)
        if not 0 < group["num_data"] < math.inf:
            raise ConfigError(f"num_data must be positive and finite, got {group['num_data']}")
        if not 0 <= group["temperature"] < math.inf:
            raise ConfigError(
                "temperature must be at least 0 (1 samples the posterior, 0 optimizes), "
                f"got {group['temperature']}"
            )
        if group["temperature"] > 0:
            _check_dtypes({p.dtype for p in group["params"]})

    def draw_noise(self, group: dict[str, Any], params: list[Tensor]) -> list[Tensor] | None:
        """Return standard normals shaped like ``params``; None at temperature 0.

        One call fills them all, and advances ``group["noise_state"]``.
        """
        if group["temperature"] == 0:
            return None
        index = next(i for i, other in enumerate(self.param_groups) if other is group)
        # Replaced, never changed in place: an earlier state_dict() refers to the old list.
        states = list(group["noise_state"])
        noise: dict[Tensor, Tensor] = {}
        kinds = dict.fromkeys((p.device, p.dtype) for p in group["params"])
        _check_dtypes({dtype for _, dtype in kinds})
        for kind, (device, dtype) in enumerate(kinds):
            if kind == len(states):
                states.append(generator(device, "noise", group["seed"], index, kind).get_state())
            alike = [p for p in params if (p.device, p.dtype) == (device, dtype)]
            if alike:
                sizes = [p.numel() for p in alike]
                flat, states[kind] = self._streams[index, kind].draw(
                    states[kind], sum(sizes), dtype, device
                )
                for p, values in zip(alike, flat.split(sizes), strict=True):
                    noise[p] = values.view(p.shape)
        group["noise_state"] = states
        return [noise[p] for p in params]

    @abc.abstractmethod
    def stability_limit(self, curvature: float, group: Mapping[str, Any] | None = None) -> float:
        """Return the learning rate from which on the chain explodes on a quadratic potential.

        Parameters
        ----------
        curvature
            Largest eigenvalue of the Hessian of U / N, with ``whiten`` that in z.
        group
            The parameter group that is asked about; the first one by default.
        """

    def kinetic_temperature(self, group: Mapping[str, Any] | None = None) -> float | None:
        """Return the temperature read off a group's velocities, or all; None without velocities."""
        return None


def _check_dtypes(dtypes: set[torch.dtype]) -> None:
    """Refuse types in which a step of the noise's size is rounded away or up."""
    for dtype in dtypes:
        if dtype.itemsize < 4:
            raise ConfigError(
                f"weights of {dtype} cannot be sampled: rounding a step changes the law; use "
                "module.float(), and precision='bf16-mixed' for speed"
            )
