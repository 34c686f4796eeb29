"""What every trainer's callback shares: when to collect, the prior, the checkpoint's state."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from bayesprior.errors import ConfigError, nearest_name
from bayesprior.inference.collectors.swag import SWAG
from bayesprior.inference.prior_term import attach_prior
from bayesprior.inference.protocols import Phase, StepEvent, WeightDistribution
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout

__all__ = ["Collection"]


class Collection:
    """Snapshots of a network in somebody else's training loop; the base of every callback.

    A subclass names its library's class of callbacks in `_library`; an instance is one of that
    class, too, so that importing this module costs nothing. Its documentation has the parameters;
    the weights of a ``network`` go by their names in it.
    """

    def __new__(cls, *_: Any, **__: Any) -> "Collection":
        """Make an instance of the library's class of callbacks as well."""
        return object.__new__(_grafted(cls))  # type: ignore[arg-type]

    def __reduce__(self) -> Any:
        """Pickle by the class that a module holds, for trainers that start processes."""
        return _restored, (type(self).__bases__[0], self.__dict__)

    @staticmethod
    def _library() -> type[Any]:
        raise NotImplementedError

    def __init__(
        self,
        *,
        rank: int = 20,
        start: int = 0,
        every: int = 10,
        prior: WeightDistribution | None = None,
        num_data: int | None = None,
        network: str = "",
    ) -> None:
        if start < 0 or every < 1:
            raise ConfigError(
                f"start must be at least 0 and every at least 1, got {start}, {every}"
            )
        if prior is not None and num_data is None:
            raise ConfigError("a prior needs num_data, the number of training examples")
        self.swag = SWAG(rank=rank)
        self.start, self.every = start, every
        self.network = network
        self._prior, self._num_data = prior, num_data
        self._step = 0
        self._handles: list[RemovableHandle] = []

    def _begin(self, module: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        """Give the optimizer the prior, on the module's device."""
        self._end()
        if self._prior is None or self._num_data is None:
            return
        if len(optimizers) != 1:
            raise ConfigError(
                f"a prior needs one optimizer, and the trainer has {len(optimizers)}; each of them "
                "would add it"
            )
        network = self._part(module)
        prior: Any = self._prior
        law = prior.to(next(network.parameters()).device)
        self._handles = [attach_prior(optimizers[0], network, law, num_data=self._num_data)]

    def _after_step(self, module: nn.Module, step: int) -> None:
        """Take a snapshot if one is due after this number of optimizer steps.

        A trainer that accumulates gradients tells the same number several times.
        """
        is_new, self._step = step > self._step, step
        if is_new and step > self.start and (step - self.start) % self.every == 0:
            network = self._part(module)
            phase = Phase(lr_factor=1.0, temperature_factor=0.0, collect=True)
            layout = ParameterLayout.from_module(network)
            self.swag.update(StepEvent(step, phase, network, layout))

    def _part(self, module: nn.Module) -> nn.Module:
        try:
            return module.get_submodule(self.network)
        except AttributeError:
            names = [name for name, _ in module.named_children()]
            raise ConfigError(
                f"{type(module).__name__} has no part {self.network!r}"
                f"{nearest_name(self.network, names)}; it has {', '.join(names)}"
            ) from None

    def _end(self) -> None:
        """Take the prior from the optimizer again."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def posterior(
        self,
        *,
        buffers: Mapping[str, Tensor] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> GaussianWeights:
        """Return the law of the snapshots, see `bayesprior.SWAG.posterior`."""
        known = {"role": "source posterior", "objective": "of the trainer's own loss"}
        return self.swag.posterior(buffers=buffers, provenance=known | dict(provenance or {}))

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and primitives: what a resumed run goes on from."""
        return {"swag": self.swag.state_dict(), "step": self._step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.swag.load_state_dict(state["swag"])
        self._step = state["step"]


@functools.cache
def _grafted(kind: type[Collection]) -> type[Any]:
    """Return the class with the library's own as a further base."""
    name, module = kind.__qualname__, kind.__module__
    return type(name, (kind, kind._library()), {"__doc__": kind.__doc__, "__module__": module})


def _restored(kind: type[Collection], attributes: dict[str, Any]) -> Collection:
    found = kind.__new__(kind)
    found.__dict__.update(attributes)
    return found
