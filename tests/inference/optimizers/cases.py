"""Every sampler as a row: how it is built, and its exact linear recursion on a Gaussian target.

The recursion is written from the update's formula, elementary map by elementary map, so that
laws derived from it are independent of the closed forms in docstrings.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch

from bayesprior.inference.optimizers import SGHMC, SGLD

WIDTH = 0.5


class Independent:
    """The prior N(0, WIDTH^2) of every weight, as an optimizer sees it."""

    num_data = 10

    def curvature(self):
        raise AssertionError("of no use to a sampler")

    def gradient_in_z(self, gradients):
        return {p: WIDTH * g for p, g in gradients.items()}

    color = gradient_in_z


@dataclass(frozen=True)
class SamplerCase:
    """A sampler under test.

    ``recursion(x)``, x = lr * curvature of U / N, returns (M, G): the state s = (w) or (w, v),
    v = sqrt(lr) u, moves as ``s <- M s + G xi sqrt(lr T / N)``. ``width`` is that of the prior that
    it is whitened by: the square root of what the curvature in z is to that in w.
    """

    name: str
    kind: Callable
    recursion: Callable[[float], tuple[np.ndarray, np.ndarray]]
    make_at_zero: Callable | None = None
    width: float = 1.0

    def make(self, params, **options):
        return self.prepared(self.kind(params, **options, whiten=self.width != 1))

    def prepared(self, sampler):
        """Give it the prior that it, or a copy of it, needs."""
        sampler.take_prior(Independent())
        return sampler

    def covariance(self, x: float) -> np.ndarray:
        """Stationary covariance of the state in units of lr T / N."""
        step, noise = self.recursion(x)
        return scipy.linalg.solve_discrete_lyapunov(step, noise @ noise.T)

    def variance_ratio(self, x: float) -> float:
        """Stationary variance of w over the target's T / (N curvature)."""
        return x * float(self.covariance(x)[0, 0])

    def spectral_radius(self, x: float) -> float:
        return float(np.abs(np.linalg.eigvals(self.recursion(x)[0])).max())


def sgld_recursion(x):
    return np.array([[1 - x]]), np.array([[np.sqrt(2)]])


def kick(x):
    return np.array([[1, 0], [-x, 1]])


def drift(share):
    return np.array([[1, share], [0, 1]])


def retain(friction):
    return np.diag([1, 1 - friction])


def baoab_recursion(x, friction):
    after = drift(0.5)
    noise = after @ np.array([[0], [np.sqrt(1 - (1 - friction) ** 2)]])
    return after @ retain(friction) @ drift(0.5) @ kick(x), noise


def hmc_case(friction, make_at_zero=None):
    return SamplerCase(
        f"SGHMC-{friction}",
        functools.partial(SGHMC, friction=friction),
        functools.partial(baoab_recursion, friction=friction),
        make_at_zero,
    )


def whitened(case):
    """The case in z = w / WIDTH, written in w: v = sqrt(lr) u is a velocity of z."""

    def recursion(x):
        step, noise = case.recursion(x * WIDTH**2)
        units = np.diag([WIDTH, 1][: len(step)])
        return units @ step @ np.linalg.inv(units), units @ noise

    return SamplerCase(f"{case.name}-whitened", case.kind, recursion, None, WIDTH)


LANGEVIN = SamplerCase(
    "SGLD", SGLD, sgld_recursion, lambda params, lr: torch.optim.SGD(params, lr=lr)
)
SAMPLERS = (
    LANGEVIN,
    hmc_case(0.2),
    whitened(LANGEVIN),
    whitened(hmc_case(0.2)),
    # Powers of two, with the contract's lr = 1/16, make equality with SGD hold bit for bit.
    hmc_case(1.0, lambda params, lr: torch.optim.SGD(params, lr=lr / 2)),
)
