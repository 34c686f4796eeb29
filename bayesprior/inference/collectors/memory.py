"""Draws in memory: kept while a chain runs, or given."""

from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import Any

from bayesprior.errors import ConfigError, LayoutMismatchError
from bayesprior.inference.bound import Bindable
from bayesprior.inference.posteriors import thinned
from bayesprior.inference.protocols import Draw, StepEvent
from bayesprior.weights.layout import ParameterLayout

__all__ = ["DrawsInMemory"]


class DrawsInMemory(Bindable):
    """A posterior of draws in memory: any that are given, and those that it collects.

    Parameters
    ----------
    draws
        Kept as they are, weights and statistics on their device. Each may have a layout, a
        mixture weight and a confidence of its own.
    layout
        Names of the weights, for draws without a layout of their own; None takes that of the
        first draw.
    chain
        Number of the chain that is collected. Its draws are kept on the CPU.
    average
        What `bayesprior.predict` averages over the draws: "probabilities" or "logits".

    Raises
    ------
    LayoutMismatchError
        If a draw's weights do not fit its layout.

    Examples
    --------
    >>> import torch
    >>> layout = ParameterLayout(("w",), ((2,),))
    >>> posterior = DrawsInMemory([Draw(0, i, torch.zeros(2)) for i in range(4)], layout)
    >>> len(posterior), [draw.index for draw in posterior.draws(2)]
    (4, [1, 3])
    """

    def __init__(
        self,
        draws: Iterable[Draw] = (),
        layout: ParameterLayout | None = None,
        *,
        chain: int = 0,
        average: str = "probabilities",
    ) -> None:
        self._layout, self.chain, self.average = layout, chain, average
        self._chains: dict[int, list[Draw]] = {}
        for draw in draws:
            self.append(draw)

    def __len__(self) -> int:
        return sum(map(len, self._chains.values()))

    def __repr__(self) -> str:
        dim = "" if self._layout is None else f", dim={self._layout.dim}"
        return f"DrawsInMemory(num_chains={self.num_chains}, num_draws={self.num_draws}{dim})"

    @property
    def layout(self) -> ParameterLayout:
        """Names of the weights.

        Raises
        ------
        ConfigError
            If there are neither draws nor a given layout.
        """
        if self._layout is None:
            raise ConfigError("there are no draws in memory and no layout was given")
        return self._layout

    @property
    def num_chains(self) -> int:
        """How many chains the draws belong to."""
        return len(self._chains)

    @property
    def num_draws(self) -> int:
        """How many draws each chain has; of the shortest, where a run was interrupted."""
        return min((len(chain) for chain in self._chains.values()), default=0)

    def append(self, draw: Draw) -> None:
        """Keep one more draw."""
        if draw.layout is None and self._layout is None:
            raise LayoutMismatchError(
                f"draw {draw.index} of chain {draw.chain} has no layout: pass layout="
            )
        if self._layout is None:
            self._layout = draw.layout
        (draw.layout or self.layout).check_dim(draw.weights)
        self._chains.setdefault(draw.chain, []).append(draw)

    def draws(self, num_draws: int | None = None, seed: int = 0) -> Iterator[Draw]:
        """Yield draws, chain by chain.

        Parameters
        ----------
        num_draws
            How many in all; None, or more than there are, means all. Fewer are spread over
            chains and time by `bayesprior.inference.posteriors.thinned`.
        seed
            Not used: thinning leaves no choice.
        """
        chains = [self._chains[number] for number in sorted(self._chains)]
        chosen = thinned([len(chain) for chain in chains], num_draws)
        for chain, indices in zip(chains, chosen, strict=True):
            yield from (chain[index] for index in indices)

    def update(self, event: StepEvent) -> None:
        """Keep the weights after a collected step, and the module's buffers at that time."""
        index = len(self._chains.get(self.chain, ()))
        buffers = {name: buffer.cpu() for name, buffer in event.buffers().items()}
        self.append(Draw(self.chain, index, event.weights().cpu(), buffers, event.layout))

    def state_dict(self) -> dict[str, Any]:
        """Return the draws so far, as tensors and primitives."""
        draws = [self._state(draw) for chain in self._chains.values() for draw in chain]
        return {"layout": self._layout and self._layout.to_json(), "draws": draws}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self._layout = _layout(state["layout"]) or self._layout
        self._chains = {}
        for saved in state["draws"]:
            self.append(Draw(**{**saved, "layout": _layout(saved["layout"]) or self._layout}))

    def _state(self, draw: Draw) -> dict[str, Any]:
        own = None if draw.layout in (None, self._layout) else draw.layout
        return {
            **{field.name: getattr(draw, field.name) for field in fields(draw)},
            "buffers": dict(draw.buffers),
            "layout": own and own.to_json(),
        }


def _layout(text: str | None) -> ParameterLayout | None:
    return None if text is None else ParameterLayout.from_json(text)
