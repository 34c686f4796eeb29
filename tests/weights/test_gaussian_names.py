"""Names and parts of `GaussianWeights`: marginal, extend, rename, point, and what is carried."""

import math

import pytest
import torch
from dense import LAYOUT, SHAPES, covariance_of, make_case
from hypothesis import given, settings
from hypothesis import strategies as st

from bayesprior.errors import ConfigError, LayoutMismatchError
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout

D = LAYOUT.dim
close = torch.testing.assert_close
positive = st.floats(1e-3, 1e3)
kinds = st.sampled_from(sorted(SHAPES))
subsets = st.sets(st.sampled_from(LAYOUT.names))


@pytest.fixture(params=SHAPES)
def case(request):
    return make_case(request.param, buffers={"bn.mean": torch.ones(2)}, provenance={"a": 1})


def same(first: GaussianWeights, second: GaussianWeights) -> None:
    assert first.layout == second.layout
    close(first.loc, second.loc)
    close(covariance_of(first), covariance_of(second))


@settings(max_examples=40)
@given(kind=kinds, names=subsets)
def test_marginal_is_a_block_of_the_covariance(kind, names):
    law, loc, cov = make_case(kind)
    part = law.marginal(names)
    kept = [i for n in LAYOUT.names if n in names for i in range(D)[LAYOUT.slice(n)]]
    assert part.layout == LAYOUT.select(names)
    close(part.loc, loc[kept])
    close(covariance_of(part), cov[kept][:, kept])
    if names:
        dense = torch.distributions.MultivariateNormal(loc[kept], cov[kept][:, kept])
        value = torch.randn(2, len(kept), dtype=torch.float64)
        close(part.log_prob(value), dense.log_prob(value))


@settings(max_examples=40)
@given(kind=kinds, order=st.permutations([*LAYOUT.names, "new.weight", "new.bias"]))
def test_marginal_undoes_extend(kind, order):
    law = make_case(kind).law
    shapes = dict(zip(LAYOUT.names, LAYOUT.shapes, strict=True))
    shapes |= {"new.weight": (2, 1), "new.bias": ()}
    full = law.extend(ParameterLayout(tuple(order), tuple(shapes[n] for n in order)), std=3.0)
    new = [n for n in order if n.startswith("new")]
    assert full.layout.names == (*LAYOUT.names, *new)
    assert (full.dim, full.shared_dim) == (D + 3, law.shared_dim)
    close(full.variance[D:], torch.full((3,), 9.0, dtype=torch.float64))
    close(covariance_of(full)[:D, D:], torch.zeros(D, 3, dtype=torch.float64))
    same(full.marginal(LAYOUT.names), law)
    same(full.rescale(cov_scale=2.0).marginal(LAYOUT.names), law.rescale(cov_scale=2.0))


def test_extend_keeps_what_is_there_and_names_what_is_not():
    law = make_case("head").law
    assert law.extend(LAYOUT, std=1.0).layout == LAYOUT
    wrong = ParameterLayout(("conv.weigth", *LAYOUT.names[1:]), LAYOUT.shapes)
    with pytest.raises(LayoutMismatchError, match=r"conv\.weight; did you mean 'conv\.weigth'\?"):
        law.extend(wrong, std=1.0)
    other = ParameterLayout(LAYOUT.names, ((2, 2), (1,), (4,)))
    with pytest.raises(LayoutMismatchError, match=r"head\.weight \(3,\) against \(4,\)"):
        law.extend(other, std=1.0)
    with pytest.raises(ConfigError, match="std must be a positive number, got 0"):
        law.extend(LAYOUT, std=0)


def test_rename(case):
    renamed = case.law.rename(lambda name: f"backbone.{name}")
    assert renamed.layout.names[0] == "backbone.conv.weight"
    assert list(renamed.buffers) == ["backbone.bn.mean"]
    close(covariance_of(renamed), case.cov)
    by_table = case.law.rename({"head.weight": "fc.weight"})
    assert by_table.layout.names == ("conv.weight", "conv.bias", "fc.weight")
    with pytest.raises(LayoutMismatchError, match="did you mean 'head.weight'"):
        case.law.rename({"heads.weight": "fc.weight"})
    with pytest.raises(LayoutMismatchError, match="'conv.weight' occurs twice"):
        case.law.rename({"head.weight": "conv.weight"})


def test_marginal_drops_the_buffers_of_modules_that_are_gone():
    names = ("bn.weight", "head.fc.weight", "steps.w")
    layout = ParameterLayout(names, ((2,), (3,), (1,)))
    buffers = {"bn.mean": 1, "head.bn.mean": 2, "head.fc.mask": 3, "count": 4, "free.mean": 5}
    tensors = {name: torch.tensor(float(i)) for name, i in buffers.items()}
    law = GaussianWeights(layout, torch.zeros(6), torch.ones(6), buffers=tensors)
    part = law.marginal(["bn.weight"])
    assert list(part.buffers) == ["bn.mean", "count", "free.mean"]
    assert list(law.marginal(names).buffers) == list(buffers)
    assert list(law.marginal(names[1:]).buffers) == list(buffers)[1:]


def test_effective_rank_and_drift_share(case):
    values = torch.linalg.svdvals(case.law.cov_factor) ** 2
    if case.law.rank and case.law.shared_dim:
        shares = values / values.sum()
        assert case.law.effective_rank == pytest.approx(float(1 / (shares**2).sum()))
        assert case.law.drift_share == pytest.approx(float(shares.max()))
    else:
        assert case.law.effective_rank == case.law.drift_share == 0
    drift = GaussianWeights(LAYOUT, case.loc, case.loc**2 + 1, torch.ones(D, 3).double())
    assert drift.drift_share == pytest.approx(1)
    assert drift.effective_rank == pytest.approx(1)


def test_block_rms_std(case):
    variance = case.cov.diagonal()
    expected = {n: variance[LAYOUT.slice(n)].mean().sqrt().item() for n in LAYOUT.names}
    assert case.law.block_rms_std() == pytest.approx(expected)


def test_point():
    law = GaussianWeights.point(LAYOUT, torch.ones(D), 0.5, provenance={"source": "x"})
    assert (law.rank, law.shared_dim, law.provenance) == (0, D, {"source": "x"})
    assert law.rms_std == pytest.approx(0.5)
    close(covariance_of(law), 0.25 * torch.eye(D).double())
    log_prob = -0.5 * D * math.log(2 * math.pi * 0.25)
    assert law.log_prob(torch.ones(D)).item() == pytest.approx(log_prob)
    learned = torch.ones(D, requires_grad=True)
    GaussianWeights.point(LAYOUT, learned, 0.5).log_prob(torch.zeros(D)).backward()
    close(learned.grad, torch.full((D,), -4.0))


def test_results_carry_buffers_and_provenance(case):
    results = [
        case.law.rescale(cov_scale=2.0),
        case.law.marginal(LAYOUT.names[:2]),
        case.law.extend(LAYOUT, std=1.0),
        case.law.isotropic(),
        case.law.truncate(0),
    ]
    for law in results:
        assert law.provenance == {"a": 1}
        assert list(law.buffers) == ["bn.mean"]


def test_results_inherit_nothing_that_torch_cached(case):
    case.law.covariance_matrix  # noqa: B018 - torch keeps it
    doubled = case.law.rescale(cov_scale=2.0)
    close(doubled.covariance_matrix, covariance_of(doubled))
    first = case.law.marginal(LAYOUT.names[:1])
    close(first.covariance_matrix, case.cov[:4, :4])
