"""Widths, simpler shapes and traces of independent blocks, against dense linear algebra."""

import math

import pytest
import torch
from dense import BLOCKS, LAYOUT, SHAPES, covariance_of, make_block_case, make_case
from hypothesis import given, settings
from hypothesis import strategies as st

from bayesprior.errors import ConfigError
from bayesprior.weights import algebra

D = LAYOUT.dim
close = torch.testing.assert_close
positive = st.floats(1e-3, 1e3)
kinds = st.sampled_from(sorted(SHAPES))


@pytest.fixture(params=SHAPES)
def case(request):
    return make_case(request.param)


def test_rescale_multiplies_the_shared_block_only(case):
    split = case.law.shared_dim
    expected = case.cov.clone()
    expected[:split, :split] *= 0.3
    wider = case.law.rescale(cov_scale=0.3)
    close(covariance_of(wider), expected)
    if split:
        close(wider.cov_scale, 0.3 * case.law.cov_scale)
    close(covariance_of(case.law), case.cov)  # the original stays


@settings(max_examples=40)
@given(kind=kinds, first=positive, second=positive)
def test_rescale_composes(kind, first, second):
    law = make_case(kind).law
    close(
        covariance_of(law.rescale(cov_scale=first).rescale(cov_scale=second)),
        covariance_of(law.rescale(cov_scale=first * second)),
    )


@settings(max_examples=40)
@given(kind=kinds.filter("nothing shared".__ne__), std=positive)
def test_rms_std_is_the_root_mean_variance_of_the_shared_block(kind, std):
    law, _, cov = make_case(kind)
    split = law.shared_dim
    assert law.rms_std == pytest.approx(cov.diagonal()[:split].mean().sqrt().item())
    for shape in (law, law.isotropic(), law.diagonal()):
        rescaled = shape.rescale(rms_std=std)
        assert rescaled.rms_std == pytest.approx(std)
        assert rescaled.variance[:split].mean().sqrt().item() == pytest.approx(std)
        close(rescaled.variance[split:], cov.diagonal()[split:])


def test_isotropic_keeps_mean_width_and_tail(case):
    law, split = case.law.isotropic(), case.law.shared_dim
    variances = case.cov.diagonal().clone()
    if split:
        variances[:split] = variances[:split].mean()
    assert law.rank == 0
    close(law.loc, case.loc)
    close(covariance_of(law), torch.diag(variances))


def test_jitter_adds_a_share_of_the_mean_variance(case):
    split = case.law.shared_dim
    expected = case.cov.clone()
    if split:
        mean = case.cov.diagonal()[:split].mean()
        expected[:split, :split] += 0.1 * mean * torch.eye(split, dtype=torch.float64)
    close(covariance_of(case.law.jitter(0.1)), expected)
    close(covariance_of(case.law.jitter(0.0)), case.cov)
    with pytest.raises(ConfigError, match=r"jitter must be 0 or more, got -0\.1"):
        case.law.jitter(-0.1)


def test_truncate_keeps_the_leading_directions_and_every_variance(case):
    law, split = case.law, case.law.shared_dim
    factor = law.cov_factor[:split]
    directions, values, _ = torch.linalg.svd(factor, full_matrices=False)
    for rank in range(law.rank + 1):
        kept = directions[:, :rank] * values[:rank]
        expected = case.cov.clone()
        block = kept @ kept.T
        expected[:split, :split] = block - torch.diag(block.diagonal())
        expected += torch.diag(case.cov.diagonal() - expected.diagonal())
        shorter = law.truncate(rank)
        assert shorter.rank == rank
        close(covariance_of(shorter), expected)
    close(covariance_of(law.diagonal()), torch.diag(case.cov.diagonal()))
    assert law.truncate(law.rank).rank == law.rank
    for rank in (-1, law.rank + 1):
        with pytest.raises(ConfigError, match=f"between 0 and {law.rank}, got {rank}"):
            law.truncate(rank)


@pytest.mark.parametrize(
    ("width", "message"),
    [
        ({}, "exactly one of cov_scale and rms_std"),
        ({"cov_scale": 1.0, "rms_std": 1.0}, "exactly one of cov_scale and rms_std"),
        ({"cov_scale": -1.0}, "cov_scale must be a positive number, got -1.0"),
        ({"rms_std": 0.0}, "rms_std must be a positive number, got 0.0"),
        ({"rms_std": math.nan}, "rms_std must be a positive number, got nan"),
        ({"cov_scale": math.inf}, "cov_scale must be a positive number, got inf"),
        ({"cov_scale": torch.tensor(-2.0)}, r"cov_scale must be a positive number, got -2\.0"),
        ({"cov_scale": torch.ones(2)}, "cov_scale must be a number, got Tensor"),
    ],
)
def test_rescale_refuses(width, message):
    with pytest.raises(ConfigError, match=message):
        make_case("head").law.rescale(**width)


def test_rms_std_needs_a_shared_block():
    with pytest.raises(ConfigError, match="shared block, which is empty"):
        make_case("nothing shared").law.rescale(rms_std=1.0)


@pytest.mark.parametrize("second", BLOCKS)
@pytest.mark.parametrize("first", BLOCKS)
def test_trace_of_a_product_goes_by_names(first, second):
    """Trace of Q^-1 P between laws whose blocks hold the parameters in different ways."""
    p, q = make_block_case(first), make_block_case(second)
    expected = torch.linalg.solve(q.cov, p.cov).trace()
    close(algebra.trace_of_product(p.law._placed, q.law._placed), expected)


def test_trace_of_a_product_has_the_gradient_of_both_widths():
    p, q = (make_block_case(kind).law for kind in ("two towers", "widths inside"))
    width = torch.tensor(0.7, dtype=torch.float64)

    def trace(first, second):
        laws = p.rescale(cov_scale=first), q.rescale(cov_scale=second, select="*")
        return algebra.trace_of_product(*(law._placed for law in laws))

    assert torch.autograd.gradcheck(trace, [width.clone().requires_grad_() for _ in range(2)])


def test_widths_that_the_type_cannot_hold_are_refused():
    law = make_case("head", torch.float32).law
    with pytest.raises(ConfigError, match="rms_std makes variances of .* cannot hold"):
        law.rescale(rms_std=1e-30)
    with pytest.raises(ConfigError, match="jitter makes variances of .* cannot hold"):
        law.rescale(cov_scale=1e30).jitter(1e39)
