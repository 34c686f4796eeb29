import math

import pytest
import torch
from prediction_cases import Draws, batches, classifier
from torch import nn

from bayesprior.errors import ConfigError, DataError, LayoutMismatchError
from bayesprior.inference.posteriors import PointPosterior
from bayesprior.prediction.predict import predict
from bayesprior.tasks.likelihoods import Categorical


class Shuffled:
    def __init__(self, change):
        self.passes, self.change = 0, change
        self.batches = [
            (torch.randn(2, 3), torch.tensor([0, 1])),
            (torch.randn(2, 3), torch.tensor([2, 3])),
        ]

    def __iter__(self):
        self.passes += 1
        return iter(self.batches if self.passes == 1 else self.change(self.batches))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b[::-1], "has other examples in batch 0"),
        (lambda b: b[:1], "ends after 1 of 2 batches"),
        (lambda b: b + b, "has more than the 2 batches"),
        (lambda b: [], "gave no batches"),
    ],
)
def test_a_loader_that_changes_between_passes(change, message):
    model = classifier()
    posterior = Draws(model)
    with pytest.raises(DataError, match=message):
        predict(model, posterior, Shuffled(change), Categorical(), max_draw_bytes=1)
    predict(model, posterior, Shuffled(change), Categorical())  # one pass does not mind


def one_line(error):
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ([], "the loader gave no batches"),
        ([torch.zeros(2, 3)], r"a batch must be \(inputs, targets\), got Tensor"),
        ([(torch.zeros(2, 3), torch.tensor([0, 4]))], "labels must be in"),
        ([(torch.zeros(2, 3), torch.tensor([0]))], "targets"),
    ],
)
def test_bad_batches(loader, message):
    model = classifier()
    with pytest.raises(DataError, match=message) as error:
        predict(model, Draws(model), loader, Categorical())
    one_line(error)


@pytest.mark.parametrize("where", ["weights", "inputs"])
def test_nan_names_draw_and_batch(where):
    model, loader = classifier(), batches()
    posterior = Draws(model)
    if where == "weights":
        posterior.weights[3] = posterior.weights[3] * math.nan
    else:
        loader[2][0][0, 0] = math.nan
    expected = "draw 1 of chain 1 .* batch 0" if where == "weights" else "^batch 2 of the inputs "
    with pytest.raises(DataError, match=expected) as error:
        predict(model, posterior, loader, Categorical())
    one_line(error)


def test_statistics_that_are_not_finite_are_not_blamed_on_the_rate():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 4)).eval()
    model[0].running_var.fill_(math.nan)
    with pytest.raises(DataError, match="weights and the inputs are finite.*running stat") as error:
        predict(model, PointPosterior.from_module(model), batches(), Categorical())
    assert "lr" not in str(error.value)
    model[1].weight.data.fill_(math.inf)
    with pytest.raises(DataError, match="weights are not finite; a smaller lr"):
        predict(model, Draws(model), batches(), Categorical())


def test_no_draws():
    model = classifier()
    with pytest.raises(ConfigError, match="num_draws must be at least 1, got 0"):
        predict(model, Draws(model), batches(), Categorical(), num_draws=0)
    with pytest.raises(ConfigError, match="gave no draws"):
        predict(model, Draws(model, num_draws=0), batches(), Categorical())
    with pytest.raises(ConfigError, match="max_draw_bytes must be positive, got 0"):
        predict(model, Draws(model), batches(), Categorical(), max_draw_bytes=0)


def test_a_posterior_of_another_network():
    with pytest.raises(LayoutMismatchError, match=r"0\.weight"):
        predict(nn.Linear(3, 4), Draws(classifier()), batches(), Categorical())
