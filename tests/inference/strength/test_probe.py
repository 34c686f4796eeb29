import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from bayesprior.errors import DataError
from bayesprior.inference.strength.features import stratified_folds
from bayesprior.inference.strength.probe import fit_probe


def test_the_probe_is_scikit_learns_at_the_penalty_that_wins_out_of_fold():
    from sklearn.linear_model import LogisticRegression

    labels = torch.arange(45) % 3
    features = 10 * (torch.randn(45, 6) + 1.5 * torch.randn(3, 6)[labels])
    penalties = (100.0, 3.0, 0.1)
    probe = fit_probe(features, labels, 3, penalties=penalties, num_folds=3)
    size = float(features.double().std(0).mean())
    x, y = (features.double() / size).numpy(), labels.numpy()
    folds = stratified_folds(labels, 3).numpy()
    losses = []
    for penalty in penalties:
        logits = np.zeros((45, 3))
        for fold in range(3):
            out = folds == fold
            fit = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=10_000).fit(
                x[~out], y[~out]
            )
            logits[out] = fit.decision_function(x[out])
        losses.append(float(F.cross_entropy(torch.tensor(logits), labels)))
    assert probe.penalty == penalties[int(np.argmin(losses))]
    held_out = float(F.cross_entropy(probe.held_out, labels))
    assert held_out == pytest.approx(min(losses), rel=1e-5)
    assert probe.nll <= held_out + 1e-9
    fit = LogisticRegression(C=1 / probe.penalty, tol=1e-10, max_iter=10_000).fit(x, y)
    np.testing.assert_allclose(probe.weight * size, fit.coef_, atol=1e-5)
    assert probe.confidence > 0


def test_one_image_a_class_still_has_a_probe():
    features = torch.randn(4, 3)
    probe = fit_probe(features, torch.arange(4), 4)
    assert probe.held_out.shape == (4, 4)
    assert math.isfinite(probe.nll)


def test_nothing_to_fit_on_is_refused():
    with pytest.raises(DataError, match="two examples"):
        fit_probe(torch.randn(1, 3), torch.zeros(1).long(), 2)
    with pytest.raises(DataError, match="do not vary"):
        fit_probe(torch.ones(5, 3), torch.zeros(5).long(), 2)
