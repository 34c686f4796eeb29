"""Laws under transforms, tracers and modes; what they ask for first is kept for later."""

import copy
import pickle

import pytest
import torch
from dense import LAYOUT, make_block_case, make_case
from forked import run_code
from torch.distributions import kl_divergence
from torch.utils._python_dispatch import TorchDispatchMode

from bayesprior.errors import ConfigError
from bayesprior.weights.blocks import Block
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout
from bayesprior.weights.lowrank import LowRankCovariance
from bayesprior.weights.rows import RowCovariance

D = LAYOUT.dim
close = torch.testing.assert_close
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")

CALLS = {
    "hessian": lambda f, w: torch.func.hessian(f)(w),
    "grad": lambda f, w: torch.func.grad(f)(w),
    "vmap": lambda f, w: torch.vmap(f)(torch.stack([w, w])),
    "jvp": lambda f, w: torch.func.jvp(f, (w,), (w,))[1],
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", ["low rank", "rows"])
def test_a_transform_leaves_nothing_in_the_caches(kind, call):
    case = make_case("head") if kind == "low rank" else make_block_case("row head")
    law, value = case.law, case.loc + 1
    first = CALLS[call](law.log_prob, value)
    close(CALLS[call](law.log_prob, value), first)
    twin = pickle.loads(pickle.dumps(copy.deepcopy(law)))
    assert torch.equal(twin.log_prob(value), law.log_prob(value))
    close(law.log_prob(value), case.dense.log_prob(value))
    close(kl_divergence(law, law), torch.zeros((), dtype=torch.float64), rtol=0, atol=1e-12)


def test_inference_mode_leaves_nothing_in_the_caches():
    law = make_case("head").law
    width = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    with torch.inference_mode():
        law.log_prob(law.loc), law.variance, law.coordinates(law.loc)
    law.rescale(cov_scale=width).log_prob(law.loc).backward()
    assert torch.isfinite(width.grad)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_jit_trace():
    law, value = make_case("head").law, torch.randn(D, dtype=torch.float64)
    traced = torch.jit.trace(law.log_prob, value)
    close(traced(value + 1), law.log_prob(value + 1))
    copy.deepcopy(law)


COMPILED = """
import torch
from dense import make_block_case, make_case

for law in (make_case("head").law, make_block_case("row head").law):
    value = law.loc.clone().add_(1).requires_grad_()
    compiled = torch.compile(law.log_prob, fullgraph=True, backend="aot_eager")
    log_prob = compiled(value)
    torch.testing.assert_close(log_prob, law.log_prob(value))
    (gradient,) = torch.autograd.grad(log_prob, value)
    torch.testing.assert_close(gradient, law.score(value.detach()))
"""


def test_compile_into_one_graph():
    """In another process: here annotations are checked at run time, which torch cannot trace."""
    done = run_code(COMPILED)
    assert done.returncode == 0, done.stderr


def test_expand_takes_only_what_broadcasts():
    law = make_case("head").law.expand((3, 1))
    assert law.expand((2, 3, 5)).batch_shape == (2, 3, 5)
    for shape in ((2, 1), (3,), (1, 1), (), (-1, 3, 1)):
        with pytest.raises(ConfigError, match=r"batch shape \(3, 1\) does not expand to"):
            law.expand(shape)


def test_kl_divergence_has_the_batch_shape():
    first, second = make_case("head", seed=1), make_case("head", seed=2)
    for p, q in (((3,), ()), ((), (2,)), ((3, 1), (2,))):
        shape = torch.broadcast_shapes(p, q)
        for left in (first.law, first.law.to_pyro()):
            found = kl_divergence(left.expand(p), second.law.expand(q))
            close(found, kl_divergence(first.dense, second.dense).expand(shape))
        found = kl_divergence(first.law.expand(p), second.law.to_pyro().expand(q))
        close(found, kl_divergence(first.dense, second.dense).expand(shape))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits_become_float32(dtype):
    law = GaussianWeights(LAYOUT, torch.ones(D).to(dtype), torch.ones(D).to(dtype))
    assert law.loc.dtype == law.cov_diag.dtype == torch.float32
    point = GaussianWeights.point(LAYOUT, torch.ones(D).to(dtype), 1e-4)
    assert point.rms_std == pytest.approx(1e-4)
    assert point.score(torch.zeros(D)).dtype == torch.float32
    with pytest.raises(ConfigError, match="a law holds float32 or float64"):
        law.to(dtype=dtype)


class Cap(TorchDispatchMode):
    """Fails at any tensor of more than so many elements."""

    def __init__(self, limit):
        super().__init__()
        self.limit = limit

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                held = tensor.untyped_storage().nbytes() // tensor.element_size()
                assert held <= self.limit, f"{func} makes {held} elements"
        return out


def test_no_dense_path_is_taken():
    """Nothing larger than the factor and a few vectors, at a head whose square is far larger."""
    layout = ParameterLayout(("body", "norm", "head"), ((30_000,), (100,), (10, 300)))
    rank, dim = 4, layout.dim
    rows = torch.randn(rank, 30_100) * 0.1
    body = LowRankCovariance(torch.rand(30_100) + 0.5, rows)
    head = RowCovariance(torch.eye(300) + torch.ones(300, 300).tril() * 0.01, 10)
    blocks = [Block(("head",), head, new=True), Block(("norm", "body"), body)]
    law = GaussianWeights.from_blocks(layout, torch.zeros(dim), blocks)
    other = GaussianWeights(layout, torch.ones(dim), torch.ones(dim), torch.ones(dim, 2) * 0.1)
    limit = 4 * rank * dim
    assert limit < 3000**2  # the head's own square
    value = law.sample()
    with Cap(limit):
        law = law.rescale(rms_std=0.3).rescale(cov_scale=2.0, select="norm")
        value = law.sample()
        law.score(value), law.score_and_log_prob(value), law.mahalanobis(value)
        law.coordinates(value), law.entropy(), law.max_precision(), law.variance
        law.covariance_product(value), law.whiten(law.color(value)), law.block_rms_std()
        kl_divergence(law, other), kl_divergence(other, law), kl_divergence(law, law.diagonal())
        law.marginal(["norm", "head"]).reorder(layout.select(["norm", "head"])).log_prob(
            value[-3100:]
        )
        law.jitter(0.1), law.isotropic(), law.truncate(1), repr(law), law.effective_rank
        leaf = value.clone().requires_grad_()
        law.log_prob(leaf).backward()


def test_dense_forms_are_refused_above_a_size():
    layout = ParameterLayout(("body", "head"), ((20_000,), (100, 200)))
    blocks = [
        Block(("body",), LowRankCovariance(torch.ones(20_000))),
        Block(("head",), RowCovariance(torch.eye(200), 100)),
    ]
    law = GaussianWeights.from_blocks(layout, torch.zeros(40_000), blocks)
    for name in ("cov_factor", "covariance_matrix", "precision_matrix", "scale_tril"):
        with pytest.raises(ConfigError, match=r"GiB; take .* marginal\(names\)\.to_pyro\(\)"):
            getattr(law, name)
    with pytest.raises(ConfigError, match=r"cov_factor of D = 40000 weights has 20000 columns"):
        law.to_pyro()
    assert law.marginal(["body"]).to_pyro().event_shape == (20_000,)
