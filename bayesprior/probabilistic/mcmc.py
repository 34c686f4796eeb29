"""`StochasticGradientMCMC`: minibatch sampling of any Pyro model."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sized
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bayesprior.errors import ConfigError, nearest_name
from bayesprior.inference.engine import train
from bayesprior.inference.generators import fold_seed
from bayesprior.inference.protocols import Posterior, Schedule, StepEvent
from bayesprior.inference.schedules import constant
from bayesprior.probabilistic.datatree import samples_to_datatree
from bayesprior.probabilistic.draws import SiteDraws
from bayesprior.probabilistic.potential import PyroPotential, potential_loss
from bayesprior.probabilistic.sites import InitStrategy, init_to_finite_mean
from bayesprior.storage import CHECKPOINT, chain_dir
from bayesprior.tasks.protocols import Batch, to_device

__all__ = ["StochasticGradientMCMC"]

_MEMORY = 2 << 30  # bytes of draws that are kept in memory
_METHODS = ("sequential", "vectorized")
_RANDOM = (
    "two evaluations of the likelihood at one point differ: the model is random beyond its sites, "
    "so the chain has no fixed target; is dropout in train mode? (call .eval())"
)


class StochasticGradientMCMC:
    """Stochastic-gradient MCMC of a Pyro model.

    Every step is one of `bayesprior.inference.engine.train` on a `PyroPotential`; what the
    engine does for networks (accumulation, checkpoints, devices, exact priors) it does here.
    Words are those of `pyro.infer.MCMC` (``num_samples``, ``warmup_steps``, ``num_chains``,
    ``get_samples``), but the kernel is an optimizer: model, data and the chains' lengths go to
    `run`, warm-up adapts nothing, no step is rejected, and there is no ``diagnostics()``; see
    `summary`.

    Parameters
    ----------
    kernel
        Makes the sampler: `SGLD`, `SGHMC`, or any
        ``kernel(param_groups, num_data=N, seed=int, **options) -> Optimizer``.
    site_options
        Options of single latent sites, by name: ``{"rms_std": {"lr": 1e-3}}``.
    **options
        Of the kernel: ``lr`` (multiplies the gradient of U / N), ``temperature``, ``friction``...

    Examples
    --------
    >>> import pyro, pyro.distributions as dist
    >>> from bayesprior.inference.optimizers import SGHMC
    >>> def model(y):
    ...     mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
    ...     with pyro.plate("data", 100, subsample_size=len(y)):
    ...         pyro.sample("y", dist.Normal(mean, 1.0), obs=y)
    >>> loader = torch.utils.data.DataLoader(torch.ones(100), batch_size=50)
    >>> mcmc = StochasticGradientMCMC(SGHMC, lr=0.1, friction=0.5)
    >>> mcmc.run(model, loader, num_samples=50, warmup_steps=20, num_chains=2, progress=False)
    >>> mcmc.get_samples()["mean"].shape, mcmc.get_samples(group_by_chain=True)["mean"].shape
    (torch.Size([100]), torch.Size([2, 50]))
    """

    def __init__(
        self,
        kernel: Callable[..., Optimizer],
        *,
        site_options: Mapping[str, Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> None:
        if not callable(kernel):
            raise ConfigError(
                "kernel must make the sampler, such as the class SGLD with lr= beside it, got "
                f"{type(kernel).__name__}"
            )
        self.kernel, self.options, self.site_options = kernel, options, dict(site_options or {})
        self._run: tuple[SiteDraws, int] | None = None

    def run(
        self,
        model: Callable[..., Any],
        data_loader: Iterable[Batch],
        *,
        num_samples: int | None = None,
        warmup_steps: int = 0,
        num_chains: int = 1,
        thin: int = 1,
        chain_method: str = "sequential",
        num_data: int | None = None,
        init_strategy: InitStrategy = init_to_finite_mean,
        schedule: Schedule | None = None,
        num_steps: int | None = None,
        seed: int = 0,
        run_dir: str | Path | None = None,
        resume: bool = False,
        device: str | torch.device | None = None,
        progress: bool = True,
        **engine_options: Any,
    ) -> None:
        """Run the chains; the draws of an earlier call are replaced.

        Parameters
        ----------
        model
            A Pyro model, such as a `BayesianNetwork`. Plates over data need the whole size N.
            It runs once before the first step.
        data_loader
            Yields batches: tuples of positional arguments, mappings of keyword arguments or
            single arguments of the model. ``[(x, y)]`` is the full batch.
        num_samples, warmup_steps, num_chains
            Draws kept from each chain, steps before the first of them, and chains. They differ in
            their noise, and in their starts if the init strategy is random. By default all start
            at one point, where R-hat cannot notice a part of the posterior that none of them
            reaches: see ``init_to_sample``.

        Other Parameters
        ----------------
        thin
            Steps from one kept draw to the next.
        chain_method
            "sequential", or "vectorized": all chains in one pass of `torch.func.vmap`, much
            faster for small models. Vectorized chains see the same batches, so their minibatch
            noise is common; with the full batch they are independent.
        num_data, init_strategy
            See `PyroPotential`.
        schedule, num_steps
            A schedule (`bayesprior.inference.schedules`), which says what is kept, and the chain's
            length in steps, in place of ``num_samples``, ``warmup_steps`` and ``thin``.
        seed
            Chain c's noise and start have the seed ``fold_seed(seed, c)``.
        run_dir, resume
            Keeps draws, checkpoints and traces on disk, and nothing in memory; finished chains
            stay and an interrupted one goes on with ``resume``. ``StoredDraws(run_dir)`` reads the
            network's weights under their own names, with its buffers, in any session,
            ``StoredDraws(run_dir / "sites")`` the sites beside it.
        device
            Where the model computes. By default where its parameters are.
        progress, **engine_options
            Further arguments of `bayesprior.inference.engine.train`, such as ``fabric``.

        Raises
        ------
        ConfigError
            For arguments that cannot work, a loader that does not fit the model's plates among
            them, and see `PyroPotential`.
        DivergenceError
            If a chain diverges.
        KeyboardInterrupt
            After the step at hand. Draws so far stay: those of complete chains, and those of the
            interrupted one in ``get_samples()`` without grouping.

        Warns
        -----
        UserWarning
            If the likelihood is random at a fixed point, as with dropout in train mode.
        """
        if chain_method not in _METHODS:
            hint = nearest_name(chain_method, _METHODS)
            raise ConfigError(f"chain_method must be one of {_METHODS}, not {chain_method!r}{hint}")
        if num_chains < 1:
            raise ConfigError(f"num_chains must be at least 1, got {num_chains}")
        schedule, num_steps, num_samples = _plan(
            schedule, num_steps, num_samples, warmup_steps, thin
        )
        vectorized = chain_method == "vectorized"
        runs = 1 if vectorized else num_chains
        batch = _first_batch(data_loader)
        own = model.parameters() if isinstance(model, nn.Module) else iter(())
        if (place := device or next((p.device for p in own), None)) is not None:
            batch = to_device(batch, place)
        potential = PyroPotential(
            model,
            batch,
            num_data=num_data,
            num_chains=num_chains if vectorized else None,
            init_strategy=init_strategy,
            seed=seed if vectorized else fold_seed(seed, 0),
        ).to(device)
        _check_loader(data_loader, potential)
        size = potential.layout.dim * num_samples * runs
        size *= next(potential.parameters()).element_size()
        if run_dir is None and size > _MEMORY:
            raise ConfigError(
                f"the draws would take {size / 2**30:.1f} GiB of memory; keep them on disk with "
                "run_dir="
            )

        def look(event: StepEvent) -> None:
            if event.step == 1 and potential.is_random(batch):
                warnings.warn(_RANDOM, stacklevel=2)

        hooks = [*engine_options.pop("hooks", ()), look]
        draws = SiteDraws(potential, run_dir)
        self._run = draws, num_samples
        for chain in range(runs):
            chain_seed = fold_seed(seed, chain)
            if chain:
                potential.initialize(batch, seed=chain_seed)
            folder = None if run_dir is None else chain_dir(run_dir, chain)
            train(
                potential,
                potential_loss,
                data_loader,
                self._sampler(potential, chain_seed),
                schedule,
                num_steps,
                prior=potential.prior,
                num_data=potential.num_data,
                collectors=draws.begin(),
                hooks=hooks,
                run_dir=folder,
                resume=resume and folder is not None and (folder / CHECKPOINT).exists(),
                progress=progress,
                description=f"chain {chain + 1} of {runs}" if runs > 1 else "sampling",
                **engine_options,
            )

    def _sampler(self, potential: PyroPotential, seed: int) -> Optimizer:
        for name in self.site_options:
            if name not in potential.sites:
                raise ConfigError(f"no latent site {name!r}{nearest_name(name, potential.sites)}")
        own = dict(potential.named_parameters())
        groups = [
            {"params": [own[key] for key in site.names], **self.site_options.get(name, {})}
            for name, site in potential.sites.items()
        ]
        return self.kernel(groups, num_data=potential.num_data, seed=seed, **self.options)

    # ------------------------------------------------------------------ results

    @property
    def potential(self) -> PyroPotential:
        """The potential of the last run."""
        return self._last()[0].potential

    def get_samples(self, group_by_chain: bool = False) -> dict[str, Tensor]:
        """Return the draws by site name, in constrained space, on the CPU.

        Parameters
        ----------
        group_by_chain
            Shapes (num_chains, num_samples, ...) instead of (num_chains * num_samples, ...).
            Complete chains only; after an interruption what else there is comes without grouping.
        """
        draws, chains = self._chains(complete=group_by_chain)
        values = [list(draws.read(chain)) for chain in chains]
        out = {}
        for name in values[0][0]:
            stacked = [torch.stack([draw[name] for draw in own]) for own in values]
            out[name] = torch.stack(stacked) if group_by_chain else torch.cat(stacked)
        return out

    def posterior(self, site: str | None = None) -> Posterior:
        """Return the draws of a network as a `Posterior` of it, for `bayesprior.predict`.

        It holds the complete chains, in the order of ``get_samples(group_by_chain=True)``, where
        the widths and noise levels are that belong to its draws.

        Parameters
        ----------
        site
            Of the network; None if there is only one.
        """
        networks = {n: s for n, s in self.potential.sites.items() if s.layout is not None}
        name = site or (next(iter(networks)) if len(networks) == 1 else "weights")
        if name not in networks:
            raise ConfigError(
                f"no latent site {name!r} with a GaussianWeights{nearest_name(name, networks)}"
            )
        draws, chains = self._chains()
        return draws.posterior(networks[name], chains)

    def to_datatree(self, data: Batch | None = None, *, max_size: int = 1000) -> Any:
        """Return the draws of the complete chains as an ArviZ DataTree.

        ``data``, all as one batch, add what LOO and power scaling need. A site with more than
        ``max_size`` values is not kept whole, see `samples_to_datatree`.
        """
        draws, chains = self._chains()
        device = next(self.potential.parameters()).device
        values = (to_device(own, device) for chain in chains for own in draws.read(chain))
        return samples_to_datatree(
            ((len(chains), draws.lengths[chains[0]]), values),
            model=self.potential.model,
            data=None if data is None else to_device(data, device),
            networks={name: site.distribution for name, site in self.potential.sites.items()},
            max_size=max_size,
        )

    def summary(self, **options: Any) -> Any:
        """Return ArviZ's table of moments, intervals, R-hat and ESS (a DataFrame).

        R-hat compares chains with each other: if all start at one point, as by default, it is too
        good by what none of them has reached. Options are those of `arviz_stats.summary`; by
        default nothing is rounded.
        """
        import arviz_stats

        return arviz_stats.summary(self.to_datatree(), **{"round_to": "none", **options})

    def _last(self) -> tuple[SiteDraws, int]:
        if self._run is None:
            raise ConfigError("there are no draws yet: call run() first")
        return self._run

    def _chains(self, complete: bool = True) -> tuple[SiteDraws, list[int]]:
        """Return the draws and the chains to read: complete ones, if there are any."""
        draws, num_samples = self._last()
        lengths = draws.lengths
        found = [chain for chain, length in enumerate(lengths) if length]
        if not found:
            raise ConfigError("the run was interrupted before its first draw; there are none")
        whole = [chain for chain in found if lengths[chain] == num_samples]
        if not complete or not whole:
            return draws, found
        if len(whole) < len(found):
            warnings.warn(
                f"the run was interrupted: its {len(whole)} complete chains are used, and the "
                f"{lengths[found[-1]]} draws of the next one are not; get_samples() without "
                "grouping has them",
                stacklevel=3,
            )
        return draws, whole


def _first_batch(loader: Iterable[Batch]) -> Batch:
    """Return a loader's first batch; refuse what is one batch itself, or none."""
    tensors = isinstance(loader, tuple) and any(isinstance(part, Tensor) for part in loader)
    if tensors or isinstance(loader, Tensor | Mapping) or not isinstance(loader, Iterable):
        raise ConfigError(
            "data_loader must yield batches, such as a DataLoader, or [(x, y)] for all data at "
            f"once, got {type(loader).__name__}"
        )
    batch = next(iter(loader), None)
    if batch is None:
        raise ConfigError("the data loader yields no batch; [()] is one without arguments")
    return batch


def _plan(
    schedule: Schedule | None,
    num_steps: int | None,
    num_samples: int | None,
    warmup_steps: int,
    thin: int,
) -> tuple[Schedule, int, int]:
    """Return schedule, steps and draws of a chain."""
    if schedule is None:
        if not isinstance(num_samples, int) or num_samples < 1 or num_steps is not None:
            raise ConfigError(
                "run() needs num_samples (at least 1), or a schedule with its num_steps"
            )
        steps = warmup_steps + num_samples * thin
        return constant(burn_in=warmup_steps, thin=thin), steps, num_samples
    if num_steps is None or num_samples is not None or warmup_steps or thin != 1:
        raise ConfigError(
            "a schedule says itself which draws are kept: give it with num_steps, and without "
            "num_samples, warmup_steps and thin"
        )
    found = sum(schedule(step).collect for step in range(num_steps))
    if not found:
        raise ConfigError(f"the schedule keeps no draw in {num_steps} steps")
    return schedule, num_steps, found


def _check_loader(loader: Iterable[Batch], potential: PyroPotential) -> None:
    """Refuse a loader that does not fit what the model's plates say of the data."""
    if not potential.is_subsampled and isinstance(loader, Sized) and len(loader) > 1:
        raise ConfigError(
            f"the loader has {len(loader)} batches but the model takes each one for all data; "
            "give its plate the whole size: pyro.plate(name, N, subsample_size=len(batch))"
        )
    dataset = getattr(loader, "dataset", None)
    batched = getattr(loader, "batch_sampler", None) is not None
    if batched and isinstance(dataset, Sized) and len(dataset) != potential.num_data:
        raise ConfigError(
            f"the loader's data set has {len(dataset)} examples but the model's plates say "
            f"num_data = {potential.num_data}"
        )
