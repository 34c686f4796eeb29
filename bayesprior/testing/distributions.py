"""What every law of the weights promises, if it is to be a prior."""

from typing import Any

import torch

from bayesprior.inference.protocols import WeightDistribution
from bayesprior.testing.samplers import assert_plausible

__all__ = ["check_weight_distribution"]


def check_weight_distribution(
    law: Any, *, num_draws: int = 20_000, false_alarm_rate: float = 1e-6
) -> None:
    """Run the contract of `bayesprior.inference.protocols.WeightDistribution`, and Pyro's.

    Parameters
    ----------
    law
        A Pyro distribution with ``layout``, ``loc``, ``score``, ``score_and_log_prob`` and
        ``max_precision``, in float64, of at most a few hundred weights.
    num_draws
        Draws whose score is averaged: its expectation under the law is zero.
    false_alarm_rate
        Probability, at most, that a correct law is rejected.

    Raises
    ------
    AssertionError
        Naming the first promise that is broken.

    Examples
    --------
    >>> from bayesprior.weights.gaussian import GaussianWeights
    >>> from bayesprior.weights.layout import ParameterLayout
    >>> layout = ParameterLayout(("w",), ((3,),))
    >>> check_weight_distribution(GaussianWeights.point(layout, torch.zeros(3).double(), 0.5))
    """
    complete = isinstance(law, WeightDistribution)
    assert complete, "an attribute of WeightDistribution is missing"
    dim = law.layout.dim
    assert law.event_shape == (dim,), "the event shape must be (D,)"
    value = law.sample((4,))
    assert value.shape == (4, dim)

    leaf = value.clone().requires_grad_()
    log_prob = law.log_prob(leaf)
    assert log_prob.shape == (4,)
    (gradient,) = torch.autograd.grad(log_prob.sum(), leaf)
    torch.testing.assert_close(law.score(value), gradient, msg="score is not log_prob's gradient")
    reused = value[0].clone()
    law.score(reused, out=reused)
    torch.testing.assert_close(reused, gradient[0], msg="score(w, out=w) is not score(w)")
    score, same = law.score_and_log_prob(value)
    torch.testing.assert_close(score, gradient)
    torch.testing.assert_close(same, log_prob.detach())
    assert torch.autograd.gradcheck(law.log_prob, (leaf,))
    assert torch.autograd.gradgradcheck(law.log_prob, (leaf,))

    curvature = -torch.func.hessian(law.log_prob)(value[0])
    slack = torch.diag(law.max_precision()) - curvature
    smallest = torch.linalg.eigvalsh(slack).min()
    assert smallest > -1e-8 * law.max_precision().max(), "max_precision is no upper bound"

    scores = law.score(law.sample((num_draws,)))
    z = scores.mean(0) / (scores.std(0) / num_draws**0.5)
    p_values = torch.special.erfc(z.abs() / 2**0.5)
    names = {f"mean score of weight {i}": p.item() for i, p in enumerate(p_values)}
    assert_plausible(names, false_alarm_rate=false_alarm_rate)

    wider = law.expand([2])
    assert wider.sample().shape == (2, dim)
    assert wider.log_prob(value[0]).shape == (2,)
