"""What prediction gives, and how the batches' averages become it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from bayesprior.errors import ConfigError
from bayesprior.inference.bound import facts_html
from bayesprior.prediction.averaging import DrawAverage
from bayesprior.prediction.images import ImageSums
from bayesprior.prediction.metrics import default_metrics, whole_scores
from bayesprior.prediction.mixtures import LEVELS
from bayesprior.prediction.points import CalibrationError, nll
from bayesprior.tasks.likelihoods import Bernoulli, Likelihood, Moments
from bayesprior.tasks.pixels import PixelCategorical

__all__ = ["Prediction", "Results"]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What `predict` found for N points with S draws; on the CPU, in float64 (maps in float32).

    Attributes
    ----------
    mean_probs
        (N, C), the average of the class probabilities over draws; for pixels (N, C, H, W) if
        maps were kept, else None; None in regression and of several labels.
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
        (N,) labels, (N, C) of several, or (N, P) numbers; for pixels (N, H, W) if maps were kept;
        None otherwise, and where the loader has none.
    chain, draw
        (S,), ArviZ's coordinates of the draws.
    metrics
        Of the average: ``nll`` and what was asked for; empty without targets.
    mean, variance
        (N, P), moments of the average; None for classes.
    quantiles
        (N, P, 4), of the average of numbers, the mixture of the draws' laws, at the levels
        `bayesprior.prediction.mixtures.LEVELS`: .05, .25, .75 and .95.
    ranks, crps
        (N, P), where the targets fall in it, its cumulative probabilities; (N,), its continuous
        ranked probability score. None without targets.
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
    label_probs
        (N, C), the average probability of each label, where an example may have several.

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
    label_probs: Float[Tensor, "N C"] | None = None
    quantiles: Float[Tensor, "N P Q"] | None = None
    ranks: Float[Tensor, "N P"] | None = None
    crps: Float[Tensor, " N"] | None = None

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


class Results:
    """Collects the finished batches of `bayesprior.prediction.predict.predict`.

    Parameters
    ----------
    likelihood, metrics, keep_maps
        As there.
    """

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
            name = "label_probs" if isinstance(self._likelihood, Bernoulli) else "mean_probs"
            moments = isinstance(prediction, Moments)
            kept |= prediction._asdict() if moments else {name: prediction}
            if average.targets is not None:
                kept["targets"] = average.targets
        if (mixture := average.mixture()) is not None:
            kept["quantiles"] = torch.stack([mixture.quantile(level) for level in LEVELS], -1)
            if average.targets is not None:
                targets = average.targets.to(mixture.mean)
                kept |= {"ranks": mixture.cdf(targets), "crps": mixture.crps(targets)}
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
        if self._by_default and log_likelihood is not None:
            if "label_probs" in kept:
                score = (log_likelihood + (weight / len(weight)).log()[:, None]).logsumexp(0)
                fields = {"targets": "targets", "label_probs": "probs"}
                own = {field: kept[name] for name, field in fields.items()}
                computed |= whole_scores({**own, "log_score": score})
            elif "variance" in kept and len(self._metrics):
                fields = {n: n for n in ("targets", "mean", "variance", "ranks", "crps")}
                computed |= whole_scores({field: kept[name] for name, field in fields.items()})
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
