"""The density, moments and draws of a law of blocks, against dense Normals in float64."""

import math

import pyro.distributions as dist
import pytest
import torch
from dense import FALSE_ALARM, LAYOUT, SHAPES, covariance_of, make_case, standard_normal_p_value
from scipy import stats
from torch.autograd import gradcheck, gradgradcheck
from torch.distributions import Distribution, kl_divergence

from bayesprior.errors import LayoutMismatchError
from bayesprior.weights.gaussian import GaussianWeights

D = LAYOUT.dim


@pytest.fixture(params=SHAPES)
def case(request):
    return make_case(request.param)


@pytest.fixture
def value():
    return 2 * torch.randn(3, 4, D, dtype=torch.float64)


def test_moments(case):
    law, dense = case.law, case.dense
    torch.testing.assert_close(law.mean, case.loc)
    torch.testing.assert_close(law.mode, case.loc)
    torch.testing.assert_close(law.variance, dense.variance)
    torch.testing.assert_close(law.stddev, dense.stddev)
    torch.testing.assert_close(covariance_of(law), case.cov)
    torch.testing.assert_close(law.covariance_matrix, case.cov)
    torch.testing.assert_close(law.precision_matrix, torch.linalg.inv(case.cov))
    torch.testing.assert_close(law.scale_tril, torch.linalg.cholesky(case.cov))


def test_density(case, value):
    law, dense = case.law, case.dense
    torch.testing.assert_close(law.log_prob(value), dense.log_prob(value))
    torch.testing.assert_close(law.entropy(), dense.entropy())
    residual = value - case.loc
    solved = torch.linalg.solve(case.cov, residual.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(law.mahalanobis(value), (residual * solved).sum(-1))
    torch.testing.assert_close(law.score(value), -solved)
    out = torch.empty_like(value)
    assert law.score(value, out=out) is out
    torch.testing.assert_close(out, -solved)
    overwritten = value.clone()
    torch.testing.assert_close(law.score(overwritten, out=overwritten), -solved)
    score, log_prob = law.score_and_log_prob(value)
    torch.testing.assert_close(score, -solved)
    torch.testing.assert_close(log_prob, dense.log_prob(value))
    normalizer = torch.logdet(case.cov) + D * math.log(2 * math.pi)
    torch.testing.assert_close(law.log_normalizer(), normalizer)


def test_max_precision_bounds_the_curvature(case):
    gap = torch.diag(case.law.max_precision()) - torch.linalg.inv(case.cov)
    assert torch.linalg.eigvalsh(gap).min() > -1e-9 * case.law.max_precision().max()


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("other", [torch.float32, torch.float64])
def test_types_mix(kind, other):
    """A float32 law takes float64 values and the other way round; the value's type comes out."""
    law, loc, cov = make_case(kind, torch.float32 if other == torch.float64 else torch.float64)
    dense = torch.distributions.MultivariateNormal(loc, cov)
    value = torch.randn(2, D, dtype=other)
    for dtype, result in ((other, law.log_prob(value)), (torch.float64, law.mahalanobis(value))):
        assert result.dtype == dtype
    exact = law.log_prob(value, dtype=torch.float64)
    # one float32 rounding of the width is all that may differ
    torch.testing.assert_close(exact, dense.log_prob(value.double()), rtol=1e-6, atol=1e-6)
    leaf = value.clone().requires_grad_()
    law.log_prob(leaf).sum().backward()
    assert leaf.grad.dtype == other
    torch.testing.assert_close(law.score(value).to(other), leaf.grad)
    assert law.score(value).dtype == torch.float64


def test_float32_law_and_value_are_accumulated_in_float64():
    law, loc, cov = make_case("head", torch.float32)
    value = torch.randn(5, D)
    exact = torch.distributions.MultivariateNormal(loc, cov).log_prob(value.double())
    residual = value - law.loc  # rounded to float32, as the law sees it
    exact = torch.distributions.MultivariateNormal(torch.zeros(D).double(), cov).log_prob(
        residual.double()
    )
    torch.testing.assert_close(law.log_prob(value, dtype=torch.float64), exact)
    assert law.log_prob(value).dtype == torch.float32
    assert law.score(value).dtype == torch.float32


def test_derivatives_in_value_mean_and_width(case):
    law = case.law
    value = torch.randn(D, dtype=torch.float64, requires_grad=True)
    loc = case.loc.clone().requires_grad_()
    width = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

    def log_prob(value, loc, width):
        moved = GaussianWeights(LAYOUT, loc, law.cov_diag, law.cov_factor[: law.shared_dim])
        return moved.rescale(cov_scale=width).log_prob(value)

    assert gradcheck(log_prob, (value, loc, width))
    assert gradgradcheck(log_prob, (value, loc, width), fast_mode=True)
    if law.shared_dim:
        std = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        assert gradcheck(lambda std: law.rescale(rms_std=std).log_prob(value.detach()), std)
        assert gradgradcheck(lambda std: law.rescale(rms_std=std).log_prob(value.detach()), std)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
@pytest.mark.parametrize("kind", ["head", "nothing shared", "narrow"])
def test_transforms_of_torch_func(kind):
    law, _, cov = make_case(kind)
    precision = torch.linalg.inv(cov)
    values = torch.randn(3, D, dtype=torch.float64)
    torch.testing.assert_close(torch.vmap(law.log_prob)(values), law.log_prob(values))
    torch.testing.assert_close(torch.vmap(torch.func.grad(law.log_prob))(values), law.score(values))
    torch.testing.assert_close(torch.func.jacrev(law.log_prob)(values[0]), law.score(values[0]))
    if law.shared_dim:  # torch's forward mode takes no empty tensor
        torch.testing.assert_close(torch.func.hessian(law.log_prob)(values[0]), -precision)
    slopes = torch.func.grad(lambda s: law.rescale(cov_scale=s).log_prob(values[0]))
    scale = torch.tensor(0.7, dtype=torch.float64)
    step = 1e-5 * torch.tensor([-1.0, 1.0], dtype=torch.float64)
    low, high = (law.rescale(cov_scale=scale + h).log_prob(values[0]) for h in step)
    torch.testing.assert_close(slopes(scale), (high - low) / 2e-5, rtol=1e-6, atol=1e-6)


@pytest.mark.statistical
def test_draws_follow_the_law(case):
    draws = case.law.sample((4000,))
    z = torch.linalg.solve_triangular(
        torch.linalg.cholesky(case.cov), (draws - case.loc).T, upper=False
    )
    assert standard_normal_p_value(z.T.numpy()) > FALSE_ALARM


@pytest.mark.statistical
def test_coordinates_and_mahalanobis_have_their_law(case):
    draws = case.law.sample((4000,))
    coordinates = case.law.coordinates(draws)
    learned = int(torch.linalg.matrix_rank(case.law.cov_factor))
    assert coordinates.shape == (4000, learned)
    if coordinates.shape[1]:
        assert standard_normal_p_value(coordinates.numpy()) > FALSE_ALARM
    p_value = stats.kstest(case.law.mahalanobis(draws).numpy(), stats.chi2(D).cdf).pvalue
    assert p_value > FALSE_ALARM


def test_rsample_is_differentiable_in_mean_and_width(case):
    loc = case.loc.clone().requires_grad_()
    width = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    law = case.law

    def draw(loc, width):
        torch.manual_seed(0)
        moved = GaussianWeights(LAYOUT, loc, law.cov_diag, law.cov_factor[: law.shared_dim])
        return moved.rescale(cov_scale=width).rsample((2,))

    assert gradcheck(draw, (loc, width), fast_mode=True)


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_expand(case, batch):
    law, dense = case.law.expand(batch), case.dense.expand(batch)
    assert law.batch_shape == batch
    assert law.sample((4,)).shape == (4, *batch, D)
    value = dense.sample((2,))
    torch.testing.assert_close(law.log_prob(value), dense.log_prob(value))
    torch.testing.assert_close(law.log_prob(value[0]), dense.log_prob(value[0]))
    one = value.reshape(-1, D)[0]
    torch.testing.assert_close(law.log_prob(one), dense.log_prob(one))
    for moment in ("mean", "mode", "variance", "covariance_matrix"):
        torch.testing.assert_close(getattr(law, moment), getattr(dense, moment))
    torch.testing.assert_close(law.entropy(), dense.entropy())
    assert law.rescale(cov_scale=2.0).batch_shape == batch


@pytest.mark.parametrize("first", [*SHAPES, "plain"])
@pytest.mark.parametrize("second", ["head", "all shared", "no factor", "plain"])
def test_kl_divergence(first, second):
    def law_of(kind: str, seed: int) -> tuple[Distribution, Distribution]:
        case = make_case("all shared" if kind == "plain" else kind, seed=seed)
        return (case.law.to_pyro() if kind == "plain" else case.law), case.dense

    (p, dense_p), (q, dense_q) = law_of(first, 1), law_of(second, 2)
    torch.testing.assert_close(kl_divergence(p, q), kl_divergence(dense_p, dense_q))


@pytest.mark.parametrize("law", ["low rank", "independent", "torch low rank"])
def test_kl_divergence_of_a_guide_has_its_gradient(case, law):
    def kl(loc, log_std, factor):
        if law == "independent":
            guide = dist.Normal(loc, log_std.exp()).to_event(1)
        else:
            family = dist if law == "low rank" else torch.distributions
            guide = family.LowRankMultivariateNormal(loc, factor, log_std.exp())
        return kl_divergence(guide, case.law)

    shapes = ((D,), (D,), (D, 2))
    moments = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]
    assert gradcheck(kl, moments, fast_mode=True)
    if law == "independent":
        loc, log_std, _ = moments
        scales = torch.diag((2 * log_std).exp())
        dense = torch.distributions.MultivariateNormal(loc, scales)
        torch.testing.assert_close(kl(*moments), kl_divergence(dense, case.dense))


def test_kl_divergence_refuses_another_dimension(case):
    other = dist.LowRankMultivariateNormal(torch.zeros(3), torch.ones(3, 1), torch.ones(3))
    with pytest.raises(LayoutMismatchError, match=f"D = {D}"):
        kl_divergence(other, case.law)
    laplace = dist.Laplace(torch.zeros(D), torch.ones(D)).to_event(1)
    with pytest.raises(NotImplementedError):
        kl_divergence(laplace, case.law)


def test_to_pyro_is_the_same_law(case, value):
    plain = case.law.to_pyro()
    assert type(plain) is dist.LowRankMultivariateNormal
    torch.testing.assert_close(plain.log_prob(value), case.law.log_prob(value))
