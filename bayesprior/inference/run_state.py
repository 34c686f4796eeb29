"""What belongs to a run of the training loop: its parameters, rates and checkpoint."""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from bayesprior.errors import (
    BayesPriorError,
    CheckpointError,
    ConfigError,
    DataError,
    DivergenceError,
    StorageError,
)
from bayesprior.inference.checkpoint import (
    BatchStream,
    all_finite,
    frozen_fingerprints,
    load_checkpoint,
    load_module_state,
    random_states,
    restore_random,
    save_checkpoint,
)
from bayesprior.inference.prior_term import by_group
from bayesprior.inference.protocols import Batch, Collector, Phase
from bayesprior.storage import CHECKPOINT
from bayesprior.weights.tensor_files import why

__all__ = ["RunState"]

_SCHEDULED = {"lr", "temperature"}
# What decides a run and would be overwritten by a checkpoint's without a word.
_OPTIONS = ("lr", "temperature", "seed", "friction", "momentum", "betas", "weight_decay", "whiten")
_LARGE = 1e3
"""Beyond it data are rather unscaled than the learning rate too high."""
_LOST = re.compile("gloo|nccl|connection|process group", re.IGNORECASE)


def _primitive(value: Any) -> Any:
    """Return a number, or several, as a checkpoint can hold and compare them."""
    if value is None or isinstance(value, int):
        return value
    return [float(v) for v in value] if isinstance(value, tuple | list) else float(value)


class RunState:
    """Model, objective, optimizer, data and collectors of one run, and where they are saved.

    Parameters
    ----------
    model
        The plain module.
    objective
        The loss, as a module.
    optimizer
        The plain optimizer, over trainable parameters of both.
    stream, collectors, fabric, folder
        Of the run; ``folder`` None saves nothing.
    expected
        What a checkpoint must agree with.

    Raises
    ------
    ConfigError
        If the optimizer leaves a trainable parameter of the objective out.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: nn.Module,
        optimizer: Optimizer,
        stream: BatchStream,
        collectors: Sequence[Collector],
        fabric: Any,
        folder: Path | None,
        expected: Mapping[str, Any],
    ) -> None:
        self.model, self.objective, self.optimizer = model, objective, optimizer
        self.stream, self.collectors, self.fabric = stream, collectors, fabric
        self.folder, self.expected = folder, dict(expected)
        self.saved_step: int | None = None
        self.held = [p for group in optimizer.param_groups for p in group["params"]]
        held = set(self.held)
        for name, parameter in objective.named_parameters():
            if parameter.requires_grad and parameter not in held:
                raise ConfigError(
                    f"the objective's parameter {name!r} is in no group of the optimizer: make it "
                    "over the objective's parameters, too, or freeze them"
                )
        # What backward fills: what the optimizer leaves out must not pile up.
        rest = (p for p in model.parameters() if p.requires_grad and p not in held)
        self.trainable = [*self.held, *rest]
        self._unchanged: dict[str, int] = {}
        self._failure: BayesPriorError | None = None
        # What the groups have of their own, and what they were set to for the last step.
        groups = optimizer.param_groups
        self._own = [{key: group[key] for key in _SCHEDULED & group.keys()} for group in groups]
        self._now: list[dict[str, Any]] = [{} for _ in self._own]
        self._sizes = [sum(p.numel() for p in group["params"]) for group in groups]
        self.expected["optimizer"] = type(optimizer).__name__
        for key in _OPTIONS:
            if any(key in group for group in groups):
                self.expected[key] = [_primitive(group.get(key)) for group in groups]

    @property
    def path(self) -> Path | None:
        """The checkpoint."""
        return self.folder / CHECKPOINT if self.folder is not None else None

    def begin(self) -> int:
        """Start at step 0, with the rates and temperatures that the groups have now."""
        if self.path is not None and self.path.exists():
            raise ConfigError(
                f"{self.path} exists: pass resume=True to continue that run, or choose another "
                "folder; nothing was overwritten"
            )
        self._check_start()
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._unchanged = frozen_fingerprints(self.model)
        self.save(0)  # so that a run killed early resumes, and draws without a run cannot exist
        return 0

    def restore(self) -> int:
        """Go where the checkpoint is, and return its step."""
        if self.path is None:
            raise ConfigError("resume=True needs run_dir")
        state = load_checkpoint(self.path, expected=self.expected)
        try:
            self._unchanged = state["frozen"]
            load_module_state(self.model, state["model"], self._unchanged)
            self.objective.load_state_dict(state["objective"])
            self.optimizer.load_state_dict(state["optimizer"])
            self._own = [dict(rates) for rates in state["rates"]]
            for collector, saved in zip(self.collectors, state["collectors"], strict=True):
                collector.load_state_dict(saved)
            self.stream.load_state_dict(state["stream"])
            restore_random(state["random"])
            self.saved_step = int(state["step"])
        except BayesPriorError:
            raise
        except Exception as error:  # whatever the parts make of entries that are none of theirs
            raise CheckpointError(
                f"{self.path} does not fit this run's model, optimizer or collectors: {why(error)}"
            ) from error
        return self.saved_step

    def _check_start(self) -> None:
        """Refuse a network that no step can mend."""
        weights = {name for name, _ in self.model.named_parameters()}
        for name, tensor in self.model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            # Buffers may be masks of -inf.
            if bool((~tensor.isfinite() if name in weights else tensor.isnan()).any()):
                kind = "weights" if name in weights else "buffers"
                raise ConfigError(
                    f"the {kind} hold NaN or infinite values before the first step ({name!r}), as "
                    "a fit that diverged leaves them; build the network anew, or load its weights "
                    "again"
                )

    def save(self, step: int) -> None:
        """Check weights and replicas, and write the checkpoint."""
        self.check_weights(step)
        self._check_replicas()
        if self.path is None:
            return
        failure = self._failure
        if self.fabric.is_global_zero:
            if self._unchanged:  # a momentum copy, say, is frozen and moves
                here = frozen_fingerprints(self.model)
                kept = self._unchanged.items()
                self._unchanged = {n: value for n, value in kept if here.get(n) == value}
            weights = self.model.state_dict().items()
            state = {
                "run": self.expected,
                "step": step,
                "model": {n: value for n, value in weights if n not in self._unchanged},
                "frozen": self._unchanged,
                "objective": self.objective.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "rates": self._own,
                "collectors": [c.state_dict() for c in self.collectors],
                "stream": self.stream.state_dict(),
                "random": random_states(),
            }
            try:
                save_checkpoint(self.path, state)
            except StorageError as error:  # the other processes wait for the outcome
                failure = error
        if self.fabric.world_size > 1:
            failure = self.fabric.broadcast(failure) or self._failure
        if failure is not None:
            raise failure
        self.saved_step = step

    def set_phase(self, phase: Phase) -> None:
        """Multiply every group's own rate and temperature by the schedule's factors."""
        factors = {"lr": phase.lr_factor, "temperature": phase.temperature_factor}
        groups = zip(self.optimizer.param_groups, self._own, self._now, strict=True)
        for index, (group, own, now) in enumerate(groups):
            if any(group[key] is not value and group[key] != value for key, value in now.items()):
                raise ConfigError(
                    f"lr or temperature of parameter group {index} was changed inside the run; "
                    "give train() a schedule that says so, or call train() again"
                )
            now |= {key: value * factors[key] for key, value in own.items()}
            group.update(now)

    def __enter__(self) -> "RunState":
        """Inside, the groups have the rates of the phase; gradients of earlier runs are gone."""
        for parameter in self.trainable:
            parameter.grad = None
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Give the groups their own rates and temperatures back, for whatever comes next."""
        for group, own in zip(self.optimizer.param_groups, self._own, strict=True):
            group.update(own)
        if isinstance(error, ValueError) and "more than 1 value per channel" in str(error):
            raise ConfigError(
                "BatchNorm in training mode has no variance in a batch of one example: choose a "
                "batch_size of at least 2, or batch_norm='frozen'"
            ) from error
        ours = self.fabric.world_size == 1 or isinstance(error, BayesPriorError)
        if not ours and isinstance(error, RuntimeError) and _LOST.search(str(error)):
            raise BayesPriorError(
                f"another process of this run has ended; its own message says why{self._kept}"
            ) from error

    def scalars(
        self, loss: Tensor, extras: Mapping[str, Any], prior: Mapping[str, float]
    ) -> dict[str, float]:
        """Return a row of the trace; temperatures are means over weights, and each group's own."""
        groups = self.optimizer.param_groups
        stats = {"loss": loss.item(), **prior, "lr": float(groups[0]["lr"])}
        temperatures = [group.get("temperature") for group in groups]
        stats |= by_group(groups, "temperature", temperatures, self._sizes)
        if kinetic := getattr(self.optimizer, "kinetic_temperature", None):
            found = [kinetic(group) for group in groups]
            stats |= by_group(groups, "kinetic_temperature", found, self._sizes)
        return stats | {name: float(value) for name, value in extras.items()}

    def agreed(self, signum: int) -> int:
        """Return the signal that any process was sent; raise if any of them has failed.

        All processes must ask at the same step.
        """
        if self.fabric.world_size > 1:
            # Broken data of one process are why the losses of all of them are not finite.
            own = 0 if self._failure is None else 1 + isinstance(self._failure, DataError)
            state = torch.tensor([own, signum], device=self.fabric.device)
            failed, signum = self.fabric.all_reduce(state, reduce_op="max").tolist()
            if self._failure is not None and own == failed:
                raise self._failure
            if failed:
                raise BayesPriorError(
                    f"another process of this run has failed{self._kept}; its own message says why"
                )
        return signum

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Let an error of one process wait until all of them raise: in `agreed` or `save`."""
        try:
            yield
        except BayesPriorError as error:
            if self.fabric.world_size == 1:
                raise
            self._failure = self._failure or error

    def check_loss(self, loss: Tensor, step: int, batches: Sequence[Batch]) -> None:
        """Raise unless the loss is finite; says so if it is the data that is not."""
        if torch.isfinite(loss):
            return
        leaves = [leaf for leaf in tree_leaves(batches) if isinstance(leaf, Tensor)]
        reals = [leaf for leaf in leaves if leaf.is_floating_point() and leaf.numel()]
        if not all_finite(reals):
            raise DataError(
                f"{self.stream.place} of the inputs holds NaN or infinite values (found at step "
                f"{step}, where the loss is {loss.item()}); mend the data"
            )
        largest = max((leaf.abs().max().item() for leaf in reals), default=0.0)
        hint = f"scale the data, which reach {largest:.3g}, to about 1"
        if step > 1:
            hint = f"lower the lr, or {hint}" if largest > _LARGE else "lower the lr"
        else:
            hint = f"no step was made yet, so no lr helps: {hint}, or build the network anew"
        self._diverged(f"the loss is {loss.item()}", step, hint)

    def check_weights(self, step: int) -> None:
        """Raise `DivergenceError` unless what is trained is finite."""
        if not all_finite(self.held):
            self._diverged("a weight is NaN or infinite", step)

    def _diverged(self, what: str, step: int, hint: str = "lower the lr") -> None:
        lrs = ", ".join(f"{g['lr']:.4g}" for g in self.optimizer.param_groups)
        if self.fabric.device.type != "cpu":  # looked at now and then only
            hint += ", unless an earlier batch of the data held NaN"
        raise DivergenceError(f"{what} at step {step} with lr {lrs}{self._kept}; {hint}")

    @property
    def _kept(self) -> str:
        if self.path is None or self.saved_step is None:
            return "; no checkpoint was written"
        return f"; the last good checkpoint is {self.path} (step {self.saved_step})"

    def _check_replicas(self) -> None:
        if self.fabric.world_size == 1:
            return
        total = torch.stack([p.detach().double().sum() for p in self.held]).sum()
        sums = torch.as_tensor(self.fabric.all_gather(total))
        if not torch.equal(sums, sums[0].expand_as(sums)):
            raise DivergenceError(
                "the replicas' weights have drifted apart; noise must come from generators with "
                "equal seeds on all ranks"
            )
