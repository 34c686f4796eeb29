"""The head of a network: find it, name it, replace it, give it the noise of numbers."""

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bayesprior.errors import ConfigError, nearest_name

__all__ = ["NoisyLinear", "head_prefix", "learn_noise", "num_outputs", "replace_head"]

_OF_MAPS = ("classifier.*_classifier.*", "segmentation_head.0")
"""Heads of networks that end otherwise: torchvision's LRASPP adds up the maps of two layers, and
those of segmentation-models-pytorch end in a convolution of several pixels."""


def _is_output(module: nn.Module) -> bool:
    """Whether a layer maps features to class scores: linear, or a convolution of one pixel."""
    return isinstance(module, nn.Linear) or (
        isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)
    )


def head_prefix(module: nn.Module) -> str:
    """Return the name of the classification layer.

    What timm's configuration of the network names, else the last linear (or 1 x 1 convolution)
    layer in registration order: that of every torchvision network and of ours, such as ``"fc"``,
    ``"classifier.1"``, ``"heads.head"`` or ``"head"``. The two layers of an LRASPP are named by
    one pattern, ``"classifier.*_classifier.*"``.

    Raises
    ------
    ConfigError
        If there is no such layer.

    Examples
    --------
    >>> head_prefix(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2), nn.Softmax(-1)))
    '2'
    """
    for prefix in _OF_MAPS:
        if _layers(module, prefix):
            return prefix
    outputs = [name for name, child in module.named_modules() if _is_output(child) and name]
    config = getattr(module, "pretrained_cfg", None)
    if isinstance(config, Mapping) and config.get("classifier") in outputs:
        return str(config["classifier"])
    if not outputs:
        raise ConfigError(f"{type(module).__name__} has no linear layer that could be its head")
    return outputs[-1]


def _layers(module: nn.Module, prefix: str) -> dict[str, nn.Linear | nn.Conv2d]:
    """Return the layers that a name, or a pattern of their parameters' names, stands for."""
    return {
        name: child
        for name, child in module.named_modules()
        if isinstance(child, nn.Linear | nn.Conv2d)
        and (name == prefix or fnmatchcase(f"{name}.weight", prefix))
    }


def num_outputs(module: nn.Module, prefix: str) -> int | None:
    """Return how many outputs a layer has, None if it is no linear layer or convolution."""
    for layer in _layers(module, prefix).values():
        return layer.weight.shape[0]
    return None


def replace_head(
    module: nn.Module, num_classes: int, prefix: str | None = None, *, keep_relu: bool = False
) -> str:
    """Put a freshly initialized classification layer in place of the head.

    The new layer has the kind, inputs, bias, device and dtype of the old one. A ReLU behind it, as
    SqueezeNet has one, goes: logits may be negative.

    Parameters
    ----------
    module
        Changed in place.
    num_classes
        Outputs of the new head.
    prefix
        Name of the layer to replace, or a pattern for several; `head_prefix` by default.
    keep_relu
        Keeps that ReLU, for weights that were trained with it.

    Returns
    -------
    str
        The head's name.

    Raises
    ------
    ConfigError
        If there is no such layer, or ``num_classes`` is below 1.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> replace_head(net, num_classes=10), net[2]
    ('2', Linear(in_features=3, out_features=10, bias=True))
    """
    if num_classes < 1:
        raise ConfigError(f"num_classes must be at least 1, got {num_classes}")
    prefix = prefix or head_prefix(module)
    if not (layers := _layers(module, prefix)):
        names = [name for name, _ in module.named_modules() if name]
        raise ConfigError(
            f"{type(module).__name__} has no linear layer {prefix!r}{nearest_name(prefix, names)}"
        )
    for name, old in layers.items():
        parent, _, attribute = name.rpartition(".")
        block = module.get_submodule(parent)
        setattr(block, attribute, _like(old, num_classes))
        behind = list(block.named_children()) if isinstance(block, nn.Sequential) else []
        behind = behind[[key for key, _ in behind].index(attribute) + 1 :] if behind else []
        if not keep_relu and not any(True for _, layer in behind for _ in layer.parameters()):
            for key, layer in behind:
                if isinstance(layer, nn.ReLU):
                    setattr(block, key, nn.Identity())
    if isinstance(getattr(module, "num_classes", None), int):
        setattr(module, "num_classes", num_classes)  # noqa: B010  (nn.Module types attributes)
    return prefix


def _like(old: nn.Linear | nn.Conv2d, num_outputs: int) -> nn.Linear | nn.Conv2d:
    """Return a fresh layer of the same kind with other outputs."""
    weight, bias = old.weight, old.bias is not None
    make: dict[str, Any] = {"bias": bias, "device": weight.device, "dtype": weight.dtype}
    if isinstance(old, nn.Linear):
        return nn.Linear(old.in_features, num_outputs, **make)
    shape: dict[str, Any] = {
        "kernel_size": old.kernel_size,
        "stride": old.stride,
        "padding": old.padding,
    }
    return nn.Conv2d(old.in_channels, num_outputs, **shape, **make)


class NoisyLinear(nn.Linear):
    """A linear layer for P numbers that has one noise level a number, whatever the input.

    Returns P means and P logarithms of the noise variance, as
    `bayesprior.tasks.likelihoods.HeteroscedasticNormal` reads them. The noise is a weight,
    ``log_variance``, which is inferred with all others, or a buffer where it is known.

    Parameters
    ----------
    layer
        Gives the P means.
    std
        Known standard deviations of the noise, P of them; None learns them from 1 on, in
        standardized units the noise of a network that knows nothing yet.

    Examples
    --------
    >>> NoisyLinear(nn.Linear(3, 1))(torch.zeros(2, 3)).shape
    torch.Size([2, 2])
    """

    log_variance: Tensor

    def __init__(self, layer: nn.Linear, std: Sequence[float] | None = None) -> None:
        super().__init__(layer.in_features, layer.out_features, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.std = None if std is None else [round(float(value), 6) for value in std]
        known = layer.weight.new_tensor([0.0] * self.out_features if std is None else list(std))
        if std is None:
            self.log_variance = nn.Parameter(known)
        else:
            self.register_buffer("log_variance", 2 * known.log())

    def forward(self, features: Float[Tensor, "*B inputs"]) -> Float[Tensor, "*B twoP"]:
        """Return means and log variances."""
        mean = super().forward(features)
        return torch.cat([mean, self.log_variance.expand_as(mean)], -1)

    def extra_repr(self) -> str:
        """Tell a known noise."""
        return super().extra_repr() + (f", std={self.std}" if self.std else "")


def learn_noise(
    module: nn.Module, head: str | None = None, *, std: Sequence[float] | None = None
) -> str:
    """Let a network for P numbers tell its noise too: its head becomes a `NoisyLinear`, in place.

    Parameters
    ----------
    module
        Its outputs are its head's.
    head
        Name of a linear layer; `head_prefix` by default.
    std
        As of `NoisyLinear`.

    Returns
    -------
    str
        The head's name.

    Raises
    ------
    ConfigError
        If there is no such layer, or the known noise is not P positive numbers.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> learn_noise(net), [name for name, _ in net.named_parameters()][-3:]
    ('2', ['2.weight', '2.bias', '2.log_variance'])
    """
    prefix = head or head_prefix(module)
    layers = {name: child for name, child in module.named_modules() if name}
    old = layers.get(prefix)
    if not isinstance(old, nn.Linear):
        raise ConfigError(
            f"{type(module).__name__} has no linear layer {prefix!r}{nearest_name(prefix, layers)}"
        )
    if std is not None and (
        len(std) != old.out_features or not all(0 < value < math.inf for value in std)
    ):
        raise ConfigError(f"noise must be {old.out_features} positive numbers, got {list(std)}")
    parent, _, attribute = prefix.rpartition(".")
    setattr(module.get_submodule(parent), attribute, NoisyLinear(old, std))
    return prefix
