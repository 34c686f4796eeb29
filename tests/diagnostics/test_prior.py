import numpy as np
import pytest
import torch
from scipy.stats import binomtest, chi2, norm

from bayesprior.diagnostics.prior import (
    diagnose,
    direction_check,
    directions,
    joint_limit,
    mahalanobis_checks,
    prior_summary,
    sensitivities,
)
from bayesprior.errors import DataError
from bayesprior.inference.protocols import Draw
from bayesprior.prediction.results import Prediction
from bayesprior.report.verdicts import width_verdict
from bayesprior.tree.build import to_datatree
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout


class Regression:
    """Linear regression with known noise: prior, data and the exact posterior."""

    def __init__(self, shift=0.0, num_data=40, dim=6, seed=0):
        g = torch.Generator().manual_seed(seed)
        layout = ParameterLayout(("a", "b"), ((2,), (dim - 2,)))
        factor = torch.randn(dim, 2, generator=g, dtype=torch.float64)
        diag = torch.full((dim,), 0.3, dtype=torch.float64)
        truth = torch.zeros(dim, dtype=torch.float64)
        direction = factor[:, 0] / factor[:, 0].norm()
        self.prior = GaussianWeights(layout, truth + shift * direction, diag, factor)
        self.x = torch.randn(num_data, dim, generator=g, dtype=torch.float64)
        self.y = self.x @ truth + torch.randn(num_data, generator=g, dtype=torch.float64)
        precision = torch.linalg.inv(torch.diag(diag) + factor @ factor.T)
        self.cov = torch.linalg.inv(precision + self.x.T @ self.x)
        self.mean = self.cov @ (precision @ self.prior.loc + self.x.T @ self.y)
        self.generator = g

    def tree(self, num_draws=1000, widen=1.0):
        noise = torch.randn(num_draws, 6, generator=self.generator, dtype=torch.float64)
        weights = self.mean + widen * noise @ torch.linalg.cholesky(self.cov).T
        residual = self.y - weights @ self.x.T
        scores = -0.5 * (residual**2 + np.log(2 * np.pi))
        zeros = torch.zeros(len(self.y), dtype=torch.float64)
        train = Prediction(
            mean_probs=None,
            log_likelihood=scores,
            predictive_entropy=zeros,
            expected_entropy=zeros,
            mutual_information=zeros,
            targets=self.y[:, None],
            chain=torch.arange(num_draws) // (num_draws // 4),
            draw=torch.arange(num_draws) % (num_draws // 4),
            metrics={},
            mean=zeros[:, None],
            variance=zeros[:, None] + 1,
        )
        draws = (
            Draw(int(c), int(i), w)
            for c, i, w in zip(train.chain, train.draw, weights, strict=True)
        )
        return to_datatree(prior=self.prior, draws=draws, train=train, mode="summary")


def diagnoses(tree):
    found = directions(tree), sensitivities(tree)
    return set(diagnose(*found, threshold=0.05, surprise=3.0).values())


@pytest.mark.statistical
def test_psense_flags_a_prior_that_was_moved_away_and_not_one_that_fits():
    """A weak prior, then the same prior moved 15 of its widths away from the truth."""
    assert diagnoses(Regression().tree()) == {"ok"}
    assert "conflict" in diagnoses(Regression(shift=30.0).tree())


def high_dimensional(shift, dim=20_000, num_data=15, num_draws=400, seed=1):
    """Exact posterior draws of a linear regression with a low-rank prior over 20,000 weights.

    The data speak of the prior's own directions; their truth is a draw of the prior, moved by
    ``shift`` of its standard deviations along each.
    """
    g = torch.Generator().manual_seed(seed)
    options = {"generator": g, "dtype": torch.float64}
    layout = ParameterLayout(("w",), ((dim,),))
    factor = torch.randn(dim, 3, **options)
    prior = GaussianWeights(layout, torch.zeros(dim).double(), torch.ones(dim).double(), factor)
    x = (
        torch.randn(num_data, 3, **options) @ factor.T / dim
        + torch.randn(num_data, dim, **options) / dim
    )
    sigma_x = x.T + factor @ (factor.T @ x.T)  # covariance times x.T
    truth = factor @ (torch.randn(3, **options) + shift)
    y = x @ truth + 0.3 * torch.randn(num_data, **options)
    gram = x @ sigma_x + 0.09 * torch.eye(num_data, dtype=torch.float64)
    noise = torch.randn(num_draws, dim, **options) + torch.randn(num_draws, 3, **options) @ factor.T
    miss = y - noise @ x.T - 0.3 * torch.randn(num_draws, num_data, **options)
    weights = noise + torch.linalg.solve(gram, miss.T).T @ sigma_x.T  # Matheron's rule
    scores = -0.5 * ((y - weights @ x.T) / 0.3) ** 2
    chain, draw = np.divmod(np.arange(num_draws), num_draws // 4)
    zeros = torch.zeros(num_data, dtype=torch.float64)
    train = Prediction(
        mean_probs=None,
        log_likelihood=scores,
        predictive_entropy=zeros,
        expected_entropy=zeros,
        mutual_information=zeros,
        targets=y[:, None],
        chain=torch.from_numpy(chain),
        draw=torch.from_numpy(draw),
        metrics={},
        mean=zeros[:, None],
        variance=zeros[:, None] + 1,
    )
    draws = [Draw(int(c), int(i), w) for c, i, w in zip(chain, draw, weights, strict=True)]
    return to_datatree(prior=prior, draws=draws, train=train, mode="summary", num_prior_draws=2)


@pytest.mark.statistical
def test_psense_tells_a_fitting_prior_from_a_conflict_among_20_000_weights():
    """Scaling the whole log density would find noise of about 1.5 in every direction."""
    tree = high_dimensional(0.0)
    assert float(tree["sample_stats"].log_prior.std()) > 80
    assert "conflict" not in diagnoses(tree)
    check = direction_check(tree)
    assert check.mean < check.high
    moved = high_dimensional(6.0)
    assert "conflict" in diagnoses(moved)
    assert direction_check(moved).mean > check.high


def test_psense_of_what_the_data_do_not_see_stays_at_its_floor():
    """Draws of the prior itself: the likelihood of unrelated noise moves no direction."""
    run = Regression()
    tree = run.tree()
    rng = np.random.default_rng(0)
    tree["posterior"].prior_coordinate.values[:] = rng.normal(size=(4, 250, 2))
    for s in sensitivities(tree):
        assert s.prior > max(0.05, s.prior_floor)
        assert s.likelihood < 3 * s.likelihood_floor
        assert s.likelihood_floor > 0


@pytest.mark.parametrize(
    ("attrs", "message"),
    [({"independent_draws": 1}, "fitted Gaussian"), ({"temperature": 0.1}, "temperature 0.1")],
)
def test_psense_is_refused_for_what_are_no_posterior_draws(attrs, message):
    tree = Regression().tree()
    tree.attrs |= attrs
    with pytest.raises(DataError, match=message):
        sensitivities(tree)


@pytest.mark.statistical
def test_psense_calls_a_prior_without_data_prior_driven():
    run = Regression(num_data=1)
    run.x *= 1e-3
    run.y = run.x[:, 0] + 1.0
    precision = torch.linalg.inv(torch.as_tensor(run.prior.covariance_matrix))
    run.cov = torch.linalg.inv(precision + run.x.T @ run.x)
    run.mean = run.cov @ (precision @ run.prior.loc + run.x.T @ run.y)
    assert diagnoses(run.tree()) == {"prior-driven"}


def test_mahalanobis_of_prior_draws_lies_in_its_range():
    run = Regression()
    draws = list(run.prior.draws(300, seed=2))
    checks = mahalanobis_checks(to_datatree(prior=run.prior, draws=draws))
    assert [c.name for c in checks] == ["all weights", "a", "b"]
    assert [c.dim for c in checks] == [6, 2, 4]
    for check in checks:
        assert (check.low, check.high) == tuple(chi2.ppf([0.025, 0.975], check.dim))
        z = (check.mean - check.dim) / np.sqrt(2 * check.dim / 300)
        assert abs(z) < 5
    cold = mahalanobis_checks(to_datatree(prior=run.prior, draws=draws), temperature=0.5)
    assert cold[0].high == checks[0].high / 2
    own = direction_check(to_datatree(prior=run.prior, draws=draws))
    assert abs(own.mean - 2) / np.sqrt(2 * 2 / 300) < 5
    assert (own.low, own.high) == tuple(chi2.ppf([0.025, 0.975], 2))


@pytest.mark.statistical
def test_contraction_equals_the_closed_form():
    run = Regression()
    found = directions(run.tree(num_draws=4000))
    coordinates = run.prior.coordinates(run.mean)
    basis = run.prior.coordinates(torch.eye(6, dtype=torch.float64) + run.prior.loc)
    exact = (basis.T @ run.cov @ basis).diagonal().tolist()
    for direction, mean, variance in zip(found, coordinates.tolist(), exact, strict=True):
        assert abs(direction.mean - mean) / np.sqrt(variance / 4000) < 5
        # a sample variance of n normal draws has relative standard error sqrt(2 / n)
        assert abs(direction.std**2 / variance - 1) < 5 * np.sqrt(2 / 4000)
        assert direction.contraction == pytest.approx(1 - direction.std**2)


def test_one_draw_has_no_spread():
    run = Regression()
    tree = to_datatree(prior=run.prior, draws=[Draw(0, 0, run.mean)])
    assert np.isnan([[d.std, d.surprise] for d in directions(tree)]).all()


def test_summary_gives_the_equivalent_weight_decay():
    run = Regression()
    run.prior.provenance["jitter_share"] = 0.1
    tree = to_datatree(prior=run.prior, draws=run.prior.draws(2), attrs={"num_data": 50})
    first = prior_summary(tree)[0]
    variance = run.prior.variance[:2].mean()
    assert (first["name"], first["size"]) == ("a", 2)
    assert first["weight_decay"] == pytest.approx(float(1 / (50 * variance)))
    shape = tree["constant_data"].attrs
    assert (shape["jitter_share"], shape["rank"]) == (0.1, 2)
    assert shape["effective_rank"] == pytest.approx(run.prior.effective_rank)


def test_missing_groups_and_too_few_draws_are_named(run):
    tree = run.tree()
    with pytest.raises(DataError, match="at least 50 draws"):
        sensitivities(tree)
    del tree["log_likelihood"]
    with pytest.raises(DataError, match="lacks log_likelihood"):
        sensitivities(tree)
    del tree["posterior"]
    with pytest.raises(DataError, match="lacks posterior/mahalanobis"):
        mahalanobis_checks(tree)
    with pytest.raises(DataError, match="num_data"):
        prior_summary(tree)


def test_an_isotropic_prior_has_no_directions_but_is_still_judged():
    run = Regression()
    run.prior = run.prior.isotropic()
    tree = run.tree()
    for function in (directions, sensitivities, direction_check):
        with pytest.raises(DataError, match="lacks posterior/prior_coordinate"):
            function(tree)
    assert len(mahalanobis_checks(tree)) == 3


@pytest.mark.parametrize("num_data", [1, 3])
@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_few_data_leave_the_posterior_as_wide_as_the_stated_bound(num_data, temperature):
    """Exact posteriors keep it at every temperature; draws of half the width break it."""
    run = Regression(num_data=num_data)
    for widen, level in ((1.0, "ok"), (0.4, "warn")):
        tree = run.tree(widen=widen * np.sqrt(temperature))
        total = mahalanobis_checks(tree, temperature=temperature)[0]
        verdict = width_verdict(total, num_data, temperature=temperature)
        assert verdict.level == level


@pytest.mark.parametrize("num", [1, 5, 20, 1000])
@pytest.mark.parametrize("limit", [0.5, 3.0, 6.0])
def test_the_joint_limit_is_exceeded_as_rarely_as_the_one(limit, num):
    beyond = 2 * norm.sf(joint_limit(limit, num))
    assert 1 - (1 - beyond) ** num == pytest.approx(2 * norm.sf(limit), rel=1e-5)


@pytest.mark.statistical
@pytest.mark.parametrize("temperature", [1.0, 0.2])
def test_the_reach_of_the_data_holds_in_39_of_40_cases(temperature):
    """Of a truth 2 prior standard deviations out, known to 0.5 by the data alone."""
    rng = np.random.default_rng(0)
    run, below = Regression(), 0
    tree = to_datatree(prior=run.prior, draws=list(run.prior.draws(60)))
    for _ in range(300):
        alone = 2 + 0.5 * rng.normal(size=2)
        noise = np.sqrt(0.2 * temperature) * rng.normal(size=(1, 60, 2))
        tree["posterior"].prior_coordinate.values[:] = 0.8 * alone + noise
        found = directions(tree, temperature=temperature)
        below += found[0].reach < 2
    assert found[0].contraction == pytest.approx(1 - found[0].std ** 2 / temperature)
    assert binomtest(below, 300, 0.025, "greater").pvalue > 1e-5
    assert below > 0
