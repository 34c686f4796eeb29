"""What the constructor of a law refuses, and how the block covariance holds its tensors."""

import jaxtyping
import pytest
import torch
from dense import LAYOUT, make_case

from bayesprior.errors import BayesPriorError, ConfigError, LayoutMismatchError
from bayesprior.weights.blocks import merged
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.lowrank import LowRankCovariance

D = LAYOUT.dim
NAN, INFINITE = torch.full((D,), torch.nan), torch.full((D,), -torch.inf)


@pytest.fixture
def unchecked(monkeypatch):
    """As in production: no run-time check of annotations."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"loc": NAN}, ConfigError, "loc holds NaN or infinite values"),
        ({"cov_diag": INFINITE}, ConfigError, "cov_diag holds NaN or infinite values"),
        ({"cov_factor": NAN[:, None]}, ConfigError, "cov_factor holds NaN or infinite values"),
        ({"cov_diag": torch.zeros(D)}, ConfigError, "cov_diag must be positive, its least is 0"),
        ({"cov_diag": -torch.ones(D)}, ConfigError, "cov_diag must be positive, its least is -1"),
        ({"loc": torch.zeros(5)}, LayoutMismatchError, r"loc must have shape \(8,\).*got \(5,\)"),
        ({"loc": torch.zeros(1, D)}, LayoutMismatchError, r"loc must have .* got \(1, 8\)"),
        ({"cov_diag": torch.ones(2, D)}, LayoutMismatchError, r"cov_diag must have .* \(2, 8\)"),
        ({"loc": torch.zeros(D).long()}, ConfigError, "loc must be floating-point, got torch.int"),
        ({"cov_factor": torch.ones(9, 2)}, LayoutMismatchError, r"F at most D = 8.*got \(9, 2\)"),
        ({"cov_factor": torch.ones(8)}, LayoutMismatchError, r"shape \(F, K\).*got \(8,\)"),
        ({"cov_diag": torch.ones(D, requires_grad=True)}, ConfigError, "are constants; detach"),
        ({"cov_factor": torch.ones(D, 1, requires_grad=True)}, ConfigError, r"rescale\(cov_scale="),
    ],
)
def test_constructor_refuses(changes, error, message):
    good = {"loc": torch.zeros(D), "cov_diag": torch.ones(D), "cov_factor": torch.ones(D, 1)}
    GaussianWeights(LAYOUT, **good)
    with pytest.raises(error, match=message) as caught:
        GaussianWeights(LAYOUT, **(good | changes))
    assert isinstance(caught.value, BayesPriorError)
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("unchecked")
def test_values_of_another_length_are_refused():
    law = make_case("head").law
    for method in (law.log_prob, law.score, law.mahalanobis, law.coordinates):
        with pytest.raises(LayoutMismatchError, match=r"last axis is D = 8, got shape \(2, 7\)"):
            method(torch.zeros(2, 7, dtype=torch.float64))


def test_the_mean_may_learn_and_the_width_may_learn():
    loc = torch.zeros(D, requires_grad=True)
    width = torch.tensor(2.0, requires_grad=True)
    law = GaussianWeights(LAYOUT, loc, torch.ones(D)).rescale(rms_std=width)
    law.log_prob(torch.ones(D)).backward()
    torch.testing.assert_close(loc.grad, torch.full((D,), 0.25))
    # d/ds of -D log s - D / (2 s^2)
    torch.testing.assert_close(width.grad, torch.tensor(-D / 2 + D / 8))


def test_no_tensor_of_the_factor_s_size_is_made():
    """Rows given as a transposed view are held as they are; so are mean and variances."""
    rows, loc, diag = torch.randn(3, D), torch.randn(D), torch.rand(D) + 1
    law = GaussianWeights(LAYOUT, loc, diag, rows.T).rescale(cov_scale=2.0).expand((2,))
    (block,) = law.blocks
    assert block.covariance.rows.data_ptr() == rows.data_ptr()
    assert block.covariance.diag.data_ptr() == diag.data_ptr()
    assert law.loc.data_ptr() == loc.data_ptr()
    first = law.marginal(LAYOUT.names[:2]).blocks[0].covariance  # one run of the rows
    assert first.rows.data_ptr() == rows.data_ptr()


def test_slices_that_follow_on_each_other_are_one():
    found = merged([slice(2, 4), slice(4, 4), slice(4, 7), slice(9, 9), slice(8, 9)])
    assert found == [slice(2, 7), slice(8, 9)]


@pytest.mark.usefixtures("unchecked")
def test_a_low_rank_block_takes_rows_of_its_features():
    with pytest.raises(LayoutMismatchError, match=r"rows \(K, F\), the factor's columns; got"):
        LowRankCovariance(torch.ones(3), torch.ones(2, 4)).check()


def test_a_law_goes_to_another_type_and_place():
    law = GaussianWeights(LAYOUT, torch.randn(D), torch.ones(D), None)
    assert law.to(dtype=torch.float64).loc.dtype == torch.float64
    assert torch.equal(law.to("cpu").loc, law.loc)
