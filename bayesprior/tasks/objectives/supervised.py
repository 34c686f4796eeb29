"""The supervised loss: what a batch says, as a mean per example.

The prior never enters here; the engine adds its gradient after ``backward``.
"""

from torch import Tensor, nn

from bayesprior.inference.protocols import Batch, LossFn
from bayesprior.tasks.likelihoods import Likelihood

__all__ = ["supervised"]


def supervised(likelihood: Likelihood) -> LossFn:
    """Return the mean negative log likelihood of ``(inputs, targets)`` batches.

    loss = -(1 / B) sum_b log p(y_b | f(x_b)), the unit in which ``lr`` means what it means in
    plain SGD.

    Parameters
    ----------
    likelihood
        How outputs speak about targets. It checks every batch, so a label out of range is a
        `DataError` and not a fault inside a kernel.

    Returns
    -------
    LossFn
        Its extra scalars are the likelihood's `Likelihood.monitor`, such as ``accuracy``.

    Examples
    --------
    >>> import torch
    >>> from bayesprior.tasks.likelihoods import Categorical
    >>> loss_fn = supervised(Categorical())
    >>> loss, extras = loss_fn(nn.Identity(), (torch.zeros(3, 2), torch.tensor([0, 0, 1])))
    >>> print(f"{loss:.4f}", {name: f"{value:.3f}" for name, value in extras.items()})
    0.6931 {'accuracy': '0.667'}
    """

    def loss_fn(module: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        inputs, targets = batch
        outputs = module(inputs)
        likelihood.validate(outputs, targets)
        loss = -likelihood.log_prob(outputs, targets).mean()
        return loss, likelihood.monitor(outputs.detach(), targets)

    return loss_fn
