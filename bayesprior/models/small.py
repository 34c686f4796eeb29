"""Small networks for small images and quick experiments; each ends in a linear ``head``."""

import math
from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from bayesprior.errors import ConfigError

__all__ = ["MLP", "SmallConvNet", "SmallResNet"]


def _norm(kind: str, channels: int) -> nn.Module:
    if kind == "group":
        return nn.GroupNorm(math.gcd(8, channels), channels)
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "none":
        return nn.Identity()
    raise ConfigError(f"norm must be 'group', 'batch' or 'none', got {kind!r}")


def _conv(inputs: int, outputs: int, norm: str, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=norm == "none")
    return nn.Sequential(conv, _norm(norm, outputs))


class _BackboneAndHead(nn.Module):
    def __init__(self, layers: Sequence[nn.Module], num_features: int, num_classes: int) -> None:
        super().__init__()
        self.backbone = nn.Sequential(*layers)
        self.head = nn.Linear(num_features, num_classes)

    def forward(self, inputs: Float[Tensor, "B *shape"]) -> Float[Tensor, "B C"]:
        """Return the logits."""
        return self.head(self.backbone(inputs))


class SmallConvNet(_BackboneAndHead):
    """3 x 3 convolutions with pooling in between, then an average over a coarse grid.

    Parameters
    ----------
    in_channels
        Channels of the images.
    num_classes
        Outputs C.
    widths
        Channels of each convolution; the images must be divisible by 2 once per convolution but
        the last.
    norm
        ``"group"``, ``"batch"`` or ``"none"`` after each convolution. GroupNorm has no running
        statistics, so draws of the weights need no refreshed buffers.
    pooled_size
        Side of the grid that the last feature map is averaged over.

    Raises
    ------
    ConfigError
        If the norm is unknown.

    Examples
    --------
    >>> import torch
    >>> SmallConvNet(1, 10)(torch.zeros(4, 1, 8, 8)).shape
    torch.Size([4, 10])
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        widths: Sequence[int] = (16, 32, 64),
        norm: str = "group",
        pooled_size: int = 2,
    ) -> None:
        layers: list[nn.Module] = []
        for inputs, outputs in zip([in_channels, *widths], widths, strict=False):
            layers += [nn.MaxPool2d(2)] if layers else []
            layers += [_conv(inputs, outputs, norm), nn.ReLU()]
        layers += [nn.AdaptiveAvgPool2d(pooled_size), nn.Flatten()]
        super().__init__(layers, widths[-1] * pooled_size**2, num_classes)


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, norm: str) -> None:
        super().__init__()
        self.first = _conv(inputs, outputs, norm, stride)
        self.second = _conv(outputs, outputs, norm)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else _conv(inputs, outputs, norm, stride, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))


class SmallResNet(_BackboneAndHead):
    """The residual network for 32 x 32 images: three stages, 6 ``num_blocks`` + 2 layers.

    Parameters
    ----------
    in_channels
        Channels of the images.
    num_classes
        Outputs C.
    width
        Channels of the first stage; the others have 2 and 4 times as many.
    num_blocks
        Residual blocks a stage: 1 is ResNet-8, 3 ResNet-20.
    norm
        ``"group"``, ``"batch"`` or ``"none"`` after each convolution.

    Raises
    ------
    ConfigError
        If the norm is unknown or ``num_blocks`` is below 1.

    References
    ----------
    He et al., Deep Residual Learning for Image Recognition, arXiv:1512.03385, section 4.2 (with
    projection shortcuts).

    Examples
    --------
    >>> import torch
    >>> SmallResNet(3, 10)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        width: int = 16,
        num_blocks: int = 1,
        norm: str = "group",
    ) -> None:
        if num_blocks < 1:
            raise ConfigError(f"num_blocks must be at least 1, got {num_blocks}")
        layers: list[nn.Module] = [_conv(in_channels, width, norm), nn.ReLU()]
        inputs = width
        for stage in range(3):
            for block in range(num_blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(_Block(inputs, width * 2**stage, stride, norm))
                inputs = width * 2**stage
        super().__init__([*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()], inputs, num_classes)


class MLP(_BackboneAndHead):
    """Fully connected layers with ReLU in between; images are flattened.

    Parameters
    ----------
    in_features
        Numbers per input, such as 784 for 28 x 28 pixels.
    num_classes
        Outputs C; 1 or 2 for regression, by the likelihood.
    widths
        Hidden units of each layer.

    Examples
    --------
    >>> sum(p.numel() for p in MLP(784, 10).parameters())
    1863690
    """

    def __init__(
        self, in_features: int, num_classes: int, widths: Sequence[int] = (1024, 1024)
    ) -> None:
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in zip([in_features, *widths], widths, strict=False):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        super().__init__(layers, [in_features, *widths][-1], num_classes)
