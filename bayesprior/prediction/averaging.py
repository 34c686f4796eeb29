"""Running averages over draws of one batch's predictions."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bayesprior.errors import ConfigError, DataError
from bayesprior.inference.protocols import Draw
from bayesprior.prediction.mixtures import NormalMixture
from bayesprior.tasks.likelihoods import ClassProbabilities, Likelihood, Moments, inherits
from bayesprior.tasks.pixels import PixelCategorical
from bayesprior.tasks.protocols import Batch, check_finite

__all__ = ["DrawAverage", "add_softmax", "chunks"]

_STRIP = 2**20  # numbers of a map that are worked on at a time


class DrawAverage:
    """What the draws say about one batch, averaged with their weights as they come.

    Parameters
    ----------
    likelihood
        Turns outputs into laws.
    targets
        The batch's, shape (B, ...); None if it has none.
    of_logits
        Whether logits are averaged, not probabilities: a geometric mean.

    Raises
    ------
    ConfigError
        If the outputs are no logits, but these are to be averaged.
    """

    def __init__(
        self, likelihood: Likelihood, targets: Tensor | None, *, of_logits: bool = False
    ) -> None:
        self.likelihood, self.targets, self.of_logits = likelihood, targets, of_logits
        self.has_logits = isinstance(likelihood, ClassProbabilities)
        if of_logits and not self.has_logits:
            name = type(likelihood).__name__
            raise ConfigError(f"average='logits' is for classes: {name} has no logits")
        # One sweep gives softmax, entropy and energy, where all three are what it computes.
        self._is_softmax = not of_logits and inherits(
            likelihood, ClassProbabilities, "predictive", "average", "entropy"
        )
        self._is_picked = self._is_softmax and inherits(likelihood, PixelCategorical, "log_prob")
        self.count = 0
        self.weight = 0.0  # of all draws so far
        self.total: Any = None  # of a softmax the weighted sum, else the averaged law
        self.sums: dict[str, Tensor] = {}  # of each draw's entropy, and of its energy
        self.laws: list[tuple[Moments, float]] = []  # of numbers, each draw's with its weight

    def update(
        self,
        outputs: Iterable[Tensor],
        targets: Tensor | None,
        draws: list[Draw],
        number: int,
        batch: Batch = None,
    ) -> Tensor | None:
        """Take in the outputs of some draws; return their log likelihoods (s, B) on the CPU.

        Parameters
        ----------
        outputs
            One for each draw, shape (B, ...).
        targets
            On the outputs' device; None gives no log likelihoods.
        draws
            Whose they are.
        number, batch
            The batch and its number, for messages.

        Raises
        ------
        DataError
            If targets do not fit, the batch holds NaN, or a draw gives NaN (batch ``number`` and
            draw are named).
        ConfigError
            If a draw has a confidence where the outputs are no logits.
        """
        scores: list[Tensor] = []
        broken: list[Tensor] = []
        for draw, output in zip(draws, outputs, strict=True):
            # Maps would need twice the time and memory in float64.
            output = output.to(torch.float64 if output.dim() <= 2 else torch.float32)
            if not broken and targets is not None:
                self.likelihood.validate(output, targets)
            if isinstance(self.likelihood, ClassProbabilities):
                output = self.likelihood.logits(output)
            if draw.confidence != 1:
                output = self._at_confidence(output, draw)
            entropy, energy = self._add(output, draw.weight)
            flag = entropy.isnan().any()
            if targets is not None:
                scores.append(self._log_prob(output, targets, energy))
                flag |= scores[-1].isnan().any()
            broken.append(flag)
        flags = torch.stack(broken).tolist()  # once a batch, because a GPU has to wait for it
        if any(flags):
            check_finite(batch, number, besides=targets)
            draw = draws[flags.index(True)]
            if bool(draw.weights.isfinite().all()):
                why = "its weights and the inputs are finite, so look at the running statistics"
            else:
                why = "its weights are not finite; a smaller lr keeps samplers from diverging"
            raise DataError(
                f"draw {draw.index} of chain {draw.chain} gives NaN in batch {number}: {why}"
            )
        return torch.stack(scores).cpu() if scores else None

    def _at_confidence(self, output: Tensor, draw: Draw) -> Tensor:
        if not self.has_logits:
            raise ConfigError(
                f"draw {draw.index} of chain {draw.chain} has confidence {draw.confidence}, a "
                f"factor on logits, and {type(self.likelihood).__name__} has none"
            )
        return output * draw.confidence

    def _log_prob(self, output: Tensor, targets: Tensor, energy: Tensor | None) -> Tensor:
        """Log likelihoods (B,); of maps without another softmax, summed in float64."""
        if (
            not self._is_picked
            or energy is None
            or not isinstance(self.likelihood, PixelCategorical)
        ):
            return self.likelihood.log_prob(output, targets)
        labeled = targets != self.likelihood.ignore_index
        picked = output.gather(1, targets.where(labeled, 0).long()[:, None]).squeeze(1)
        return self.likelihood.reduced((picked + energy).where(labeled, 0).double(), labeled)

    def _add(self, output: Tensor, weight: float) -> tuple[Tensor, Tensor | None]:
        """Add one draw's law; return its entropy, and its energy if there are logits."""
        if self.count:
            self.move(output.device)
        parts: dict[str, Tensor] = {}
        if self._is_softmax:
            self.total = self.total if self.count else torch.zeros_like(output)
            parts["expected_entropy"], parts["energy"] = add_softmax(self.total, output, weight)
        else:
            law = self.likelihood.predictive(output)
            if isinstance(law, Moments):
                self.laws.append((law, weight))
            parts["expected_entropy"] = self.likelihood.entropy(law)
            if self.has_logits:
                parts["energy"] = -output.logsumexp(1)
            if self.of_logits:
                self.total = weight * output + (self.total if self.count else 0)
            else:
                known = [(self.total, self.weight)] if self.count else []
                laws, weights = zip(*known, (law, weight), strict=True)
                self.total = self.likelihood.average(laws, weights)
        for name, part in parts.items():
            self.sums[name] = self.sums[name] + weight * part if self.count else weight * part
        self.count += 1
        self.weight += weight
        return parts["expected_entropy"], parts.get("energy")

    def average(self) -> tuple[Any, dict[str, Tensor]]:
        """Return the averaged law, and the averages of the draws' entropies and energies."""
        law = self.total / self.weight if self._is_softmax or self.of_logits else self.total
        law = self.likelihood.predictive(law) if self.of_logits else law
        return law, {name: total / self.weight for name, total in self.sums.items()}

    def mixture(self) -> NormalMixture | None:
        """Return the averaged law of numbers, each draw's a normal one of its moments."""
        if not self.laws:
            return None
        laws, weights = zip(*self.laws, strict=True)
        means, variances = (torch.stack([getattr(law, n) for law in laws]) for n in Moments._fields)
        return NormalMixture(means, variances.sqrt(), torch.tensor(weights, dtype=torch.float64))

    def log_score(self) -> Tensor | None:
        """Log likelihoods (B,) under averaged logits; of other averages the draws' tell it."""
        if not self.of_logits or self.targets is None:
            return None
        logits = self.total / self.weight
        return self.likelihood.log_prob(logits, self.targets.to(logits.device)).double()

    def release(self) -> None:
        """Forget what the results have taken over."""
        self.total, self.sums, self.laws, self.targets = None, {}, [], None

    def move(self, device: torch.device | str) -> None:
        """Hold the averages on another device."""
        self.sums = {name: total.to(device) for name, total in self.sums.items()}
        if isinstance(self.total, Moments):
            self.total = Moments(*(t.to(device) for t in self.total))
            self.laws = [(Moments(*(t.to(device) for t in law)), w) for law, w in self.laws]
        else:
            self.total = self.total.to(device)


def add_softmax(
    total: Float[Tensor, "B C *grid"], logits: Float[Tensor, "B C *grid"], weight: float = 1.0
) -> tuple[Float[Tensor, "B *grid"], Float[Tensor, "B *grid"]]:
    """Add the softmax of logits to a sum; return its entropy and the energy -logsumexp, in nats.

    Parameters
    ----------
    total
        Sum of probabilities, shape (B, C, ...); changed in place.
    logits
        Of the same shape; -inf rules a class out.
    weight
        Of the summand.

    Notes
    -----
    One sweep instead of one for each result, of maps in strips that fit a processor's cache: more
    than twice as fast, and no second map in memory.

    Examples
    --------
    >>> total = torch.zeros(1, 2)
    >>> entropy, energy = add_softmax(total, torch.zeros(1, 2))
    >>> total, entropy.exp(), energy.exp()
    (tensor([[0.5000, 0.5000]]), tensor([2.]), tensor([0.5000]))
    """
    axis = min(2, logits.dim() - 1)
    strip = logits.shape[axis]
    if axis == 2:
        strip = max(1, _STRIP * strip // max(logits.numel(), 1))
    entropies, energies = [], []
    for part, whole in zip(logits.split(strip, axis), total.split(strip, axis), strict=True):
        top = part.amax(1, keepdim=True)
        shifted = (part - top).clamp_min_(torch.finfo(part.dtype).min)  # 0 * -inf is no number
        probs = shifted.exp()
        norm = probs.sum(1, keepdim=True)
        whole.add_(probs.div_(norm), alpha=weight)
        log_norm = norm.log_().squeeze(1)
        entropies.append(log_norm - shifted.mul_(probs).sum(1))
        energies.append(-(log_norm + top.squeeze(1)))
    return torch.cat(entropies, axis - 1), torch.cat(energies, axis - 1)


def chunks(draws: Iterable[Draw], max_bytes: int) -> Iterator[tuple[list[Draw], bool]]:
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
