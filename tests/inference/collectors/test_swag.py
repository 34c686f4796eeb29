"""SWAG: NumPy's formula exactly, the right expectation, float32 that keeps its digits."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from bayesprior.errors import ConfigError, LayoutMismatchError
from bayesprior.inference.collectors.swag import SWAG
from bayesprior.inference.protocols import Phase, StepEvent
from bayesprior.testing import check_collector
from bayesprior.weights.layout import ParameterLayout

FALSE_ALARM = 1e-6


def layout_of(dim: int) -> ParameterLayout:
    return ParameterLayout(("w",), ((dim,),))


def collect(snapshots: torch.Tensor, **options) -> SWAG:
    swag = SWAG(**options)
    for weights in snapshots:
        swag.update_weights(weights, layout_of(len(weights)))
    return swag


def numpy_covariance(snapshots: np.ndarray, rank: int) -> np.ndarray:
    """The definition, in float64 and one line each."""
    count = len(snapshots)
    deviations = (snapshots - snapshots.mean(0))[-rank:]
    divisor = rank * (count - 1) / count
    half_factor = deviations.T @ deviations / divisor / 2
    return half_factor + np.diag(snapshots.var(0, ddof=1)) / 2


@pytest.mark.parametrize(("count", "rank"), [(2, 1), (2, 2), (5, 5), (7, 3), (9, 1), (30, 20)])
def test_known_trajectory_gives_numpy_s_moments(count, rank):
    snapshots = torch.randn(count, 6, dtype=torch.float64) @ torch.randn(6, 6).double()
    law = collect(snapshots, rank=rank).posterior()
    torch.testing.assert_close(law.mean, snapshots.mean(0))
    expected = torch.from_numpy(numpy_covariance(snapshots.numpy(), rank))
    torch.testing.assert_close(law.covariance_matrix, expected)
    assert law.rank == min(rank, 6, count - (rank == count))
    assert law.provenance["swag"]["num_snapshots"] == count
    assert law.provenance["swag"]["rank"] == law.rank
    assert law.provenance["swag"]["effective_rank"] == pytest.approx(law.effective_rank)
    assert law.provenance["swag"]["drift_share"] == pytest.approx(law.drift_share)


def test_published_divisor_when_all_snapshots_are_kept():
    snapshots = torch.randn(8, 5, dtype=torch.float64)
    deviations = snapshots - snapshots.mean(0)
    law = collect(snapshots, rank=8).posterior()
    torch.testing.assert_close(law.cov_factor @ law.cov_factor.T, deviations.T @ deviations / 14)


def test_columns_are_orthogonal_and_sorted():
    law = collect(torch.randn(12, 9, dtype=torch.float64), rank=5).posterior()
    gram = law.cov_factor.T @ law.cov_factor
    torch.testing.assert_close(gram, torch.diag(gram.diagonal()))
    assert (gram.diagonal().diff() < 0).all()
    torch.testing.assert_close(law.truncate(2).cov_factor.abs(), law.cov_factor[:, :2].abs())


def test_diagonal_only_is_the_whole_variance():
    snapshots = torch.randn(6, 5, dtype=torch.float64)
    law = collect(snapshots, diagonal_only=True).posterior()
    assert law.rank == 0
    torch.testing.assert_close(law.cov_diag, snapshots.var(0))


@pytest.mark.statistical
@pytest.mark.parametrize(("count", "rank"), [(6, 6), (8, 3)])
def test_expected_covariance_is_half_diagonal_half_full(count, rank):
    """Independent draws from N(m, S): E[Sigma_SWAG] = diag(S) / 2 + S / 2, entry by entry.

    Thousands of independent trajectories are stacked into one layout; each trajectory's block of
    the law is its own SWAG law.
    """
    repeats, dim = 20_000, 3
    root = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0], [-0.5, 0.3, 2.0]], dtype=torch.float64)
    draws = torch.randn(count, repeats, dim, dtype=torch.float64) @ root.T + 3
    law = collect(draws.reshape(count, -1), rank=rank).posterior()
    factor = law.cov_factor.reshape(repeats, dim, -1)
    estimates = factor @ factor.mT + torch.diag_embed(law.cov_diag.reshape(repeats, dim))
    cov = root @ root.T
    expected = (cov + torch.diag(cov.diagonal())) / 2
    error = estimates.std(0) / repeats**0.5
    z = ((estimates.mean(0) - expected) / error)[torch.triu(torch.ones(dim, dim)) > 0]
    assert 2 * stats.norm.sf(z.abs().max().item()) * len(z) > FALSE_ALARM
    mean_error = (law.mean.reshape(repeats, dim).mean(0) - 3) / (
        cov.diagonal() / (repeats * count)
    ).sqrt()
    assert 2 * stats.norm.sf(mean_error.abs().max().item()) * dim > FALSE_ALARM


def test_float32_keeps_the_variance_of_a_small_spread():
    """Weights of size 1, spread 1e-4: where E[x^2] - E[x]^2 loses nearly half of them."""
    snapshots = torch.randn(1, 20_000) + 1e-4 * torch.randn(40, 20_000)
    naive = snapshots.square().mean(0) - snapshots.mean(0).square()
    assert (naive <= 1e-30).double().mean() > 0.3
    law = collect(snapshots, rank=20).posterior()
    wide = snapshots.double()
    relative = (2 * law.cov_diag.double() / wide.var(0) - 1).abs()
    assert relative.max() < 1e-6
    assert (law.mean.double() - wide.mean(0)).abs().max() < 5e-7  # one rounding of weights up to 4
    deviations = wide[-20:] - wide.mean(0)
    exact = torch.linalg.svdvals(deviations) / (2 * 20 * 39 / 40) ** 0.5
    ours = torch.linalg.svdvals(law.cov_factor.double())
    torch.testing.assert_close(ours, exact, rtol=1e-6, atol=0.0)


def test_long_trajectory_far_from_its_start():
    """A drift of a thousand spreads from the first snapshot on costs three digits, not all."""
    steps = torch.linspace(0, 1, 200)[:, None]
    snapshots = torch.randn(2000) + 0.1 * steps + 1e-4 * torch.randn(200, 2000)
    law = collect(snapshots, rank=2).posterior()
    torch.testing.assert_close(
        2 * law.cov_diag.double(), snapshots.double().var(0), rtol=1e-5, atol=0.0
    )
    one_drift = collect(snapshots, rank=100).posterior()
    assert one_drift.drift_share > 0.999
    assert one_drift.provenance["swag"]["effective_rank"] == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_weights_are_collected_in_float32(kind):
    snapshots = torch.randn(5, 7).to(kind)
    law = collect(snapshots, rank=3).posterior()
    assert law.loc.dtype == torch.float32
    torch.testing.assert_close(law.cov_diag, snapshots.float().var(0) / 2)


def test_dead_weights_get_the_floor():
    snapshots = torch.randn(6, 10, dtype=torch.float64)
    snapshots[:, :4] = 1.5
    law = collect(snapshots, rank=2, var_floor=1e-3).posterior()
    floor = 1e-3 * snapshots.var(0).mean().item()
    torch.testing.assert_close(law.cov_diag[:4], torch.full((4,), floor / 2).double())
    assert law.provenance["swag"]["floored_share"] == pytest.approx(0.4)
    assert law.provenance["swag"]["var_floor"] == pytest.approx(floor)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(2, 3)
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x):
        return self.norm(self.body(x))


def test_events_bring_weights_and_the_last_buffers():
    net = Net()
    layout = ParameterLayout.from_module(net)
    swag, seen = SWAG(rank=2), []
    for step in range(4):
        layout.load_(net, torch.randn(layout.dim))
        net(torch.randn(5, 2))
        swag.update(StepEvent(step + 1, Phase(1.0, 1.0, True), net, layout))
        seen.append(layout.flatten(net))
    law = swag.posterior(provenance={"role": "test"})
    torch.testing.assert_close(law.mean, torch.stack(seen).mean(0))
    assert law.layout == layout
    assert torch.equal(law.buffers["norm.running_mean"], net.norm.running_mean)
    assert law.buffers["norm.running_mean"] is not net.norm.running_mean
    assert law.provenance["role"] == "test"
    assert swag.posterior(buffers={}).buffers == {}


def test_posterior_may_be_asked_for_on_the_way():
    snapshots = torch.randn(6, 5, dtype=torch.float64)
    swag = collect(snapshots[:4], rank=2)
    swag.posterior()
    for weights in snapshots[4:]:
        swag.update_weights(weights, layout_of(5))
    whole = collect(snapshots, rank=2).posterior()
    assert torch.equal(swag.posterior().covariance_matrix, whole.covariance_matrix)
    assert torch.equal(swag.posterior().loc, whole.loc)


@pytest.mark.parametrize("options", [{"rank": 1}, {"rank": 5}, {"diagonal_only": True}])
def test_contract(options):
    check_collector(lambda: SWAG(**options), result=lambda s: s.posterior().covariance_matrix)


def test_state_holds_no_row_that_is_not_filled():
    swag = collect(torch.randn(2, 5), rank=4)
    *_, ring = swag.state_dict()["moments"]
    assert ring.shape == (2, 5)
    empty = SWAG(rank=4)
    empty.load_state_dict(SWAG(rank=4).state_dict())
    assert empty.count == 0


def test_loaded_state_is_a_copy():
    snapshots = torch.randn(4, 5)
    swag = collect(snapshots[:3], rank=2)
    twin = SWAG(rank=2)
    twin.load_state_dict(swag.state_dict())
    before = swag.posterior().loc.clone()
    twin.update_weights(snapshots[3], layout_of(5))
    assert torch.equal(swag.posterior().loc, before)


def test_weights_that_require_gradients():
    swag = SWAG(rank=2)
    for _ in range(3):
        swag.update_weights(torch.randn(4, requires_grad=True), layout_of(4))
    assert not swag.posterior().loc.requires_grad


@pytest.mark.parametrize(
    ("snapshots", "options", "message"),
    [
        (torch.ones(0, 3), {"rank": 2}, "at least 2 snapshots and has 0"),
        (torch.ones(1, 3), {"rank": 1}, "at least 2 snapshots and has 1"),
        (torch.randn(3, 3), {"rank": 4}, "rank = 4 is larger than the 3 snapshots"),
        (torch.ones(3, 3), {"rank": 2}, "all snapshots are equal"),
        (torch.tensor([[1.0], [torch.nan], [2.0]]), {"rank": 2}, "NaN or infinite"),
    ],
)
def test_posterior_refuses(snapshots, options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        collect(snapshots, **options).posterior()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank must be at least 1"),
        ({"var_floor": 0.0}, r"var_floor must be in \(0, 1\)"),
        ({"var_floor": 1.0}, r"var_floor must be in \(0, 1\)"),
    ],
)
def test_constructor_refuses(options, message):
    with pytest.raises(ConfigError, match=message):
        SWAG(**options)


def test_state_of_another_rank_or_layout_is_refused():
    swag = collect(torch.randn(2, 3), rank=2)
    with pytest.raises(ConfigError, match="has rank 2, this run asks for 3"):
        SWAG(rank=3).load_state_dict(swag.state_dict())
    with pytest.raises(LayoutMismatchError, match=r"layout changed.*w \(3,\) against \(4,\)"):
        swag.update_weights(torch.randn(4), layout_of(4))
