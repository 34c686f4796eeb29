"""The suite accepts our laws of the weights, and names the promise that another breaks."""

import pytest
import torch

from bayesprior.testing import check_weight_distribution
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
    layout, diag = ParameterLayout(("a",), ((3,),)), 0.1 + torch.rand(3).double()
    law = GaussianWeights(layout, diag - 1, diag, torch.randn(3, 1).double())
    law.__class__ = Broken
    return law


Ours = GaussianWeights


def kept_precision(self):
    """The same tensor for ever, into which whoever asked may have written."""
    return self.__dict__.setdefault("kept", Ours.max_precision(self))


def narrow_vmap(self, value):
    """Another answer inside ``torch.vmap``, where values have one axis."""
    return Ours.color(self, value) if value.dim() > 1 else Ours.color(self, 2 * value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "score",
            lambda self, value, out=None: 1.01 * Ours.score(self, value),
            "score is not log_prob's gradient",
        ),
        (
            "score",
            lambda self, value, out=None: Ours.score(self, value),
            r"score\(w, out=w\) is not score\(w\)",
        ),
        ("max_precision", lambda self: 0.5 * Ours.max_precision(self), "is no upper bound"),
        ("max_precision", kept_precision, r"max_precision\(\) returns a tensor it keeps"),
        (
            "score_and_log_prob",
            lambda self, value: (self.score(value), self.log_prob(value) + 0.01),
            "not close",
        ),
        (
            "gradient_in_z",
            lambda self, value: 1.01 * Ours.gradient_in_z(self, value),
            "gradient_in_z is not that root transposed",
        ),
        ("whiten", lambda self, value: 1.01 * Ours.whiten(self, value), "does not undo whiten"),
        ("color", narrow_vmap, "color under vmap differs"),
        ("event_shape", property(lambda self: torch.Size([5])), "the event shape must be"),
        ("to", lambda self, device=None, dtype=None: None, r"to\(\) must return a law"),
        ("save", lambda self, path: None, r"save\(\) writes no file"),
        ("expand", lambda self, shape: self._with(_batch_shape=torch.Size(shape)), "must not exp"),
    ],
)
def test_broken_promises_are_named(name, value, message):
    with pytest.raises(AssertionError, match=message):
        check_weight_distribution(broken(name, value))


def test_a_law_without_a_method_is_no_law_of_the_weights():
    with pytest.raises(AssertionError, match="an attribute of WeightDistribution is missing"):
        check_weight_distribution(torch.distributions.Normal(0.0, 1.0))


def test_biased_draws_are_rejected():
    def sample(self, shape=()):
        return GaussianWeights.rsample(self, shape).detach() + 0.2 * self.stddev

    with pytest.raises(AssertionError, match="mean score of weight"):
        check_weight_distribution(broken("sample", sample))
