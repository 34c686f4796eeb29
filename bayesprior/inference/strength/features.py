"""A network's frozen features: what its head is given, and how that varies within classes."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn
from torch.nn import functional as F

from bayesprior.errors import ConfigError, DataError, nearest_name
from bayesprior.inference.wrappers import layer_inputs, modes_kept, only_rows, plain_module
from bayesprior.tasks.protocols import Batch, Forward, check_finite, pair_forward, to_device

__all__ = [
    "BETWEEN",
    "MEAN",
    "RMS_NORM",
    "WITHIN",
    "check_is_last",
    "feature_statistics",
    "head_inputs",
    "head_layer",
    "stratified_folds",
]

WITHIN, BETWEEN = "head_inputs.within", "head_inputs.between"
MEAN, RMS_NORM = "head_inputs.mean", "head_inputs.rms_norm"


def head_layer(module: nn.Module, head: str) -> nn.Linear | nn.Conv2d:
    """Return the linear layer (or convolution of one pixel) of a name.

    Raises
    ------
    ConfigError
        If there is none.
    """
    layers = dict(plain_module(module).named_modules())
    layer = layers.get(head)
    if isinstance(layer, nn.Linear) or isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1):
        return layer
    raise ConfigError(
        f"the head {head!r} is no linear layer of {type(module).__name__}"
        + nearest_name(head, [name for name in layers if name])
    )


@torch.no_grad()
def head_inputs(
    module: nn.Module, head: str, batches: Iterable[Batch], *, forward: Forward = pair_forward
) -> tuple[Float[Tensor, "N P"], Any]:
    """Return what the head is given for every example, and the targets.

    Parameters
    ----------
    module
        The network, run in evaluation mode where it lies and left as it was.
    head
        Name of a linear layer, or of a convolution of one pixel, whose inputs are averaged over
        positions.
    batches
        As ``forward`` takes them.
    forward
        Calls the network on a batch.

    Returns
    -------
    tuple
        Features (N, P) on the CPU in the network's type, and the targets, None without any.

    Raises
    ------
    ConfigError
        If there is no such layer, or it is given more than one row an example.
    DataError
        If there are no batches, or a batch, or what the network makes of it, is not finite.

    Examples
    --------
    >>> net = nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(4, 2))
    >>> features, targets = head_inputs(net, "2", [(-torch.ones(3, 2, 2), torch.zeros(3))])
    >>> features.shape, features.sum().item()
    (torch.Size([3, 4]), 0.0)
    """
    module = plain_module(module)
    layer, device = head_layer(module, head), next(module.parameters()).device
    features, targets = [], []
    with modes_kept(module), layer_inputs(layer) as given:
        module.eval()
        for number, batch in enumerate(batches):
            given.clear()
            _, labels = forward(module, to_device(batch, device))
            features.append(only_rows(given, head).cpu())
            targets.append(labels)
            if not bool(features[-1].isfinite().all()):
                check_finite(batch, number)
                raise DataError(
                    f"the network gives its head NaN or infinite values in batch {number}: load "
                    "or initialize it anew"
                )
    if not features:
        raise DataError("the loader gave no batches")
    labeled = all(isinstance(labels, Tensor) for labels in targets)
    return torch.cat(features), torch.cat([t.cpu() for t in targets]) if labeled else None


@torch.no_grad()
def check_is_last(
    module: nn.Module, head: str, batch: Batch, forward: Forward = pair_forward
) -> None:
    """Raise `ConfigError` unless the outputs are the head's, averaged over positions.

    A layer behind the head, such as the ReLU of torchvision's SqueezeNet, makes the logits
    another function of the features than every head that is fitted to these alone.
    """
    layer = head_layer(module, head)
    features, _ = head_inputs(module, head, [batch], forward=forward)
    with modes_kept(module):
        module.eval()
        outputs, _ = forward(module, to_device(batch, layer.weight.device))
    alone = F.linear(features.to(layer.weight), layer.weight.flatten(1), layer.bias)
    if outputs.shape != alone.shape or not torch.allclose(outputs, alone, rtol=1e-3, atol=1e-3):
        raise ConfigError(
            f"{type(module).__name__} does more behind its head {head!r} than an average: put "
            "torch.nn.Identity() in the place of what follows it"
        )


def feature_statistics(
    features: Float[Tensor, "N P"], labels: Integer[Tensor, " N"]
) -> dict[str, Tensor]:
    """Return what a source tells of its head's inputs, in float64, as ``statistics`` of a law.

    Returns
    -------
    dict
        ``head_inputs.within``, the pooled covariance within classes
        sum_n (phi_n - mean of its class) (...)^T / (N - C), and ``head_inputs.between``, that of
        the class means weighted by their examples, both (P, P); ``head_inputs.mean`` (P,), and
        ``head_inputs.rms_norm``, sqrt(mean |phi|^2).

    Raises
    ------
    DataError
        If no class has two examples, or anything is not finite.

    Examples
    --------
    >>> found = feature_statistics(torch.tensor([[0.0], [2.0], [5.0]]), torch.tensor([0, 0, 1]))
    >>> found["head_inputs.within"].item(), found["head_inputs.mean"].item()
    (2.0, 2.3333333333333335)
    """
    features = features.double()
    if not bool(features.isfinite().all()):
        raise DataError("the head's inputs hold NaN or infinite values")
    _, place, counts = labels.unique(return_inverse=True, return_counts=True)
    if len(counts) == len(labels):
        raise DataError("no class has two examples, so nothing varies within classes")
    sums = features.new_zeros(len(counts), features.shape[1]).index_add_(0, place, features)
    means, mean = sums / counts[:, None], features.mean(0)
    inner, outer = features - means[place], (means - mean) * counts[:, None].double().sqrt()
    return {
        WITHIN: inner.T @ inner / (len(labels) - len(counts)),
        BETWEEN: outer.T @ outer / len(labels),
        MEAN: mean,
        RMS_NORM: features.square().sum(1).mean().sqrt(),
    }


def second_moment(statistics: Mapping[str, Tensor]) -> Float[Tensor, "P P"]:
    """Return E phi phi^T of what `feature_statistics` found (a share C / N of it unseen)."""
    within, between, mean = (statistics[name].double() for name in (WITHIN, BETWEEN, MEAN))
    return within + between + torch.outer(mean, mean)


def stratified_folds(
    labels: Integer[Tensor, " N"], num_folds: int, seed: int = 0, *, least: int = 1
) -> Integer[Tensor, " N"]:
    """Assign every example to a fold, each class spread as evenly as can be.

    Parameters
    ----------
    labels
        Classes.
    num_folds
        How many.
    seed
        Decides who goes where.
    least
        Examples of smaller classes get -1: they are in every training part, never held out.

    Examples
    --------
    >>> folds = stratified_folds(torch.tensor([0, 0, 0, 1, 1, 1, 2]), 3, least=2)
    >>> sorted(folds[:3].tolist()), sorted(folds[3:6].tolist()), folds[6].item()
    ([0, 1, 2], [0, 1, 2], -1)
    """
    generator = torch.Generator().manual_seed(seed)
    folds, offset = torch.full_like(labels, -1), 0
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().flatten()
        if len(members) >= least:
            order = members[torch.randperm(len(members), generator=generator)]
            folds[order] = (torch.arange(len(members)) + offset) % num_folds
            offset += len(members)
    return folds
