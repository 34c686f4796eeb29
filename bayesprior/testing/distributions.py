"""What every law of the weights promises, if it is to be a prior."""

import tempfile
from pathlib import Path
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
        A Pyro distribution with ``layout``, ``loc``, ``buffers``, ``score``,
        ``score_and_log_prob``, ``max_precision``, ``color``, ``gradient_in_z``, ``whiten``, ``to``
        and ``save``, in float64, of at most a few hundred weights.
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

    _check_maps(law, value, curvature)
    _check_ownership(law, value)

    wider = law.expand([2])
    assert wider.sample().shape == (2, dim)
    assert wider.log_prob(value[0]).shape == (2,)
    try:
        wider.expand([3])
    except (ValueError, RuntimeError):
        pass
    else:
        raise AssertionError("a batch of 2 must not expand to 3")


def _check_maps(law: Any, value: torch.Tensor, precision: torch.Tensor) -> None:
    """One root of the covariance and its transpose, all differentiable and mapped by vmap."""
    close = torch.testing.assert_close
    close(law.color(law.whiten(value)), value, msg="color does not undo whiten")
    root = law.color(torch.eye(law.layout.dim).to(value)) - law.loc
    product = value @ root.T @ root @ precision
    close(product, value, msg="color(z) - loc is no root of the covariance")
    close(law.gradient_in_z(value), value @ root.T, msg="gradient_in_z is not that root transposed")
    for name in ("score", "gradient_in_z", "color", "whiten", "log_prob"):
        method = getattr(law, name)
        close(torch.vmap(method)(value), method(value), msg=f"{name} under vmap differs")
    for name in ("gradient_in_z", "color", "whiten"):
        leaf = value[0].clone().requires_grad_()
        assert torch.autograd.gradcheck(getattr(law, name), (leaf,)), f"derivative of {name}"


def _check_ownership(law: Any, value: torch.Tensor) -> None:
    """Whoever asks may write into the answer; the law on another device is the same law."""
    for name, given in (("max_precision", ()), ("score", (value,)), ("color", (value,))):
        method = getattr(law, name)
        kept = method(*given).clone()
        method(*given).detach().fill_(torch.nan)
        torch.testing.assert_close(method(*given), kept, msg=f"{name}() returns a tensor it keeps")
    there: Any = law.to(law.loc.device)
    complete = isinstance(there, WeightDistribution)
    assert complete, "to() must return a law of the weights"
    torch.testing.assert_close(there.log_prob(value), law.log_prob(value))
    assert dict(there.buffers).keys() == dict(law.buffers).keys(), "to() loses buffers"
    with tempfile.TemporaryDirectory() as folder:
        law.save(Path(folder) / "law.safetensors")
        assert any(Path(folder).iterdir()), "save() writes no file"
