"""Contract suites: everything that an extension promises, as one call each.

They ship with the package so that a sampler, collector, likelihood or prior family written
elsewhere can be held to them. A broken promise raises `AssertionError` with what was expected.
"""

from bayesprior.errors import ConfigError
from bayesprior.testing.collectors import check_collector
from bayesprior.testing.distributions import check_weight_distribution
from bayesprior.testing.likelihoods import check_likelihood
from bayesprior.testing.samplers import (
    MakeSampler,
    assert_plausible,
    check_sampler,
    gaussian_p_values,
)

if not __debug__:
    raise ConfigError("the contracts of bayesprior.testing are assertions: run Python without -O")

__all__ = [
    "MakeSampler",
    "assert_plausible",
    "check_collector",
    "check_likelihood",
    "check_sampler",
    "check_weight_distribution",
    "gaussian_p_values",
]
