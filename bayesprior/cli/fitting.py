"""``fit-source``, ``make-prior`` and ``fit``: from data to posteriors."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from bayesprior.cli.choices import DataChoice, ModelChoice, RunChoice, flat, with_full_paths
from bayesprior.errors import ConfigError, nearest_name

__all__ = ["fit_command", "fit_source_command", "make_prior_command", "run_fit"]


def fit_source_command(
    data: DataChoice,
    model: ModelChoice,
    run: RunChoice,
    *,
    weights: str | None = None,
    rank: int = 20,
    num_steps: int = 2000,
    num_snapshots: int = 40,
    collect_every: int = 10,
    batch_size: int = 128,
    lr: float = 0.05,
    swag_lr_factor: float = 0.5,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    batch_norm: Literal["train", "frozen"] = "train",
    diagonal_only: bool = False,
    checkpoint_every: int = 1000,
) -> None:
    """Train on the source task and fit the source posterior (SWAG).

    Writes source.safetensors.

    Parameters
    ----------
    data, model, run
        Which data, network and folder.
    weights
        Start from these: a .safetensors, .pth or .pt file, or a name of torchvision's such as
        DEFAULT.
    rank
        Directions kept, at most num_snapshots.
    num_steps
        Steps before the snapshots; 0 continues from the weights.
    num_snapshots
        Snapshots of the weights.
    collect_every
        Steps between two snapshots.
    batch_size
        Examples a step.
    lr
        Learning rate of SGD.
    swag_lr_factor
        Times this while snapshots are taken.
    momentum
        Of SGD.
    weight_decay
        Of SGD.
    batch_norm
        Whether BatchNorm statistics are updated.
    diagonal_only
        Keep variances only.
    checkpoint_every
        Steps between checkpoints.
    """
    options = flat(locals())
    from bayesprior import recipes
    from bayesprior.cli.inspection import describe, show
    from bayesprior.cli.loading import checksums, load_data, load_model
    from bayesprior.recipes.runs import add_results, open_run
    from bayesprior.weights.gaussian import GaussianWeights

    bundle = load_data(data)
    module, head = load_model(model, bundle, seed=run.seed, weights=weights)
    folder = open_run(run.out, "fit-source", with_full_paths(options), checksums(weights=weights))
    path = folder / "source.safetensors"
    if path.exists():
        source = GaussianWeights.load(path)
    else:
        names = inspect.signature(recipes.fit_source).parameters
        source = recipes.fit_source(
            module,
            bundle,
            head=head,
            out=folder,
            seed=run.seed,
            device=run.device,
            progress=run.progress,
            checkpoint_every=checkpoint_every,
            **{k: v for k, v in options.items() if k in names and k not in _PASSED},
        )
    add_results(folder, "fit-source", {"seed": run.seed, **describe(source)})
    show(path)


# Arguments that the commands give the recipes themselves.
_PASSED = {"data", "head", "out", "seed", "device", "progress", "checkpoint_every"}


def make_prior_command(
    data: DataChoice,
    model: ModelChoice,
    run: RunChoice,
    *,
    source: str | None = None,
    weights: str | None = None,
    rms_std: float | None = None,
    cov_scale: float | None = None,
    head_std: float = 1.0,
    jitter: float = 0.1,
    shape: Literal["low-rank", "diagonal", "isotropic"] = "low-rank",
    rank: int | None = None,
) -> None:
    """Turn a source posterior into a prior for the target's network.

    Writes prior.safetensors. The data only give the shapes of input and head.

    Parameters
    ----------
    data, model, run
        Which target data, network and folder.
    source
        File that fit-source wrote.
    weights
        Or a checkpoint alone, as in fit-source: the prior is isotropic around it (L2-SP) and
        needs rms_std.
    rms_std
        Root mean square standard deviation of the transferred weights.
    cov_scale
        Or a factor on the source's covariance.
    head_std
        Standard deviation of each new weight.
    jitter
        Share of the mean variance added to every transferred weight's; bounds the least, which
        bound a sampler's step.
    shape
        Shape of the covariance, around the same mean and with the same rms_std.
    rank
        Keep fewer directions.
    """
    options = flat(locals())
    from bayesprior import recipes
    from bayesprior.cli.inspection import describe, show
    from bayesprior.cli.loading import checksums, load_data, load_model, point_source
    from bayesprior.recipes.runs import add_results, open_run
    from bayesprior.weights.gaussian import GaussianWeights

    if (source is None) == (weights is None):
        raise ConfigError("give exactly one of --source and --weights")
    if weights is not None and rms_std is None:
        raise ConfigError("a prior around --weights alone has no width of its own; give --rms_std")
    bundle = load_data(data)
    module, head = load_model(model, bundle, seed=run.seed, weights=weights)
    law = GaussianWeights.load(source) if source is not None else point_source(module, rms_std)
    inputs = checksums(source=source, weights=weights)
    prior = recipes.make_prior(
        law,
        module,
        head=head,
        rms_std=rms_std,
        cov_scale=cov_scale,
        head_std=head_std,
        jitter=jitter,
        shape="isotropic" if source is None else shape,
        rank=rank,
    )
    folder = open_run(run.out, "make-prior", with_full_paths(options), inputs)
    prior.save(folder / "prior.safetensors")
    add_results(folder, "make-prior", {"seed": run.seed, **describe(prior)})
    show(folder / "prior.safetensors")


def fit_command(
    data: DataChoice,
    model: ModelChoice,
    run: RunChoice,
    *,
    prior: str,
    method: Literal["map", "swag", "sgld", "sghmc"] = "map",
    rms_std: float | None = None,
    num_steps: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    head_lr: float | None = None,
    momentum: float | None = None,
    warm_up: int | None = None,
    rank: int | None = None,
    num_snapshots: int | None = None,
    collect_every: int | None = None,
    swag_lr_factor: float | None = None,
    num_draws: int | None = None,
    chains: int | None = None,
    burn_in: int | None = None,
    thin: int | None = None,
    cycles: int | None = None,
    temperature: float | None = None,
    head_temperature: float | None = None,
    friction: float | None = None,
    batch_norm: Literal["frozen", "train"] | None = None,
    checkpoint_every: int = 1000,
) -> None:
    """Infer the target's weights with a prior: MAP, SWAG, SGLD or SGHMC.

    Writes map.safetensors, swag.safetensors, or chain-00/draw-0000.safetensors and so on. What is
    left out has the method's default; an option that the method does not have is an error.

    Parameters
    ----------
    data, model, run
        Which target data, network and folder.
    prior
        File that make-prior wrote.
    method
        How to infer.
    rms_std
        Bring the prior to this width first.
    num_steps
        Steps of map, or of swag before its snapshots.
    batch_size
        Examples a step.
    lr
        Learning rate, on the mean loss.
    head_lr
        Learning rate of the new weights.
    momentum
        Of map and swag.
    warm_up
        Steps of rising learning rate (map).
    rank
        Directions kept (swag).
    num_snapshots
        Snapshots (swag).
    collect_every
        Steps between two snapshots (swag).
    swag_lr_factor
        Factor on lr while snapshots are taken (swag).
    num_draws
        Draws a chain (samplers).
    chains
        Number of chains (samplers).
    burn_in
        Steps before the draws (samplers).
    thin
        Steps between two draws (samplers).
    cycles
        Cosine cycles of exploration and sampling; 0 keeps lr (samplers).
    temperature
        1 samples the posterior (samplers).
    head_temperature
        Temperature of the new weights (samplers).
    friction
        Share of the velocity lost a step (sghmc).
    batch_norm
        Whether BatchNorm statistics stay the source's (frozen, the default).
    checkpoint_every
        Steps between checkpoints.
    """
    from bayesprior.cli.inspection import show_results

    folder = run_fit(**locals())
    show_results(folder, "fit")


def run_fit(
    data: DataChoice,
    model: ModelChoice,
    run: RunChoice,
    *,
    prior: str,
    method: str,
    rms_std: float | None = None,
    checkpoint_every: int = 1000,
    **tuning: Any,
) -> Path:
    """Do what `fit_command` does without printing; return the folder."""
    import time

    from bayesprior import recipes
    from bayesprior.cli.loading import checksums, load_data, load_model
    from bayesprior.recipes.runs import add_results, open_run, read_results
    from bayesprior.weights.gaussian import GaussianWeights

    recipe: Callable[..., Any]
    recipe = {"map": recipes.fit_map, "swag": recipes.fit_swag}.get(method, recipes.sample)
    own = _own_options(method, recipe, tuning)
    bundle = load_data(data)
    module, _ = load_model(model, bundle, seed=run.seed)
    law = GaussianWeights.load(prior)
    if rms_std is not None:
        law = law.rescale(rms_std=rms_std)
    options = flat({"data": data, "model": model, "run": run}) | {
        "prior": prior,
        "method": method,
        "rms_std": rms_std,
        "checkpoint_every": checkpoint_every,
    }
    folder = open_run(run.out, "fit", with_full_paths(options | own), checksums(prior=prior))
    if "fit" in read_results(folder):
        return folder
    start = time.perf_counter()
    recipe(
        module,
        law,
        bundle,
        out=folder,
        seed=run.seed,
        device=run.device,
        progress=run.progress,
        checkpoint_every=checkpoint_every,
        **own | ({"sampler": method} if recipe is recipes.sample else {}),
    )
    found = {
        "method": method,
        "seed": run.seed,
        "num_data": bundle.num_data,
        "rms_std": law.rms_std,
        "seconds": time.perf_counter() - start,
    }
    add_results(folder, "fit", found)
    return folder


def _own_options(
    method: str, recipe: Callable[..., Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the method's options with its defaults; refuse those that it does not have."""
    parameters = inspect.signature(recipe).parameters
    offered = inspect.signature(fit_command).parameters
    tunable = [k for k, p in offered.items() if p.default is None and k != "rms_std"]
    mine = [k for k in tunable if k in parameters and (k != "friction" or method == "sghmc")]
    for name in tunable:
        if given.get(name) is not None and name not in mine:
            raise ConfigError(
                f"--{name} has no meaning with --method {method}; that takes "
                f"{', '.join(mine)}{nearest_name(name, mine)}"
            )
    defaults = {k: parameters[k].default for k in mine}
    return {k: defaults[k] if given.get(k) is None else given[k] for k in mine}
