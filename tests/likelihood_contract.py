"""What every likelihood promises; run on each of ours, and on a plain class from outside."""

import pyro.distributions as dist
import pytest
import torch

from bayesprior.errors import DataError
from bayesprior.likelihoods import Likelihood, Moments, Normal


class Poisson:
    """A plain class from outside: counts, with the log rate as output."""

    def validate(self, outputs, targets):
        if outputs.shape != targets.shape or targets.is_complex():
            raise DataError("expected log rates and counts of one shape")

    def log_prob(self, outputs, targets):
        return self.distribution(outputs).log_prob(targets)

    def predictive(self, outputs):
        return Moments(outputs.exp(), outputs.exp())

    average = Normal.average
    entropy = Normal.entropy

    def distribution(self, outputs):
        return dist.Poisson(outputs.exp()).to_event(1)

    def monitor(self, outputs, targets):
        return {}


def fields(prediction):
    return prediction if isinstance(prediction, tuple) else (prediction,)


def assert_same(left, right):
    for a, b in zip(fields(left), fields(right), strict=True):
        torch.testing.assert_close(a, b)


def check_likelihood(likelihood, outputs, targets):
    """Run the contract on one batch of valid outputs (float64) and targets."""
    num = len(outputs)
    assert isinstance(likelihood, Likelihood)
    likelihood.validate(outputs, targets)

    # The log likelihood is one number an example, each on its own, and differentiable.
    log_prob = likelihood.log_prob(outputs, targets)
    assert log_prob.shape == (num,)
    assert log_prob.isfinite().all()
    torch.testing.assert_close(likelihood.log_prob(outputs[1:], targets[1:]), log_prob[1:])
    assert torch.autograd.gradcheck(
        lambda o: likelihood.log_prob(o, targets), outputs.detach().requires_grad_()
    )

    # What is watched is a scalar by name.
    assert all(value.dim() == 0 for value in likelihood.monitor(outputs, targets).values())

    # Pyro's distribution says the same.
    law = likelihood.distribution(outputs)
    assert law.batch_shape == (num,)
    assert law.event_shape == targets.shape[1:]
    assert law.sample().shape == targets.shape
    torch.testing.assert_close(law.log_prob(targets), log_prob)
    wider = law.expand([3, num])
    torch.testing.assert_close(wider.log_prob(targets), log_prob.expand(3, num))

    # Averages of averages, in any order, equal the average of all.
    draws = [likelihood.predictive(outputs + torch.randn_like(outputs)) for _ in range(3)]
    everything = likelihood.average(draws)
    assert_same(likelihood.average(draws[::-1]), everything)
    first_two = likelihood.average(draws[:2])
    assert_same(likelihood.average([first_two, draws[2]], counts=[2, 1]), everything)
    assert_same(likelihood.average([draws[0]] * 3), draws[0])

    # Averaging can only add entropy (mutual information is not negative).
    expected = torch.stack([likelihood.entropy(d) for d in draws]).mean(0)
    gap = likelihood.entropy(everything) - expected
    assert len(gap) == num
    assert gap.min() > -1e-12

    # Targets that do not fit are refused at the border.
    for wrong in (targets[:-1], targets.unsqueeze(-1), targets.to(torch.complex64)):
        with pytest.raises(DataError) as caught:
            likelihood.validate(outputs, wrong)
        assert "\n" not in str(caught.value)
