"""Predictions for new inputs, as posteriors give them once they know their network."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bayesprior.errors import ConfigError
from bayesprior.inference.protocols import Posterior
from bayesprior.prediction.predict import predict
from bayesprior.tasks.likelihoods import Bernoulli, ClassProbabilities, Likelihood
from bayesprior.tasks.protocols import Batch, Forward, inputs_forward

__all__ = ["NewData"]


@dataclass(frozen=True, eq=False)
class NewData:
    """Class probabilities for new inputs of a network; what `Bindable.bind` takes.

    Parameters
    ----------
    network
        The network whose weights the posterior draws.
    likelihood
        Of its outputs.
    forward
        Calls the network on a batch of inputs.

    Examples
    --------
    >>> from bayesprior.inference.posteriors import PointPosterior
    >>> from bayesprior.tasks.likelihoods import Categorical
    >>> network = nn.Linear(2, 3)
    >>> fit = PointPosterior.from_module(network).bind(NewData(network, Categorical()))
    >>> fit.predict_proba(np.zeros((5, 2))).shape
    torch.Size([5, 3])
    """

    network: nn.Module
    likelihood: Likelihood
    forward: Forward = inputs_forward

    def __call__(
        self,
        posterior: Posterior,
        inputs: Any,
        *,
        num_draws: int | None = None,
        batch_size: int = 256,
        seed: int = 0,
    ) -> Tensor:
        """Return probabilities (N, C), of classes or of several labels; (N, C, H, W) for pixels.

        Parameters
        ----------
        posterior
            Whatever yields draws.
        inputs
            A tensor or array of N examples, floating ones in any precision, or an iterable of
            batches as the forward takes them.
        num_draws, seed
            As of `predict`.
        batch_size
            Of a tensor's or array's batches.

        Raises
        ------
        ConfigError
            If the likelihood has no classes.
        """
        if not isinstance(self.likelihood, ClassProbabilities | Bernoulli):
            raise ConfigError(
                f"{type(self.likelihood).__name__} has no class probabilities; bp.predict gives "
                "the mean and variance of new points with forward=inputs_forward"
            )
        found = predict(
            self.network,
            posterior,
            self._batches(inputs, batch_size),
            self.likelihood,
            forward=self.forward,
            num_draws=num_draws,
            keep_maps=True,
            seed=seed,
        )
        probs = found.mean_probs if found.label_probs is None else found.label_probs
        assert probs is not None, "classes have probabilities, and maps are kept"
        return probs

    def _batches(self, inputs: Any, batch_size: int) -> Iterable[Batch]:
        if not isinstance(inputs, Tensor | np.ndarray):
            return inputs
        inputs = torch.as_tensor(inputs)
        if inputs.is_floating_point():
            inputs = inputs.to(next(self.network.parameters()).dtype)
        return inputs.split(batch_size)
