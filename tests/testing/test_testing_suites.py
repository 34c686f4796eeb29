"""The suites accept ours, and reject what breaks a promise."""

import pytest
import torch

from bayesprior.inference.collectors import SWAG, DrawWriter
from bayesprior.inference.posteriors import StoredDraws
from bayesprior.tasks.likelihoods import Categorical, Normal
from bayesprior.testing import check_collector, check_likelihood, check_weight_distribution
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout

LAYOUT = ParameterLayout(("a", "h"), ((3, 2), (4,)))


def low_rank():
    backbone = LAYOUT.select(["a"])
    law = GaussianWeights(
        backbone, torch.randn(6).double(), 0.1 + torch.rand(6).double(), torch.randn(6, 2).double()
    )
    return law.rescale(rms_std=0.7).extend(LAYOUT, std=2.0)


@pytest.mark.statistical
def test_gaussian_weights_keep_the_contract_of_priors():
    check_weight_distribution(low_rank())
    check_weight_distribution(low_rank().isotropic())


def broken(name, value):
    """Return a law that breaks one promise."""

    class Broken(GaussianWeights):
        pass

    setattr(Broken, name, value)
    law = low_rank()
    law.__class__ = Broken
    return law


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("score", lambda self, value: 1.01 * GaussianWeights.score(self, value)),
        ("max_precision", lambda self: 0.5 * GaussianWeights.max_precision(self)),
        (
            "score_and_log_prob",
            lambda self, value: (self.score(value), self.log_prob(value) + 0.01),
        ),
    ],
)
def test_broken_priors_are_rejected(name, value):
    with pytest.raises(AssertionError):
        check_weight_distribution(broken(name, value))


def test_biased_draws_are_rejected():
    def sample(self, shape=()):
        return GaussianWeights.rsample(self, shape).detach() + 0.2 * self.stddev

    with pytest.raises(AssertionError, match="mean score of weight"):
        check_weight_distribution(broken("sample", sample))


def test_our_collectors_keep_the_contract(tmp_path):
    check_collector(lambda: SWAG(rank=4), result=lambda swag: swag.posterior().covariance_matrix)
    check_collector(lambda: SWAG(diagonal_only=True), result=lambda swag: swag.posterior().variance)
    check_collector(
        lambda: DrawWriter(tmp_path),
        result=lambda _: torch.stack([d.weights for d in StoredDraws(tmp_path).draws()]),
    )


def test_forgetful_collector_is_rejected():
    class Forgetful(SWAG):
        def load_state_dict(self, state):
            super().load_state_dict(state | {"count": state["count"] + 1})

    with pytest.raises(AssertionError, match="must learn the same"):
        check_collector(lambda: Forgetful(rank=3), result=lambda swag: swag.posterior().variance)


def test_broken_likelihoods_are_rejected():
    class MeanOverBatch(Categorical):
        def log_prob(self, outputs, targets):
            return super().log_prob(outputs, targets).mean().expand(len(outputs))

    batch = (torch.randn(4, 3).double(), torch.tensor([0, 1, 2, 2]))
    with pytest.raises(AssertionError, match="must not influence each other"):
        check_likelihood(MeanOverBatch(), *batch)

    class Careless(Normal):
        def validate(self, outputs, targets):
            pass

    with pytest.raises(AssertionError, match="must be refused"):
        check_likelihood(Careless(1.0), torch.randn(4, 2).double(), torch.randn(4, 2).double())
