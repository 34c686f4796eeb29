"""What every sampler promises, judged by exact laws.

Random output is judged by p-values against the exact law of the discretized algorithm, never by
a tolerance: `assert_plausible` splits one false-alarm rate over all p-values of a suite.
"""

import io
from collections.abc import Callable, Mapping
from typing import Any

import scipy.stats
import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

from bayesprior.inference.generators import seeded

__all__ = ["MakeSampler", "assert_plausible", "check_sampler", "gaussian_p_values"]

# --- Statistics ---------------------------------------------------------------------------------


def assert_plausible(p_values: Mapping[str, float], *, false_alarm_rate: float = 1e-6) -> None:
    """Raise unless every p-value is at least its share of the false-alarm rate.

    Parameters
    ----------
    p_values
        By name of the check.
    false_alarm_rate
        Probability, at most, that correct code is rejected; split evenly (Bonferroni).

    Raises
    ------
    AssertionError
        Naming the checks that failed.

    Examples
    --------
    >>> assert_plausible({"mean": 0.3, "variance": 1e-5})
    """
    threshold = false_alarm_rate / len(p_values)
    # Written so that a NaN fails.
    failed = [f"{name} (p = {p:.1e})" for name, p in p_values.items() if not p >= threshold]
    assert not failed, f"{', '.join(failed)}: less plausible than {threshold:.1e}"


def gaussian_p_values(
    draws: Float[Tensor, "S D"], loc: Float[Tensor, " D"], covariance: Float[Tensor, "D D"]
) -> dict[str, float]:
    """Return p-values of independent draws under a Normal, one for each kind of error.

    Parameters
    ----------
    draws
        S independent draws (10,000 or more; the laws below are asymptotic in S), float64.
    loc, covariance
        Of the Normal.

    Returns
    -------
    dict[str, float]
        ``mean`` (chi-squared), ``covariance`` (likelihood ratio), ``shape`` (Kolmogorov-Smirnov
        on the whitened coordinates).

    References
    ----------
    Anderson, An Introduction to Multivariate Statistical Analysis, section 10.8.

    Examples
    --------
    >>> draws = 1.02 * torch.randn(100_000, 1, dtype=torch.float64)
    >>> p = gaussian_p_values(draws, draws.new_zeros(1), torch.eye(1, dtype=torch.float64))
    >>> p["covariance"] < 1e-6
    True
    """
    num, dim = draws.shape
    chol = torch.linalg.cholesky(covariance)
    white = torch.linalg.solve_triangular(chol, (draws - loc).T, upper=False).T
    scatter = white.T @ white / num
    excess = torch.trace(scatter) - torch.logdet(scatter) - dim
    return {
        "mean": float(scipy.stats.chi2.sf(num * float(white.mean(0).square().sum()), dim)),
        "covariance": float(scipy.stats.chi2.sf(num * float(excess), dim * (dim + 1) / 2)),
        "shape": float(scipy.stats.kstest(white.flatten().numpy(), "norm").pvalue),
    }


# --- Samplers -----------------------------------------------------------------------------------


MakeSampler = Callable[..., Optimizer]
"""``make(params, *, lr, num_data, temperature, seed)`` returns a new sampler over the params."""


def check_sampler(
    make: MakeSampler,
    *,
    variance_ratio: Callable[[float], float],
    make_at_zero: Callable[[Any, float], Optimizer] | None = None,
    seed: int = 0,
    false_alarm_rate: float = 1e-6,
) -> None:
    """Run the contract of a stochastic-gradient sampler: a torch ``Optimizer`` on ``.grad``.

    At temperature 0 it is a known optimizer; a run that was saved (``weights_only``) and resumed
    equals an uninterrupted one bit for bit; noise is private, a function of the seed, and fresh
    at every step and in every parameter; groups have their own temperature; closures work;
    impossible arguments are refused; and 100,000 independent chains on a Gaussian target have
    the exact stationary law of the discretized algorithm.

    Parameters
    ----------
    make
        Builds the sampler.
    variance_ratio
        Stationary variance of the discretized chain on a Gaussian target, divided by the
        target's, as a function of ``lr`` times the curvature of U / N: ``1 / (1 - x / 2)`` for
        SGLD, 1 for an exact integrator. The chain must forget its start in 100 steps.
    make_at_zero
        ``make_at_zero(params, lr)`` builds what the sampler equals at temperature 0, bit for bit
        at ``lr`` = 1/16; None if it has no counterpart.
    seed
        Of the sampler and of the chains' start.
    false_alarm_rate
        Probability, at most, that a correct sampler is rejected by its draws.

    Raises
    ------
    AssertionError
        If a promise is broken.

    Examples
    --------
    >>> from bayesprior.inference.optimizers import SGLD
    >>> check_sampler(SGLD, variance_ratio=lambda x: 1 / (1 - x / 2))
    """
    if make_at_zero is not None:
        _check_zero_temperature(make, make_at_zero)
    _check_resume(make, seed)
    _check_private_noise(make, seed)
    _check_fresh_noise(make, seed)
    _check_groups(make, seed)
    _check_closure(make, seed)
    _check_refusals(make)
    p_values = _stationary_p_values(make, variance_ratio, seed)
    assert_plausible(p_values, false_alarm_rate=false_alarm_rate)


_LR, _NUM_DATA = 1 / 16, 50


def _toy_params() -> list[Tensor]:
    """Parameters of odd shapes, away from the minimum of `_toy_gradients`."""
    shapes = [(3, 7), (), (19,), (2, 1, 5)]
    return [torch.full(shape, 0.5 + i, requires_grad=True) for i, shape in enumerate(shapes)]


def _toy_run(optimizer: Optimizer, params: list[Tensor], steps: range) -> None:
    """Step on quadratics whose minimum depends on the step, as minibatches' does."""
    for step in steps:
        for i, p in enumerate(params):
            p.grad = (1 + i) * (p.detach() - 0.1 * (step % 5))
        optimizer.step()


def _equal(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def _toy_result(make: MakeSampler, seed: int, num_steps: int = 5) -> list[Tensor]:
    params = _toy_params()
    sampler = make(params, lr=_LR, num_data=_NUM_DATA, temperature=1.0, seed=seed)
    _toy_run(sampler, params, range(num_steps))
    return params


def _check_zero_temperature(
    make: MakeSampler, make_at_zero: Callable[[Any, float], Optimizer]
) -> None:
    cold, reference = _toy_params(), _toy_params()
    sampler = make(cold, lr=_LR, num_data=_NUM_DATA, temperature=0.0, seed=0)
    _toy_run(sampler, cold, range(20))
    _toy_run(make_at_zero(reference, _LR), reference, range(20))
    assert _equal(cold, reference), "at temperature 0 the sampler is not its optimizer bit for bit"


def _check_resume(make: MakeSampler, seed: int) -> None:
    first = _toy_params()
    sampler = make(first, lr=_LR, num_data=_NUM_DATA, temperature=1.0, seed=seed)
    _toy_run(sampler, first, range(17))
    file = io.BytesIO()
    torch.save({"params": [p.detach() for p in first], "sampler": sampler.state_dict()}, file)
    saved = torch.load(io.BytesIO(file.getvalue()), weights_only=True)

    second = [p.clone().requires_grad_() for p in saved["params"]]
    resumed = make(second, lr=_LR, num_data=_NUM_DATA, temperature=1.0, seed=seed + 1)
    resumed.load_state_dict(saved["sampler"])
    _toy_run(resumed, second, range(17, 37))
    assert _equal(second, _toy_result(make, seed, 37)), (
        "17 + 20 steps with a save between them differ from 37 steps"
    )


def _check_private_noise(make: MakeSampler, seed: int) -> None:
    with seeded(seed):
        before = torch.get_rng_state()
        one = _toy_result(make, seed)
        assert torch.equal(before, torch.get_rng_state()), "the sampler uses the global generator"
        torch.default_generator.manual_seed(seed + 1)
        assert _equal(one, _toy_result(make, seed)), "equal seeds gave different noise"
        assert not _equal(one, _toy_result(make, seed + 1)), "two seeds gave the same noise"


def _check_fresh_noise(make: MakeSampler, seed: int) -> None:
    params = [torch.zeros(64, requires_grad=True) for _ in range(2)]
    sampler = make(params, lr=_LR, num_data=_NUM_DATA, temperature=1.0, seed=seed)
    moves = []
    for _ in range(3):
        before = [p.detach().clone() for p in params]
        for p in params:
            p.grad = torch.zeros_like(p)
        sampler.step()
        moves += [p.detach() - old for p, old in zip(params, before, strict=True)]
    assert moves[0].std() > 0, "no noise at temperature 1"
    # Momentum makes successive moves similar, so only (nearly) exact repetition counts.
    cosines = torch.corrcoef(torch.stack(moves)).triu(1)
    assert cosines.abs().max() < 0.9999, "noise repeats between parameters or steps"


def _check_groups(make: MakeSampler, seed: int) -> None:
    params, cold, idle = _toy_params(), _toy_params(), _toy_params()
    groups = [
        {"params": params[:2], "temperature": 0.0, "lr": _LR / 4},
        {"params": params[2:]},
    ]
    sampler = make(groups, lr=_LR, num_data=_NUM_DATA, temperature=1.0, seed=seed)
    _toy_run(sampler, params, range(5))
    reference = make(cold[:2], lr=_LR / 4, num_data=_NUM_DATA, temperature=0.0, seed=seed)
    _toy_run(reference, cold, range(5))
    assert _equal(params[:2], cold[:2]), "a group's own temperature or lr is not respected"

    make(idle, lr=_LR, num_data=_NUM_DATA, temperature=1.0, seed=seed).step()
    assert _equal(idle, _toy_params()), "a parameter without a gradient moved"


def _check_closure(make: MakeSampler, seed: int) -> None:
    params = _toy_params()
    sampler = make(params, lr=_LR, num_data=_NUM_DATA, temperature=1.0, seed=seed)

    def closure() -> Tensor:
        sampler.zero_grad()
        loss = torch.stack([(1 + i) * p.square().sum() / 2 for i, p in enumerate(params)]).sum()
        loss.backward()
        return loss

    loss = sampler.step(closure)  # type: ignore[arg-type]
    assert isinstance(loss, Tensor), "step(closure) must return the closure's loss"
    assert _equal(params, _toy_result(make, seed, 1)), "a step with a closure is another step"


def _check_refusals(make: MakeSampler) -> None:
    good = {"lr": _LR, "num_data": _NUM_DATA, "temperature": 1.0, "seed": 0}
    wrong = [("lr", 0.0), ("lr", -1.0), ("lr", float("nan")), ("temperature", -1.0)]
    for name, value in [*wrong, ("num_data", 0)]:
        try:
            make(_toy_params(), **{**good, name: value})
        except ValueError as error:
            message = str(error)
            assert name in message, f"{name} = {value} is refused without naming it: {message}"
            assert "\n" not in message, f"{name} = {value} is refused in more than one line"
        else:
            raise AssertionError(f"{name} = {value} is accepted")


def _stationary_p_values(
    make: MakeSampler, variance_ratio: Callable[[float], float], seed: int
) -> dict[str, float]:
    """100,000 one-dimensional chains, started at the exact law, after 100 steps."""
    temperature, curvature = 0.7, 8.0
    scaled = _LR * curvature
    variance = temperature / (_NUM_DATA * curvature) * variance_ratio(scaled)
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(100_000, dtype=torch.float64, generator=generator) * variance**0.5
    chains = start.requires_grad_()
    sampler = make([chains], lr=_LR, num_data=_NUM_DATA, temperature=temperature, seed=seed)
    for _ in range(100):
        chains.grad = curvature * chains.detach()
        sampler.step()
    draws = chains.detach()[:, None]
    return gaussian_p_values(draws, draws.new_zeros(1), draws.new_full((1, 1), variance))
