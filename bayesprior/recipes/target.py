"""Infer with a prior: MAP, SWAG and sampling."""

import copy
import functools
import math

from bayesprior.errors import ConfigError
from bayesprior.inference.collectors.draws import DrawWriter
from bayesprior.inference.collectors.memory import DrawsInMemory
from bayesprior.inference.collectors.swag import SWAG
from bayesprior.inference.posteriors import PointPosterior, StoredDraws
from bayesprior.inference.protocols import Collector, Draw, Schedule
from bayesprior.inference.schedules import chain, constant, cosine, cyclical, scaled, spread
from bayesprior.recipes.arguments import MapCall, SampleCall, SwagCall
from bayesprior.recipes.calls import recipe
from bayesprior.recipes.rates import descent, sampling
from bayesprior.recipes.training import Run, chain_seed
from bayesprior.storage import chain_dir
from bayesprior.weights.gaussian import GaussianWeights

__all__ = ["fit_map", "fit_swag", "sample"]


@recipe(MapCall)
def fit_map(call: MapCall) -> PointPosterior:
    """Maximize the posterior, stable for every prior width.

    With a learning rate given by `ImplicitPriorSGD`; without one by `WhitenedAdam`, whose steps are
    in standard deviations of the prior, and no longer than the features bear.

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
        rates = descent(run, call, schedule, call.num_steps)
        run.train(rates.make, schedule, num_steps, collectors=collectors, description="MAP")
        fit = PointPosterior.from_module(call.module, call.prior.layout)
        return run.finish(fit, {"method": "map", "rms_std": call.prior.rms_std, **rates.told})


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
        rates = descent(run, call, schedule, num_steps)
        run.train(rates.make, schedule, num_steps, collectors=[collector], description="SWAG")
        about = {"role": "posterior", "method": "swag", "data": call.data.name, "seed": call.seed}
        fit = collector.posterior(provenance=about)
        fit.buffers = run.buffers_at(fit)
        return run.finish(fit, {"method": "swag", "rms_std": call.prior.rms_std, **rates.told})


@recipe(SampleCall)
def sample(call: SampleCall) -> StoredDraws | DrawsInMemory:
    """Sample the posterior with SGHMC or SGLD, one folder a chain.

    Without a learning rate the chains run in units in which the prior is standard normal, at the
    step that the curvature there allows.

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
        rates = sampling(run, call)
        for index in range(call.chains):
            seed = chain_seed(call.seed, index)
            call.module.load_state_dict(initial)
            run.start(seed, spread=call.start_spread * math.sqrt(call.temperature))
            memory = DrawsInMemory(chain=index)
            run.train(
                functools.partial(rates.make, seed=seed),
                schedule,
                num_steps,
                collectors=[memory if run.out is None else DrawWriter(run.out, chain=index)],
                description=f"{call.sampler.upper()} chain {index + 1}/{call.chains}",
                folder=None if run.out is None else chain_dir(run.out, index),
                seed=seed,
            )
            kept += memory.draws()
        fit = DrawsInMemory(kept) if run.out is None else StoredDraws(run.out)
        numbers = {"method": call.sampler, "rms_std": call.prior.rms_std, **rates.told}
        return run.finish(fit, numbers)


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
