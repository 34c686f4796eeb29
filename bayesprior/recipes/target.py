"""Infer with a prior: MAP, SWAG and sampling."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer

from bayesprior.inference.collectors.draws import DrawWriter
from bayesprior.inference.collectors.memory import DrawsInMemory
from bayesprior.inference.collectors.swag import SWAG
from bayesprior.inference.optimizers import SGHMC, SGLD, ImplicitPriorSGD
from bayesprior.inference.posteriors import PointPosterior, StoredDraws
from bayesprior.inference.protocols import Draw, Schedule
from bayesprior.inference.schedules import chain, constant, cosine, cyclical, scaled
from bayesprior.recipes.arguments import FitCall
from bayesprior.recipes.calls import recipe
from bayesprior.recipes.options import MapOptions, SamplerOptions, SwagOptions
from bayesprior.recipes.training import Run, chain_seed, parameter_groups
from bayesprior.storage import MAP, chain_dir
from bayesprior.storage import SWAG as SWAG_FILE
from bayesprior.weights.gaussian import GaussianWeights

__all__ = ["fit_map", "fit_swag", "sample"]


@dataclass(frozen=True, eq=False)
class MapCall(FitCall, MapOptions):
    """Arguments of `fit_map`."""


@dataclass(frozen=True, eq=False)
class SwagCall(FitCall, SwagOptions):
    """Arguments of `fit_swag`."""


@dataclass(frozen=True, eq=False)
class SampleCall(FitCall, SamplerOptions):
    """Arguments of `sample`."""


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
    with Run("fit_map", call, call.module, call.data, prior=call.prior, keeps=keeps) as run:
        if run.finished:
            run.restore()
            return run.bound(PointPosterior.load(run.folder / MAP))
        if not keeps:
            run.start(call.seed)
        run.train(
            call.loss(),
            _descent(call, run.prior),
            cosine(num_steps=call.num_steps, warm_up=call.warm_up),
            call.num_steps,
            batch_size=call.batch_size,
            batch_norm=call.batch_norm,
            description="MAP",
        )
        fit = PointPosterior.from_module(call.module, call.prior.layout)
        numbers = {"method": "map", "rms_std": call.prior.rms_std}
        run.finish(lambda folder: fit.save(folder / MAP), numbers)
        return run.bound(fit)


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
    with Run("fit_swag", call, call.module, call.data, prior=call.prior) as run:
        if run.finished:
            run.restore()
            return run.bound(GaussianWeights.load(run.folder / SWAG_FILE))
        run.start(call.seed)
        collector = SWAG(rank=call.rank)
        schedule = chain(
            cosine(num_steps=call.num_steps, final_factor=call.swag_lr_factor),
            call.num_steps,
            scaled(constant(thin=call.collect_every), call.swag_lr_factor),
        )
        run.train(
            call.loss(),
            _descent(call, run.prior),
            schedule,
            call.num_steps + call.num_snapshots * call.collect_every,
            batch_size=call.batch_size,
            collectors=[collector],
            batch_norm=call.batch_norm,
            description="SWAG",
        )
        buffers = {n: b.detach().clone() for n, b in call.module.named_buffers()}
        provenance = {
            "role": "posterior",
            "method": "swag",
            "data": call.data.name,
            "seed": call.seed,
        }
        fit = collector.posterior(buffers=buffers, provenance=provenance)
        numbers = {"method": "swag", "rms_std": call.prior.rms_std}
        run.finish(lambda folder: fit.save(folder / SWAG_FILE), numbers)
        return run.bound(fit)


@recipe(SampleCall)
def sample(call: SampleCall) -> StoredDraws | DrawsInMemory:
    """Sample the posterior with SGLD or SGHMC, one folder a chain.

    The network is left at the last chain's last draw. Chain c has the seed that (seed, c) is
    hashed to, so that runs of different seeds share no chain.

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
    with Run("sample", call, call.module, call.data, prior=call.prior) as run:
        if run.finished:
            run.restore(chain_dir(run.folder, call.chains - 1))
            return run.bound(StoredDraws(run.folder))
        initial = copy.deepcopy(call.module.state_dict())
        kept: list[Draw] = []
        for index in range(call.chains):
            seed = chain_seed(call.seed, index)
            call.module.load_state_dict(initial)
            run.start(seed)
            memory = DrawsInMemory(chain=index)
            run.train(
                call.loss(),
                _sampler(call, run.prior, seed),
                schedule,
                num_steps,
                batch_size=call.batch_size,
                collectors=[memory if run.out is None else DrawWriter(run.out, chain=index)],
                batch_norm=call.batch_norm,
                description=f"{call.sampler.upper()} chain {index + 1}/{call.chains}",
                folder=None if run.out is None else chain_dir(run.out, index),
                seed=seed,
            )
            kept += memory.draws()
        if run.out is None:
            return run.bound(DrawsInMemory(kept))
        numbers = {"method": call.sampler, "rms_std": call.prior.rms_std}
        run.finish(lambda folder: None, numbers)
        return run.bound(StoredDraws(run.out))


def _descent(call: MapCall | SwagCall, prior: GaussianWeights) -> Callable[[nn.Module], Optimizer]:
    def optimizer(target: nn.Module) -> Optimizer:
        groups = parameter_groups(target, prior, call.lr, call.head_lr)
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


def _sampler(
    call: SampleCall, prior: GaussianWeights, seed: int
) -> Callable[[nn.Module], Optimizer]:
    def optimizer(target: nn.Module) -> Optimizer:
        groups = parameter_groups(
            target, prior, call.lr, call.head_lr, call.temperature, call.head_temperature
        )
        common: dict[str, Any] = {
            "lr": call.lr,
            "num_data": call.data.num_data,
            "temperature": call.temperature,
            "seed": seed,
        }
        if call.sampler == "sgld":
            return SGLD(groups, **common)
        return SGHMC(groups, friction=call.friction, **common)

    return optimizer
