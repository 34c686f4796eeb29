"""What the recipes that train have in common."""

import contextlib
import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bayesprior.errors import BayesPriorError, CheckpointError, ConfigError
from bayesprior.inference.batch_norm import reestimate_
from bayesprior.inference.bound import Bindable
from bayesprior.inference.checkpoint import read_checkpoint
from bayesprior.inference.engine import TrainResult, train
from bayesprior.inference.generators import fold_seed, generator, seeded
from bayesprior.inference.posteriors import PointPosterior, StoredDraws
from bayesprior.inference.protocols import Collector, Schedule
from bayesprior.prediction.new_data import NewData
from bayesprior.recipes.arguments import FitCall, MapCall, SampleCall, SourceCall, SwagCall
from bayesprior.recipes.digests import (
    data_digests,
    file_digest,
    frozen_digest,
    network_digest,
    prior_digest,
    state_digest,
)
from bayesprior.recipes.options import plain_values
from bayesprior.recipes.places import recorded
from bayesprior.recipes.runs import add_results, is_finished, open_run, read_config, stage_of
from bayesprior.recipes.sessions import Session, locked, logged
from bayesprior.storage import CHECKPOINT, CONFIG, MAP, PRIOR, SOURCE, SWAG, last_checkpoint
from bayesprior.tasks.likelihoods import Categorical, Likelihood
from bayesprior.tasks.protocols import Forward, inputs_forward, pair_forward
from bayesprior.weights.gaussian import GaussianWeights

__all__ = ["Run", "bound", "chain_seed", "initialize_", "parameter_groups", "pick_device"]

T = TypeVar("T")
P = TypeVar("P", bound=Bindable)
Call = SourceCall | MapCall | SwagCall | SampleCall

_LARGEST_COPY = 2**28  # bytes of a prior that each fit keeps a copy of, where a file has it too
_RESULTS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "fit_source": (SOURCE, GaussianWeights.load),
    "fit_map": (MAP, PointPosterior.load),
    "fit_swag": (SWAG, GaussianWeights.load),
    "sample": (".", StoredDraws),
    "transfer": (".", StoredDraws),
}


def read_posterior(folder: Path, recipe: str) -> Any:
    """Return what a recipe left in its folder."""
    name, read = _RESULTS[recipe]
    return read(folder / name)


class Run:
    """One run of a recipe: its device, its folder, its start, and calls of the engine.

    A context: inside, the folder (if there is one) belongs to this run and this process.

    Parameters
    ----------
    recipe
        Name of the recipe.
    call
        Its arguments.
    keeps
        Whether the run starts from the module's own weights. Otherwise the prior decides them,
        and of the module only what the prior says nothing of counts as the start.

    Attributes
    ----------
    out
        The folder, if there is one.
    finished
        Whether it holds this very run's result.
    prior
        On the run's device; None of a source fit. Where the folder keeps a copy it is that copy: a
        law rounds otherwise as it lies otherwise in memory, and a run that is resumed by another
        process, which can only have read it, shall go on bit for bit.

    Raises
    ------
    ConfigError
        If the folder belongs to another run, or another process works in it.
    """

    def __init__(self, recipe: str, call: Call, *, keeps: bool = False) -> None:
        self.recipe, self.call, self.module, self.data = recipe, call, call.module, call.data
        self.loss = call.loss()
        self.out = None if call.out is None else Path(call.out)
        self.finished = False
        fabric = self._fabric = call.fabric
        self.device = pick_device(call.device) if fabric is None else fabric.device
        self._world = (0, 1) if fabric is None else (fabric.global_rank, fabric.world_size)
        given = self._given = call.prior if isinstance(call, FitCall) else None
        self._decided = set() if given is None or keeps else _decided(call.module, given)
        self._session: Session | None = None
        self._ended: list[TrainResult] = []
        self._stack = contextlib.ExitStack()
        self.module.to(self.device)
        self.prior = None if given is None else given.to(self.device)

    def __enter__(self) -> "Run":
        """Open the folder; learn whether the run is finished."""
        if self.out is not None:
            folder = self.out
            with contextlib.ExitStack() as stack:
                self.finished, copied = self.on_main(lambda: self._open(folder, stack))
                self._stack = stack.pop_all()
            if copied is not None:
                self.prior = copied.to(self.device)
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the folder to others."""
        self._stack.close()

    def on_main(self, act: Callable[[], T]) -> T:
        """Act in the first process; all of them get its result or its error."""
        outcome: Any = None
        if self._world[0] == 0:
            try:
                outcome = act()
            except (BayesPriorError, OSError) as error:
                outcome = error
        if self._fabric is not None:
            outcome = self._fabric.broadcast(outcome)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def _open(
        self, folder: Path, stack: contextlib.ExitStack
    ) -> tuple[bool, GaussianWeights | None]:
        """Take the folder; return whether the run is finished, and the folder's prior."""
        stack.enter_context(locked(folder))
        made_from, given = self.call.made_from, self._given
        digests = {f"data.{name}": found for name, found in data_digests(self.data).items()}
        digests |= {"network": network_digest(self.module), **frozen_digest(self.module)}
        if given is not None:
            digests["prior"] = prior_digest(given)
        if made_from is not None and made_from.weights and Path(made_from.weights).is_file():
            digests["weights"] = file_digest(made_from.weights)
        digests["start"] = self._start_digest(folder)
        options = {**plain_values(self.call), **self.call.extras()}
        open_run(folder, self.recipe, options, digests, recorded(made_from, folder))
        if is_finished(folder, self.recipe):
            return True, None
        self._session = Session(folder)
        stack.callback(self._session.pause)
        copy_ = folder / PRIOR
        if given is not None and not copy_.exists() and self._keeps_copy(given):
            given.save(copy_)
        return False, GaussianWeights.load(copy_) if copy_.exists() else None

    def _keeps_copy(self, prior: GaussianWeights) -> bool:
        """Whether the folder gets its own copy of the prior, so that it stands by itself.

        A large one that lies in a file already is found there by its digest instead: a copy for
        each fit of a study would fill the disk.
        """
        size = prior.shared_dim * (prior.rank + 2) * prior.loc.element_size()
        made_from = self.call.made_from
        return made_from is None or made_from.prior is None or size <= _LARGEST_COPY

    def _start_digest(self, folder: Path) -> str:
        """Digest what the module brings and the prior does not decide.

        As recorded, if that is where this very run left it: at its last checkpoint.
        """
        own = self.loss.state_dict() if isinstance(self.loss, nn.Module) else None
        now = self._digest(self.module.state_dict(), own)
        path = last_checkpoint(folder)
        if path is not None and (folder / CONFIG).is_file():
            began = read_config(folder).digests.get("start")
            if began not in (None, now) and now == self._digest(*self._left_by(path)):
                return str(began)
        return now

    def _left_by(self, path: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Return what a checkpoint says of the network; frozen weights it leaves to the module."""
        state, own = _saved_states(path)
        return {**self.module.state_dict(), **state}, own

    def _digest(self, state: Mapping[str, Any], own: Mapping[str, Any] | None) -> str:
        if getattr(self.call, "objective", "supervised") != "supervised":
            own = None  # made of the network and the seed
        return state_digest({**state, "objective of the run": own or None}, self._decided)

    def result(self) -> Any:
        """Return the finished run's result; leave module, and a loss that is one, as it did."""
        assert self.out is not None
        state, own = _saved_states(last_checkpoint(self.out) or self.out / CHECKPOINT)
        self.module.load_state_dict({**self.module.state_dict(), **state})
        if isinstance(self.loss, nn.Module) and own is not None:
            self.loss.load_state_dict(own)
        return self.bound(read_posterior(self.out, self.recipe))

    def bound(self, posterior: P) -> P:
        """Return the posterior, able to predict for new inputs with this run's network."""
        return bound(posterior, self.module, self.call.likelihood, self.call.forward)

    def start(self, seed: int, *, spread: float = 0.0) -> None:
        """Go ``spread`` times a draw's way from the prior's mean; new weights are drawn anew."""
        law = self.prior
        assert law is not None
        anew = not spread and not law.loc[: law.shared_dim].any()  # zero is a saddle
        noise = generator(self.device, "start", seed)
        drawn = law.rsample(generator=noise) if anew or spread else law.loc
        new = set(law.layout.names if anew else _new_names(law))
        values = law.layout.unflatten(drawn if anew else law.loc)
        with torch.no_grad(), seeded(seed, [self.device]):
            for name in new:
                self.module.get_parameter(name).copy_(values[name])
            for owner in sorted({name.rpartition(".")[0] for name in new}):
                layer = self.module.get_submodule(owner)
                if callable(reset := getattr(layer, "reset_parameters", None)):
                    state = layer.state_dict(prefix=f"{owner}." if owner else "")
                    kept = {n: value.clone() for n, value in state.items() if n not in new}
                    reset()
                    self.module.load_state_dict(kept, strict=False)
        weights = law.layout.flatten(self.module) if anew else torch.lerp(law.loc, drawn, spread)
        initialize_(self.module, law, weights)

    def train(
        self,
        optimizer: Callable[[nn.Module], Optimizer],
        schedule: Schedule,
        num_steps: int,
        *,
        description: str,
        collectors: Sequence[Collector] = (),
        folder: Path | None = None,
        seed: int | None = None,
    ) -> None:
        """Run the engine on the training split, resuming if the folder has a checkpoint."""
        call, folder = self.call, self.out if folder is None else folder
        seed = call.seed if seed is None else seed
        rank, world_size = self._world
        with seeded(seed, [self.device]):
            result = train(
                self.module,
                self.loss,
                self._loader(seed, rank=rank, world_size=world_size),
                optimizer(self.module),
                schedule,
                num_steps,
                num_data=self.data.num_data,
                prior=self.prior,
                collectors=collectors,
                fabric=logged(self._fabric, call.logger, folder, self.device),
                batch_norm=call.batch_norm,
                run_dir=folder,
                resume=folder is not None and (folder / CHECKPOINT).exists(),
                checkpoint_every=call.checkpoint_every,
                progress=call.progress,
                description=description,
            )
        self._ended.append(result)

    def _loader(self, seed: int, **share: int) -> Any:
        return self.data.loader("train", self.call.batch_size, shuffle=True, seed=seed, **share)

    def buffers_at(self, law: GaussianWeights) -> dict[str, Tensor]:
        """Return the network's buffers for a law's mean, which no step has been at.

        Where statistics are updated they are those of the training data at the mean, the same in
        every process; where they are frozen, those that stand. The network stays as it is.
        """
        module, loss = copy.deepcopy((self.module, self.loss))
        if self.call.batch_norm == "train":
            with torch.no_grad():
                law.layout.load_(module, law.loc.to(self.device))
            if isinstance(loss, nn.Module):
                loss.eval()
            with seeded(self.call.seed, [self.device]):
                reestimate_(
                    module, self._loader(self.call.seed), loss, max_examples=self.data.num_data
                )
        return {name: buffer.detach().clone() for name, buffer in module.named_buffers()}

    def finish(self, result: Any, numbers: Mapping[str, Any]) -> Any:
        """Write the result, then the numbers: a folder that has them is finished. Return it."""
        ended = self.call.ended(self._ended)

        def write() -> None:
            assert self.out is not None
            assert self._session is not None
            if not isinstance(result, StoredDraws):
                result.save(self.out / _RESULTS[self.recipe][0])
            of_the_run = {"seed": self.call.seed, "num_data": self.data.num_data}
            found = {**of_the_run, **numbers, **ended, "seconds": self._session.seconds}
            add_results(self.out, stage_of(self.recipe), found)
            self._session.finish()

        if self.out is not None:
            self.on_main(write)
        return self.bound(result)


def _decided(module: nn.Module, prior: GaussianWeights) -> set[str]:
    """Return the entries of the module's state that the prior decides, tied names included."""
    covered = {id(parameter) for parameter in prior.layout.parameters(module)}
    tied = module.named_parameters(remove_duplicate=False)
    return {name for name, parameter in tied if id(parameter) in covered} | set(prior.buffers)


def _new_names(prior: GaussianWeights) -> list[str]:
    """Return the parameters that the source does not cover; they come last."""
    return [n for n in prior.layout.names if prior.layout.slice(n).start >= prior.shared_dim]


def bound(posterior: P, module: nn.Module, likelihood: Likelihood | None, forward: Forward) -> P:
    """Return the posterior, able to predict for new inputs."""
    of_inputs = inputs_forward if forward is pair_forward else forward
    return posterior.bind(NewData(module, likelihood or Categorical(), of_inputs))


def _saved_states(path: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return what a checkpoint holds of the network, and of a loss that is a module."""
    if not path.exists():
        raise CheckpointError(
            f"{path} is gone, so the network cannot be left as the fit left it; load_run reads "
            "the folder without it"
        )
    state = read_checkpoint(path)
    return state["model"], state.get("objective")


def chain_seed(seed: int, chain: int) -> int:
    """Return a chain's own seed: runs of different seeds have no chain in common."""
    return fold_seed(seed, chain) >> 1  # to what a signed integer holds


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """Return the device of a name; ``auto`` is CUDA where there is one.

    Raises
    ------
    ConfigError
        If ``cuda`` is asked for and absent.
    """
    name = str(device)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"unknown device {name!r}; use auto, cpu or cuda") from None
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {name!r} was asked for but torch sees "
            f"{torch.cuda.device_count() or 'no'} CUDA device(s)"
        )
    return found


@torch.no_grad()
def initialize_(module: nn.Module, prior: GaussianWeights, weights: Tensor | None = None) -> None:
    """Put a network at its prior's mean: the shared weights and BatchNorm buffers, in place.

    New weights (the head) keep the module's own initialization. Given ``weights`` of the prior's
    layout take the mean's place.
    """
    means = prior.layout.unflatten(prior.loc if weights is None else weights)
    new = set(_new_names(prior))
    shared = prior.layout.select(name for name in prior.layout.names if name not in new)
    for name, parameter in zip(shared.names, shared.parameters(module), strict=True):
        parameter.copy_(means[name])
    buffers = dict(module.named_buffers())
    for name in buffers.keys() & prior.buffers.keys():
        buffers[name].copy_(prior.buffers[name])


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
    split = len(parameters) - len(_new_names(prior))
    groups: list[dict[str, Any]] = [
        {"name": "backbone", "params": parameters[:split], "lr": lr},
        {"name": "head", "params": parameters[split:], "lr": lr if head_lr is None else head_lr},
    ]
    for group, own in zip(groups, (temperature, head_temperature), strict=True):
        if temperature is not None:
            group["temperature"] = temperature if own is None else own
    return [group for group in groups if group["params"]]
