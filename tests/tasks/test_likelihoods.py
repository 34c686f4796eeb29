import dataclasses
import math

import pytest
import scipy.stats
import torch
from poisson import Poisson

from bayesprior.errors import ConfigError, DataError
from bayesprior.tasks.likelihoods import (
    Bernoulli,
    Categorical,
    HeteroscedasticNormal,
    Moments,
    Normal,
)
from bayesprior.testing import check_likelihood


def categorical():
    return Categorical(), torch.randn(5, 4).double(), torch.tensor([0, 1, 3, 3, 2])


def several_labels():
    return Bernoulli(), torch.randn(5, 3).double(), torch.randint(0, 2, (5, 3))


def normal():
    return Normal(std=0.3), torch.randn(5, 2).double(), torch.randn(5, 2).double()


def learned_noise():
    std = torch.tensor([0.3, 2.0], dtype=torch.float64, requires_grad=True)
    return Normal(std=std), torch.randn(5, 2).double(), torch.randn(5, 2).double()


def heteroscedastic():
    return HeteroscedasticNormal(), torch.randn(5, 4).double(), torch.randn(5, 2).double()


def outside():
    return Poisson(), torch.randn(5, 2).double(), torch.poisson(torch.ones(5, 2)).double()


CASES = [categorical, several_labels, normal, learned_noise, heteroscedastic, outside]


@pytest.mark.parametrize("case", CASES)
def test_contract(case):
    check_likelihood(*case())


def test_several_labels_equal_scipy():
    likelihood, outputs, targets = several_labels()
    probs = likelihood.predictive(outputs)
    law = scipy.stats.bernoulli(probs.numpy())
    expected = torch.from_numpy(law.logpmf(targets.numpy()).sum(1))
    torch.testing.assert_close(likelihood.log_prob(outputs, targets), expected)
    torch.testing.assert_close(likelihood.log_prob(outputs, targets.bool()), expected)
    torch.testing.assert_close(likelihood.entropy(probs), torch.from_numpy(law.entropy().sum(1)))


def test_extreme_log_odds_stay_finite():
    outputs = torch.tensor([[1e4, -1e4]])
    assert Bernoulli().log_prob(outputs, torch.tensor([[0, 1]])).item() == -2e4
    assert Bernoulli().entropy(Bernoulli().predictive(outputs)).item() == 0.0


def test_the_accuracy_of_several_labels_is_the_share_of_right_ones():
    outputs, targets = torch.tensor([[1.0, -1.0], [1.0, 1.0]]), torch.tensor([[1, 0], [0, 1]])
    assert Bernoulli().monitor(outputs, targets)["accuracy"].item() == 0.75


def test_categorical_log_prob_is_the_log_of_the_softmax():
    likelihood, outputs, targets = categorical()
    expected = outputs.exp() / outputs.exp().sum(1, keepdim=True)
    torch.testing.assert_close(likelihood.predictive(outputs), expected)
    torch.testing.assert_close(
        likelihood.log_prob(outputs, targets), expected[range(5), targets].log()
    )


def test_extreme_logits_stay_finite():
    outputs = torch.tensor([[1e4, -1e4]])
    assert Categorical().log_prob(outputs, torch.tensor([1])).item() == -2e4
    assert Categorical().entropy(Categorical().predictive(outputs)).item() == 0.0


@pytest.mark.parametrize("case", [normal, heteroscedastic])
def test_normal_log_prob_and_entropy_equal_scipy(case):
    likelihood, outputs, targets = case()
    mean, variance = likelihood.predictive(outputs)
    law = scipy.stats.norm(mean, variance.sqrt())
    torch.testing.assert_close(
        likelihood.log_prob(outputs, targets), torch.from_numpy(law.logpdf(targets).sum(1))
    )
    torch.testing.assert_close(
        likelihood.entropy(Moments(mean, variance)), torch.from_numpy(law.entropy().sum(1))
    )


def test_the_noise_keeps_the_outputs_precision():
    variance = Normal(std=0.7).predictive(torch.zeros(1, 1, dtype=torch.float64)).variance
    assert variance.item() == 0.7**2


def test_mixture_moments_are_those_of_the_pooled_law():
    means, variances = torch.randn(7, 3, 2).double(), torch.rand(7, 3, 2).double()
    average = Normal(std=1.0).average(map(Moments, means, variances))
    second = (variances + means**2).mean(0)
    torch.testing.assert_close(average.mean, means.mean(0))
    torch.testing.assert_close(average.variance, second - means.mean(0) ** 2)


def test_mixture_variance_survives_a_large_offset():
    means = 1e8 + torch.tensor([[[0.0]], [[2.0]]], dtype=torch.float64)
    average = Normal(std=1.0).average([Moments(m, torch.full_like(m, 0.5)) for m in means])
    assert average.variance.item() == 1.5


def test_learned_noise_reaches_its_closed_form():
    targets = torch.tensor([[1.0], [-3.0], [2.0]], dtype=torch.float64)
    std = (14 / 3) ** 0.5 * torch.ones((), dtype=torch.float64)
    std.requires_grad_()
    Normal(std=std).log_prob(torch.zeros_like(targets), targets).sum().backward()
    torch.testing.assert_close(std.grad, torch.zeros_like(std))


@pytest.mark.parametrize("std", [0.0, -1.0, math.nan, math.inf, torch.tensor([1.0, 0.0])])
def test_a_noise_that_is_not_positive_is_refused(std):
    with pytest.raises(ConfigError, match="noise std must be positive"):
        Normal(std=std)


@pytest.mark.parametrize(
    ("likelihood", "outputs", "targets", "message"),
    [
        (Categorical(), (2, 3), torch.tensor([0, 3]), r"0 \.\.\. 2 .* 3 classes\), got 3"),
        (Categorical(), (2, 3), torch.tensor([0, -1]), "got -1"),
        (Categorical(), (2, 1), torch.tensor([0.0, 1.0]), r"integers.*numbers take Normal\(std\)"),
        (Categorical(), (2, 3), torch.tensor([True, False]), "must be integers"),
        (Categorical(), (2, 3), torch.tensor([[0], [1]]), r"targets \(2, 1\)"),
        (Categorical(), (2, 1), torch.zeros(2, 1), r"numbers take Normal\(std\)"),
        (Categorical(), (1, 2, 3, 3), torch.zeros(1, 3, 3).long(), r"masks PixelCategorical\(\)"),
        (Categorical(), (2,), torch.tensor([0, 1]), r"outputs \(2,\)"),
        (Bernoulli(), (2, 3), torch.tensor([0, 1]), r"labels \(B, C\).*targets \(2,\)"),
        (Bernoulli(), (2, 3), torch.zeros(2, 2).long(), r"targets \(2, 2\)"),
        (Bernoulli(), (1, 2), torch.tensor([[0, 2]]), "must be 0 or 1, got 2"),
        (Bernoulli(), (1, 2), torch.tensor([[0, -1]]), "must be 0 or 1, got -1"),
        (Bernoulli(), (1, 2), torch.tensor([[0.0, 0.5]]), "must be 0 or 1, got 0.5"),
        (Bernoulli(), (1, 2), torch.tensor([[0.0, math.nan]]), "must be 0 or 1, got nan"),
        (Normal(1.0), (2, 1), torch.zeros(2), r"\[:, None\], got .* targets \(2,\)"),
        (Normal(1.0), (2, 1), torch.tensor([[0.0], [math.nan]]), "NaN"),
        (Normal(1.0), (2, 1), torch.tensor([[0], [1]]), "floating point"),
        (HeteroscedasticNormal(), (2, 1), torch.zeros(2, 1), r"\(B, 2P\)"),
        (HeteroscedasticNormal(), (2, 2), torch.tensor(1.0), r"targets \(\)"),
    ],
)
def test_bad_targets_get_one_line(likelihood, outputs, targets, message):
    with pytest.raises(DataError, match=message) as caught:
        likelihood.validate(torch.zeros(outputs), targets)
    assert "\n" not in str(caught.value)


def test_nothing_to_average():
    with pytest.raises(DataError, match="nothing to average"):
        Categorical().average([])


def test_values_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Normal(1.0).std = 2.0


# --- shapes, ranges and subclasses ---------------------------------------------------------


@pytest.mark.parametrize(
    ("likelihood", "outputs", "targets"),
    [
        (Normal(1.0), torch.zeros(3, 1), torch.zeros(3)),  # would become (3, 3)
        (Normal(1.0), torch.zeros(3, 2), torch.zeros(3, 1)),
        (Normal(1.0), torch.zeros(3, 2), torch.zeros(1, 2)),
        (HeteroscedasticNormal(), torch.zeros(3, 2), torch.zeros(3)),
        (HeteroscedasticNormal(), torch.zeros(3, 3), torch.zeros(3, 2)),
        (HeteroscedasticNormal(), torch.zeros(3, 4), torch.zeros(3, 1)),
        (Categorical(), torch.zeros(3, 2), torch.zeros(1).long()),
        (Categorical(), torch.zeros(3, 2), torch.zeros(3, 2)),  # soft labels
    ],
)
def test_log_prob_refuses_shapes_that_only_broadcast(likelihood, outputs, targets):
    with pytest.raises(DataError, match=r"expected .*, got outputs .* and targets") as error:
        likelihood.log_prob(outputs, targets)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("case", [categorical, normal, heteroscedastic])
def test_further_axes_before_the_examples(case):
    likelihood, outputs, targets = case()
    stacked = torch.stack([outputs, outputs + 1, -outputs])
    alone = torch.stack([likelihood.log_prob(o, targets) for o in stacked])
    every = targets.expand(3, *targets.shape)
    torch.testing.assert_close(likelihood.log_prob(stacked, every), alone)
    law = likelihood.distribution(stacked)
    assert law.batch_shape == stacked.shape[:2]
    torch.testing.assert_close(law.log_prob(targets), alone)
    entropies = [likelihood.entropy(likelihood.predictive(o)) for o in stacked]
    torch.testing.assert_close(
        likelihood.entropy(likelihood.predictive(stacked)), torch.stack(entropies)
    )


@pytest.mark.parametrize("log_variance", [-170.0, -110.0, 110.0, 170.0])
def test_heteroscedastic_stays_finite_beyond_the_range_of_the_variance(log_variance):
    outputs = torch.tensor([[1.0, log_variance]], requires_grad=True)
    log_prob = HeteroscedasticNormal().log_prob(outputs, torch.ones(1, 1))
    expected = -(log_variance + math.log(2 * math.pi)) / 2
    assert log_prob.item() == pytest.approx(expected, rel=1e-6)
    log_prob.sum().backward()
    assert outputs.grad.tolist() == [[0.0, -0.5]]


def test_extreme_log_variances_leave_a_distribution_that_samples():
    law = HeteroscedasticNormal().distribution(torch.tensor([[0.0, 120.0], [0.0, -120.0]]))
    assert law.base_dist.scale.log().flatten().tolist() == pytest.approx([60, -60])


class Floored(HeteroscedasticNormal):
    """Never less noise than 1."""

    def predictive(self, outputs):
        mean, variance = super().predictive(outputs)
        return Moments(mean, variance + 1)


def test_log_prob_follows_a_subclass_own_law():
    outputs, targets = torch.randn(4, 2), torch.randn(4, 1)
    law = torch.distributions.Normal(outputs[:, :1], (outputs[:, 1:].exp() + 1).sqrt())
    torch.testing.assert_close(Floored().log_prob(outputs, targets), law.log_prob(targets)[:, 0])
