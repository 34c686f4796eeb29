import numpy as np
import pytest

from bayesprior.errors import DataError
from bayesprior.tree.chains import ChainGrid


def test_any_order_gives_the_same_grid(rng):
    chain, draw = np.divmod(np.arange(12), 4)
    values = rng.normal(size=(12, 3))
    order = rng.permutation(12)
    expected = values.reshape(3, 4, 3)
    grid = ChainGrid.of(chain[order], draw[order])
    np.testing.assert_array_equal(grid.arrange(values[order]), expected)
    assert grid.shape == (3, 4)
    assert grid.dropped == 0


def test_longer_chains_lose_their_last_draws_and_it_is_said():
    grid = ChainGrid.of(np.array([0, 0, 0, 2, 2]), np.array([0, 1, 2, 0, 1]))
    np.testing.assert_array_equal(grid.index, [[0, 1], [3, 4]])
    np.testing.assert_array_equal(grid.chains, [0, 2])
    assert grid.dropped == 1


@pytest.mark.parametrize(
    ("chain", "draw", "message"),
    [([], [], "0 chain numbers"), ([0], [0, 1], "2 draw numbers"), ([0, 0], [1, 1], "twice")],
)
def test_impossible_draws_are_refused(chain, draw, message):
    with pytest.raises(DataError, match=message):
        ChainGrid.of(np.array(chain, int), np.array(draw, int))
