"""Prediction with the model average over draws of the weights, in bounded memory."""

import itertools
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from bayesprior.errors import ConfigError, DataError, checked
from bayesprior.inference.progress import progressed
from bayesprior.inference.protocols import Posterior
from bayesprior.inference.wrappers import modes_kept
from bayesprior.prediction.averaging import DrawAverage, chunks
from bayesprior.prediction.functional import FunctionalNetwork
from bayesprior.prediction.results import Prediction, Results
from bayesprior.tasks.likelihoods import Likelihood
from bayesprior.tasks.protocols import Batch, Forward, pair_forward, tensors_of, to_device

__all__ = ["predict"]


@torch.no_grad()
@checked(
    "model=network posterior=posterior loader=batches likelihood=likelihood forward=function "
    "num_draws=integer metrics=metrics average=text batch_norm=text bn_loader=batches "
    "max_draw_bytes=integer device=device seed=integer"
)
def predict(
    model: nn.Module,
    posterior: Posterior,
    loader: Iterable[Batch],
    likelihood: Likelihood,
    *,
    forward: Forward = pair_forward,
    num_draws: int | None = None,
    metrics: MetricCollection | Mapping[str, Metric] | None = None,
    average: str | None = None,
    batch_norm: str = "draw",
    bn_loader: Iterable[Batch] | None = None,
    keep_maps: bool = False,
    max_draw_bytes: int = 2**30,
    device: torch.device | str | None = None,
    progress: bool = False,
    seed: int = 0,
) -> Prediction:
    """Predict with the average over draws: p(y | x) = sum_s a_s p(y | x, w_s).

    The shares a_s are 1 / S unless draws carry a mixture ``weight``; a draw's ``confidence``
    multiplies its logits.

    Parameters
    ----------
    model
        The network. Its weights, statistics and training flags are left as they are.
    posterior
        Whatever yields draws: `GaussianWeights`, `StoredDraws`, `DrawsInMemory`,
        `PointPosterior`. Parameters that its layout lacks are the model's own.
    loader
        Batches ``(inputs, targets)``, in the same order at every pass (no shuffling). Others, and
        batches without targets, need a ``forward`` that knows them.
    likelihood
        Turns outputs into predictive laws and scores targets.
    forward
        Calls the module on a batch, as of `bayesprior.tasks.objectives.supervised`:
        `bayesprior.tasks.protocols.inputs_forward` for new data without targets.
    num_draws
        How many draws; None leaves it to the posterior, and one that has fewer uses all.
    metrics
        Of the averaged probabilities (or means) against targets; None for
        `bayesprior.prediction.metrics.default_metrics`. ``nll`` is always among the results.
    average
        "probabilities", or "logits": p proportional to exp(sum_s a_s f_s), of a committee whose
        members were made to be so averaged. None is what the posterior says, else the first.
    batch_norm
        Which BatchNorm statistics go with a draw: ``"draw"``, its own where it carries them, else
        the model's; ``"module"``, the model's; ``"reestimate"``, the averages over ``bn_loader``.
    bn_loader
        Training batches for ``"reestimate"``; targets are not used.
    keep_maps
        For pixels: also keep mean probabilities, entropies and targets of every pixel.
    max_draw_bytes
        Memory for draws held at once (1 GiB). If they need more, the loader is read several
        times and the running averages of all batches are held in between.
    device
        Where to compute; None is where the model is.
    progress
        Show a bar.
    seed
        Passed to ``posterior.draws``.

    Returns
    -------
    Prediction
        Averages, entropies, log likelihoods and metrics.

    Raises
    ------
    LayoutMismatchError
        If the model lacks a parameter of the posterior's layout.
    ConfigError
        If there are no draws, or the statistics asked for do not exist.
    DataError
        If there is no data, a batch or its targets do not fit, the inputs hold NaN, a draw gives
        NaN, or the batches change order.

    Notes
    -----
    Each draw goes through the model once for each batch; beyond ``max_draw_bytes`` the memory
    is that of one batch (of the averages of all points where the draws exceed it, so give dense
    prediction enough). A loop over draws is as fast on a CPU as `torch.func.vmap` over stacked
    weights for small batches, and several times faster for convolutions and large batches.

    Examples
    --------
    >>> from bayesprior.inference.posteriors import PointPosterior
    >>> from bayesprior.tasks.likelihoods import Categorical
    >>> model = nn.Linear(2, 3)
    >>> loader = [(torch.randn(4, 2), torch.tensor([0, 1, 2, 0]))]
    >>> prediction = predict(model, PointPosterior.from_module(model), loader, Categorical())
    >>> prediction.mean_probs.shape, prediction.log_likelihood.shape, sorted(prediction.metrics)
    (torch.Size([4, 3]), torch.Size([1, 4]), ['accuracy', 'brier', 'ece', 'nll'])
    """
    if num_draws is not None and num_draws < 1:
        raise ConfigError(f"num_draws must be at least 1, got {num_draws}")
    if max_draw_bytes < 1:
        raise ConfigError(f"max_draw_bytes must be positive, got {max_draw_bytes}")
    average = average or getattr(posterior, "average", "probabilities")
    if average not in ("probabilities", "logits"):
        raise ConfigError(f"average must be 'probabilities' or 'logits', got {average!r}")
    network = FunctionalNetwork(
        model,
        posterior.layout,
        forward=forward,
        batch_norm=batch_norm,
        bn_loader=bn_loader,
        device=device,
    )
    results = Results(likelihood, metrics, keep_maps)
    averages: list[DrawAverage] = []  # one for each batch
    marks: list[Tensor] = []  # by which a batch is known again
    rows: list[Tensor | None] = []  # of the log likelihood, one block for each chunk
    used: list[tuple[int, int, float]] = []  # chain, index and weight of each draw
    with modes_kept(model):
        model.eval()
        for chunk, is_last in chunks(posterior.draws(num_draws, seed), max_draw_bytes):
            states = [network.state(draw) for draw in chunk]
            columns: list[Tensor | None] = []
            for number, batch in enumerate(
                progressed(loader, f"predict with {len(chunk)} draws", show=progress)
            ):
                batch = to_device(batch, network.device)
                found = (network(state, batch) for state in states)
                output, targets = next(found)
                mark = _mark(batch, targets)
                if not rows:
                    known = None if targets is None else mark
                    of_logits = average == "logits"
                    averages.append(DrawAverage(likelihood, known, of_logits=of_logits))
                    marks.append(mark)
                else:
                    _check_same(marks, number, mark)
                so_far = averages[number]
                outputs = itertools.chain([output], (output for output, _ in found))
                columns.append(so_far.update(outputs, targets, chunk, number, batch))
                if is_last:
                    results.add(so_far)
                    so_far.release()
                    marks[number] = mark[:0]  # targets of maps are large
                else:
                    so_far.move("cpu")
            if not columns:
                raise DataError("the loader gave no batches")
            if len(columns) < len(averages):
                raise _order_error(f"ends after {len(columns)} of {len(averages)} batches")
            rows.append(_row(columns))
            used += [(draw.chain, draw.index, draw.weight) for draw in chunk]
            del chunk, states, found, outputs  # before the next ones are read
    return results.prediction(rows, used)


def _mark(batch: Batch, targets: Tensor | None) -> Tensor:
    """By what a batch is known at the next pass: its targets, else a sum of each of its tensors."""
    if targets is not None:
        return targets.cpu()
    return torch.stack([tensor.double().sum() for tensor in tensors_of(batch)]).cpu()


def _check_same(marks: list[Tensor], number: int, mark: Tensor) -> None:
    if number >= len(marks):
        raise _order_error(f"has more than the {len(marks)} batches of the first")
    if not torch.equal(marks[number], mark):
        raise _order_error(f"has other examples in batch {number} than the first")


def _row(columns: list[Tensor | None]) -> Tensor | None:
    """Log likelihoods of all batches; None if there are no targets."""
    scored = [column for column in columns if column is not None]
    if scored and len(scored) < len(columns):
        raise DataError(
            f"{len(columns) - len(scored)} of {len(columns)} batches have no targets, the others "
            "have; give all of them or none"
        )
    return torch.cat(scored, 1) if scored else None


def _order_error(what: str) -> DataError:
    return DataError(
        f"the loader's second pass {what}: use shuffle=False, or max_draw_bytes large enough to "
        "hold all draws in one pass"
    )
