import dataclasses
import json
import re
import warnings

import numpy as np
import pytest
import torch
from recipes_cases import source_and_target

from bayesprior.data.corruptions import CORRUPTIONS
from bayesprior.inference.posteriors import PointPosterior
from bayesprior.prediction.predict import predict
from bayesprior.recipes import fit_map, make_prior, report, sample
from bayesprior.recipes.reporting import corrupted, rebuild
from bayesprior.tasks.likelihoods import Categorical
from bayesprior.tree.files import load_tree

QUIET = {"progress": False, "device": "cpu"}


@pytest.fixture(scope="module")
def task():
    source, target, data = source_and_target()
    return make_prior(source, target, head="head", rms_std=0.1), target, data


def test_sampled_run_is_reported_with_everything(task, tmp_path):
    prior, module, data = task
    options = {"lr": 1e-3, "num_draws": 12, "chains": 2, "burn_in": 5, "thin": 2}
    options["sampler"] = "sgld"
    draws = sample(module, prior, data, out=tmp_path / "run", **options, **QUIET)
    other = {  # its labels are no classes of the task
        split: dataclasses.replace(part, targets=part.targets + data.num_classes)
        for split, part in (("train", data.train), ("test", data.test))
    }
    names = tuple(map(str, range(2 * data.num_classes)))
    with pytest.warns(UserWarning, match="has no training example"):
        foreign = dataclasses.replace(data, class_names=names, validation=None, **other)
    tree = report(
        module,
        draws,
        data,
        out=tmp_path / "report",
        prior=prior,
        run_dir=tmp_path / "run",
        corruptions=(1,),
        shifted={"again": data},
        ood={"other": foreign},
        **QUIET,
    )
    groups = {"posterior", "prior", "log_prior", "log_likelihood", "predictions", "trace"}
    assert groups <= set(tree.children)
    assert "predictions_again" in tree.children
    assert tree["predictions_other"].attrs["kind"] == "ood"
    line = tree["surface"]  # from the prior's mean, where it says nothing, to the first draw
    assert line.end.values.tolist() == ["prior's mean", "first draw"]
    first = prior.mahalanobis(next(iter(draws.draws(1))).weights) / 2 / data.num_data
    for place, expected in zip(line.place.values[:, 0], (0.0, float(first)), strict=True):
        found = line.negative_log_prior.sel(x=place, method="nearest")  # a point of the grid
        assert float(found) == pytest.approx(expected, rel=1e-5, abs=1e-9)
    assert "predictions_jpeg-1" in tree.children
    again = load_tree(tmp_path / "report" / "report.nc")
    assert again["predictions_other"].energy.notnull().all()
    stats = again["sample_stats"]
    np.testing.assert_array_equal(stats.step, [range(7, 30, 2)] * 2)  # burn-in 5, every second
    assert (stats.lr[:, 2:] == 1e-3).all()  # rows every 10 steps
    assert (stats.temperature[:, 2:] == 1).all()
    assert stats.configurational_temperature[:, 2:].notnull().all()
    np.testing.assert_allclose(stats.lp, stats.log_prior + stats.log_likelihood)
    assert again["posterior"].sizes["chain"] == 2
    assert again["posterior"].sizes["draw"] == 12
    verdicts = json.loads((tmp_path / "report" / "report.json").read_text())["verdicts"]
    assert {v["question"] for v in verdicts} >= {"Did the prior help?", "Did the sampler work?"}
    files = [p for p in (tmp_path / "report").rglob("*") if p.is_file() and p.suffix != ".nc"]
    before = {path: path.read_text() for path in files}
    for path in files:
        path.unlink()
    assert rebuild(tmp_path / "report") == tmp_path / "report" / "report.html"
    assert {path: path.read_text() for path in files} == before
    assert "Most uncertain points" in before[tmp_path / "report" / "report.md"]
    page = (tmp_path / "report" / "report.html").read_text()
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_a_point_estimate_is_reported_and_predictions_made_before_are_taken(task, tmp_path):
    """The test split goes through the network once, not once more for the page."""
    prior, module, data = task
    fit = fit_map(module, prior, data, num_steps=5, **QUIET)
    seen = []
    handle = module.register_forward_pre_hook(lambda _, arguments: seen.append(len(arguments[0])))
    pages, passes = [], []
    try:
        for test in (None, predict(module, fit, data.loader("test", 256), Categorical())):
            seen.clear()
            report(module, fit, data, out=tmp_path, prior=prior, test=test, **QUIET)
            passes.append(sum(seen))
            page = (tmp_path / "report.html").read_text()
            pages.append(re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+", "", page))
    finally:
        handle.remove()
    assert passes[0] - passes[1] == len(data.test)
    assert pages[0] == pages[1]
    assert "Not reported" in (tmp_path / "report.md").read_text()


def test_corruptions_change_the_test_images_only(task):
    *_, data = task
    changed = corrupted(data, 3)
    assert set(changed) == {f"{kind}-3" for kind in CORRUPTIONS}
    for bundle in changed.values():
        assert not torch.equal(bundle.test[0][0], data.test[0][0])
        assert torch.equal(bundle.test.targets, data.test.targets)
        assert torch.equal(bundle.train[0][0], data.train[0][0])


def test_sets_that_do_not_fit_are_named_and_the_rest_is_reported(task, tmp_path):
    prior, module, data = task
    fit = fit_map(module, prior, data, num_steps=5, **QUIET)
    names = tuple(map(str, range(2 * data.num_classes)))
    labels = data.test.targets + data.num_classes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = dataclasses.replace(data.test, targets=labels)
        more = dataclasses.replace(data, test=other, class_names=names, validation=None)
        wide = {
            split: dataclasses.replace(part, inputs=torch.cat([part.inputs] * 2, 1))
            for split, part in (("train", data.train), ("test", data.test))
        }
        wide = dataclasses.replace(data, validation=None, **wide)
        long = {
            split: dataclasses.replace(part, inputs=torch.cat([part.inputs] * 2, -1))
            for split, part in (("train", data.train), ("test", data.test))
        }
        long = dataclasses.replace(data, validation=None, **long)
    tree = report(
        module,
        fit,
        data,
        out=tmp_path,
        prior=prior,
        shifted={"again": data, "more": more},
        ood={"wide": wide, "long": long},
        **QUIET,
    )
    assert "predictions_again" in tree.children
    assert not {"predictions_more", "predictions_wide"} & set(tree.children)
    missing = json.loads(load_tree(tmp_path / "report.nc").attrs["missing"])
    assert missing["set more"].startswith("labels must be in")
    assert "normalization is for 1 channels but the images have 2" in missing["set wide"]
    assert missing["set long"].startswith("its inputs are (1, 4, 8), the task's (1, 4, 4), and")
    text = (tmp_path / "report.md").read_text()
    assert "set wide" in text
    assert "Changed data" in text


def test_another_failure_of_the_network_is_not_taken_for_a_wrong_shape(task, tmp_path):
    _, module, data = task
    blank = dataclasses.replace(data.test, inputs=torch.zeros_like(data.test.inputs))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        blank = dataclasses.replace(data, test=blank)

    def fail(_, arguments):
        if (arguments[0] == arguments[0].flatten()[0]).all():
            raise RuntimeError("out of memory")

    handle = module.register_forward_pre_hook(fail)
    fit = PointPosterior.from_module(module)
    try:
        with pytest.raises(RuntimeError, match="out of memory"):
            report(module, fit, data, out=tmp_path, shifted={"blank": blank}, **QUIET)
    finally:
        handle.remove()
