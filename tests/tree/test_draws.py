import pytest

from bayesprior.errors import DataError
from bayesprior.tree.draws import weight_statistics


def test_no_draws_are_refused(run):
    with pytest.raises(DataError, match="no draws to describe"):
        weight_statistics(run.prior, [])
