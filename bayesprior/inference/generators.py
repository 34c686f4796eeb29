"""The one place that makes random generators: seeds folded from parts, private generators."""

import contextlib
import hashlib
import operator
from collections.abc import Iterable, Iterator
from typing import Any, SupportsIndex

import torch

__all__ = ["fold_seed", "generator", "seeded", "split_mix"]

_MASK = (1 << 64) - 1


def split_mix(z: Any) -> Any:
    """SplitMix64: a bijection of 64-bit integers (one, or an array) that scatters neighbors."""
    z = (z + 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def fold_seed(*parts: SupportsIndex | str) -> int:
    """Hash parts (a seed and what it is for: chain, epoch, example, ...) into one 64-bit seed.

    Seeds that are added up overlap (seed 0 of chain 2 is seed 1 of chain 1); folded ones do not.

    Parameters
    ----------
    *parts
        Integers of any size and sign, NumPy's too, and words; their order matters.

    Examples
    --------
    >>> fold_seed(0, 1) == fold_seed(0, 1), fold_seed(0, 1) == fold_seed(1, 0)
    (True, False)
    >>> fold_seed("noise", 0) == fold_seed("dropout", 0)
    False
    """
    state = 0
    for part in parts:
        if isinstance(part, str):
            part = int.from_bytes(hashlib.blake2b(part.encode(), digest_size=8).digest(), "little")
        state = split_mix(state ^ (operator.index(part) & _MASK))
    return int(state)


def generator(device: torch.device | str, *parts: SupportsIndex | str) -> torch.Generator:
    """Return a generator on a device whose numbers are a function of the parts.

    A plain ``manual_seed(seed)`` would replay the numbers that the global generator, usually
    seeded alike, used for the initial weights: name what the numbers are for.

    Examples
    --------
    >>> torch.rand(2, generator=generator("cpu", "example", 3)).shape
    torch.Size([2])
    """
    return torch.Generator(device).manual_seed(fold_seed(*parts))


@contextlib.contextmanager
def seeded(seed: int, devices: Iterable[torch.device | str] = ()) -> Iterator[None]:
    """Seed torch's global generators inside the block and put their states back afterwards.

    Parameters
    ----------
    seed
        Of every generator that is seeded.
    devices
        Where the block draws numbers, beside the CPU. A GPU that is not named is neither
        initialized nor touched; ``torch.manual_seed`` would do both to all of them.
    """
    gpus = {torch.device(device) for device in devices} - {torch.device("cpu")}
    with torch.random.fork_rng(devices=[]):
        states = {gpu: _module(gpu).get_rng_state(gpu) for gpu in gpus}
        torch.default_generator.manual_seed(seed)
        for gpu in gpus:
            state = torch.Generator(gpu).manual_seed(seed).get_state()
            _module(gpu).set_rng_state(state, gpu)
        try:
            yield
        finally:
            for gpu, state in states.items():
                _module(gpu).set_rng_state(state, gpu)


def _module(device: torch.device) -> Any:
    """``torch.cuda`` and its like."""
    return getattr(torch, device.type)
