"""Prediction with the model average over draws of the weights, in bounded memory."""

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from bayesprior.errors import ConfigError, DataError, checked
from bayesprior.inference.bound import facts_html
from bayesprior.inference.progress import progressed
from bayesprior.inference.protocols import Posterior
from bayesprior.inference.wrappers import modes_kept
from bayesprior.prediction.averaging import DrawAverage, chunks
from bayesprior.prediction.functional import FunctionalNetwork
from bayesprior.prediction.images import ImageSums
from bayesprior.prediction.metrics import CalibrationError, default_metrics, number_scores
from bayesprior.prediction.points import nll
from bayesprior.tasks.likelihoods import Likelihood, Moments
from bayesprior.tasks.pixels import PixelCategorical
from bayesprior.tasks.protocols import Batch, Forward, pair_forward, tensors_of, to_device

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
        (S, N), log p(y_n | x_n, w_s) in nats; None without targets.
    predictive_entropy
        (N,), entropy of the average in nats: the total uncertainty. For pixels the mean over the
        image, or (N, H, W) if maps were kept.
    expected_entropy
        (N,), average of the draws' entropies: the aleatoric part.
    mutual_information
        (N,), their difference, at least 0: the epistemic part. In regression, entropies are
        those of normal laws with the same mean and variance.
    targets
        (N,) labels or (N, P) numbers; for pixels (N, H, W) if maps were kept; None otherwise, and
        where the loader has none.
    chain, draw
        (S,), ArviZ's coordinates of the draws.
    metrics
        Of the average: ``nll`` and what was asked for; empty without targets.
    mean, variance
        (N, P), moments of the average; None for classes.
    energy
        (N,), minus the average of logsumexp_c f_c(x_n, w_s) of the logits f: larger for inputs
        that no class claims (Liu et al., arXiv:2010.03759). For pixels as the entropies; None
        where the outputs are no logits.
    calibration
        (3, M), sums over M equal bins of the largest probability: points, confidences, right
        answers. Of every pixel without its map; None if no metric has bins.
    weight
        (S,), shares of the draws in all averages; they sum to 1.
    log_score
        (N,), log p(y_n | x_n) in nats where logits were averaged; else the draws' give it.
    images
        Of pixels with targets: what every image adds to the metrics.

    Notes
    -----
    The energy is averaged over draws, rather than taken of averaged logits or of averaged
    exp(-energy), because a draw's logits are known only up to a constant that no likelihood
    sees: in the mean such constants shift all points alike and change no ranking.
    """

    mean_probs: Float[Tensor, "N C *grid"] | None
    log_likelihood: Float[Tensor, "S N"] | None
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
    weight: Float[Tensor, " S"] | None = None
    log_score: Float[Tensor, " N"] | None = None
    images: ImageSums | None = None

    @property
    def num_points(self) -> int:
        """How many points were predicted."""
        return len(self.predictive_entropy)

    @property
    def average_log_likelihood(self) -> Float[Tensor, " N"] | None:
        """Log p(y_n | x_n) of the average at each point in nats; None without targets."""
        if self.log_likelihood is None or self.log_score is not None:
            return self.log_score
        num_draws = len(self.log_likelihood)
        weight = torch.full((num_draws,), 1 / num_draws) if self.weight is None else self.weight
        return (self.log_likelihood.double() + weight.double().log()[:, None]).logsumexp(0)

    def _repr_html_(self) -> str:
        sizes = {"points": self.num_points, "draws": len(self.draw)}
        return facts_html("Prediction", {**sizes, **self.metrics})


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
    results = _Results(likelihood, metrics, keep_maps)
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


class _Results:
    """Collects the finished batches."""

    def __init__(
        self,
        likelihood: Likelihood,
        metrics: MetricCollection | Mapping[str, Metric] | None,
        keep_maps: bool,
    ) -> None:
        self._likelihood, self._keep_maps = likelihood, keep_maps
        self._by_default = metrics is None
        self._metrics: MetricCollection | None = None
        self._is_labeled = False
        if metrics is not None:  # copies, because metrics have a state
            copies: dict[str, Metric | MetricCollection] = {
                name: metric.clone() for name, metric in metrics.items()
            }
            self._metrics = MetricCollection(copies, compute_groups=False)
            self._metrics.reset()
        self._kept: dict[str, list[Tensor]] = {}
        self._images: list[ImageSums] = []

    def add(self, average: DrawAverage) -> None:
        """Take over one batch's average over all draws."""
        prediction, means = average.average()
        point = prediction.mean if isinstance(prediction, Moments) else prediction
        if self._metrics is None:
            self._metrics = default_metrics(self._likelihood, point.shape[1])
        if average.targets is not None:
            self._is_labeled = True
            targets = average.targets.to(point.device)
            self._metrics.to(point.device).update(point, targets)
            if isinstance(self._likelihood, PixelCategorical):
                found = ImageSums.of(point, targets, self._likelihood.ignore_index)
                self._images.append(found)
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
        else:
            moments = isinstance(prediction, Moments)
            kept |= prediction._asdict() if moments else {"mean_probs": prediction}
            if average.targets is not None:
                kept["targets"] = average.targets
        if (score := average.log_score()) is not None:
            kept["log_score"] = score
        for name, tensor in kept.items():
            self._kept.setdefault(name, []).append(tensor.cpu())

    def prediction(
        self, rows: list[Tensor | None], used: list[tuple[int, int, float]]
    ) -> Prediction:
        """Put everything together."""
        if not rows or self._metrics is None:
            raise ConfigError("the posterior gave no draws")
        chains, indices, weights = zip(*used, strict=True)
        # Relative to equal shares, so that these are exactly 1 where nothing is weighted.
        weight = torch.tensor(weights, dtype=torch.float64) * (len(weights) / math.fsum(weights))
        scored = [row for row in rows if row is not None]
        log_likelihood, computed, calibration = None, {}, None
        if scored and self._is_labeled:
            log_likelihood = torch.cat(scored).double()
            computed = {"nll": nll(log_likelihood + weight.log()[:, None])}  # its shares are 1 / S
            computed |= {name: float(value) for name, value in self._metrics.compute().items()}
            binned = [m for m in self._metrics.values() if isinstance(m, CalibrationError)]
            calibration = binned[0].sums().cpu() if binned else None
        kept: dict[str, Any] = {name: torch.cat(parts) for name, parts in self._kept.items()}
        if self._by_default and computed and "variance" in kept and len(self._metrics):
            computed |= number_scores(*(kept[name] for name in ("targets", "mean", "variance")))
        if "log_score" in kept:
            computed["nll"] = -kept["log_score"].mean().item()
        return Prediction(
            **{"mean_probs": None, "targets": None, **kept},
            log_likelihood=log_likelihood,
            chain=torch.tensor(chains),
            draw=torch.tensor(indices),
            metrics=computed,
            calibration=calibration,
            weight=weight / len(weight),
            images=ImageSums.joined(self._images),
        )


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
