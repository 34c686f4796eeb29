"""The pool's moments against those of the mixture, dense and in float64."""

import pytest
import torch
from dense import BLOCK_LAYOUT, LAYOUT, covariance_of, make_block_case, make_case

from bayesprior.errors import ConfigError, LayoutMismatchError
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout
from bayesprior.weights.pooling import pool

CASES = ["all shared", "wide"]


def mixture_moments(cases, shares):
    """Mean and covariance of the mixture: E x x^T less the mean's outer product."""
    mean = sum(s * case.loc for case, s in zip(cases, shares, strict=True))
    second = sum(
        s * (case.cov + torch.outer(case.loc, case.loc))
        for case, s in zip(cases, shares, strict=True)
    )
    return mean, second - torch.outer(mean, mean)


def sources(dtype=torch.float64):
    return [make_case(kind, dtype, seed=i) for i, kind in enumerate((*CASES, "all shared"))]


@pytest.mark.parametrize("weights", [None, [1, 2, 5]])
def test_moments_are_the_mixture_s(weights):
    cases = sources()
    shares = torch.tensor([1.0, 1.0, 1.0] if weights is None else weights).double()
    mean, covariance = mixture_moments(cases, shares / shares.sum())
    pooled = pool([case.law for case in cases], weights)
    torch.testing.assert_close(pooled.loc, mean)
    torch.testing.assert_close(covariance_of(pooled), covariance)
    assert pooled.rank == sum(case.law.rank for case in cases) + 2
    assert pooled.shared_dim == LAYOUT.dim
    assert pooled.provenance["pooled_shares"] == (shares / shares.sum()).tolist()


def test_blocks_and_widths_inside_them_are_joined():
    """Two towers, then widths inside a block: the means' spread couples what was independent."""
    cases = [make_block_case("two towers"), make_block_case("two towers")]
    third = make_block_case("widths inside")
    shared = [n for n in BLOCK_LAYOUT.names if n not in third.law.new_names]
    at = torch.cat([torch.arange(BLOCK_LAYOUT.dim)[BLOCK_LAYOUT.slice(n)] for n in shared])
    cases = [c._replace(loc=c.loc[at], cov=c.cov[at][:, at]) for c in (*cases, third)]
    laws = [case.law.marginal(shared) for case in cases]
    mean, covariance = mixture_moments(cases, [1 / 3] * 3)
    pooled = pool(laws)
    torch.testing.assert_close(pooled.loc, mean)
    torch.testing.assert_close(covariance_of(pooled), covariance)


def test_single_precision_and_the_order_of_the_layout():
    cases = sources(torch.float32)
    mean, covariance = mixture_moments(cases, [1 / 3] * 3)
    turned = ParameterLayout(LAYOUT.names[::-1], LAYOUT.shapes[::-1])
    laws = [cases[0].law, cases[1].law.reorder(turned), cases[2].law.to(dtype=torch.float64)]
    pooled = pool(laws)
    assert (pooled.layout, pooled.loc.dtype) == (LAYOUT, torch.float32)
    torch.testing.assert_close(pooled.loc, mean.float())
    torch.testing.assert_close(covariance_of(pooled).float(), covariance.float())


def test_equal_means_add_no_direction_and_one_law_is_itself():
    law = make_case("all shared").law
    assert pool([law, law.rescale(cov_scale=2.0)]).rank == 2 * law.rank
    alone = pool([law])
    torch.testing.assert_close(covariance_of(alone), covariance_of(law))
    assert torch.equal(alone.loc, law.loc)


def test_buffers_have_the_mixture_s_moments():
    layout = ParameterLayout(("w",), ((1,),))
    means, variances = torch.tensor([1.0, 4.0]), torch.tensor([0.5, 2.0])
    laws = []
    for i, (mean, variance) in enumerate(zip(means, variances, strict=True)):
        buffers = {"n.running_mean": mean[None], "n.running_var": variance[None]}
        buffers |= {"n.num_batches_tracked": torch.tensor(7 + i), f"own.{i}": torch.ones(1)}
        laws.append(GaussianWeights.point(layout, torch.zeros(1), 1.0, buffers=buffers))
    pooled = pool(laws, [1, 3]).buffers
    assert sorted(pooled) == ["n.num_batches_tracked", "n.running_mean", "n.running_var"]
    mean = (means * torch.tensor([0.25, 0.75])).sum()
    second = ((variances + means.square()) * torch.tensor([0.25, 0.75])).sum()
    torch.testing.assert_close(pooled["n.running_mean"], mean[None])
    torch.testing.assert_close(pooled["n.running_var"], (second - mean.square())[None])
    assert pooled["n.num_batches_tracked"] == 7


def test_one_source_per_tower():
    """Blocks of two sources side by side: each tower keeps its own law."""
    image, text = (make_case("all shared", seed=i) for i in (0, 1))
    towers = [
        case.law.rename(lambda n, name=name: f"{name}.{n}")
        for name, case in (("image", image), ("text", text))
    ]
    names = [name for law in towers for name in law.layout.names]
    layout = ParameterLayout(tuple(names), (*LAYOUT.shapes, *LAYOUT.shapes))
    both = GaussianWeights.from_blocks(
        layout, torch.cat([law.loc for law in towers]), [b for law in towers for b in law.blocks]
    )
    torch.testing.assert_close(covariance_of(both), torch.block_diag(image.cov, text.cov))
    wide = both.rescale(cov_scale=4.0, select="text")
    torch.testing.assert_close(covariance_of(wide), torch.block_diag(image.cov, 4 * text.cov))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda law: pool([]), ConfigError, r"pool takes laws, .*; got 0 laws$"),
        (lambda law: pool([law], [1, 2]), ConfigError, r"got 1 laws and 2 weights$"),
        (lambda law: pool([law], [0]), ConfigError, r"weights\[0\] must be a positive number"),
        (lambda law: pool("a.safetensors"), ConfigError, r"got the text 'a.*; load them with"),
        (
            lambda law: pool([law, "b"]),
            ConfigError,
            r"laws must be a list of GaussianWeights, got list",
        ),
        (
            lambda law: pool([law, law.rename({"conv.bias": "conv.shift"})]),
            LayoutMismatchError,
            r"laws\[0\] and laws\[1\] are of different weights \(.*conv\.bias.*\); rename\(\)",
        ),
        (
            lambda law: pool([law, make_case("head").law]),
            ConfigError,
            r"laws\[1\]: head\.weight is new; pool the sources, without a head, and give the pool",
        ),
    ],
)
def test_what_cannot_be_pooled_is_one_line(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call(make_case("all shared").law)
    assert "\n" not in str(caught.value)


def test_row_covariances_are_refused():
    law = make_block_case("rows only learned").law
    with pytest.raises(ConfigError, match=r"laws\[0\]: head\.weight has a covariance of rows"):
        pool([law])
