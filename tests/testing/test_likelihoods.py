"""The suite accepts our likelihoods, and names the promise that another breaks."""

import jaxtyping
import pytest
import torch

from bayesprior.tasks.likelihoods import Categorical, HeteroscedasticNormal, Normal
from bayesprior.tasks.pixels import PixelCategorical
from bayesprior.testing import check_likelihood

LABELS = torch.tensor([0, 1, 2, 2])


def logits():
    return torch.randn(4, 3, dtype=torch.float64)


@pytest.mark.parametrize(
    ("likelihood", "outputs", "targets"),
    [
        (Categorical(), (4, 3), LABELS),
        (Normal(std=0.5), (4, 2), torch.ones(4, 2).double()),
        (HeteroscedasticNormal(), (4, 4), torch.ones(4, 2).double()),
        (PixelCategorical(), (4, 3, 2, 2), torch.ones(4, 2, 2).long()),
    ],
    ids=["categorical", "normal", "heteroscedastic", "pixels"],
)
def test_ours_keep_the_contract(likelihood, outputs, targets):
    check_likelihood(likelihood, torch.randn(outputs, dtype=torch.float64), targets)


class MeanOverBatch(Categorical):
    def log_prob(self, outputs, targets):
        return super().log_prob(outputs, targets).mean().expand(len(outputs))


class Summed(Categorical):
    def log_prob(self, outputs, targets):
        return super().log_prob(outputs, targets).sum()


class Shifted(Categorical):
    def log_prob(self, outputs, targets):
        return super().log_prob(outputs, targets) + 0.01


class Verbose(Categorical):
    def monitor(self, outputs, targets):
        return {"logits": outputs}


class Forgetful(Categorical):
    """An average that keeps the last draw."""

    def average(self, draws, counts=None):
        return list(draws)[-1]


@pytest.mark.parametrize(
    ("likelihood", "message"),
    [
        (MeanOverBatch(), "examples must not influence each other"),
        (Summed(), "log_prob must be one number an example"),
        (Shifted(), "distribution disagrees"),
        (Verbose(), "monitor's logits must be a scalar"),
        (Forgetful(), "average must not depend on order"),
        (object(), "a method of the Likelihood protocol is missing"),
    ],
)
def test_broken_promises_are_named(likelihood, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as in production
    with pytest.raises(AssertionError, match=message):
        check_likelihood(likelihood, logits(), LABELS)


def test_targets_that_do_not_fit_must_be_refused():
    class Careless(Normal):
        def validate(self, outputs, targets):
            pass

    batch = torch.randn(2, 4, 2, dtype=torch.float64)
    with pytest.raises(AssertionError, match="must be refused"):
        check_likelihood(Careless(1.0), *batch)
