import pytest
import torch

from bayesprior.errors import DataError
from bayesprior.tree.draws import weight_statistics


def test_tracked_weights_are_named_by_their_place(run):
    [draw] = list(run.prior.draws(1))
    found = weight_statistics(run.prior, [draw], num_tracked=3)
    assert found.tracked == ("weight[0,0]", "weight[2,1]", "bias[3]")
    views = run.prior.layout.unflatten(draw.weights)
    expected = [views["weight"][0, 0], views["weight"][2, 1], views["bias"][3]]
    torch.testing.assert_close(
        torch.tensor(found.values["weight"][0]).float(), torch.stack(expected)
    )


def test_no_draws_are_refused(run):
    with pytest.raises(DataError, match="no draws to describe"):
        weight_statistics(run.prior, [])
