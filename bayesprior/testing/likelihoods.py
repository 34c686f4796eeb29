"""What every likelihood promises."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bayesprior.errors import DataError
from bayesprior.tasks.likelihoods import Likelihood, Predictive

__all__ = ["check_likelihood"]


def check_likelihood(likelihood: Likelihood, outputs: Tensor, targets: Tensor) -> None:
    """Run the contract of `bayesprior.tasks.likelihoods.Likelihood` on one batch.

    Parameters
    ----------
    likelihood
        The one under test.
    outputs
        Valid network outputs in float64, shape (B, ...) with B >= 2.
    targets
        Valid targets, B of them.

    Raises
    ------
    AssertionError
        Naming the first promise that is broken.

    Examples
    --------
    >>> from bayesprior.tasks.likelihoods import Categorical
    >>> check_likelihood(Categorical(), torch.randn(4, 3).double(), torch.tensor([0, 1, 2, 2]))
    """
    num = len(outputs)
    assert isinstance(likelihood, Likelihood), "a method of the Likelihood protocol is missing"
    likelihood.validate(outputs, targets)

    log_prob = likelihood.log_prob(outputs, targets)
    assert log_prob.shape == (num,), "log_prob must be one number an example"
    assert log_prob.isfinite().all(), "log_prob must be finite"
    alone = likelihood.log_prob(outputs[1:], targets[1:])
    torch.testing.assert_close(alone, log_prob[1:], msg="examples must not influence each other")
    assert torch.autograd.gradcheck(
        lambda o: likelihood.log_prob(o, targets), outputs.detach().clone().requires_grad_()
    )
    for name, value in likelihood.monitor(outputs, targets).items():
        assert value.dim() == 0, f"monitor's {name} must be a scalar"

    for wrong in (targets[:1], targets.unsqueeze(1)):
        if wrong.shape != targets.shape:
            refusal = _refusal(likelihood.log_prob, outputs, wrong)
            assert refusal is not None, f"log_prob must not broadcast {tuple(wrong.shape)}"

    law = likelihood.distribution(outputs)
    assert law.batch_shape == (num,), "distribution must have batch shape (B,)"
    assert law.event_shape == targets.shape[1:], "distribution must have the targets' event shape"
    assert law.sample().shape == targets.shape
    torch.testing.assert_close(law.log_prob(targets), log_prob, msg="distribution disagrees")
    torch.testing.assert_close(law.expand([3, num]).log_prob(targets), log_prob.expand(3, num))
    stacked = likelihood.distribution(torch.stack([outputs, outputs]))
    assert stacked.batch_shape == (2, num), "distribution must take axes before the examples'"
    torch.testing.assert_close(stacked.log_prob(targets), log_prob.expand(2, num))

    draws = [likelihood.predictive(outputs + torch.randn_like(outputs)) for _ in range(3)]
    everything = likelihood.average(draws)
    _assert_same(likelihood.average(draws[::-1]), everything, "average must not depend on order")
    nested = likelihood.average([likelihood.average(draws[:2]), draws[2]], counts=[2, 1])
    _assert_same(nested, everything, "an average of averages must be the average of all")
    _assert_same(likelihood.average([draws[0]] * 3), draws[0], "equal draws average to one")
    weighted = likelihood.average(draws[:2], counts=[0.5, 1.5])
    repeated = likelihood.average([draws[0], *[draws[1]] * 3])
    _assert_same(weighted, repeated, "counts are weights: only their ratio matters")

    expected = torch.stack([likelihood.entropy(d) for d in draws]).mean(0)
    gap = likelihood.entropy(everything) - expected
    assert len(gap) == num, "entropy must be one number an example"
    assert gap.min() > -1e-12, "averaging must not lose entropy (mutual information >= 0)"

    for wrong in (targets[:-1], targets.unsqueeze(-1), targets.to(torch.complex64)):
        refusal = _refusal(likelihood.validate, outputs, wrong)
        assert refusal is not None, f"targets of shape {tuple(wrong.shape)} must be refused"
        assert "\n" not in refusal, "an error must be one line"


def _refusal(
    check: Callable[[Tensor, Tensor], Any], outputs: Tensor, targets: Tensor
) -> str | None:
    try:
        check(outputs, targets)
    except DataError as error:
        return str(error)
    return None


def _assert_same(left: Predictive, right: Predictive, message: str) -> None:
    pairs = zip(left, right, strict=True) if isinstance(left, tuple) else [(left, right)]
    for one, other in pairs:
        torch.testing.assert_close(one, other, msg=message)
