"""Infer with a prior: MAP, SWAG and sampling."""

import copy
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from bayesprior.data.bundle import DataBundle
from bayesprior.errors import ConfigError
from bayesprior.inference.collectors.draws import DrawWriter
from bayesprior.inference.collectors.swag import SWAG
from bayesprior.inference.optimizers import SGHMC, SGLD, ImplicitPriorSGD
from bayesprior.inference.posteriors import PointPosterior, StoredDraws
from bayesprior.inference.protocols import Schedule
from bayesprior.inference.schedules import chain, constant, cosine, cyclical, scaled
from bayesprior.recipes.training import Run, parameter_groups
from bayesprior.storage import chain_dir
from bayesprior.tasks.likelihoods import Categorical, Likelihood
from bayesprior.tasks.objectives import supervised
from bayesprior.weights.gaussian import GaussianWeights

__all__ = ["fit_map", "fit_swag", "sample"]


def fit_map(
    module: nn.Module,
    prior: GaussianWeights,
    data: DataBundle,
    *,
    likelihood: Likelihood | None = None,
    num_steps: int = 500,
    batch_size: int = 64,
    lr: float = 0.03,
    head_lr: float | None = None,
    momentum: float = 0.9,
    warm_up: int = 0,
    start: str = "prior",
    batch_norm: str = "frozen",
    **options: Any,
) -> PointPosterior:
    """Maximize the posterior with `ImplicitPriorSGD`, stable for every prior width.

    Parameters
    ----------
    module
        Trained in place.
    prior
        Law of all trainable weights.
    data
        The target task; N = ``data.num_data``.
    likelihood
        `Categorical` by default.
    num_steps, batch_size, lr, head_lr, momentum, warm_up
        Of the optimizer, with a cosine to zero; ``head_lr`` is for the weights that are new.
    start
        "prior" starts the shared weights at the prior's mean, "module" starts all weights where
        they are: with a prior around zero that is fine-tuning (or training from scratch) with
        weight decay 1 / (N std^2).
    batch_norm
        "frozen" (at the source's statistics) or "train".
    **options
        ``out``, ``seed``, ``device``, ``fabric``, ``progress``, ``checkpoint_every``.

    Returns
    -------
    PointPosterior
        Also in ``out/map.safetensors``.
    """
    if start not in ("prior", "module"):
        raise ConfigError(f"start must be 'prior' or 'module', got {start!r}")
    run = Run(module, data, **options)
    prior = prior.to(run.device)
    if start == "prior":
        run.start(module, prior)

    def optimizer(target: nn.Module) -> Optimizer:
        return ImplicitPriorSGD(
            parameter_groups(target, prior, lr, head_lr), lr=lr, momentum=momentum
        )

    run.train(
        module,
        supervised(likelihood or Categorical()),
        optimizer,
        cosine(num_steps=num_steps, warm_up=warm_up),
        num_steps,
        batch_size=batch_size,
        prior=prior,
        batch_norm=batch_norm,
        description="MAP",
    )
    buffers = {n: b.detach().clone() for n, b in module.named_buffers()}
    fit = PointPosterior(prior.layout, prior.layout.flatten(module), buffers)
    if run.out is not None and run.is_main:
        fit.save(run.out / "map.safetensors")
    return fit


def fit_swag(
    module: nn.Module,
    prior: GaussianWeights,
    data: DataBundle,
    *,
    likelihood: Likelihood | None = None,
    rank: int = 20,
    num_steps: int = 500,
    num_snapshots: int = 40,
    collect_every: int = 5,
    batch_size: int = 64,
    lr: float = 0.03,
    head_lr: float | None = None,
    swag_lr_factor: float = 0.5,
    momentum: float = 0.9,
    batch_norm: str = "frozen",
    **options: Any,
) -> GaussianWeights:
    """Descend to the posterior's mode, go on at a constant rate, and fit SWAG to what follows.

    Parameters are those of `fit_map` and `fit_source`.

    Returns
    -------
    GaussianWeights
        Over all weights; also in ``out/swag.safetensors``.
    """
    if not 1 <= rank <= num_snapshots:
        raise ConfigError(f"rank must be between 1 and num_snapshots = {num_snapshots}, got {rank}")
    run = Run(module, data, **options)
    prior = prior.to(run.device)
    run.start(module, prior)
    collector = SWAG(rank=rank)

    def optimizer(target: nn.Module) -> Optimizer:
        return ImplicitPriorSGD(
            parameter_groups(target, prior, lr, head_lr), lr=lr, momentum=momentum
        )

    schedule = chain(
        cosine(num_steps=num_steps, final_factor=swag_lr_factor),
        num_steps,
        scaled(constant(thin=collect_every), swag_lr_factor),
    )
    run.train(
        module,
        supervised(likelihood or Categorical()),
        optimizer,
        schedule,
        num_steps + num_snapshots * collect_every,
        batch_size=batch_size,
        prior=prior,
        collectors=[collector],
        batch_norm=batch_norm,
        description="SWAG",
    )
    buffers = {n: b.detach().clone() for n, b in module.named_buffers()}
    provenance = {"role": "posterior", "method": "swag", "data": data.name, "seed": run.seed}
    fit = collector.posterior(buffers=buffers, provenance=provenance)
    if run.out is not None and run.is_main:
        fit.save(run.out / "swag.safetensors")
    return fit


def sample(
    module: nn.Module,
    prior: GaussianWeights,
    data: DataBundle,
    *,
    out: str | Path,
    sampler: str = "sgld",
    likelihood: Likelihood | None = None,
    num_draws: int = 30,
    chains: int = 2,
    burn_in: int = 500,
    thin: int = 20,
    cycles: int = 0,
    batch_size: int = 64,
    lr: float = 1e-3,
    head_lr: float | None = None,
    temperature: float = 1.0,
    head_temperature: float | None = None,
    friction: float = 0.1,
    batch_norm: str = "frozen",
    seed: int = 0,
    **options: Any,
) -> StoredDraws:
    """Sample the posterior with SGLD or SGHMC, one folder a chain.

    Parameters
    ----------
    module
        The network; left at the last chain's last draw.
    prior, data, likelihood, batch_size, batch_norm
        As in `fit_map`.
    out
        Folder of ``chain-00/draw-0000.safetensors`` and so on.
    sampler
        "sgld" or "sghmc".
    num_draws
        Draws kept per chain.
    chains
        Number of chains; each has its own seed and its own fresh head.
    burn_in, thin
        Steps before the first draw's interval and between draws (``cycles`` = 0).
    cycles
        Number of cosine cycles of exploration and sampling; ``num_draws`` must be a multiple.
        Each cycle then takes ``burn_in + thin * draws`` steps.
    lr, head_lr, temperature, head_temperature
        Step size on grad U / N and temperature, of shared and of new weights. Temperature 1 is
        the posterior; every other value is another law.
    friction
        Of SGHMC: share of the velocity lost a step, in (0, 1].
    seed
        Chain c uses ``seed + c``.
    **options
        ``device``, ``fabric``, ``progress``, ``checkpoint_every``.

    Returns
    -------
    StoredDraws
    """
    if min(num_draws, chains, thin) < 1 or burn_in < 0 or cycles < 0:
        raise ConfigError(
            "num_draws, chains and thin must be at least 1, burn_in and cycles 0 or more"
        )
    schedule: Schedule = constant(burn_in=burn_in, thin=thin)
    num_steps = burn_in + thin * num_draws
    if cycles:
        if num_draws % cycles:
            raise ConfigError(f"num_draws = {num_draws} is no multiple of cycles = {cycles}")
        num_steps = cycles * burn_in + thin * num_draws
        schedule = cyclical(
            num_steps=num_steps,
            num_cycles=cycles,
            burn_in=burn_in,
            draws_per_cycle=num_draws // cycles,
            final_factor=0.1,
        )
    initial = copy.deepcopy(module.state_dict())
    for index in range(chains):
        folder = chain_dir(out, index)
        run = Run(module, data, out=folder, seed=seed + index, **options)
        law = prior.to(run.device)
        module.load_state_dict(initial)
        run.start(module, law, fresh=index > 0)

        def optimizer(
            target: nn.Module, law: GaussianWeights = law, number: int = index
        ) -> Optimizer:
            groups = parameter_groups(target, law, lr, head_lr, temperature, head_temperature)
            common: dict[str, Any] = {
                "lr": lr,
                "num_data": data.num_data,
                "temperature": temperature,
                "seed": seed + number,
            }
            if sampler == "sgld":
                return SGLD(groups, **common)
            if sampler == "sghmc":
                return SGHMC(groups, friction=friction, **common)
            raise ConfigError(f"sampler must be 'sgld' or 'sghmc', got {sampler!r}")

        run.train(
            module,
            supervised(likelihood or Categorical()),
            optimizer,
            schedule,
            num_steps,
            batch_size=batch_size,
            prior=law,
            collectors=[DrawWriter(out, chain=index)],
            batch_norm=batch_norm,
            description=f"{sampler.upper()} chain {index + 1}/{chains}",
        )
    return StoredDraws(out)
