"""Infer with a prior: MAP, SWAG and sampling."""

import copy
import math
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from bayesprior.errors import ConfigError
from bayesprior.inference.collectors.draws import DrawWriter
from bayesprior.inference.collectors.memory import DrawsInMemory
from bayesprior.inference.collectors.swag import SWAG
from bayesprior.inference.optimizers import SGHMC, SGLD, ImplicitPriorSGD
from bayesprior.inference.posteriors import PointPosterior, StoredDraws
from bayesprior.inference.protocols import Collector, Draw, Schedule
from bayesprior.inference.schedules import chain, constant, cosine, cyclical, scaled, spread
from bayesprior.recipes.arguments import MapCall, SampleCall, SwagCall
from bayesprior.recipes.calls import recipe
from bayesprior.recipes.training import Run, chain_seed, parameter_groups
from bayesprior.storage import chain_dir
from bayesprior.weights.gaussian import GaussianWeights

__all__ = ["fit_map", "fit_swag", "sample"]


@recipe(MapCall)
def fit_map(call: MapCall) -> PointPosterior:
    """Maximize the posterior with `ImplicitPriorSGD`, stable for every prior width.

    Returns
    -------
    PointPosterior
        Also in ``out/map.safetensors``.

    Raises
    ------
    ConfigError
        If an argument cannot work, or ``out`` is another run's.
    DivergenceError
        If the loss or a weight becomes NaN or infinite.
    """
    keeps = call.start == "module"
    with Run("fit_map", call, keeps=keeps) as run:
        if run.finished:
            return run.result()
        if not keeps:
            run.start(call.seed)
        schedule = cosine(num_steps=call.num_steps, warm_up=call.warm_up)
        num_steps = call.num_steps if call.stop is None else call.stop
        collectors: list[Collector] = []
        if call.snapshots:
            if run.out is None:
                raise ConfigError("snapshots are kept in a folder; give out=")
            schedule = spread(schedule, call.snapshots, num_steps)
            collectors.append(DrawWriter(run.out))
        run.train(_descent(call), schedule, num_steps, collectors=collectors, description="MAP")
        fit = PointPosterior.from_module(call.module, call.prior.layout)
        return run.finish(fit, {"method": "map", "rms_std": call.prior.rms_std})


@recipe(SwagCall)
def fit_swag(call: SwagCall) -> GaussianWeights:
    """Descend to the posterior's mode, go on at a constant rate, and fit SWAG to what follows.

    Returns
    -------
    GaussianWeights
        Over all weights; also in ``out/swag.safetensors``.

    Raises
    ------
    ConfigError
        If an argument cannot work, or ``out`` is another run's.
    DivergenceError
        If the loss or a weight becomes NaN or infinite.
    """
    with Run("fit_swag", call) as run:
        if run.finished:
            return run.result()
        run.start(call.seed)
        collector = SWAG(rank=call.rank)
        schedule = chain(
            cosine(num_steps=call.num_steps, final_factor=call.swag_lr_factor),
            call.num_steps,
            scaled(constant(thin=call.collect_every), call.swag_lr_factor),
        )
        num_steps = call.num_steps + call.num_snapshots * call.collect_every
        run.train(_descent(call), schedule, num_steps, collectors=[collector], description="SWAG")
        about = {"role": "posterior", "method": "swag", "data": call.data.name, "seed": call.seed}
        fit = collector.posterior(provenance=about)
        fit.buffers = run.buffers_at(fit)
        return run.finish(fit, {"method": "swag", "rms_std": call.prior.rms_std})


@recipe(SampleCall)
def sample(call: SampleCall) -> StoredDraws | DrawsInMemory:
    """Sample the posterior with SGLD or SGHMC, one folder a chain.

    The network is left at the last chain's last draw. Chain c has the seed that (seed, c) is
    hashed to, so that runs of different seeds share no chain. Chains start as far apart as draws of
    the prior (``start_spread``).

    Returns
    -------
    StoredDraws or DrawsInMemory
        Read from ``out/chain-00/draw-0000.safetensors`` and so on; in memory without ``out``.

    Raises
    ------
    ConfigError
        If an argument cannot work, or ``out`` is another run's.
    DivergenceError
        If the loss or a weight becomes NaN or infinite.
    """
    schedule, num_steps = _sampling(call)
    with Run("sample", call) as run:
        if run.finished:
            return run.result()
        initial = copy.deepcopy(call.module.state_dict())
        kept: list[Draw] = []
        for index in range(call.chains):
            seed = chain_seed(call.seed, index)
            call.module.load_state_dict(initial)
            run.start(seed, spread=call.start_spread * math.sqrt(call.temperature))
            memory = DrawsInMemory(chain=index)
            run.train(
                _sampler(call, seed),
                schedule,
                num_steps,
                collectors=[memory if run.out is None else DrawWriter(run.out, chain=index)],
                description=f"{call.sampler.upper()} chain {index + 1}/{call.chains}",
                folder=None if run.out is None else chain_dir(run.out, index),
                seed=seed,
            )
            kept += memory.draws()
        fit = DrawsInMemory(kept) if run.out is None else StoredDraws(run.out)
        return run.finish(fit, {"method": call.sampler, "rms_std": call.prior.rms_std})


def _descent(call: MapCall | SwagCall) -> Callable[[nn.Module], Optimizer]:
    def optimizer(target: nn.Module) -> Optimizer:
        groups = parameter_groups(target, call.prior, call.lr, call.head_lr)
        return ImplicitPriorSGD(groups, lr=call.lr, momentum=call.momentum)

    return optimizer


def _sampling(call: SampleCall) -> tuple[Schedule, int]:
    """Return the schedule of a chain and its number of steps."""
    if not call.cycles:
        schedule = constant(burn_in=call.burn_in, thin=call.thin)
        return schedule, call.burn_in + call.thin * call.num_draws
    num_steps = call.cycles * call.burn_in + call.thin * call.num_draws
    schedule = cyclical(
        num_steps=num_steps,
        num_cycles=call.cycles,
        burn_in=call.burn_in,
        draws_per_cycle=call.num_draws // call.cycles,
        final_factor=0.1,
    )
    return schedule, num_steps


def _sampler(call: SampleCall, seed: int) -> Callable[[nn.Module], Optimizer]:
    def optimizer(target: nn.Module) -> Optimizer:
        groups = parameter_groups(
            target, call.prior, call.lr, call.head_lr, call.temperature, call.head_temperature
        )
        common: dict[str, Any] = {
            "lr": call.lr,
            "num_data": call.data.num_data,
            "temperature": call.temperature,
            "seed": seed,
        }
        if call.friction is None:
            return SGLD(groups, **common)
        return SGHMC(groups, friction=call.friction, **common)

    return optimizer
