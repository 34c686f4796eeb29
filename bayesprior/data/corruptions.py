"""Image corruptions of five severities, applied to raw pixels before the network's transform."""

import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from bayesprior.errors import ConfigError, DataError, nearest_name

__all__ = ["CORRUPTIONS", "Corruption"]

# Severities of CIFAR-10-C (images up to 64 pixels) and of ImageNet-C (larger ones); of pixelate
# ours, as at 0.95 the uneven grid hurts more than at 0.65.
SEVERITIES: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "gaussian_noise": ((0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)),
    "gaussian_blur": ((0.4, 0.6, 0.7, 0.8, 1.0), (1, 2, 3, 4, 6)),
    "contrast": ((0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    "pixelate": ((0.6, 0.5, 0.4, 0.3, 0.25), (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg": ((80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),
}
CORRUPTIONS = tuple(SEVERITIES)
"""Names of the corruptions."""


@dataclass(frozen=True)
class Corruption:
    """A corruption of whole batches; a pure function of each image.

    Put it before a data set's own transform:
    ``dataclasses.replace(data, transform=Corruption("jpeg", 3, then=data.transform))``.

    Parameters
    ----------
    name
        One of `CORRUPTIONS`.
    severity
        1 (slight) to 5, of CIFAR-10-C for images up to 64 pixels (but for pixelate) and of
        ImageNet-C above.
    then
        What the corrupted images are handed to.
    seed
        Of the noise, which otherwise depends on the image alone, not on its batch.

    Raises
    ------
    ConfigError
        If the name or the severity is unknown.

    References
    ----------
    D. Hendrycks and T. Dietterich, Benchmarking neural network robustness to common corruptions
    and perturbations, arXiv:1903.12261

    Examples
    --------
    >>> gray = torch.full((1, 3, 8, 8), 128, dtype=torch.uint8)
    >>> Corruption("gaussian_noise", 5)(gray).float().std() > 10
    tensor(True)
    """

    name: str
    severity: int
    then: Callable[[Tensor], Any] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in SEVERITIES:
            hint = nearest_name(self.name, CORRUPTIONS) or f"; use one of {', '.join(CORRUPTIONS)}"
            raise ConfigError(f"unknown corruption {self.name!r}{hint}")
        if self.severity not in range(1, 6):
            raise ConfigError(f"severity must be 1 to 5, got {self.severity}")

    def __call__(self, images: Shaped[Tensor, "B C H W"]) -> Any:
        """Corrupt a batch of uint8 images or of floats in [0, 1]; the type is kept."""
        pixels = images.float() / 255 if images.dtype == torch.uint8 else images
        small, large = SEVERITIES[self.name]
        amounts = small if max(images.shape[-2:]) <= 64 else large
        out = self._corrupt(pixels, amounts[self.severity - 1]).clamp(0, 1)
        out = (out * 255).round().to(torch.uint8) if images.dtype == torch.uint8 else out
        return out if self.then is None else self.then(out)

    def _corrupt(self, pixels: Float[Tensor, "B C H W"], amount: float) -> Float[Tensor, "B C H W"]:
        from torchvision.transforms.v2 import functional as tv

        size = pixels.shape[-2:]
        match self.name:
            case "gaussian_noise":
                return pixels + amount * torch.stack([self._noise(image) for image in pixels])
            case "gaussian_blur":
                kernel = 2 * round(4 * amount) + 1
                limit = 2 * min(size) - 1  # reflection needs less than the image
                return tv.gaussian_blur(pixels, [min(kernel, limit)] * 2, [amount] * 2)
            case "contrast":
                return tv.adjust_contrast(pixels, amount)
            case "pixelate":
                small = [max(1, int(side * amount)) for side in size]
                return F.interpolate(
                    F.interpolate(pixels, small, mode="area"), size, mode="nearest-exact"
                )
            case _:
                return torch.stack([_jpeg(image, int(amount)) for image in pixels]).to(pixels)

    def _noise(self, image: Tensor) -> Tensor:
        digest = zlib.crc32(image.detach().cpu().contiguous().numpy().tobytes(), self.seed)
        generator = torch.Generator().manual_seed(digest)
        return torch.randn(image.shape, generator=generator).to(image)


def _jpeg(image: Float[Tensor, "C H W"], quality: int) -> Float[Tensor, "C H W"]:
    """Write and read an image as JPEG (Pillow: torchvision's own codec is deprecated)."""
    from PIL import Image
    from torchvision.transforms.v2 import functional as tv

    if len(image) not in (1, 3):
        raise DataError(f"JPEG needs images of 1 or 3 channels, got {len(image)}")
    buffer = io.BytesIO()
    tv.to_pil_image(tv.to_dtype(image, torch.uint8, scale=True)).save(
        buffer, "JPEG", quality=quality
    )
    return tv.to_dtype(tv.pil_to_tensor(Image.open(buffer)), torch.float32, scale=True)
