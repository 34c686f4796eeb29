"""What every recipe shares: device, folder, seed, start, and calls of the engine."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import nn
from torch.optim import Optimizer

from bayesprior.data.bundle import DataBundle
from bayesprior.errors import BayesPriorError, CheckpointError, ConfigError
from bayesprior.inference.bound import Bindable
from bayesprior.inference.engine import train
from bayesprior.inference.generators import fold_seed, seeded
from bayesprior.inference.protocols import Collector, LossFn, Schedule
from bayesprior.prediction.new_data import NewData
from bayesprior.recipes.arguments import TrainCall
from bayesprior.recipes.digests import (
    data_digests,
    file_digest,
    network_digest,
    prior_digest,
    state_digest,
)
from bayesprior.recipes.options import plain_values
from bayesprior.recipes.places import recorded
from bayesprior.recipes.runs import (
    STAGES,
    add_results,
    is_finished,
    open_run,
    read_config,
    read_results,
)
from bayesprior.recipes.sessions import Session, locked
from bayesprior.storage import CHECKPOINT, CONFIG, PRIOR
from bayesprior.tasks.likelihoods import Categorical, Likelihood
from bayesprior.tasks.protocols import Forward, inputs_forward, pair_forward
from bayesprior.weights.gaussian import GaussianWeights

__all__ = ["Run", "bound", "chain_seed", "initialize_", "parameter_groups", "pick_device"]

T = TypeVar("T")
P = TypeVar("P", bound=Bindable)

_LARGEST_COPY = 2**28  # bytes of a prior that each fit keeps a copy of, where a file has it too


class Run:
    """One run of a recipe: its device, its folder, its start, and calls of the engine.

    A context: inside, the folder (if there is one) belongs to this run and this process.

    Parameters
    ----------
    recipe
        Name of the recipe.
    call
        Its arguments.
    module, data, prior
        Of the call; a source fit has no prior.
    keeps
        Whether the run starts from the module's own weights. Otherwise the prior decides them,
        and of the module only what the prior says nothing of counts as the start.

    Raises
    ------
    ConfigError
        If the folder belongs to another run, or another process works in it.
    """

    def __init__(
        self,
        recipe: str,
        call: TrainCall,
        module: nn.Module,
        data: DataBundle,
        *,
        prior: GaussianWeights | None = None,
        keeps: bool = False,
    ) -> None:
        self.recipe, self.call, self.module, self.data = recipe, call, module, data
        loss = call.loss()
        self._objective = loss if isinstance(loss, nn.Module) else None
        self.fabric = call.fabric
        self.out = Path(call.out) if call.out is not None else None
        self.device = self.fabric.device if self.fabric is not None else pick_device(call.device)
        self.is_main = self.fabric is None or self.fabric.is_global_zero
        self._given = prior
        self._decided = _decided(module, prior) if prior is not None and not keeps else set()
        self.finished = False
        self._session: Session | None = None
        self._stack = contextlib.ExitStack()
        module.to(self.device)
        self._prior = prior.to(self.device) if prior is not None else None

    @property
    def folder(self) -> Path:
        """The run's folder."""
        if self.out is None:
            raise ConfigError(f"{self.recipe} has no folder; give out")
        return self.out

    @property
    def prior(self) -> GaussianWeights:
        """The prior on the run's device."""
        if self._prior is None:
            raise ConfigError(f"{self.recipe} has no prior")
        return self._prior

    def __enter__(self) -> "Run":
        """Open the folder; learn whether the run is finished."""
        if self.out is not None:
            try:
                self.finished = self._on_main(self._open)
            except BaseException:
                self._stack.close()
                raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the folder to others."""
        with self._stack:
            if self._session is not None:
                self._session.pause()

    def _on_main(self, act: Callable[[], T]) -> T:
        """Act in the first process; all of them get its result or its error."""
        outcome: tuple[Any, BaseException | None] = (None, None)
        if self.is_main:
            try:
                outcome = (act(), None)
            except (BayesPriorError, OSError) as error:
                outcome = (None, error)
        if self.fabric is not None:
            outcome = self.fabric.broadcast(outcome)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def _open(self) -> bool:
        folder = self.folder
        self._stack.enter_context(locked(folder))
        made_from = self.call.made_from
        digests = {f"data.{name}": found for name, found in data_digests(self.data).items()}
        digests["network"] = network_digest(self.module)
        if self._given is not None:
            digests["prior"] = prior_digest(self._given)
        if made_from is not None and made_from.weights and Path(made_from.weights).is_file():
            digests["weights"] = file_digest(made_from.weights)
        digests["start"] = self._start_digest(folder)
        options = {**plain_values(self.call), **self.call.extras()}
        open_run(folder, self.recipe, options, digests, recorded(made_from, folder))
        if is_finished(folder, self.recipe):
            return True
        if self._given is not None and not (folder / PRIOR).exists() and self._keeps_copy():
            self._given.save(folder / PRIOR)
        self._session = Session(folder)
        return False

    def _keeps_copy(self) -> bool:
        """Whether the folder gets its own copy of the prior, so that it stands by itself.

        A large one that lies in a file already is found there by its digest instead: a copy for
        each fit of a study would fill the disk.
        """
        made_from, prior = self.call.made_from, self._given
        if prior is None or made_from is None or made_from.prior is None:
            return True
        size = prior.shared_dim * (prior.rank + 2) * prior.loc.element_size()
        return size <= _LARGEST_COPY

    def _start_digest(self, folder: Path) -> str:
        """Digest what the module brings: as recorded, if it is where this very run left it."""
        now = self.state_digest()
        if not (folder / CONFIG).is_file():
            return now
        began = read_config(folder).digests.get("start")
        ended = read_results(folder).get(STAGES[self.recipe], {}).get("end")
        if began is not None and now in (ended, self._checkpoint_digest(folder)):
            return began
        return now

    def state_digest(self) -> str:
        """Return a digest of what the prior does not decide of the module's state."""
        own = self._objective.state_dict() if self._objective is not None else None
        return self._digest(self.module.state_dict(), own)

    def _digest(self, state: Mapping[str, Any], own: Mapping[str, Any] | None) -> str:
        return state_digest({**state, "objective of the run": own}, self._decided)

    def _checkpoint_digest(self, folder: Path) -> str | None:
        path = folder / CHECKPOINT
        return self._digest(*_saved_states(path)) if path.is_file() else None

    def restore(self, folder: Path | None = None) -> None:
        """Leave the module, and a loss that is one, as the finished run in the folder left them."""
        state, own = _saved_states((folder or self.folder) / CHECKPOINT)
        self.module.load_state_dict(state)
        if self._objective is not None and own is not None:
            self._objective.load_state_dict(own)

    def bound(self, posterior: P) -> P:
        """Return the posterior, able to predict for new inputs with this run's network."""
        return bound(posterior, self.module, self.call.likelihood, self.call.forward)

    def start(self, seed: int) -> None:
        """Go to the prior's mean; new weights are drawn under the seed as their layers do."""
        law = self.prior
        new = [n for n in law.layout.names if law.layout.slice(n).start >= law.shared_dim]
        means = law.layout.unflatten(law.loc)
        with torch.no_grad(), seeded(seed, [self.device]):
            for name in new:
                self.module.get_parameter(name).copy_(means[name])
            for owner in sorted({name.rpartition(".")[0] for name in new}):
                layer = self.module.get_submodule(owner)
                reset = getattr(layer, "reset_parameters", None)
                if not callable(reset):
                    continue
                kept = {
                    name: value.clone()
                    for name, value in layer.state_dict(prefix=f"{owner}." if owner else "").items()
                    if name not in new
                }
                reset()
                self.module.load_state_dict(kept, strict=False)
        initialize_(self.module, law)

    def train(
        self,
        loss_fn: LossFn,
        optimizer: Callable[[nn.Module], Optimizer],
        schedule: Schedule,
        num_steps: int,
        *,
        batch_size: int,
        batch_norm: str,
        description: str,
        collectors: Sequence[Collector] = (),
        folder: Path | None = None,
        seed: int | None = None,
    ) -> None:
        """Run the engine on the training split, resuming if the folder has a checkpoint."""
        folder = self.out if folder is None else folder
        seed = self.call.seed if seed is None else seed
        rank = self.fabric.global_rank if self.fabric is not None else 0
        world = self.fabric.world_size if self.fabric is not None else 1
        loader = self.data.loader(
            "train", batch_size, shuffle=True, seed=seed, rank=rank, world_size=world
        )
        with seeded(seed, [self.device]):
            train(
                self.module,
                loss_fn,
                loader,
                optimizer(self.module),
                schedule,
                num_steps,
                num_data=self.data.num_data,
                prior=self._prior,
                collectors=collectors,
                fabric=self.fabric,
                batch_norm=batch_norm,
                run_dir=folder,
                resume=folder is not None and (folder / CHECKPOINT).exists(),
                checkpoint_every=self.call.checkpoint_every,
                progress=self.call.progress,
                description=description,
            )

    def finish(self, save: Callable[[Path], None], found: Mapping[str, Any]) -> None:
        """Write the result, then the numbers: a folder that has them is finished."""
        if self.out is None:
            return
        folder = self.out

        def write() -> None:
            save(folder)
            numbers = {
                "seed": self.call.seed,
                "num_data": self.data.num_data,
                **found,
                "seconds": self._session.seconds if self._session is not None else None,
                "end": self.state_digest(),
            }
            add_results(folder, STAGES[self.recipe], numbers)
            if self._session is not None:
                self._session.finish()
                self._session = None

        self._on_main(write)


def _decided(module: nn.Module, prior: GaussianWeights) -> set[str]:
    """Return the entries of the module's state that the prior decides, tied names included."""
    covered = {id(parameter) for parameter in prior.layout.parameters(module)}
    tied = module.named_parameters(remove_duplicate=False)
    return {name for name, parameter in tied if id(parameter) in covered} | set(prior.buffers)


def bound(posterior: P, module: nn.Module, likelihood: Likelihood | None, forward: Forward) -> P:
    """Return the posterior, able to predict for new inputs."""
    of_inputs = inputs_forward if forward is pair_forward else forward
    return posterior.bind(NewData(module, likelihood or Categorical(), of_inputs))


def _saved_states(path: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return what a checkpoint holds of the network, and of a loss that is a module."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return state["model"], state.get("objective")
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} is gone, so the network cannot be left as the fit left it; load_run reads "
            "the folder without it"
        ) from None
    except Exception as error:  # whatever torch makes of a damaged file
        raise CheckpointError(f"{path} is no readable checkpoint: {error}") from error


def chain_seed(seed: int, chain: int) -> int:
    """Return a chain's own seed: runs of different seeds have no chain in common."""
    return fold_seed(seed, chain) >> 1  # to what a signed integer holds


def pick_device(device: str = "auto") -> torch.device:
    """Return the device of a name; ``auto`` is CUDA where there is one.

    Raises
    ------
    ConfigError
        If ``cuda`` is asked for and absent.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device {device!r} was asked for but torch sees no CUDA device")
    try:
        return torch.device(device)
    except RuntimeError:
        raise ConfigError(f"unknown device {device!r}; use auto, cpu or cuda") from None


@torch.no_grad()
def initialize_(module: nn.Module, prior: GaussianWeights) -> None:
    """Put a network at its prior's mean: the shared weights and BatchNorm buffers, in place.

    New weights (the head) keep the module's own initialization.
    """
    shared = [n for n in prior.layout.names if prior.layout.slice(n).start < prior.shared_dim]
    if shared:
        start = prior.marginal(shared)
        start.layout.load_(module, start.loc.to(next(module.parameters())))
    buffers = dict(module.named_buffers())
    for name, value in prior.buffers.items():
        if name in buffers:
            buffers[name].copy_(value)


def parameter_groups(
    module: nn.Module,
    prior: GaussianWeights,
    lr: float,
    head_lr: float | None,
    temperature: float | None = None,
    head_temperature: float | None = None,
) -> list[dict[str, Any]]:
    """Split the weights into shared and new ones, each with its step size and temperature."""
    parameters = prior.layout.parameters(module)
    new = sum(prior.layout.slice(n).start >= prior.shared_dim for n in prior.layout.names)
    split = len(parameters) - new
    hot = temperature is not None
    groups: list[dict[str, Any]] = [{"params": parameters[:split], "lr": lr}]
    if parameters[split:]:
        groups.append({"params": parameters[split:], "lr": lr if head_lr is None else head_lr})
    for group, own in zip(groups, (temperature, head_temperature), strict=False):
        if hot:
            group["temperature"] = temperature if own is None else own
    return [group for group in groups if group["params"]]
