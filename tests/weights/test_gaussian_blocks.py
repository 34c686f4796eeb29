"""Laws of several blocks against dense Normals in float64; each kind has its own dense recipe."""

import copy

import pytest
import torch
from dense import (
    BLOCK_LAYOUT,
    BLOCKS,
    FALSE_ALARM,
    covariance_of,
    make_block_case,
    make_case,
    standard_normal_p_value,
)
from torch.distributions import kl_divergence

from bayesprior.errors import ConfigError, LayoutMismatchError
from bayesprior.testing import check_weight_distribution
from bayesprior.weights.blocks import Block
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout
from bayesprior.weights.lowrank import LowRankCovariance
from bayesprior.weights.rows import RowCovariance

D = BLOCK_LAYOUT.dim
close = torch.testing.assert_close


@pytest.fixture(params=BLOCKS)
def case(request):
    return make_block_case(request.param, statistics={"feature_norm": torch.tensor(2.0)})


def positions(names):
    return [i for n in BLOCK_LAYOUT.names if n in names for i in range(D)[BLOCK_LAYOUT.slice(n)]]


def test_distribution(case):
    law, dense, cov = case.law, case.dense, case.cov
    value = torch.randn(3, 4, D, dtype=torch.float64)
    solved = torch.linalg.solve(cov, (value - case.loc).mT).mT
    close(law.log_prob(value), dense.log_prob(value))
    close(law.entropy(), dense.entropy())
    close(law.score(value), -solved)
    overwritten = value.clone()
    close(law.score(overwritten, out=overwritten), -solved)
    score, log_prob = law.score_and_log_prob(value)
    close(score, -solved)
    close(log_prob, dense.log_prob(value))
    close(law.variance, cov.diagonal())
    close(law.covariance_matrix, cov)
    close(law.precision_matrix, torch.linalg.inv(cov))
    close(covariance_of(law), cov)
    close(law.to_pyro().log_prob(value), dense.log_prob(value))
    close(law.covariance_product(value), value @ cov)
    identity = torch.eye(D, dtype=torch.float64)
    root = (law.color(identity) - case.loc).T
    close(root @ root.T, cov)
    close(law.whiten(law.color(value)), value)
    variances = {n: cov.diagonal()[BLOCK_LAYOUT.slice(n)].mean().sqrt() for n in law.layout.names}
    assert law.block_rms_std() == pytest.approx({n: v.item() for n, v in variances.items()})
    assert law.expand((2,)).log_prob(value[0, 0]).shape == (2,)
    twin = copy.deepcopy(law)
    assert torch.equal(twin.log_prob(value), law.log_prob(value))


@pytest.mark.statistical
def test_contract(case):
    check_weight_distribution(case.law)


@pytest.mark.statistical
def test_draws_and_coordinates_follow_the_law(case):
    draws = case.law.sample((4000,))
    tril = torch.linalg.cholesky(case.cov)
    z = torch.linalg.solve_triangular(tril, (draws - case.loc).T, upper=False).T
    assert standard_normal_p_value(z.numpy()) > FALSE_ALARM
    coordinates = case.law.coordinates(draws)
    assert coordinates.shape == (4000, case.law.rank)
    assert standard_normal_p_value(coordinates.numpy()) > FALSE_ALARM


@pytest.mark.parametrize("other", [*BLOCKS, "plain", "dense"])
def test_kl_divergence_goes_by_names(case, other):
    if other == "plain":
        q, dense = case.law.diagonal(), torch.diag(case.cov.diagonal())
        q_loc = case.loc
    elif other == "dense":
        q = torch.distributions.MultivariateNormal(case.loc + 1, case.cov + torch.eye(D).double())
        close(kl_divergence(case.law, q), kl_divergence(case.dense, q))
        close(kl_divergence(q, case.law), kl_divergence(q, case.dense))
        return
    else:
        q, q_loc, dense = make_block_case(other)
    exact = torch.distributions.MultivariateNormal(q_loc, dense)
    close(kl_divergence(case.law, q), kl_divergence(case.dense, exact))
    names = BLOCK_LAYOUT.names[::-1]
    turned = ParameterLayout(names, BLOCK_LAYOUT.shapes[::-1])
    close(kl_divergence(case.law, q.reorder(turned)), kl_divergence(case.dense, exact))
    close(kl_divergence(case.law.to_pyro(), q), kl_divergence(case.dense, exact))
    assert kl_divergence(case.law.expand((3,)), q).shape == (3,)
    with pytest.raises(LayoutMismatchError, match=r"laws are of different weights.*norm\.weight"):
        kl_divergence(case.law, q.rename({"norm.weight": "norm.gain"}))


def test_kl_divergence_is_differentiable_in_both_widths():
    first, second = make_block_case("widths inside"), make_block_case("two towers")
    widths = torch.tensor([0.7, 1.3], dtype=torch.float64, requires_grad=True)

    def divergence(widths):
        p = first.law.rescale(cov_scale=widths[0], select="conv.*")
        return kl_divergence(p, second.law.rescale(rms_std=widths[1], select="*.weight"))

    assert torch.autograd.gradcheck(divergence, widths)


def test_rescale_of_a_selection_keeps_every_correlation(case):
    at = positions(("conv.bias", "head.weight"))
    width = torch.ones(D, dtype=torch.float64)
    width[at] = 0.25
    expected = width.sqrt()[:, None] * case.cov * width.sqrt()
    law = case.law.rescale(cov_scale=0.25, select=["conv.bias", "head.*"])
    close(covariance_of(law), expected)
    assert len(law.blocks) == len(case.law.blocks)
    law = case.law.rescale(rms_std=0.2, select=["conv.bias", "head.*"])
    close(law.variance[at].mean().sqrt().item(), 0.2)
    scale = torch.sqrt(0.04 / case.cov.diagonal()[at].mean())
    width[at] = scale
    close(covariance_of(law), width[:, None] * case.cov * width)
    with pytest.raises(ConfigError, match="did you mean 'conv.bias'"):
        case.law.rescale(rms_std=0.2, select="conv.bais")


def test_rescale_without_a_selection_leaves_what_is_new(case):
    law = case.law.rescale(rms_std=0.2)
    old = [n for n in BLOCK_LAYOUT.names if n not in law.new_names]
    assert law.rms_std == pytest.approx(0.2)
    assert law.shared_dim == len(positions(old))
    factor = 0.04 / case.cov.diagonal()[positions(old)].mean()
    width = torch.ones(D, dtype=torch.float64)
    width[positions(old)] = factor.sqrt()
    close(covariance_of(law), width[:, None] * case.cov * width)


@pytest.mark.parametrize("select", [None, "conv.*"])
def test_widths_of_draws_are_mapped_by_vmap_and_derived(case, select):
    value = torch.randn(D, dtype=torch.float64)
    widths = torch.tensor([0.3, 2.0], dtype=torch.float64)

    def log_prob(width):
        return case.law.rescale(rms_std=width, select=select).log_prob(value)

    close(torch.vmap(log_prob)(widths), torch.stack([log_prob(w) for w in widths]))
    assert torch.autograd.gradcheck(log_prob, widths[0].clone().requires_grad_())
    close(torch.func.grad(log_prob)(widths[0]), torch.func.jacfwd(log_prob)(widths[0]))


def test_marginal_and_reorder(case):
    for names in (("conv.bias", "norm.weight"), ("conv.weight",), BLOCK_LAYOUT.names, ()):
        at, part = positions(names), case.law.marginal(names)
        close(covariance_of(part), case.cov[at][:, at])
        assert "feature_norm" in part.statistics
    turned = ParameterLayout(BLOCK_LAYOUT.names[::-1], BLOCK_LAYOUT.shapes[::-1])
    law = case.law.reorder(turned)
    at = [i for n in turned.names for i in range(D)[BLOCK_LAYOUT.slice(n)]]
    close(covariance_of(law), case.cov[at][:, at])
    close(law.loc, case.loc[at])
    for here, there in zip(law.blocks, case.law.blocks, strict=True):
        assert here.covariance is there.covariance  # nothing is copied
    close(covariance_of(law.reorder(BLOCK_LAYOUT)), case.cov)
    part = case.law.marginal(["conv.weight"])
    with pytest.raises(LayoutMismatchError, match=r"only there: norm\.weight"):
        part.reorder(BLOCK_LAYOUT)


def test_simpler_shapes(case):
    new = {n for n in case.law.new_names}
    expected = case.cov.clone()
    for block in case.law.blocks:
        at = [i for n in block.names for i in range(D)[BLOCK_LAYOUT.slice(n)]]
        if not new & set(block.names):
            expected[at] = 0
            expected[at, at] = case.cov.diagonal()[at].mean()
    close(covariance_of(case.law.isotropic()), expected)
    close(case.law.isotropic().rms_std, case.law.rms_std)
    close(covariance_of(case.law.diagonal()), torch.diag(case.cov.diagonal()))
    truncated = case.law.truncate(1)
    close(truncated.variance, case.law.variance)
    assert max(b.covariance.rank for b in truncated.blocks) <= 1
    gap = torch.linalg.eigvalsh(covariance_of(case.law.jitter(0.1)) - case.cov)
    assert gap.min() > -1e-9


def test_effective_rank_of_several_blocks():
    case = make_block_case("two towers")
    values = [
        block.covariance.rows.T @ block.covariance.rows * block.scale for block in case.law.blocks
    ]
    spectrum = torch.cat([torch.linalg.eigvalsh(v) for v in values])
    shares = spectrum / spectrum.sum()
    assert case.law.effective_rank == pytest.approx(float(1 / shares.square().sum()))
    assert case.law.drift_share == pytest.approx(float(shares.max()))
    with pytest.raises(ConfigError, match=r"widths of their own; see blocks\[i\]\.scale"):
        case.law.cov_scale  # noqa: B018


def test_extend_around_given_means(case):
    full = ParameterLayout(
        (*BLOCK_LAYOUT.names, "gain", "fc"), (*BLOCK_LAYOUT.shapes, (2,), (2, 2))
    )
    law = case.law.extend(full, std=0.5, loc={"gain": torch.ones(2)})
    assert law.new_names[-2:] == ("gain", "fc")
    close(law.loc[D:], torch.tensor([1.0, 1, 0, 0, 0, 0], dtype=torch.float64))
    expected = torch.block_diag(case.cov, 0.25 * torch.eye(6).double())
    close(covariance_of(law), expected)
    again = law.extend(full, std=3.0)
    close(covariance_of(again), expected)
    for loc, message in (
        ({"gian": torch.ones(2)}, "'gian' is not new; did you mean 'gain'"),
        ({"conv.bias": torch.ones(2)}, "'conv.bias' is not new"),
        ({"gain": torch.ones(3)}, r"loc of 'gain' must have shape \(2,\)"),
        ({"gain": torch.full((2,), torch.nan)}, "loc of 'gain' holds NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            case.law.extend(full, std=0.5, loc=loc)


def test_blocks_must_cover_the_layout_once():
    def block(*names, dim=None):
        size = sum(BLOCK_LAYOUT.slice(n).stop - BLOCK_LAYOUT.slice(n).start for n in names)
        return Block(names, LowRankCovariance(torch.ones(dim or size)))

    loc, names = torch.zeros(D), BLOCK_LAYOUT.names
    for blocks, message in (
        ([block(*names[:3])], "none holds head.weight"),
        ([block(*names), block("conv.bias")], "several hold conv.bias"),
        ([block(*names, dim=D + 1)], f"have {D} weights, its covariance is over {D + 1}"),
        ([block(*names[:3]), Block(names[3:], RowCovariance(torch.eye(4), 2))], "have 6 weights"),
    ):
        with pytest.raises(LayoutMismatchError, match=message):
            GaussianWeights.from_blocks(BLOCK_LAYOUT, loc, blocks)
    bad = Block(names, LowRankCovariance(-torch.ones(D)))
    with pytest.raises(ConfigError, match="cov_diag must be positive"):
        GaussianWeights.from_blocks(BLOCK_LAYOUT, loc, [bad])


def test_rename_reaches_blocks(case):
    law = case.law.rename(lambda name: f"net.{name}")
    assert {n for b in law.blocks for n in b.names} == set(law.layout.names)
    close(covariance_of(law), case.cov)
    assert law.statistics["feature_norm"] == 2


def test_a_factor_that_ends_inside_a_parameter_goes_on_with_zeros():
    law, _, cov = make_case("split parameter")
    assert [b.names for b in law.blocks] == [("conv.weight",), law.layout.names[1:]]
    close(covariance_of(law), cov)
    wider = law.rescale(cov_scale=4.0, select="conv.weight")
    width = torch.tensor([2.0] * 4 + [1.0] * 4, dtype=torch.float64)
    close(covariance_of(wider), width[:, None] * cov * width)


@pytest.mark.parametrize("kind", ["head", "row head"])
def test_moves_and_gradients_of_the_coordinates(kind):
    law = (make_case(kind) if kind == "head" else make_block_case(kind)).law
    z, gradient = torch.randn(2, law.dim, dtype=torch.float64)
    close(law.displacement(z), law.color(z) - law.loc)
    start = torch.zeros(law.dim, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(law.color(start), start, gradient)
    close(law.gradient_in_z(gradient), expected)
    close(law.displacement(law.gradient_in_z(gradient)), law.covariance_product(gradient))
