"""Rates that nobody gave: within what the features bear, and below what heats or explodes."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from inference.optimizers.cases import drift, kick, retain
from recipes_cases import QUIET, blobs, fresh, source_and_target

from bayesprior.errors import ConfigError
from bayesprior.inference.strength.curvature import largest_curvature
from bayesprior.recipes import fit_map, fit_swag, make_prior, sample
from bayesprior.recipes.rates import DRIFT, heat
from bayesprior.recipes.runs import read_results
from bayesprior.tasks.likelihoods import Categorical
from bayesprior.tasks.objectives import supervised

SHORT = {"num_draws": 2, "chains": 1, "burn_in": 2, "thin": 1, **QUIET}


@pytest.fixture(scope="module")
def task():
    source, target, data = source_and_target()
    return make_prior(source, target, head="head", data=data), target.state_dict(), data


def told(recipe, task, folder, *, prior=None, data=None, **options):
    """Return what the results say of a fit."""
    law, state, few = task
    law, few = law if prior is None else prior, few if data is None else data
    recipe(fresh(state), law, few, out=folder, **options)
    return read_results(folder)["fit"]


def test_without_a_rate_the_posteriors_mode_is_found(task, tmp_path):
    prior, state, data = task
    assert prior.provenance["head_prior"] == "learned"
    module = fresh(state)
    options = {"out": tmp_path, "num_steps": 100, **QUIET}
    fit = fit_map(module, prior, data, **options)
    images = torch.stack([data.train[i][0] for i in range(len(data.train))])

    def potential(weights):
        weights = weights.clone().requires_grad_()
        views = prior.layout.unflatten(weights)
        outputs = torch.func.functional_call(module.eval(), views, (images,))
        loss = torch.nn.functional.cross_entropy(outputs, data.train.targets, reduction="sum")
        total = loss - prior.log_prob(weights, dtype=torch.float64)
        return total, prior.gradient_in_z(torch.autograd.grad(total, weights)[0]).norm()

    start, end = potential(prior.loc), potential(fit.weights)
    assert end[0] < start[0] - 5
    assert end[1] < 0.1 * start[1]


@pytest.mark.parametrize("recipe", [fit_map, fit_swag])
def test_a_descent_has_the_priors_width_for_its_budget(task, tmp_path, recipe):
    steps = {"num_steps": 20} | ({"num_snapshots": 4, "rank": 2} if recipe is fit_swag else {})
    found = told(recipe, task, tmp_path, **steps, **QUIET)
    factors = [(1 + math.cos(math.pi * t / 20)) / 2 for t in range(20)]
    if recipe is fit_swag:  # down to half, then half for 4 times 5 steps
        factors = [0.5 + f / 2 for f in factors] + [0.5] * 20
    assert found["head_lr"] * sum(factors) == pytest.approx(DRIFT)
    assert found["lr"] == pytest.approx(found["head_lr"] * min(1, 2.5 * found["width_borne"]))
    assert found["lr_unit"] == "prior"


def test_a_prior_wider_than_the_features_bear_makes_no_longer_steps(task, tmp_path):
    prior, *_ = task
    lengths = []
    for width in (10.0, 100.0):
        law = prior.rescale(rms_std=width)
        found = told(fit_map, task, tmp_path / f"{width}", prior=law, num_steps=1, **QUIET)
        lengths.append(found["lr"] * width)
    # feature noise is calibrated to a percent of the share
    assert lengths[1] == pytest.approx(lengths[0], rel=0.05)


def test_the_rate_that_is_given_is_taken(task, tmp_path):
    for recipe, options in ((fit_map, {"num_steps": 1}), (sample, SHORT)):
        found = told(recipe, task, tmp_path / recipe.__name__, lr=1e-4, **{**QUIET, **options})
        assert found["lr"] == 1e-4
        assert "lr_unit" not in found
    assert found["friction"] == 0.1
    prior, state, data = task
    for recipe in (fit_map, fit_swag, sample):
        with pytest.raises(ConfigError, match="head_lr goes with lr"):
            recipe(fresh(state), prior, data, head_lr=0.1, **QUIET)


@pytest.mark.parametrize(("sampler", "share"), [("sghmc", 2.0), ("sgld", 0.5)])
def test_a_sampler_takes_a_share_of_the_largest_stable_step(task, tmp_path, sampler, share):
    prior, state, data = task
    found = told(sample, task, tmp_path, sampler=sampler, **SHORT)
    curvature = found["curvature"] + 1 / data.num_data
    assert found["lr"] == pytest.approx(share / curvature)
    if sampler == "sghmc":
        assert found["friction"] == pytest.approx(1 - math.exp(-2 * (found["lr"] / 20) ** 0.5))
    # a mean over draws of the prior: others are alike
    module, losses = fresh(state), []
    for seed in range(20):
        draw = prior.rsample(generator=torch.Generator().manual_seed(seed))
        prior.layout.load_(module, draw)
        for name, buffer in module.named_buffers():
            buffer.copy_(prior.buffers[name])
        batches = list(data.loader("train", 20))
        losses.append(largest_curvature(module, supervised(Categorical()), batches, prior))
    losses = torch.tensor(losses)
    error = float(losses.std()) * math.sqrt(1 / 4 + 1 / 20)
    assert abs(found["curvature"] - float(losses.mean())) < 5 * error


def test_batches_that_are_a_part_of_the_data_make_the_step_smaller(task, tmp_path):
    few = blobs(2, num_data=200, seed=1)
    found = {
        size: told(sample, task, tmp_path / f"{size}", data=few, batch_size=size, **SHORT)
        for size in (0, 10)
    }
    assert found[10]["lr"] < found[0]["lr"] / 10
    for size, one in found.items():
        added = heat(one["lr"], one["friction"], one["curvature"], 100, size or 100)
        assert added <= 0.1


@pytest.mark.parametrize("friction", [None, 0.3])
def test_heat_is_that_of_the_exact_law(friction):
    """Stationary variance with noise in the gradient, by the recursion of each sampler."""
    num_data, batch_size, noise, curvature, lr = 50, 5, 3.0, 2.0, 1e-6
    variance = noise / batch_size * (num_data - batch_size) / (num_data - 1)
    x = lr * curvature
    if friction is None:
        step, sources = np.array([[1 - x]]), [[2 * lr / num_data], [lr**2 * variance]]
        columns = np.sqrt(np.array(sources).T)
    else:
        move = drift(0.5) @ retain(friction) @ drift(0.5)
        renewed = lr / num_data * (1 - (1 - friction) ** 2)
        step = move @ kick(x)
        columns = np.hstack(
            [
                drift(0.5) @ [[0.0], [math.sqrt(renewed)]],
                move @ [[0.0], [lr * math.sqrt(variance)]],
            ]
        )
    covariance = scipy.linalg.solve_discrete_lyapunov(step, columns @ columns.T)
    added = covariance[0, 0] * num_data * curvature - 1
    expected = heat(lr, friction, noise, num_data, batch_size)
    assert added - (x / 2 if friction is None else 0) == pytest.approx(expected, rel=1e-3)
