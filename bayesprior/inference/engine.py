"""`train`: the only loop. Source fits, MAP, SWAG and sampling, on one device or many."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from bayesprior.errors import ConfigError, DivergenceError
from bayesprior.inference.checkpoint import (
    BatchStream,
    all_finite,
    finish_step_on_interrupt,
    load_checkpoint,
    random_states,
    restore_random,
    save_checkpoint,
)
from bayesprior.inference.prior_term import PriorTerm
from bayesprior.inference.progress import TraceWriter, progress_bar
from bayesprior.inference.protocols import (
    Batch,
    Collector,
    LossFn,
    Phase,
    Schedule,
    StepEvent,
    WeightDistribution,
)
from bayesprior.storage import CHECKPOINT, TRACE
from bayesprior.weights.layout import ParameterLayout

__all__ = ["TrainResult", "freeze_batch_norm", "train"]

_PRECISIONS = ("32-true", "64-true", "bf16-mixed")


@dataclass(frozen=True)
class TrainResult:
    """Where a run ended.

    Attributes
    ----------
    step
        Completed steps.
    stats
        Scalars of the last logged step.
    run_dir
        The run's folder, if it has one.
    """

    step: int
    stats: Mapping[str, float]
    run_dir: Path | None


def train(
    model: nn.Module,
    loss_fn: LossFn,
    loader: Iterable[Batch],
    optimizer: Optimizer,
    schedule: Schedule,
    num_steps: int,
    *,
    num_data: int,
    prior: WeightDistribution | None = None,
    collectors: Sequence[Collector] = (),
    fabric: Fabric | None = None,
    accumulate: int = 1,
    clip_norm: float | None = None,
    batch_norm: str = "frozen",
    run_dir: str | Path | None = None,
    resume: bool = False,
    checkpoint_every: int = 1000,
    log_every: int = 10,
    on_step: Callable[[StepEvent], None] | None = None,
    progress: bool = True,
    description: str = "training",
) -> TrainResult:
    """Run ``num_steps`` steps of an optimizer or sampler on the potential energy.

    One step is: mean gradient of ``accumulate`` batches, optional clipping of it, the prior's
    gradient, the optimizer's step. Gradients estimate grad U / N.

    Parameters
    ----------
    model
        Trained in place.
    loss_fn
        ``loss_fn(model, batch) -> (mean loss per example, extra scalars)``.
    loader
        Yields batches; repeated as often as needed.
    optimizer
        Any torch optimizer, or one of `bayesprior.inference.optimizers`, over model's parameters.
    schedule
        Multiplies the groups' ``lr`` and ``temperature``, and says what is collected.
    num_steps
        Length of the whole run, a resumed part included.

    Other Parameters
    ----------------
    num_data
        N, the global number of training examples.
    prior
        Law of all trainable weights; None for a run without one (a source fit).
    collectors
        See the weights after each step whose phase says so.
    fabric
        Devices, precision and processes; one process where the model lies by default. Precision
        ``16-mixed`` is refused: its loss scaling would mis-scale the prior.
    accumulate
        Batches per step.
    clip_norm
        Largest norm of the data gradient; None does not clip. Biases samplers (warned).
    batch_norm
        "frozen" leaves BatchNorm statistics at their present values, "train" updates them.
    run_dir
        Folder of ``checkpoint.pt`` and ``trace.csv``; None writes nothing.
    resume
        Continue from the checkpoint in ``run_dir``, bit for bit on a CPU.
    checkpoint_every, log_every
        Steps between checkpoints and between rows of the trace.
    on_step
        Called with the event of every logged step.
    progress
        Whether to show a progress bar.
    description
        The bar's label.

    Returns
    -------
    TrainResult

    Raises
    ------
    DivergenceError
        If loss or weights become NaN or infinite; names step, lr and the last good checkpoint.
    ConfigError
        For arguments that cannot work, an unstable step size among them.
    CheckpointError
        If there is nothing to resume, or the checkpoint belongs to another run.
    LayoutMismatchError
        If the prior does not cover exactly the trainable parameters.
    KeyboardInterrupt
        After the step at hand is finished and a checkpoint written.
    """
    _check(num_steps, accumulate, clip_norm, batch_norm, optimizer)
    folder = Path(run_dir) if run_dir is not None else None
    if fabric is None:
        fabric = Fabric(accelerator=next(model.parameters()).device.type, devices=1)
    precision = fabric._precision.precision
    if precision not in _PRECISIONS:
        raise ConfigError(
            f"precision {precision!r} is not supported (its loss scaling or rounding would "
            f"mis-scale the prior); use one of {', '.join(_PRECISIONS)}"
        )
    _check_rank_aware(loader, fabric)

    layout = prior.layout if prior is not None else ParameterLayout.from_module(model)
    wrapped, stepper = fabric.setup(model, optimizer)
    term = PriorTerm(model, prior, num_data) if prior is not None else None
    if term is not None:
        term.prepare(optimizer)
    stream = BatchStream(loader, fabric.to_device)
    run = _Run(model, optimizer, stream, collectors, fabric, folder)
    run.expected = {
        "layout": layout.digest(),
        "optimizer": type(optimizer).__name__,
        "num_data": num_data,
        "num_steps": num_steps,
    }
    start = run.restore() if resume else run.begin()
    trace = TraceWriter(
        folder / TRACE if folder is not None and fabric.is_global_zero else None, keep_until=start
    )
    was_training = model.training
    model.train()
    if batch_norm == "frozen":
        freeze_batch_norm(model)
    stats: dict[str, float] = {}
    with (
        finish_step_on_interrupt() as interrupted,
        progress_bar(
            description, start=start, total=num_steps, show=progress and fabric.is_global_zero
        ) as bar,
    ):
        for step in range(start, num_steps):
            phase = schedule(step)
            _set_phase(optimizer, phase)
            done = step + 1
            log = done % log_every == 0 or done == num_steps or on_step is not None
            loss, extras = _data_gradient(wrapped, loss_fn, stream, fabric, accumulate)
            if log or phase.collect or fabric.device.type == "cpu":  # elsewhere a sync a step
                run.check_loss(loss, done)
            if clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
            prior_stats = term.add_to_grad(diagnose=log) if term is not None else {}
            stepper.step()
            optimizer.zero_grad(set_to_none=True)
            if log:
                stats = _scalars(loss, extras, prior_stats, optimizer)
                trace.write(done, stats)
                bar(done, stats)
            if phase.collect and collectors:
                run.check_weights(done)
            event = StepEvent(done, phase, model, layout, stats)
            if phase.collect:
                for collector in collectors:
                    collector.update(event)
            if on_step is not None:
                on_step(event)
            if done % checkpoint_every == 0 or done == num_steps or interrupted.is_set():
                run.save(done)
            if interrupted.is_set():
                where = f"; resume from {folder / CHECKPOINT}" if folder is not None else ""
                raise KeyboardInterrupt(f"stopped after step {done} of {num_steps}{where}")
    model.train(was_training)
    return TrainResult(num_steps, stats, folder)


def freeze_batch_norm(model: nn.Module) -> None:
    """Put BatchNorm layers into evaluation mode: their statistics stay, their weights learn."""
    for layer in model.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.eval()


class _Run:
    """What a checkpoint holds, and where it lies."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        stream: BatchStream,
        collectors: Sequence[Collector],
        fabric: Fabric,
        folder: Path | None,
    ) -> None:
        self.model, self.optimizer, self.stream = model, optimizer, stream
        self.collectors, self.fabric, self.folder = collectors, fabric, folder
        self.expected: dict[str, Any] = {}
        self.saved_step: int | None = None

    @property
    def path(self) -> Path | None:
        return self.folder / CHECKPOINT if self.folder is not None else None

    def begin(self) -> int:
        if self.path is not None and self.path.exists():
            raise ConfigError(
                f"{self.path} exists: pass resume=True to continue that run, or choose another "
                "folder; nothing was overwritten"
            )
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
        for group in self.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
            if "temperature" in group:
                group.setdefault("initial_temperature", group["temperature"])
        self.save(0)  # so that a run killed early resumes, and draws without a run cannot exist
        return 0

    def restore(self) -> int:
        if self.path is None:
            raise ConfigError("resume=True needs run_dir")
        state = load_checkpoint(self.path, expected=self.expected)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for collector, saved in zip(self.collectors, state["collectors"], strict=True):
            collector.load_state_dict(saved)
        self.stream.load_state_dict(state["stream"])
        restore_random(state["random"])
        self.saved_step = state["step"]
        return int(state["step"])

    def save(self, step: int) -> None:
        self.check_weights(step)
        self._check_replicas()
        if self.path is None:
            return
        if self.fabric.is_global_zero:
            state = {
                "run": self.expected,
                "step": step,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "collectors": [c.state_dict() for c in self.collectors],
                "stream": self.stream.state_dict(),
                "random": random_states(),
            }
            save_checkpoint(self.path, state)
        self.fabric.barrier()
        self.saved_step = step

    def check_loss(self, loss: Tensor, step: int) -> None:
        if not torch.isfinite(loss):
            self._diverged(f"the loss is {loss.item()}", step)

    def check_weights(self, step: int) -> None:
        if not all_finite(self.model.parameters()):
            self._diverged("a weight is NaN or infinite", step)

    def _diverged(self, what: str, step: int) -> None:
        lrs = ", ".join(f"{g['lr']:.4g}" for g in self.optimizer.param_groups)
        kept = "no checkpoint was written"
        if self.path is not None and self.saved_step is not None:
            kept = f"the last good checkpoint is {self.path} (step {self.saved_step})"
        raise DivergenceError(f"{what} at step {step} with lr {lrs}; {kept}; lower the lr")

    def _check_replicas(self) -> None:
        if self.fabric.world_size == 1:
            return
        total = torch.stack([p.detach().double().sum() for p in self.model.parameters()]).sum()
        sums = torch.as_tensor(self.fabric.all_gather(total))
        if not torch.equal(sums, sums[0].expand_as(sums)):
            raise DivergenceError(
                "the replicas' weights have drifted apart; noise must come from generators with "
                "equal seeds on all ranks"
            )


def _data_gradient(
    wrapped: Any, loss_fn: LossFn, stream: BatchStream, fabric: Fabric, accumulate: int
) -> tuple[Tensor, dict[str, Tensor]]:
    losses: list[Tensor] = []
    extras: dict[str, Tensor] = {}
    for micro in range(accumulate):
        batch = next(stream)
        with fabric.no_backward_sync(wrapped, enabled=micro + 1 < accumulate):
            loss, extras = loss_fn(wrapped, batch)
            fabric.backward(loss / accumulate if accumulate > 1 else loss)
        losses.append(loss.detach())
    return torch.stack(losses).mean(), extras


def _scalars(
    loss: Tensor, extras: Mapping[str, Any], prior: Mapping[str, float], optimizer: Optimizer
) -> dict[str, float]:
    group = optimizer.param_groups[0]
    stats = {"loss": loss.item(), **prior, "lr": float(group["lr"])}
    if "temperature" in group:
        stats["temperature"] = float(group["temperature"])
    kinetic = getattr(optimizer, "kinetic_temperature", lambda: None)()
    if kinetic is not None:
        stats["kinetic_temperature"] = float(kinetic)
    return stats | {name: float(value) for name, value in extras.items()}


def _set_phase(optimizer: Optimizer, phase: Phase) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * phase.lr_factor
        if "temperature" in group:
            group["temperature"] = group["initial_temperature"] * phase.temperature_factor


def _check(
    num_steps: int,
    accumulate: int,
    clip_norm: float | None,
    batch_norm: str,
    optimizer: Optimizer,
) -> None:
    if num_steps < 1 or accumulate < 1:
        raise ConfigError("num_steps and accumulate must be at least 1")
    if batch_norm not in ("frozen", "train"):
        raise ConfigError(f"batch_norm must be 'frozen' or 'train', got {batch_norm!r}")
    if clip_norm is None:
        return
    if clip_norm <= 0:
        raise ConfigError(f"clip_norm must be positive, got {clip_norm}")
    if any(group.get("temperature", 0) > 0 for group in optimizer.param_groups):
        warnings.warn("clipping changes the law that a sampler targets", stacklevel=3)


def _check_rank_aware(loader: Iterable[Batch], fabric: Fabric) -> None:
    if fabric.world_size == 1:
        return
    owners = (getattr(loader, "batch_sampler", None), getattr(loader, "sampler", None))
    if not any(hasattr(owner, "set_epoch") for owner in owners):
        raise ConfigError(
            f"{fabric.world_size} processes would all see the same batches: give the loader a "
            "DistributedSampler, or make it with DataBundle.loader(rank=, world_size=)"
        )
