import numpy as np
import pytest
from scipy.stats import binomtest, norm, ttest_1samp

from bayesprior.diagnostics.intervals import error_over_points, mean_interval, metric_interval
from bayesprior.prediction.metrics import METRICS, MetricRow

MEAN = MetricRow("mean", "", lambda points: points.log_score, True)
LARGEST = MetricRow("largest", "", lambda points: points.log_score, True, summary=lambda v: v.max())


@pytest.mark.parametrize("right", [0, 20])
def test_a_share_of_0_or_1_has_an_interval_of_some_width(right):
    values = np.arange(20) < right
    estimate, low, high = metric_interval(METRICS["accuracy"], values.astype(float))
    z = norm.ppf(0.975) ** 2
    width = z / (20 + z)  # Wilson's at the ends
    assert estimate == right / 20
    assert (low, high) == pytest.approx((0, width) if right == 0 else (1 - width, 1))


@pytest.mark.statistical
def test_intervals_of_a_skewed_mean_cover_the_truth(rng):
    hits = 0
    for _ in range(150):
        interval = metric_interval(MEAN, rng.exponential(size=80))
        hits += interval.low <= 1 <= interval.high
    # finite samples cost a few percent of coverage
    assert binomtest(hits, 150, 0.93).pvalue > 1e-5


def test_columns_are_resampled_together(rng):
    row = MetricRow("gap", "", lambda p: p, True, summary=lambda v: (v[:, 0] - v[:, 1]).abs().max())
    x = rng.normal(size=50)
    assert metric_interval(row, np.stack([x, x], 1)) == (0, 0, 0)


def test_what_does_not_vary_has_no_width():
    assert metric_interval(MEAN, np.full(9, 2.5)) == (2.5, 2.5, 2.5)
    assert metric_interval(MEAN, np.array([2.0])) == (2, 2, 2)
    assert metric_interval(LARGEST, np.full(9, 2.5)) == (2.5, 2.5, 2.5)


def test_an_error_below_0_is_not_claimed(rng):
    values = np.stack([np.full(40, 0.9), (np.arange(40) < 36).astype(float)], 1)
    found = metric_interval(METRICS["ece"], values)
    assert found.estimate == pytest.approx(0)
    assert found.low == 0


@pytest.mark.statistical
def test_the_standard_error_of_a_mean_is_its_own(rng):
    x = rng.normal(size=300)
    found = error_over_points(lambda picks: float(x[picks].mean()), 300)
    # a standard deviation from 250 resamples has a relative error of 1 / sqrt(500)
    assert abs(found / (x.std() / np.sqrt(300)) - 1) * np.sqrt(500) < 5


def test_the_interval_of_a_mean_is_students(rng):
    values = rng.normal(2, 3, 9)
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    found = mean_interval(values)
    assert found == pytest.approx((values.mean(), expected.low, expected.high))
