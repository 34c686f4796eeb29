"""`train`: the only loop. Source fits, MAP, SWAG and sampling, on one device or many."""

import contextlib
import copy
import functools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from bayesprior.errors import ConfigError, checked
from bayesprior.inference.batch_norm import freeze_batch_norm, reestimate_, running_layers
from bayesprior.inference.checkpoint import BatchStream, fingerprint, random_states, restore_random
from bayesprior.inference.prior_term import PriorTerm, attached_terms, check_num_data
from bayesprior.inference.progress import TraceWriter, progress_bar
from bayesprior.inference.protocols import (
    Batch,
    Collector,
    LossFn,
    Schedule,
    StepEvent,
    WeightDistribution,
)
from bayesprior.inference.run_state import RunState
from bayesprior.inference.wrappers import modes_kept, plain_module, plain_optimizer, refuse_shards
from bayesprior.signals import exception_of, finish_step_on_signal
from bayesprior.storage import CHECKPOINT, TRACE
from bayesprior.tasks.protocols import batch_size, to_device
from bayesprior.weights.layout import ParameterLayout

__all__ = ["TrainResult", "train"]

_PRECISIONS = ("32-true", "64-true", "bf16-mixed")


@dataclass(frozen=True)
class TrainResult:
    """Where a run ended.

    Attributes
    ----------
    step
        Completed steps.
    stats
        Scalars, means over the last ten logged steps (of this process).
    run_dir
        The run's folder, if it has one.
    """

    step: int
    stats: Mapping[str, float]
    run_dir: Path | None


@checked(
    "model=network loss_fn=function loader=batches optimizer=optimizer schedule=function "
    "num_steps=count num_data=count prior=law collectors=collectors hooks=functions "
    "fabric=fabric accumulate=count clip_norm=number batch_norm=text run_dir=path "
    "checkpoint_every=count log_every=count on_step=function"
)
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
    hooks: Sequence[Callable[[StepEvent], None]] = (),
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
        ``loss_fn(model, batch) -> (mean loss per example, extra scalars)``. If it is a module, its
        parameters and buffers are trained, moved, saved and resumed with the model's, and its
        ``after_step(event)``, if it has one, is called after every step.
    loader
        Yields batches; repeated as often as needed.
    optimizer
        Any torch optimizer, or one of `bayesprior.inference.optimizers`, over the model's
        parameters and those of ``loss_fn``.
    schedule
        Multiplies the ``lr`` and ``temperature`` that the groups have when a run begins, and says
        what is collected. Afterwards the groups have their own values again.
    num_steps
        Length of the whole run, a resumed part included.

    Other Parameters
    ----------------
    num_data
        N, the global number of training examples.
    prior
        Law of all the model's trainable weights; None for a run without one (a source fit).
    collectors
        See the weights after each step whose phase says so.
    hooks
        Called with the event of every step, before collectors, without making it a logged one.
    fabric
        Devices, precision and processes; one process where the model lies by default. Precision
        ``16-mixed`` is refused: its loss scaling would mis-scale the prior.
    accumulate
        Batches per step, each weighted by its examples.
    clip_norm
        Largest norm of the data gradient; None does not clip. Biases samplers (warned).
    batch_norm
        "frozen" leaves running statistics (of BatchNorm and tracking InstanceNorm) at their present
        values. "train" updates them, skips a last batch of one example with a warning, and ends
        with one pass over the data that re-estimates them at the final weights.
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
    DataError
        If the loss does because a batch holds NaN or infinite values; names the batch.
    ConfigError
        For arguments that cannot work, an unstable step size among them.
    CheckpointError
        If there is nothing to resume, or the checkpoint belongs to another run.
    LayoutMismatchError
        If the prior does not cover exactly the trainable parameters.
    KeyboardInterrupt
        After the step at hand is finished and a checkpoint written; after SIGTERM it is a
        `bayesprior.signals.Terminated`. Several processes stop together, at the next logged step.
    """
    optimizer, module = plain_optimizer(optimizer), plain_module(model)
    _check(clip_norm, batch_norm, optimizer, num_data)
    folder = Path(run_dir).expanduser() if run_dir is not None else None
    if fabric is None:
        fabric = _fabric_at(next(module.parameters()).device)
    _check_fabric(fabric, loader)

    layout = prior.layout if prior is not None else ParameterLayout.from_module(module)
    wrapped, stepper = fabric.setup(model, optimizer)
    objective = loss_fn if isinstance(loss_fn, nn.Module) else _Function(loss_fn)
    objective.to(fabric.device)
    call, parts = objective, [wrapped]
    if any(p.requires_grad for p in objective.parameters()):
        call = fabric.setup_module(objective)
        parts.append(call)
    refuse_shards(wrapped)
    term = PriorTerm(module, prior, num_data) if prior is not None else None
    if term is not None:
        if any(earlier.covers(term) for earlier in attached_terms(optimizer).values()):
            raise ConfigError(
                "the optimizer has a prior of these weights already (attach_prior): remove() its "
                "handle, or leave out prior="
            )
        term.prepare(optimizer)
    needs_variance = batch_norm == "train" and bool(running_layers(module))
    stream = BatchStream(loader, skip_leftover=needs_variance)
    expected = {"layout": layout.digest(), "num_data": num_data, "num_steps": num_steps}
    if term is not None:
        law = term.prior
        expected["fingerprint of the prior"] = fingerprint(law.loc, law.max_precision())
    run = RunState(module, objective, optimizer, stream, collectors, fabric, folder, expected)
    start = run.restore() if resume else run.begin()
    trace = TraceWriter(
        folder / TRACE if folder is not None and fabric.is_global_zero else None, keep_until=start
    )
    after_step = getattr(objective, "after_step", None)
    hooks = hooks if after_step is None else [after_step, *hooks]
    is_hot = any(group.get("temperature", 0) > 0 for group in optimizer.param_groups)
    stats: dict[str, float] = {}
    with (
        run,
        modes_kept(module, objective),
        finish_step_on_signal() as stop,
        progress_bar(
            description, start=start, total=num_steps, show=progress and fabric.is_global_zero
        ) as bar,
    ):
        module.train()
        objective.train()
        if batch_norm == "frozen":
            freeze_batch_norm(module)
        for step in range(start, num_steps):
            phase = schedule(step)
            run.set_phase(phase)
            done = step + 1
            turn = done % log_every == 0 or done == num_steps  # the same in every process
            log = turn or on_step is not None
            batches = [next(stream) for _ in range(accumulate)]
            if step == start and is_hot:
                _warn_of_dropout(module, objective, to_device(batches[0], fabric.device))
            loss, extras = _data_gradient(parts, call, batches, fabric)
            if log or phase.collect or fabric.device.type == "cpu":  # elsewhere a sync a step
                with run.together():
                    run.check_loss(loss, done, batches)
            signum = run.agreed(stop.signum) if turn or phase.collect else 0
            if clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(run.held, clip_norm)
            prior_stats = term.add_to_grad(diagnose=log) if term is not None else {}
            stepper.step()
            for parameter in run.trainable:
                parameter.grad = None
            if log:
                stats = run.scalars(loss, extras, prior_stats)
                with run.together():
                    trace.write(done, stats)
                    fabric.log_dict(stats, step=done)
                bar(done, stats)
            event = StepEvent(done, phase, module, layout, stats)
            for hook in hooks:
                hook(event)
            if phase.collect and collectors:
                run.check_weights(done)
                with run.together():
                    for collector in collectors:
                        collector.update(event)
            if on_step is not None:
                on_step(event)
            if done == num_steps and batch_norm == "train":
                _reestimate(module, objective, loader, fabric, num_data)
            signum = stop.signum if fabric.world_size == 1 else signum
            if done % checkpoint_every == 0 or done == num_steps or signum:
                run.save(done)
            if signum:
                where = f"; resume from {folder / CHECKPOINT}" if folder is not None else ""
                raise exception_of(signum, f"stopped after step {done} of {num_steps}{where}")
    return TrainResult(num_steps, trace.recent, folder)


class _Function(nn.Module):
    """A loss function that owns nothing, as an objective."""

    def __init__(self, function: LossFn) -> None:
        super().__init__()
        self.function = function

    def forward(self, module: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return self.function(module, batch)


def _fabric_at(device: torch.device) -> Fabric:
    """One process on the very device, ``cuda:1`` included."""
    devices = [device.index] if device.type == "cuda" and device.index is not None else 1
    return Fabric(accelerator=device.type, devices=devices)


def _data_gradient(
    parts: Sequence[Any], call: LossFn, batches: Sequence[Batch], fabric: Fabric
) -> tuple[Tensor, dict[str, Tensor]]:
    """Fill ``.grad`` with the gradient of the mean over all examples, of all processes.

    Return this process's mean.
    """
    sizes, shares = [], [1.0]
    if len(batches) > 1 or fabric.world_size > 1:
        sizes = [batch_size(batch) for batch in batches]
        shares = [size / sum(sizes) for size in sizes]
    factor: Any = 1.0
    if fabric.world_size > 1:  # gradients are averaged as if all processes had equally many
        count = torch.full((), sum(sizes), dtype=torch.float64, device=fabric.device)
        mean: Any = fabric.all_reduce(count.clone(), reduce_op="mean")
        factor = count / mean
    losses = []
    for number, (batch, share) in enumerate(zip(batches, shares, strict=True), 1):
        with contextlib.ExitStack() as stack:
            for part in parts if number < len(batches) else ():
                stack.enter_context(fabric.no_backward_sync(part))
            loss, extras = call(parts[0], to_device(batch, fabric.device))
            fabric.backward(loss * (share * factor) if sizes else loss)
        losses.append(loss.detach() * share if share != 1 else loss.detach())
    return sum(losses[1:], losses[0]), extras


@contextlib.contextmanager
def _undisturbed(module: nn.Module, objective: nn.Module) -> Iterator[None]:
    """Put back modes, global random states and what a loss remembers of its batches."""
    kept, states = copy.deepcopy(objective.state_dict()), random_states()
    try:
        with modes_kept(module, objective), torch.no_grad():
            yield
    finally:
        restore_random(states)
        objective.load_state_dict(kept)


def _warn_of_dropout(module: nn.Module, objective: nn.Module, batch: Batch) -> None:
    """Compare the loss of one batch, without the prior, in two passes of either mode.

    A model that draws a random subset of its data differs in evaluation mode, too, and may.
    """

    def differs() -> bool:
        first, second = (objective(module, batch)[0] for _ in range(2))
        return not torch.isclose(first, second, rtol=1e-4, atol=1e-6, equal_nan=True)

    with _undisturbed(module, objective):
        freeze_batch_norm(module)
        if not differs():
            return
        module.eval()
        objective.eval()
        if differs():
            return
    warnings.warn(
        "dropout (or another layer that is random in training mode) makes the potential itself "
        "random, so the sampler targets no posterior of this network: set its rate to 0",
        stacklevel=3,
    )


def _reestimate(
    module: nn.Module, objective: nn.Module, loader: Iterable[Batch], fabric: Fabric, num_data: int
) -> None:
    """Average running statistics over the training data, each process over its share."""
    share = math.ceil(num_data / fabric.world_size)
    with _undisturbed(module, objective):
        objective.eval()
        seen = reestimate_(module, loader, objective, max_examples=share)
    if fabric.world_size > 1 and seen:
        reduce: Any = functools.partial(fabric.all_reduce, reduce_op="sum")
        total = float(reduce(torch.tensor(float(seen), device=fabric.device)))
        for layer in running_layers(module):
            for buffer in (layer.running_mean, layer.running_var):
                if buffer is not None:
                    buffer.copy_(reduce(buffer * (seen / total)))


def _check(
    clip_norm: float | None,
    batch_norm: str,
    optimizer: Optimizer,
    num_data: int,
) -> None:
    if batch_norm not in ("frozen", "train"):
        raise ConfigError(f"batch_norm must be 'frozen' or 'train', got {batch_norm!r}")
    check_num_data(optimizer, num_data)
    if clip_norm is None:
        return
    if clip_norm <= 0:
        raise ConfigError(f"clip_norm must be positive, got {clip_norm}")
    if any(group.get("temperature", 0) > 0 for group in optimizer.param_groups):
        warnings.warn("clipping changes the law that a sampler targets", stacklevel=3)


def _check_fabric(fabric: Fabric, loader: Iterable[Batch]) -> None:
    precision = fabric._precision.precision
    if precision not in _PRECISIONS:
        raise ConfigError(
            f"precision {precision!r} is not supported (its loss scaling or rounding would "
            f"mis-scale the prior); use one of {', '.join(_PRECISIONS)}"
        )
    if fabric.world_size == 1:
        return
    owners = (getattr(loader, "batch_sampler", None), getattr(loader, "sampler", None))
    if not any(hasattr(owner, "set_epoch") for owner in owners):
        raise ConfigError(
            f"{fabric.world_size} processes would all see the same batches: give the loader a "
            "DistributedSampler, or make it with DataBundle.loader(rank=, world_size=)"
        )
