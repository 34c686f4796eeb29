"""Posteriors that know their network, so that they predict for new inputs."""

import html
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import Tensor

from bayesprior.errors import ConfigError

__all__ = ["Bindable", "Predictor", "facts_html"]


Predictor = Callable[..., Tensor]
"""``predictor(posterior, inputs, **options)``; see `bayesprior.prediction.new_data.NewData`."""


def facts_html(title: str, facts: Mapping[str, Any]) -> str:
    """Return names and values as the small table that a notebook shows.

    Examples
    --------
    >>> facts_html("Prediction", {"nll": 0.123456})
    '<table><caption>Prediction</caption><tr><th>nll</th><td>0.1235</td></tr></table>'
    """
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(_told(value))}</td></tr>"
        for name, value in facts.items()
    )
    return f"<table><caption>{html.escape(title)}</caption>{rows}</table>"


def _told(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


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

    def _repr_html_(self) -> str:
        """Return what the weights are, how wide and whence, as a table for notebooks."""
        own: Any = self
        facts: dict[str, Any] = {}
        if hasattr(own, "layout"):
            facts["weights"] = f"{own.layout.dim:,} in {len(own.layout.names)} parameters"
        names = ("rank", "effective_rank", "rms_std", "num_chains", "num_draws")
        facts |= {n.replace("_", " "): getattr(own, n) for n in names if hasattr(own, n)}
        said = getattr(own, "provenance", {}).items()
        facts |= {k.replace("_", " "): v for k, v in said if isinstance(v, str | int | float)}
        return facts_html(type(self).__name__, facts)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_predictor"}
