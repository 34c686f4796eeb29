"""Posteriors that know their network, so that they predict for new inputs."""

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor

from bayesprior.errors import ConfigError

__all__ = ["Bindable", "Predictor"]


Predictor = Callable[..., Tensor]
"""``predictor(posterior, inputs, **options)``; see `bayesprior.prediction.new_data.NewData`."""

_Posterior = TypeVar("_Posterior", bound="Bindable")


class Bindable:
    """What a posterior gains once it is bound to its network: `predict_proba`.

    Recipes bind what they return. The binding belongs to the object: copies, other laws made of
    it and files do not have it.
    """

    _predictor: Predictor | None = None

    def bind(self: _Posterior, predictor: Predictor) -> _Posterior:
        """Remember how to predict; return the posterior itself."""
        object.__setattr__(self, "_predictor", predictor)  # also of frozen dataclasses
        return self

    def predict_proba(self, inputs: Any, **options: Any) -> Tensor:
        """Predict class probabilities for new inputs, averaged over draws.

        Parameters
        ----------
        inputs
            Of N examples, as the network takes them (a tensor or array), or batches of such.
        **options
            Passed to `bayesprior.prediction.new_data.NewData`: ``num_draws``, ``batch_size``,
            ``seed``.

        Returns
        -------
        Tensor
            Shape (N, C), rows in the order of the inputs.

        Raises
        ------
        ConfigError
            If the posterior is not bound to a network.
        """
        if self._predictor is None:
            raise ConfigError(
                f"this {type(self).__name__} does not know its network: use bp.predict(network, "
                "posterior, loader, likelihood), or bp.load_run(folder) for a run's own"
            )
        return self._predictor(self, inputs, **options)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_predictor"}
