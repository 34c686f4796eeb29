import numpy as np
import pytest
import torch

from bayesprior.data import digits
from bayesprior.demo.glyphs import CHARACTERS, font_files, glyphs, render_glyphs
from bayesprior.errors import ConfigError


def test_fonts_are_text_fonts():
    names = {path.stem for path in font_files()}
    assert {"DejaVuSans", "DejaVuSerif-Bold", "STIXGeneralItalic", "cmr10"} <= names
    assert len(names) >= 20
    assert not names & {"cmsy10", "cmex10", "STIXNonUni"}


def test_glyphs_are_block_counts_fixed_by_the_seed():
    bundle = glyphs(num_data=310, num_test=62, seed=1)
    images = bundle.train.inputs
    assert images.shape == (310, 1, 8, 8)
    counts = images * 16
    assert torch.equal(counts, counts.round())
    assert (counts.min(), counts.max()) == (0, 16)
    assert bundle.class_counts.unique().tolist() == [5]
    assert bundle.class_names == tuple(CHARACTERS)
    again, other = (glyphs(num_data=310, num_test=62, seed=s) for s in (1, 2))
    assert torch.equal(again.train.inputs, images)
    assert not torch.equal(other.train.inputs, images)
    assert not torch.equal(bundle.test.inputs, images[:62])


def test_every_glyph_has_ink_and_differs():
    images = glyphs(num_data=1240, num_test=62).train.inputs.flatten(1)
    assert images.sum(1).min() > 1
    assert len(images.unique(dim=0)) > 1200


def test_glyphs_resemble_the_digits():
    """Same amount of ink, same centering: what makes the source useful for the target."""
    source, target = glyphs(num_data=2480, num_test=62), digits()
    typeset = source.train.inputs[source.train.targets < 10][:, 0]
    written = target.train.inputs[:, 0]
    assert abs(typeset.mean() - written.mean()) < 0.05
    for axes in ((0, 1), (0, 2)):
        a, b = typeset.mean(axes), written.mean(axes)
        assert np.corrcoef(a, b)[0, 1] > 0.9 or abs(a - b).max() < 0.1
    # A nearest-mean classifier made of typeset digits reads handwritten ones far above chance.
    means = torch.stack(
        [typeset[source.train.targets[source.train.targets < 10] == c].mean(0) for c in range(10)]
    )
    guess = torch.cdist(written.flatten(1), means.flatten(1)).argmin(1)
    assert (guess == target.train.targets).float().mean() > 0.5


def test_rendering_does_not_touch_the_global_generator():
    before = torch.get_rng_state()
    render_glyphs(torch.arange(62))
    assert torch.equal(torch.get_rng_state(), before)


def test_bad_sizes():
    with pytest.raises(ConfigError, match="at least 62, one image a class; got 61"):
        glyphs(num_data=61)
