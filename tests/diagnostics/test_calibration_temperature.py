import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression

from bayesprior.diagnostics.calibration import apply_temperature, fit_temperature
from bayesprior.errors import DataError


def sharpened(rng, temperature, num_points=20_000, num_classes=5):
    """Logits whose softmax(logits / temperature) is the true law of the targets."""
    honest = log_softmax(rng.normal(0, 2, (num_points, num_classes)), axis=1)
    gumbel = rng.gumbel(size=honest.shape)
    return temperature * honest, (honest + gumbel).argmax(1)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_recovers_a_known_temperature(rng, temperature):
    logits, targets = sharpened(rng, temperature)
    honest = logits / temperature
    prob = np.exp(honest)
    # Fisher information of beta = temperature / T at the truth is N E Var_p(honest)
    info = ((prob * honest**2).sum(1) - (prob * honest).sum(1) ** 2).sum()
    beta = temperature / fit_temperature(logits, targets)
    assert abs(beta - 1) * np.sqrt(info) < 5


def test_two_classes_equal_logistic_regression(rng):
    margin = rng.normal(0, 3, 400)
    targets = (rng.random(400) < 1 / (1 + np.exp(-0.4 * margin))).astype(int)
    fit = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10).fit(margin[:, None], targets)
    ours = fit_temperature(np.stack([np.zeros(400), margin], 1), targets)
    assert 1 / ours == pytest.approx(fit.coef_[0, 0], rel=1e-4)


def nll(probs, targets):
    with np.errstate(divide="ignore"):
        return -np.log(probs[np.arange(len(targets)), targets]).mean()


def test_scaling_never_raises_the_nll_and_keeps_the_answers(case):
    probs, targets = case
    with np.errstate(divide="ignore"):
        log_probs = np.log(probs)
    scaled = apply_temperature(log_probs, fit_temperature(log_probs, targets))
    assert nll(scaled, targets) <= nll(probs, targets) + 1e-9
    np.testing.assert_allclose(scaled.sum(1), 1)
    if len(np.unique(probs)) > 3:
        np.testing.assert_array_equal(scaled.argmax(1), probs.argmax(1))


def test_bounds_are_returned_where_there_is_no_optimum():
    logits = np.array([[2.0, 0.0], [0.0, 1.0]])
    assert fit_temperature(logits, np.array([0, 1])) == 0.01
    assert fit_temperature(logits, np.array([1, 0])) == 100.0


def test_nan_is_refused():
    with pytest.raises(DataError, match="NaN"):
        fit_temperature(np.array([[np.nan, 0.0]]), np.array([0]))
