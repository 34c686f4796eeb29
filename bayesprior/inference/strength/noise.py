"""How far weights may move: the noise that moves the features by a share of their spread."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from bayesprior.errors import ConfigError, checked
from bayesprior.inference.generators import generator
from bayesprior.inference.strength.features import head_inputs
from bayesprior.inference.wrappers import plain_module
from bayesprior.models.heads import head_prefix
from bayesprior.tasks.protocols import Batch, Forward, inputs_forward
from bayesprior.weights.gaussian import GaussianWeights

__all__ = ["feature_noise"]

_START, _LARGEST = 0.02, 0.5
_MAX_ROUNDS, _TOLERANCE = 8, 0.01


@checked(module="network", head="text", share="number", num_draws="count", forward="function")
@torch.no_grad()
def feature_noise(
    module: nn.Module,
    inputs: Tensor | Iterable[Batch],
    *,
    head: str | None = None,
    share: float = 0.35,
    num_draws: int = 3,
    by_tensor: bool = False,
    law: GaussianWeights | None = None,
    forward: Forward = inputs_forward,
    seed: int = 0,
) -> float:
    r"""Return the standard deviation of weight noise that moves the features by a share of theirs.

    The delta with :math:`\mathrm{rms}\,\|\phi(w + \delta\epsilon) - \phi(w)\| = 0.35\,
    \mathrm{rms}\,\|\phi(w) - \bar\phi\|` over examples and noise; phi are the inputs of the head,
    and epsilon is standard normal on every other trainable weight. It is the unit in which
    networks of any size can be moved alike: .012 to .04 on small networks, .0025 on MobileNet.

    Parameters
    ----------
    module
        At the weights in question; run in evaluation mode, and left as it was.
    inputs
        Some dozens of examples of the target, in random order: a tensor of them, or batches as
        ``forward`` takes them, which are read several times.
    head
        Name of the head's layer; the last linear one by default.
    share
        Of the features' spread.
    num_draws
        Noise vectors, the same ones in each round.
    by_tensor
        Whether the noise of each tensor is in units of its own root mean square weight. That number
        says how far such a network is from one that can bear it: .1 of small networks, .013 of
        MobileNet, whose depthwise layers with BatchNorm magnify it.
    law
        Of all trainable weights: the noise is that of its draws, without their mean, and the result
        says what share of the law's width the features bear.
    forward
        Calls the network on a batch.
    seed
        Of the noise.

    Returns
    -------
    float
        At most 0.5, in weight units, or those of each tensor, or of the law.

    Raises
    ------
    ConfigError
        If the features do not vary or do not depend on the weights.

    Notes
    -----
    Costs 1 + ``num_draws`` passes over the inputs a round, of which 3 to 5 do.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(4, 64), nn.Linear(64, 3))
    >>> 0 < feature_noise(net, torch.randn(50, 4)) < 0.5
    True
    """
    module = plain_module(module)
    head = head_prefix(module) if head is None else head
    batches = inputs.split(256) if isinstance(inputs, Tensor) else list(inputs)
    moved = {
        name: p
        for name, p in module.named_parameters()
        if p.requires_grad and not name.startswith(f"{head}.")
    }
    still, _ = head_inputs(module, head, batches, forward=forward)
    spread = float((still - still.mean(0)).double().square().sum().sqrt())
    if not 0 < spread < math.inf or not moved:
        raise ConfigError(
            f"the inputs of the head {head!r} do not vary over these examples, or no weight in "
            "front of it is trainable: there is no scale to calibrate"
        )
    kept = {name: p.clone() for name, p in moved.items()}

    def noise(draw: int) -> Mapping[str, Tensor]:
        if law is not None:
            z = torch.randn(law.layout.dim, generator=generator("cpu", seed, "law noise", draw))
            return law.layout.unflatten(law.displacement(z.to(law.loc)))
        found = {}
        for index, (name, own) in enumerate(kept.items()):
            source = generator("cpu", seed, "feature noise", draw, index)
            unit = float(own.square().mean().sqrt()) if by_tensor else 1.0
            found[name] = unit * torch.randn(own.shape, generator=source)
        return found  # the same on every device

    delta = _START
    try:
        for _ in range(_MAX_ROUNDS):
            squares = 0.0
            for draw in range(num_draws):
                deviations = noise(draw)
                for name, p in moved.items():
                    p.copy_(kept[name] + delta * deviations[name].to(p))
                found, _ = head_inputs(module, head, batches, forward=forward)
                squares += float((found - still).double().square().sum())
            reached = math.sqrt(squares / num_draws) / spread
            if not reached > 0:
                raise ConfigError(f"the inputs of the head {head!r} depend on no trainable weight")
            factor = share / reached if math.isfinite(reached) else 0.1
            delta = min(delta * factor, _LARGEST)
            if abs(factor - 1) < _TOLERANCE or delta == _LARGEST:
                break
    finally:
        for name, p in moved.items():
            p.copy_(kept[name])
    return delta
