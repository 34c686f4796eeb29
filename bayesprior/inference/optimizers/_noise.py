"""Normal noise as a pure function of a generator's state.

The state is a uint8 tensor that the optimizer keeps and saves, so a run repeats and resumes bit
for bit, replicas that start from one seed stay equal, and the global generator is never touched.
On the CPU torch draws normals in one thread (about 4 ns each), so `NoiseStream` computes the next
call ahead, in the background of the next forward and backward pass. That costs a second vector
of noise, and hides the time only where a core is idle.
"""

import threading

import torch
from torch import Tensor

from bayesprior.errors import CheckpointError

__all__ = ["NoiseStream", "standard_normal"]

# Below this, starting a thread costs more than the 1 ms that it hides.
_AHEAD_FROM = 1 << 18


def standard_normal(
    state: Tensor, size: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return ``size`` independent standard normals and the state after them.

    Raises
    ------
    CheckpointError
        If the state belongs to a generator of another kind of device.
    """
    generator = torch.Generator(device)
    try:
        generator.set_state(state.cpu())
    except RuntimeError as error:
        raise CheckpointError(
            f"the saved noise state does not fit a generator on {device}: resume on the kind of "
            "device where the run began, or start a new chain"
        ) from error
    noise = torch.empty(size, dtype=dtype, device=device).normal_(generator=generator)
    return noise, generator.get_state()


class _Fill(threading.Thread):
    """One call of `standard_normal` in the background."""

    def __init__(self, state: Tensor, size: int, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(name="bayesprior-noise")
        self.request = state, size, dtype, device
        self.result: tuple[Tensor, Tensor] | None = None
        self.start()

    def run(self) -> None:
        self.result = standard_normal(*self.request)

    def answers(self, state: Tensor, size: int, dtype: torch.dtype, device: torch.device) -> bool:
        return self.request[0] is state and self.request[1:] == (size, dtype, device)


class NoiseStream:
    """`standard_normal` with the next call computed ahead; the numbers are the same."""

    def __init__(self) -> None:
        self._ahead: _Fill | None = None

    def draw(
        self, state: Tensor, size: int, dtype: torch.dtype, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Return what `standard_normal` returns; guess that the next call continues it."""
        ahead, self._ahead = self._ahead, None
        result = None
        if ahead is not None and ahead.answers(state, size, dtype, device):
            ahead.join()
            # None in a process forked during the fill, where the thread does not exist.
            result = ahead.result
        if result is None:
            result = standard_normal(state, size, dtype, device)
        if device.type == "cpu" and size >= _AHEAD_FROM:
            self._ahead = _Fill(result[1], size, dtype, device)
        return result
