"""Running averages over draws of one batch's predictions."""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bayesprior.errors import DataError
from bayesprior.inference.protocols import Draw
from bayesprior.tasks.likelihoods import Categorical, Likelihood, Moments, PixelCategorical

__all__ = ["DrawAverage", "add_softmax"]

_STRIP = 2**20  # numbers of a map that are worked on at a time


class DrawAverage:
    """What the draws say about one batch, averaged as they come.

    Parameters
    ----------
    likelihood
        Turns outputs into laws.
    targets
        The batch's, shape (B, ...).
    """

    def __init__(self, likelihood: Likelihood, targets: Tensor) -> None:
        self.likelihood, self.targets = likelihood, targets
        self.has_logits = isinstance(likelihood, Categorical | PixelCategorical)
        self.count = 0
        self.total: Any = None  # of logits the summed probabilities, else the averaged law
        self.sums: dict[str, Tensor] = {}  # of each draw's entropy, and of its energy

    def update(
        self, outputs: Iterable[Tensor], targets: Tensor, draws: list[Draw], number: int
    ) -> Tensor:
        """Take in the outputs of some draws; return their log likelihoods (s, B) on the CPU.

        Raises
        ------
        DataError
            If targets do not fit, or a draw gives NaN (batch ``number`` and draw are named).
        """
        scores: list[Tensor] = []
        broken: list[Tensor] = []
        for output in outputs:
            # Apple's devices have no float64, and maps would need twice the time and memory.
            is_double = output.dim() <= 2 and output.device.type != "mps"
            output = output.to(torch.float64 if is_double else torch.float32)
            if not scores:
                self.likelihood.validate(output, targets)
            entropy, energy = self._add(output)
            scores.append(self._log_prob(output, targets, energy))
            broken.append(entropy.isnan().any() | scores[-1].isnan().any())
        flags = torch.stack(broken).tolist()  # once a batch, because a GPU has to wait for it
        if any(flags):
            draw = draws[flags.index(True)]
            raise DataError(
                f"draw {draw.index} of chain {draw.chain} gives NaN in batch {number}: its "
                "weights or the inputs are not finite; a smaller lr keeps samplers from diverging"
            )
        return torch.stack(scores).cpu()

    def _log_prob(self, output: Tensor, targets: Tensor, energy: Tensor | None) -> Tensor:
        """Log likelihoods (B,); of maps without another softmax, summed in float64."""
        if type(self.likelihood) is not PixelCategorical or energy is None:
            return self.likelihood.log_prob(output, targets)
        labeled = targets != self.likelihood.ignore_index
        picked = output.gather(1, targets.where(labeled, 0).long()[:, None]).squeeze(1)
        is_double = output.device.type != "mps"
        dtype = torch.float64 if is_double else torch.float32
        return (picked + energy).where(labeled, 0).sum((1, 2), dtype=dtype)

    def _add(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        """Add one draw's law; return its entropy, and its energy if there are logits."""
        if self.count:
            self.move(output.device)
        parts: dict[str, Tensor] = {}
        if self.has_logits:
            self.total = self.total if self.count else torch.zeros_like(output)
            parts["expected_entropy"], parts["energy"] = add_softmax(self.total, output)
        else:
            law = self.likelihood.predictive(output)
            parts["expected_entropy"] = self.likelihood.entropy(law)
            laws, counts = ([self.total, law], [self.count, 1]) if self.count else ([law], [1])
            self.total = self.likelihood.average(laws, counts)
        for name, part in parts.items():
            self.sums[name] = self.sums[name] + part if self.count else part
        self.count += 1
        return parts["expected_entropy"], parts.get("energy")

    def average(self) -> tuple[Any, dict[str, Tensor]]:
        """Return the averaged law, and the averages of the draws' entropies and energies."""
        law = self.total / self.count if self.has_logits else self.total
        return law, {name: total / self.count for name, total in self.sums.items()}

    def release(self) -> None:
        """Forget what the results have taken over."""
        self.total, self.sums, self.targets = None, {}, self.targets[:0]

    def move(self, device: torch.device | str) -> None:
        """Hold the averages on another device."""
        self.sums = {name: total.to(device) for name, total in self.sums.items()}
        if isinstance(self.total, Moments):
            self.total = Moments(*(t.to(device) for t in self.total))
        else:
            self.total = self.total.to(device)


def add_softmax(
    total: Float[Tensor, "B C *grid"], logits: Float[Tensor, "B C *grid"]
) -> tuple[Float[Tensor, "B *grid"], Float[Tensor, "B *grid"]]:
    """Add the softmax of logits to a sum; return its entropy and the energy -logsumexp, in nats.

    Parameters
    ----------
    total
        Sum of probabilities, shape (B, C, ...); changed in place.
    logits
        Of the same shape; -inf rules a class out.

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
        whole += probs.div_(norm)
        log_norm = norm.log_().squeeze(1)
        entropies.append(log_norm - shifted.mul_(probs).sum(1))
        energies.append(-(log_norm + top.squeeze(1)))
    return torch.cat(entropies, axis - 1), torch.cat(energies, axis - 1)
