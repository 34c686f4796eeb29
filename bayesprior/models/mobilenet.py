"""MobileNet v1, which torchvision lacks; the published weights are in TensorFlow's conventions."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["MobileNetV1"]

_CHANNELS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


def _pad(x: Tensor, stride: int) -> Tensor:
    """Pad as TensorFlow's "same" does for even sizes: a stride of 2 pads right and bottom only."""
    return F.pad(x, (1, 1, 1, 1) if stride == 1 else (0, 1, 0, 1))


class _Stem(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3, stride=2, bias=False)
        self.bn = _norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(self.bn(self.conv(_pad(x, 2))))


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.dw = nn.Conv2d(inputs, inputs, 3, stride, groups=inputs, bias=False)
        self.bn1 = _norm(inputs)
        self.pw = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn2 = _norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.bn1(self.dw(_pad(x, self.dw.stride[0]))))
        return F.relu6(self.bn2(self.pw(x)))


class MobileNetV1(nn.Module):
    """Depthwise separable convolutions with BatchNorm; a linear ``head`` on the average.

    Parameters
    ----------
    num_classes
        Outputs C.
    width
        Multiplies the published channel counts, such as 0.25.

    Notes
    -----
    The published weights expect RGB in [-1, 1]: ``normalize=((0.5,) * 3, (0.5,) * 3)``.

    References
    ----------
    Howard et al., MobileNets, arXiv:1704.04861, table 1.
    """

    def __init__(self, num_classes: int = 1000, width: float = 0.25) -> None:
        super().__init__()
        channels = [int(32 * width), *(int(c * width) for c in _CHANNELS)]
        self.stem = _Stem(channels[0])
        self.blocks = nn.Sequential(
            *(
                _Block(inputs, outputs, stride)
                for inputs, outputs, stride in zip(channels, channels[1:], _STRIDES, strict=False)
            )
        )
        self.head = nn.Linear(channels[-1], num_classes)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C"]:
        """Return the logits."""
        return self.head(self.blocks(self.stem(images)).mean((2, 3)))
