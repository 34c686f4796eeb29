"""Prediction with the model average over draws of the weights, in bounded memory."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from bayesprior.errors import ConfigError, DataError
from bayesprior.inference.protocols import Batch, Draw, Posterior
from bayesprior.prediction.averaging import DrawAverage
from bayesprior.prediction.functional import FunctionalNetwork
from bayesprior.prediction.metrics import CalibrationError, default_metrics, nll
from bayesprior.tasks.likelihoods import Likelihood, Moments

__all__ = ["Prediction", "predict"]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What `predict` found for N points with S draws; on the CPU, in float64 (maps in float32).

    Attributes
    ----------
    mean_probs
        (N, C), the average of the class probabilities over draws; for pixels (N, C, H, W) if
        maps were kept, else None; None in regression.
    log_likelihood
        (S, N), log p(y_n | x_n, w_s) in nats.
    predictive_entropy
        (N,), entropy of the average in nats: the total uncertainty. For pixels the mean over the
        image, or (N, H, W) if maps were kept.
    expected_entropy
        (N,), average of the draws' entropies: the aleatoric part.
    mutual_information
        (N,), their difference, at least 0: the epistemic part. In regression, entropies are
        those of normal laws with the same mean and variance.
    targets
        (N,) labels or (N, P) numbers; for pixels (N, H, W) if maps were kept, else None.
    chain, draw
        (S,), ArviZ's coordinates of the draws.
    metrics
        Of the average: ``nll`` and what was asked for.
    mean, variance
        (N, P), moments of the average; None for classes.
    energy
        (N,), -(1 / S) sum_s logsumexp_c f_c(x_n, w_s) of the logits f: larger for inputs that no
        class claims (Liu et al., arXiv:2010.03759). For pixels as the entropies; None where the
        outputs are no logits.
    calibration
        (3, M), sums over M equal bins of the largest probability: points, confidences, right
        answers. Of every pixel without its map; None if no metric has bins.

    Notes
    -----
    The energy is averaged over draws, rather than taken of averaged logits or of averaged
    exp(-energy), because a draw's logits are known only up to a constant that no likelihood
    sees: in the mean such constants shift all points alike and change no ranking.
    """

    mean_probs: Float[Tensor, "N C *grid"] | None
    log_likelihood: Float[Tensor, "S N"]
    predictive_entropy: Float[Tensor, "N *grid"]
    expected_entropy: Float[Tensor, "N *grid"]
    mutual_information: Float[Tensor, "N *grid"]
    targets: Shaped[Tensor, "N ..."] | None
    chain: Int[Tensor, " S"]
    draw: Int[Tensor, " S"]
    metrics: Mapping[str, float]
    mean: Float[Tensor, "N P"] | None = None
    variance: Float[Tensor, "N P"] | None = None
    energy: Float[Tensor, "N *grid"] | None = None
    calibration: Float[Tensor, "3 M"] | None = None


@torch.no_grad()
def predict(
    model: nn.Module,
    posterior: Posterior,
    loader: Iterable[Batch],
    likelihood: Likelihood,
    *,
    num_draws: int | None = None,
    metrics: MetricCollection | Mapping[str, Metric] | None = None,
    batch_norm: str = "frozen",
    bn_loader: Iterable[Batch] | None = None,
    keep_maps: bool = False,
    max_draw_bytes: int = 2**30,
    device: torch.device | str | None = None,
    progress: bool = False,
    seed: int = 0,
) -> Prediction:
    """Predict with the average over draws: p(y | x) = (1 / S) sum_s p(y | x, w_s).

    Parameters
    ----------
    model
        The network. Its weights, statistics and training flags are left as they are.
    posterior
        Whatever yields draws: `GaussianWeights`, `StoredDraws`, `PointPosterior`. Parameters
        that its layout lacks are the model's own.
    loader
        Batches ``(inputs, targets)``, in the same order at every pass (no shuffling).
    likelihood
        Turns outputs into predictive laws and scores targets.
    num_draws
        How many draws; None leaves it to the posterior.
    metrics
        Of the averaged probabilities (or means) against targets; None for
        `bayesprior.prediction.metrics.default_metrics`. ``nll`` is always among the results.
    batch_norm
        Which BatchNorm statistics go with a draw: ``"frozen"``, the model's own; ``"stored"``,
        those stored with the draw; ``"reestimate"``, the averages over ``bn_loader``.
    bn_loader
        Training batches for ``"reestimate"``; only the inputs are used.
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
        If there is no data, targets do not fit, a draw gives NaN, or the batches change order.

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
    network = FunctionalNetwork(
        model, posterior.layout, batch_norm=batch_norm, bn_loader=bn_loader, device=device
    )
    results = _Results(likelihood, metrics, keep_maps)
    averages: list[DrawAverage] = []  # one for each batch
    rows: list[Tensor] = []  # of the log likelihood, one block for each chunk
    coordinates: list[tuple[int, int]] = []
    with _evaluating(model):
        for chunk, is_last in _chunks(posterior.draws(num_draws, seed), max_draw_bytes):
            states = [network.state(draw) for draw in chunk]
            columns = []
            for number, batch in enumerate(_shown(loader, len(chunk), progress)):
                inputs, targets = _split(batch, network.device)
                if not rows:
                    averages.append(DrawAverage(likelihood, targets.cpu()))
                average = _same_batch(averages, number, targets)
                outputs = (network(state, inputs) for state in states)
                columns.append(average.update(outputs, targets, chunk, number))
                if is_last:
                    results.add(average)
                    average.release()
                else:
                    average.move("cpu")
            if not columns:
                raise DataError("the loader gave no batches")
            if len(columns) < len(averages):
                raise _order_error(f"ends after {len(columns)} of {len(averages)} batches")
            rows.append(torch.cat(columns, 1))
            coordinates += [(draw.chain, draw.index) for draw in chunk]
            del chunk, states  # before the next ones are read
    return results.prediction(rows, coordinates)


class _Results:
    """Collects the finished batches."""

    def __init__(
        self,
        likelihood: Likelihood,
        metrics: MetricCollection | Mapping[str, Metric] | None,
        keep_maps: bool,
    ) -> None:
        self._likelihood, self._keep_maps = likelihood, keep_maps
        self._metrics: MetricCollection | None = None
        if metrics is not None:  # copies, because metrics have a state
            copies: dict[str, Metric | MetricCollection] = {
                name: metric.clone() for name, metric in metrics.items()
            }
            self._metrics = MetricCollection(copies, compute_groups=False)
            self._metrics.reset()
        self._kept: dict[str, list[Tensor]] = {}

    def add(self, average: DrawAverage) -> None:
        """Take over one batch's average over all draws."""
        prediction, means = average.average()
        point = prediction.mean if isinstance(prediction, Moments) else prediction
        if self._metrics is None:
            self._metrics = default_metrics(self._likelihood, point.shape[1])
        self._metrics.to(point.device).update(point, average.targets.to(point.device))
        total = self._likelihood.entropy(prediction)
        if average.count == 1:  # nothing to disagree about, not even by rounding
            means["expected_entropy"] = total
        kept = {
            "predictive_entropy": total,
            "mutual_information": (total - means["expected_entropy"]).clamp_min(0),  # rounding
            **means,
        }
        if total.dim() > 1 and not self._keep_maps:
            kept = {k: v.flatten(1).mean(1, dtype=torch.float64) for k, v in kept.items()}
        elif isinstance(prediction, Moments):
            kept |= {**prediction._asdict(), "targets": average.targets}
        else:
            kept |= {"mean_probs": prediction, "targets": average.targets}
        for name, tensor in kept.items():
            self._kept.setdefault(name, []).append(tensor.cpu())

    def prediction(self, rows: list[Tensor], coordinates: list[tuple[int, int]]) -> Prediction:
        """Put everything together."""
        if not rows or self._metrics is None:
            raise ConfigError("the posterior gave no draws")
        log_likelihood = torch.cat(rows).double()
        computed = {name: float(value) for name, value in self._metrics.compute().items()}
        chain, draw = torch.tensor(coordinates).T
        binned = [m for m in self._metrics.values() if isinstance(m, CalibrationError)]
        calibration = binned[0].sums().cpu() if binned else None
        kept: dict[str, Any] = {name: torch.cat(parts) for name, parts in self._kept.items()}
        return Prediction(
            **{"mean_probs": None, "targets": None, **kept},
            log_likelihood=log_likelihood,
            chain=chain,
            draw=draw,
            metrics={"nll": nll(log_likelihood), **computed},
            calibration=calibration,
        )


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Hold evaluation mode; each submodule's own flag comes back."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag


def _chunks(draws: Iterable[Draw], max_bytes: int) -> Iterator[tuple[list[Draw], bool]]:
    """Group draws so that a group's tensors fit; says with each group whether it is the last."""
    chunk: list[Draw] = []
    size = 0
    for draw in draws:
        more = sum(tensor.nbytes for tensor in (draw.weights, *draw.buffers.values()))
        if chunk and size + more > max_bytes:
            yield chunk, False
            chunk, size = [], 0
        chunk.append(draw)
        size += more
    if chunk:
        yield chunk, True


def _split(batch: Batch, device: torch.device) -> tuple[Any, Tensor]:
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise DataError(f"a batch must be (inputs, targets), got {type(batch).__name__}")
    inputs, targets = batch
    return inputs.to(device), targets.to(device)


def _same_batch(averages: list[DrawAverage], number: int, targets: Tensor) -> DrawAverage:
    if number >= len(averages):
        raise _order_error(f"has more than the {len(averages)} batches of the first")
    if not torch.equal(averages[number].targets, targets.cpu()):
        raise _order_error(f"has other targets in batch {number} than the first")
    return averages[number]


def _order_error(what: str) -> DataError:
    return DataError(
        f"the loader's second pass {what}: use shuffle=False, or max_draw_bytes large enough to "
        "hold all draws in one pass"
    )


def _shown(loader: Iterable[Batch], num_draws: int, show: bool) -> Iterable[Batch]:
    if not show:
        return loader
    from rich.console import Console
    from rich.progress import track

    return track(loader, f"predict with {num_draws} draws", console=Console(stderr=True))
