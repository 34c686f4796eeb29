"""The source of the offline demonstration: typeset glyphs that look like handwritten digits.

8 x 8 images of 0..16: counts of ink over non-overlapping 4 x 4 blocks of a 32 x 32 bitmap, the
preprocessing of the UCI handwritten digits.
"""

import functools
import string
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from bayesprior.data.bundle import DataBundle
from bayesprior.data.datasets import ArrayDataset
from bayesprior.errors import ConfigError
from bayesprior.inference.generators import fold_seed

__all__ = ["CHARACTERS", "font_files", "glyphs", "render_glyphs"]

CHARACTERS = string.digits + string.ascii_uppercase + string.ascii_lowercase
"""The 62 classes of `glyphs`."""

# Their character maps claim letters and digits, but they draw symbols.
_SYMBOL_FONTS = {"cmsy10", "cmex10"}
_CANVAS = 64
_MARGIN = 8


def font_files() -> tuple[Path, ...]:
    """Return the text fonts that matplotlib ships: those that cover all `CHARACTERS`, by name.

    Examples
    --------
    >>> {path.stem for path in font_files()} >= {"DejaVuSans", "STIXGeneral", "cmr10"}
    True
    """
    import matplotlib
    from matplotlib.ft2font import FT2Font

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    needed = {ord(character) for character in CHARACTERS}
    return tuple(
        path
        for path in sorted(folder.glob("*.ttf"))
        if path.stem not in _SYMBOL_FONTS and needed <= FT2Font(str(path)).get_charmap().keys()
    )


@functools.cache
def _masters() -> Tensor:
    """Render every character in every font, upright, its ink box filling the canvas's height.

    Returns
    -------
    Tensor
        Ink in [0, 1], shape (62, fonts, 64, 64).
    """
    from PIL import Image, ImageDraw, ImageFont

    inner = _CANVAS - 2 * _MARGIN
    fonts = [ImageFont.truetype(str(path), 2 * inner) for path in font_files()]
    out = np.zeros((len(CHARACTERS), len(fonts), _CANVAS, _CANVAS), dtype=np.float32)
    for row, character in enumerate(CHARACTERS):
        for column, font in enumerate(fonts):
            left, top, right, bottom = font.getbbox(character)
            width, height = int(right - left), int(bottom - top)
            image = Image.new("L", (width, height))
            ImageDraw.Draw(image).text((-left, -top), character, font=font, fill=255)
            # The digits were scaled to the height of their box; narrow ones stay narrow.
            new_width = min(max(round(width * inner / height), 1), round(0.75 * inner))
            image = image.resize((new_width, inner), Image.Resampling.BOX)
            x = (_CANVAS - new_width) // 2
            out[row, column, _MARGIN:-_MARGIN, x : x + new_width] = np.asarray(image) / 255
    return torch.from_numpy(out)


def _warp(masters: Tensor, affine: Tensor, bend: Tensor) -> Tensor:
    """Resample upright glyphs, shape (B, 64, 64), to (B, 1, 32, 32).

    By affine maps (B, 2, 3) plus smooth displacements given on a coarse grid (B, 2, 4, 4).
    """
    grid = F.affine_grid(affine, [len(affine), 1, 32, 32], align_corners=False)
    smooth = F.interpolate(bend, size=(32, 32), mode="bicubic", align_corners=True)
    return F.grid_sample(masters[:, None], grid + smooth.permute(0, 2, 3, 1), align_corners=False)


def render_glyphs(labels: Tensor, seed: int = 0) -> Float[Tensor, "N 1 8 8"]:
    """Draw one augmented glyph per label.

    A random font's glyph is stretched, rotated, sheared, shifted and smoothly bent, as hands do,
    into a 32 x 32 bitmap with random stroke thickness, then reduced to block counts.

    Parameters
    ----------
    labels
        Indices into `CHARACTERS`, shape (N,).
    seed
        Decides fonts and deformations.

    Returns
    -------
    Float[Tensor, "N 1 8 8"]
        Counts / 16, hence multiples of 1/16 in [0, 1].
    """
    masters = _masters()
    generator = torch.Generator().manual_seed(seed)
    fonts = torch.randint(masters.shape[1], labels.shape, generator=generator)

    def draw(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(labels), generator=generator)

    # Ranges: the digits' amount of ink and centering, and transfer to their validation split.
    angle, shear = draw(-0.35, 0.35), draw(-0.4, 0.4)
    stretch_x, stretch_y = draw(0.6, 1.1), draw(0.9, 1.05)
    shift_x, shift_y = draw(-0.08, 0.08), draw(-0.06, 0.06)
    thickness, level = draw(0.0, 1.0), draw(0.25, 0.65)
    # Output -> input coordinates; the inner box of the master fills the output at stretch 1.
    zoom = 1 - 2 * _MARGIN / _CANVAS
    cos, sin = angle.cos(), angle.sin()
    affine = zoom * torch.stack(
        [
            torch.stack([cos + shear * sin, shear * cos - sin, shift_x], -1) / stretch_x[:, None],
            torch.stack([sin, cos, shift_y], -1) / stretch_y[:, None],
        ],
        dim=1,
    )
    bend = 0.08 * torch.randn(len(labels), 2, 4, 4, generator=generator)
    parts = zip(*(t.split(1024) for t in (labels, fonts, affine, bend)), strict=True)
    ink = torch.cat([_warp(masters[label, font], *maps) for label, font, *maps in parts])
    dilated = F.max_pool2d(ink, 3, stride=1, padding=1)
    ink = torch.lerp(ink, dilated, thickness.view(-1, 1, 1, 1))
    bitmap = (ink > level.view(-1, 1, 1, 1)).float()
    return F.avg_pool2d(bitmap, 4)


def glyphs(*, num_data: int = 9300, num_test: int = 1240, seed: int = 0) -> DataBundle:
    """Return typeset digits and letters, 62 classes, as 8 x 8 images like those of `digits`.

    Rendered on the spot from the fonts that matplotlib ships; nothing is downloaded.

    Parameters
    ----------
    num_data, num_test
        Training and test images; classes differ by at most one image.
    seed
        Decides fonts and deformations.

    Raises
    ------
    ConfigError
        If a number is below 62.

    Examples
    --------
    >>> bundle = glyphs(num_data=124, num_test=62)
    >>> bundle.num_classes, bundle.input_shape
    (62, (1, 8, 8))
    """
    if min(num_data, num_test) < len(CHARACTERS):
        raise ConfigError(
            f"num_data and num_test must be at least {len(CHARACTERS)}, one image a class; got "
            f"{num_data} and {num_test}"
        )
    splits = []
    for stream, num in enumerate((num_data, num_test)):
        labels = torch.arange(num) % len(CHARACTERS)
        splits.append(ArrayDataset(render_glyphs(labels, fold_seed(seed, stream)), labels))
    return DataBundle("glyphs", splits[0], splits[1], class_names=tuple(CHARACTERS))
