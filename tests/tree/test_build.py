import dataclasses
import json

import numpy as np
import pytest
import torch
import xarray as xr

from bayesprior.diagnostics.predictions import Outcome, scores
from bayesprior.diagnostics.prior import direction_check, directions, mahalanobis_checks
from bayesprior.errors import ConfigError, DataError
from bayesprior.inference.collectors.memory import DrawsInMemory
from bayesprior.inference.posteriors import PointPosterior
from bayesprior.prediction.predict import predict
from bayesprior.tasks.likelihoods import Categorical, Normal
from bayesprior.tasks.pixels import PixelCategorical
from bayesprior.tree.build import to_datatree, to_prediction
from bayesprior.tree.files import load_tree, save_tree


@pytest.fixture
def tree(run):
    return run.tree()


def test_groups_and_dims_follow_arvizs_schema(run, tree):
    assert set(tree.children) == {
        "posterior",
        "prior",
        "log_prior",
        "constant_data",
        "log_likelihood",
        "observed_data",
        "posterior_predictive",
        "sample_stats",
        "predictions",
        "predictions_rotated",
        "predictions_noise",
        "trace",
    }
    for group in ("posterior", "log_prior", "log_likelihood", "posterior_predictive"):
        for variable in tree[group].data_vars.values():
            assert variable.dims[:2] == ("chain", "draw"), (group, variable.name)
    assert tree.attrs["inference_library"] == "bayesprior"
    assert tree["posterior"].attrs["creation_library"] == "ArviZ"
    assert list(tree["predictions"].class_name.values) == list(run.class_names)
    assert list(tree["posterior"].block.values) == list(run.prior.layout.names)


def test_values_are_the_priors_own(run, tree):
    posterior = tree["posterior"].dataset
    for chain, draw in ((0, 0), (1, 3)):
        weights = run.posterior.weights[chain, draw]
        at = posterior.isel(chain=chain, draw=draw)
        np.testing.assert_allclose(at.prior_coordinate, run.prior.coordinates(weights))
        assert float(at.mahalanobis) == pytest.approx(float(run.prior.mahalanobis(weights)))
        log_prior = tree["log_prior"].weights[chain, draw]
        assert float(log_prior) == pytest.approx(
            float(run.prior.log_prob(weights, dtype=torch.float64))
        )
        marginal = run.prior.marginal(["bias"]).mahalanobis(
            run.prior.layout.unflatten(weights)["bias"]
        )
        assert float(at.block_mahalanobis.sel(block="bias")) == pytest.approx(float(marginal))
        assert float(at.weight_norm.sel(block="bias")) == pytest.approx(
            float(run.prior.layout.unflatten(weights)["bias"].norm())
        )
    stats = tree["sample_stats"]
    total = tree["log_likelihood"].y.sum("train_point") + tree["log_prior"].weights
    np.testing.assert_allclose(stats.lp, total)


def test_the_prior_group_follows_its_known_law(run):
    tree = run.tree(num_prior_draws=200)
    z = tree["prior"].prior_coordinate.values.reshape(-1)
    assert abs(z.mean()) * np.sqrt(z.size) < 5
    q = tree["prior"].mahalanobis.values
    dim = run.prior.dim
    assert abs(q.mean() - dim) / np.sqrt(2 * dim / q.size) < 5


def test_test_sets_are_scored_alike_from_tree_and_prediction(run, tree):
    for name, group in (("test", "predictions"), ("rotated", "predictions_rotated")):
        direct = scores(Outcome.from_prediction(name, run.predictions[name]))
        assert scores(Outcome.from_group(tree, group)) == pytest.approx(direct)
    assert tree["predictions_noise"].attrs["kind"] == "ood"
    assert Outcome.from_group(tree, "predictions_noise").targets is None


def test_draws_carry_their_share_of_a_mixture(run):
    draws = [dataclasses.replace(d, weight=1.0 + d.chain) for d in run.posterior.draws()]
    shares = to_datatree(prior=run.prior, draws=draws)["sample_stats"].mixture_weight
    np.testing.assert_allclose(shares, [[1 / 12] * 4, [2 / 12] * 4])


def test_sampled_labels_follow_the_averaged_probabilities(run):
    tree = run.tree(chains=1, draws=200)
    labels = tree["posterior_predictive"].y.values.reshape(-1, 30)
    frequency = (labels[..., None] == np.arange(4)).mean(0)
    probs = run.predictions["train"].mean_probs.numpy()
    z = (frequency - probs) / np.sqrt(probs * (1 - probs) / len(labels) + 1e-12)
    assert np.abs(z).max() < 6


def test_a_map_estimate_is_one_chain_of_one_draw(run):
    tree = run.tree(chains=1, draws=1)
    assert dict(tree["posterior"].sizes)["draw"] == 1
    assert tree["log_likelihood"].y.shape == (1, 1, 30)


def test_swag_draws_come_from_a_gaussian(run):
    draws = list(run.prior.draws(7, seed=1))
    prediction = predict(run.model, run.prior, run.loader, Categorical(), num_draws=7, seed=1)
    tree = to_datatree(prior=run.prior, draws=draws, train=prediction)
    assert tree["posterior"].mahalanobis.shape == (1, 7)
    assert json.loads(tree.attrs["missing"]).keys() == {"predictions"}


def test_summary_mode_is_small_and_scores_alike(run):
    full, small = run.tree(), run.tree(mode="summary")
    assert small.nbytes < full.nbytes
    assert "posterior_predictive" not in small.children
    assert "y" not in small["predictions"]
    assert small["log_likelihood"].y.dtype == np.float32
    a, b = (scores(Outcome.from_group(t, "predictions")) for t in (full, small))
    assert a == pytest.approx(b, rel=1e-6)


def test_unequal_chains_are_cut_and_it_is_said(run):
    draws = list(run.posterior.draws())[:-1]
    tree = to_datatree(prior=run.prior, draws=draws)
    assert tree["posterior"].mahalanobis.shape == (2, 3)
    assert tree.attrs["dropped_draws"] == 1


def test_what_is_missing_is_named(run):
    tree = to_datatree(test=run.predictions["test"])
    assert set(tree.children) == {"predictions"}
    assert set(json.loads(tree.attrs["missing"])) == {"posterior", "log_likelihood"}


def test_regression_and_pixels(tmp_path):
    torch.manual_seed(0)
    line = torch.nn.Linear(2, 1)
    batch = [(torch.randn(5, 2), torch.randn(5, 1))]
    prediction = predict(line, PointPosterior.from_module(line), batch, Normal(std=1.0))
    tree = to_datatree(train=prediction, test=prediction)
    for group, point in (("predictions", "point"), ("posterior_predictive", "train_point")):
        assert tree[group].y.dims == ("chain", "draw", point)
    assert tree["observed_data"].y.dims == tree["log_likelihood"].y.dims[2:]
    wide = torch.nn.Linear(2, 2)
    batch = [(torch.randn(5, 2), torch.randn(5, 2))]
    two = to_datatree(test=predict(wide, PointPosterior.from_module(wide), batch, Normal(std=1.0)))
    assert two["predictions"].y.dims == ("chain", "draw", "point", "output")
    convolution = torch.nn.Conv2d(3, 4, 1)
    frames = [(torch.randn(2, 3, 5, 6), torch.randint(0, 4, (2, 5, 6)))]
    posterior = PointPosterior.from_module(convolution)
    for maps in (True, False):
        prediction = predict(convolution, posterior, frames, PixelCategorical(), keep_maps=maps)
        tree = to_datatree(train=prediction, test=prediction)
        assert ("probs" in tree["predictions"]) == maps
        for found, kept in zip(to_prediction(tree).images, prediction.images, strict=True):
            torch.testing.assert_close(found, kept)
        save_tree(tree, tmp_path / "pixels.nc")
        xr.testing.assert_identical(load_tree(tmp_path / "pixels.nc"), tree)


def test_unfitting_parts_are_refused(run, make_prediction):
    with pytest.raises(DataError, match=r"weights have \(2, 4\).*make both from the same draws"):
        run.tree(train=make_prediction(chains=1, draws=3))
    with pytest.raises(DataError, match="2 class names but 4 classes"):
        run.tree(class_names=["a", "b"])
    with pytest.raises(ConfigError, match="cannot name a set"):
        run.tree(shifted={"a/b": run.predictions["test"]})
    with pytest.raises(ConfigError, match="'full' or 'summary'"):
        run.tree(mode="tiny")
    run.posterior.weights[1, 1, 0] = np.nan
    with pytest.raises(DataError, match="draw 1 of chain 1 holds NaN"):
        run.tree()


def test_draws_of_a_mixture_weigh_as_they_do_in_the_average(run, tmp_path):
    """Every number of weighted draws is that of as many equal ones."""
    heavy, light = run.prior.draws(2, seed=3)
    weighted = [dataclasses.replace(heavy, weight=3.0), light]
    repeated = [dataclasses.replace(heavy, index=i) for i in range(3)]
    repeated.append(dataclasses.replace(light, index=3))
    trees = []
    for draws in (weighted, repeated):
        posterior = DrawsInMemory(draws, run.prior.layout)
        found = predict(run.model, posterior, [run.sets["test"]], Categorical())
        tree = to_datatree(prior=run.prior, draws=draws, train=found, test=found)
        save_tree(tree, tmp_path / "a.nc")
        trees.append(load_tree(tmp_path / "a.nc"))
    np.testing.assert_allclose(trees[0]["sample_stats"].mixture_weight, [[0.75, 0.25]])
    np.testing.assert_allclose(trees[0]["predictions"].mixture_weight, [[0.75, 0.25]])
    first, second = (Outcome.from_group(tree, "predictions") for tree in trees)
    np.testing.assert_allclose(first.log_score, second.log_score)
    np.testing.assert_allclose(first.probs, second.probs)
    checks = zip(*map(mahalanobis_checks, trees), strict=True)
    assert all(a.mean == pytest.approx(b.mean) for a, b in checks)
    assert direction_check(trees[0]).mean == pytest.approx(direction_check(trees[1]).mean)
    pairs = zip(*map(directions, trees), strict=True)
    assert all(a.mean == pytest.approx(b.mean) for a, b in pairs)


def test_predictions_come_back_from_their_group(run, tmp_path):
    found = run.predictions["test"]
    save_tree(to_datatree(test=found), tmp_path / "a.nc")
    again = to_prediction(load_tree(tmp_path / "a.nc"))
    for field in dataclasses.fields(found):
        before, after = getattr(found, field.name), getattr(again, field.name)
        if isinstance(before, torch.Tensor):
            np.testing.assert_array_equal(after, before, err_msg=field.name)
        else:
            assert after == before, field.name


def test_a_committee_keeps_the_score_of_its_averaged_logits(run, tmp_path):
    draws = [dataclasses.replace(d, confidence=2.0) for d in run.posterior.draws()]
    committee = DrawsInMemory(draws, run.posterior.layout, average="logits")
    found = predict(run.model, committee, run.loader, Categorical())
    save_tree(to_datatree(test=found), tmp_path / "a.nc")
    again = to_prediction(load_tree(tmp_path / "a.nc"))
    np.testing.assert_array_equal(again.log_score, found.log_score)
    assert scores(Outcome.from_prediction("test", again))["nll"] == pytest.approx(
        found.metrics["nll"]
    )


def test_several_labels_and_numbers_come_back_from_a_file(labels, numbers, tmp_path):
    names = ("red", "round", "shiny")
    for given, fields in (
        (labels, ("label_probs", "targets", "log_likelihood", "predictive_entropy")),
        (numbers, ("mean", "variance", "quantiles", "ranks", "crps", "targets")),
    ):
        own = names if given is labels else None
        tree = to_datatree(train=given, test=given, class_names=own)
        save_tree(tree, tmp_path / "a.nc")
        found = to_prediction(load_tree(tmp_path / "a.nc"))
        for name in fields:
            np.testing.assert_array_equal(getattr(found, name), getattr(given, name))
        assert found.metrics == dict(given.metrics)
    assert tree["predictions"].quantile.dims == ("point", "output", "level")


def test_labels_are_sampled_one_by_one(labels):
    tree = to_datatree(train=labels, test=labels)
    drawn = tree["posterior_predictive"].y
    assert drawn.dims == ("chain", "draw", "train_point", "label")
    assert tree["predictions"].target.dims == ("point", "label")
    probs = np.asarray(labels.label_probs)
    z = (drawn.values.sum((0, 1)) - 6 * probs) / np.sqrt(6 * probs * (1 - probs)).clip(1e-9)
    assert abs(z.mean()) * np.sqrt(z.size) < 4.5
    assert set(np.unique(drawn)) == {0, 1}
