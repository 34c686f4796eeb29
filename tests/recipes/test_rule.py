"""The rule's constants, and what they cost."""

import pytest

from bayesprior.recipes.members import BATCH_SIZE
from bayesprior.recipes.rule import RULE


@pytest.mark.parametrize(("factor", "batch"), [(1.0, 64), (RULE.photo_steps, 16)])
def test_half_of_a_grids_gradients_are_enough(factor, batch):
    """24 points of a grid, as 8 runs of 200 steps with three snapshots each."""
    narrow, wide = (round(factor * steps) for steps in RULE.num_steps)
    spent = BATCH_SIZE * (RULE.num_folds * (narrow + wide) + wide)
    assert spent <= 8 * 200 * batch / 2
