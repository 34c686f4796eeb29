"""The supervised loss: what a batch says, as a mean per example.

The prior never enters here; the engine adds its gradient after ``backward``.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from bayesprior.errors import ConfigError, DataError, checked
from bayesprior.inference.protocols import LossFn
from bayesprior.tasks.likelihoods import Categorical, Likelihood
from bayesprior.tasks.protocols import Batch, Forward, field_of, pair_forward

__all__ = ["supervised"]


@checked(likelihood="likelihood", forward="function")
def supervised(
    likelihood: Likelihood,
    *,
    forward: Forward = pair_forward,
    auxiliary: Mapping[str, float] | None = None,
    label_smoothing: float = 0.0,
) -> LossFn:
    """Return the mean negative log likelihood of batches with targets.

    loss = -(1 / B) sum_b log p(y_b | f(x_b)), the unit in which ``lr`` means what it means in
    plain SGD.

    Parameters
    ----------
    likelihood
        How outputs speak about targets. It checks every batch on the CPU, so a label out of range
        is a `DataError` and not a fault inside a kernel; on a GPU, which would have to be waited
        for, the first one (the labels of a `DataBundle` were checked when it was made).
    forward
        Calls the module on a batch; ``(inputs, targets)`` by default. Ready-made ones for
        dictionaries and for modules that return them are in `bayesprior.tasks.protocols`.
    auxiliary
        Weights of further outputs by name, such as ``{"aux": 0.5}`` for torchvision's
        segmentation networks: each adds its own negative log likelihood of the same targets.
        The module is called once.
    label_smoothing
        e in [0, 1), of `bayesprior.tasks.likelihoods.Categorical` alone: the loss of an example is
        -(1 - e) log p_y - (e / C) sum_c log p_c, torch's ``cross_entropy(label_smoothing=e)``. So
        is a label's log probability in what is fitted, a pseudo-likelihood for e > 0; predictions
        and metrics know nothing of it.

    Returns
    -------
    LossFn
        Its extra scalars are the likelihood's `Likelihood.monitor`, such as ``accuracy``.

    Raises
    ------
    ConfigError
        If labels are to be smoothed that are no classes, or by a share outside [0, 1).

    Examples
    --------
    >>> import torch
    >>> from bayesprior.tasks.likelihoods import Categorical
    >>> loss_fn = supervised(Categorical())
    >>> loss, extras = loss_fn(nn.Identity(), (torch.zeros(3, 2), torch.tensor([0, 0, 1])))
    >>> print(f"{loss:.4f}", {name: f"{value:.3f}" for name, value in extras.items()})
    0.6931 {'accuracy': '0.667'}
    """
    if not 0 <= label_smoothing < 1:
        raise ConfigError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
    if label_smoothing and not isinstance(likelihood, Categorical):
        name = type(likelihood).__name__
        raise ConfigError(f"label_smoothing is for one class an example, not for {name}")
    checked_once = False

    def mean_loss(outputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal checked_once
        if not checked_once or targets.device.type == "cpu":
            likelihood.validate(outputs, targets)
            checked_once = True
        if label_smoothing:
            return F.cross_entropy(outputs, targets.long(), label_smoothing=label_smoothing)
        return -likelihood.log_prob(outputs, targets).mean()

    def loss_fn(module: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        returned: list[Any] = []
        hook = None
        if auxiliary:  # the forward passes on only the outputs that predict
            hook = module.register_forward_hook(lambda _, __, found: returned.append(found))
        try:
            outputs, targets = forward(module, batch)
        finally:
            if hook is not None:
                hook.remove()
        if targets is None:
            raise DataError("the batch has no targets, and a supervised loss needs them")
        loss = mean_loss(outputs, targets)
        for name, weight in (auxiliary or {}).items():
            loss = loss + weight * mean_loss(field_of(returned[0], name), targets)
        return loss, likelihood.monitor(outputs.detach(), targets)

    return loss_fn
