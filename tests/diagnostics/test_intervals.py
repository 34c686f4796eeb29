import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap

from bayesprior.diagnostics.intervals import bootstrap_interval


def test_equals_scipy_on_the_same_law(rng):
    x = rng.normal(size=80)
    ours = bootstrap_interval(np.mean, x, num_resamples=4000)
    theirs = bootstrap((x,), np.mean, n_resamples=4000, method="percentile", rng=1)
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert ours.estimate == x.mean()
    # a 2.5 % quantile from 4000 draws has a standard error near 2 % of the interval's width
    assert abs(ours.low - theirs.confidence_interval.low) < 0.1 * width
    assert abs(ours.high - theirs.confidence_interval.high) < 0.1 * width


@pytest.mark.parametrize("method", ["percentile", "basic"])
def test_covers_the_truth(rng, method):
    hits = 0
    for seed in range(200):
        interval = bootstrap_interval(
            np.mean, rng.normal(size=60), num_resamples=200, method=method, seed=seed, level=0.9
        )
        hits += interval.low <= 0 <= interval.high
    # finite samples cost a few percent of coverage
    assert binomtest(hits, 200, 0.87).pvalue > 1e-5


def test_arrays_are_resampled_together(rng):
    x = rng.normal(size=50)
    interval = bootstrap_interval(lambda a, b: float(np.abs(a - b).max()), x, x, num_resamples=20)
    assert interval == (0, 0, 0)


def test_one_point_gives_a_degenerate_interval():
    assert bootstrap_interval(np.mean, np.array([2.0]), num_resamples=5) == (2, 2, 2)
