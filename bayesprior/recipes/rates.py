"""Learning rates that nobody gave: found before a fit, in standard deviations of its prior."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from bayesprior.errors import ConfigError
from bayesprior.inference.generators import generator
from bayesprior.inference.optimizers import SGHMC, SGLD, ImplicitPriorSGD, WhitenedAdam
from bayesprior.inference.protocols import Schedule
from bayesprior.inference.strength.curvature import largest_curvature
from bayesprior.inference.strength.noise import feature_noise
from bayesprior.recipes.arguments import MapCall, SampleCall, SwagCall
from bayesprior.recipes.head_priors import NOISE_WIDTH, examples, named_head
from bayesprior.recipes.training import Run, parameter_groups
from bayesprior.tasks.protocols import check_finite
from bayesprior.weights.gaussian import GaussianWeights

__all__ = ["Rates", "descent", "heat", "sampling"]

DRIFT = 2.5  # of the prior's standard deviations, what a weight can move by in a whole descent
_SEEN = 256  # examples that the rates are found on
_STARTS = 4  # draws of the prior at which the curvature is measured
_SHARE = {"sghmc": 0.5, "sgld": 0.25}  # of the largest stable step; the law of SGLD depends on it
_HEAT = 0.1  # share of the temperature that minibatches may add in the stiffest direction


@dataclass(frozen=True)
class Rates:
    """How to make the optimizer of a network (of a sampler, with its seed); what is told of it."""

    make: Callable[..., Optimizer]
    told: dict[str, Any]


def descent(run: Run, call: MapCall | SwagCall, schedule: Schedule, num_steps: int) -> Rates:
    """Return how to descend: with momentum SGD at the ``lr`` given, else by `WhitenedAdam`.

    The network is at its start. Along the schedule a weight can drift by `DRIFT` of the prior's
    standard deviations in all. Where the prior is wider than what the features bear, by as much
    less; the head has the whole budget in its own prior.
    """
    if (given := call.lr) is not None:
        groups = parameter_groups(run.module, call.prior, given, call.head_lr)
        return Rates(
            lambda _: ImplicitPriorSGD(groups, lr=given, momentum=call.momentum), {"lr": given}
        )
    law = _prior(run)
    bears = run.on_main(lambda: _borne(run, call))
    head_lr = DRIFT / sum(schedule(step).lr_factor for step in range(num_steps))
    found = {"lr": head_lr * min(1.0, NOISE_WIDTH * bears), "head_lr": head_lr}
    betas = (call.momentum, 0.99)
    told = {**found, "lr_unit": "prior", "width_borne": bears}
    return Rates(lambda module: WhitenedAdam(module, law, **found, betas=betas), told)


def _prior(run: Run) -> GaussianWeights:
    assert run.prior is not None
    return run.prior


def _borne(run: Run, call: MapCall | SwagCall) -> float:
    """Return what share of the prior's width the features bear; all where that is not known."""
    law = _prior(run)
    options: dict[str, Any] = {"head": named_head(run.module, law.new_names), "law": law}
    try:
        return feature_noise(
            run.module, examples(run.data, _SEEN), forward=call.forward, seed=call.seed, **options
        )
    except ConfigError:  # no linear layer is the head, or its inputs are always the same
        return 1.0


def sampling(run: Run, call: SampleCall) -> Rates:
    """Return how to sample: at the ``lr`` given, else in the prior's units.

    There the step is a share of the largest stable one, 4 / L of SGHMC and 2 / L of SGLD, where L
    is the curvature of U / N, a mean over draws of the prior; less where batches are a part of the
    data and would heat the chain. The friction damps the prior's own directions critically.
    """
    lr, friction, num_data = call.lr, call.friction, call.data.num_data
    common: dict[str, Any] = {"num_data": num_data, "temperature": call.temperature}
    told: dict[str, Any] = {}
    if lr is None:
        curvature = run.on_main(lambda: _curvature(run, call))
        lr, friction = _mixing(call, curvature)
        common["whiten"] = True
        told = {"lr_unit": "prior", "curvature": curvature}
    told = {"lr": lr, "friction": friction, **told}
    rates, temperatures = (lr, call.head_lr), (call.temperature, call.head_temperature)

    def make(module: nn.Module, seed: int) -> Optimizer:
        groups = parameter_groups(module, call.prior, *rates, *temperatures)
        if friction is None:
            return SGLD(groups, lr=lr, seed=seed, **common)
        return SGHMC(groups, lr=lr, seed=seed, friction=friction, **common)

    return Rates(make, told)


def _curvature(run: Run, call: SampleCall) -> float:
    """Return the mean over draws of the prior of the loss's curvature in the prior's units."""
    law, found = _prior(run), []
    run.start(call.seed)
    batches = list(examples(run.data, _SEEN))
    for number, batch in enumerate(batches):
        check_finite(batch, number)
    for index in range(_STARTS):
        source = generator(law.loc.device, "curvature", call.seed, index)
        with torch.no_grad():
            law.layout.load_(run.module, law.rsample(generator=source))
        found.append(largest_curvature(run.module, run.loss, batches, law, seed=index))
    if not math.isfinite(curvature := sum(found) / _STARTS):
        raise ConfigError(
            "the loss is not finite at draws of the prior, so no step can be found: narrow the "
            "prior, rescale(rms_std=), or give lr"
        )
    return curvature


def _mixing(call: SampleCall, curvature: float) -> tuple[float, float | None]:
    """Return step and friction in the prior's units."""
    num_data = call.data.num_data
    is_hmc, coldest = call.sampler == "sghmc", call.temperature
    if call.head_temperature is not None:
        coldest = min(coldest, call.head_temperature)
    lr = _SHARE[call.sampler] * (4 if is_hmc else 2) / (curvature + 1 / num_data)
    while True:
        friction = None
        if is_hmc:  # the prior's own frequency in U is 1, the time of a step sqrt(lr / N)
            critical = -math.expm1(-2 * math.sqrt(lr / num_data))
            friction = critical if call.friction is None else call.friction
        added = heat(lr, friction, curvature, num_data, call.batch_size)
        if added <= _HEAT * coldest or coldest == 0:
            return lr, friction
        lr /= 2


def heat(lr: float, friction: float | None, noise: float, num_data: int, batch_size: int) -> float:
    """Return the temperature that the noise of minibatches adds, to first order in ``lr``.

    Along a direction in which gradients of single examples have the variance ``noise``, and batches
    are drawn without replacement. In the end a kick of SGHMC moves a weight by 1 / f - 1 / 2 of
    itself, and its own noise, of variance f (2 - f) T / N, by 1 / f; that of SGLD has 2 lr T / N.

    Examples
    --------
    >>> heat(0.1, 0.2, 3.0, num_data=60, batch_size=60)
    0.0
    """
    size = min(batch_size, num_data)
    variance = noise / size * (num_data - size) / max(num_data - 1, 1)
    share = 0.5 if friction is None else (2 - friction) / (4 * friction)
    return lr * variance * num_data * share
