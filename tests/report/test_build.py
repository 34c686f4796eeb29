import dataclasses
import json

import numpy as np
import pytest
import torch

from bayesprior.diagnostics.compare import RunResult
from bayesprior.diagnostics.predictions import Outcome
from bayesprior.inference.posteriors import PointPosterior
from bayesprior.prediction.predict import predict
from bayesprior.report.build import build_report, chain_summaries, temperature_checks
from bayesprior.report.document import Picture, Table
from bayesprior.tasks.likelihoods import Categorical, PixelCategorical
from bayesprior.tree.build import to_datatree
from bayesprior.tree.files import load_tree, save_tree

QUESTIONS = [
    "Did the prior help?",
    "Did the sampler work?",
    "Can the probabilities be trusted?",
    "Does the prior fit the data?",
]


def tables(report):
    return {i.title: i for s in report.sections for i in s.items if isinstance(i, Table)}


def pictures(report):
    return {i.title for s in report.sections for i in s.items if isinstance(i, Picture)}


def missing(report):
    table = tables(report).get("What is missing")
    return {row["what"]: row["why"] for row in table.rows} if table else {}


@pytest.fixture
def full(run, tmp_path):
    """Everything there is, through a file."""
    run.draw(2, 30, width=0.05)
    blurred = {f"blur-{s}": run.predictions["rotated"] for s in (1, 3)}
    save_tree(run.tree(draws=30, shifted=blurred), tmp_path / "report.nc")
    outcome = Outcome.from_prediction("test", run.predictions["test"])
    results = [
        RunResult(name, [outcome, outcome], seconds=1.0, extra={"ood_auroc": [0.6, 0.7]})
        for name in ("scratch", "sgld")
    ]
    tree = load_tree(tmp_path / "report.nc")
    return build_report(
        tree,
        title="Run",
        prior=run.prior,
        num_data=30,
        validation=outcome,
        images=np.zeros((30, 4, 4), np.uint8),
        runs=results,
        method="sgld",
        baseline="scratch",
        trees={"a": tree, "b": tree},
        configuration={"lr": 0.1},
    )


@pytest.mark.filterwarnings("ignore:The inplace keyword")
def test_a_complete_run_reports_everything(full):
    assert [v.question for v in full.verdicts] == [
        *QUESTIONS,
        "Do the probabilities stay honest when the data change?",
    ]
    assert full.verdicts[0].headline == "No measurable difference"
    assert [s.title for s in full.sections] == [
        "Results",
        "Comparison",
        "Calibration",
        "Uncertainty",
        "Changed data",
        "The sampler",
        "The prior",
        "Not reported",
        "Configuration",
    ]
    assert pictures(full) == {
        "Difference in NLL",
        "Difference in accuracy",
        "Reliability diagram",
        "Uncertainty of right and wrong answers",
        "Error after rejecting the least certain",
        "Most confident mistakes",
        "Most uncertain points",
        "Scores against severity",
        "Trace",
        "Where the posterior ended in the prior",
        "Distance by layer",
    }
    assert set(missing(full)) == {"temperature of the sampler"}
    assert full.data["configuration"]["lr"] == 0.1
    json.loads(full.to_json())
    rows = {row["score"]: row for row in tables(full)["Scores on the test set (30 points)"].rows}
    found = tables(full)["Scores of each set"].rows
    assert [row["severity"] for row in found] == [0, 1, 3]
    assert rows["accuracy"]["value"].estimate == found[0]["accuracy"]


def test_a_point_estimate_alone_reports_what_it_can(run):
    tree = run.tree(chains=1, draws=1, train=None, shifted={}, ood={}, traces=())
    report = build_report(tree, title="MAP")
    levels = {v.question: v.level for v in report.verdicts}
    assert levels["Did the prior help?"] == "unknown"
    assert levels["Did the sampler work?"] == "unknown"
    assert [v.question for v in report.verdicts] == QUESTIONS
    assert "The sampler" not in [s.title for s in report.sections]
    assert set(missing(report)) >= {
        "log_likelihood",
        "temperature scaling",
        "sensitivity to the prior",
        "how informative the prior is",
        "pictures of mistakes",
        "figure: Trace",
    }


def test_predictions_alone(run):
    report = build_report(to_datatree(test=run.predictions["test"]), title="x")
    assert {s.title for s in report.sections} >= {"Results", "Calibration", "Uncertainty"}
    assert {"posterior", "distance from the prior"} <= set(missing(report))


def test_no_predictions_at_all(run):
    report = build_report(run.tree(test=None, shifted={}, ood={}), title="x")
    trust = report.verdicts[2]
    assert (trust.level, trust.headline) == ("unknown", "No points")
    assert missing(report)["predictions"]


def test_failed_chains_keep_other_verdicts_from_being_believed(run):
    run.draw(2, 30, width=0.05)
    run.posterior.weights[1] += 0.3
    run.predict()
    report = build_report(run.tree(draws=30), title="x")
    assert report.verdicts[1].level == "fail"
    assert report.verdicts[3].level != "ok"
    assert "mislead" in missing(report)["sensitivity to the prior"]


def test_dropped_draws_are_named(run):
    tree = to_datatree(prior=run.prior, draws=list(run.posterior.draws())[:-1])
    assert "1 draw(s)" in missing(build_report(tree, title="x"))


def test_independent_draws_need_not_converge_but_be_wide_enough(run):
    report = build_report(run.tree(), title="SWAG", independent_draws=True)
    assert report.verdicts[1].headline == "Nothing to converge"
    run.draw(2, 4, width=0.05)
    few = run.tree(
        train=predict(run.model, run.posterior, [[t[:1] for t in run.loader[0]]], Categorical())
    )
    report = build_report(few, title="SWAG", independent_draws=True)
    assert report.verdicts[1].headline == "The draws are narrower than the posterior"


def test_chains_are_followed_in_function_space_and_in_the_prior(run):
    run.draw(2, 20)
    assert {s.name for s in chain_summaries(run.tree(draws=20))} == {
        "held-out log likelihood",
        "probability of the true class",
        "log posterior",
        "position along the prior's directions",
    }


def test_temperatures_are_read_where_the_claim_holds(run, rng):
    """Exploring steps at T = 0 and the first half of the sampling ones do not count."""
    rows = [{"step": float(i), "temperature": 0.0, "kinetic_temperature": 9.0} for i in range(10)]
    rows += [
        {"step": float(i), "temperature": 0.5, "kinetic_temperature": 7.0 if i < 30 else 0.5}
        for i in range(10, 50)
    ]
    for row in rows[30:]:
        row["kinetic_temperature"] += 0.01 * rng.normal()
    [check] = temperature_checks(run.tree(traces=[rows, rows]))
    assert (check.name, check.claimed) == ("kinetic", 0.5)
    assert check.measured.estimate == pytest.approx(0.5, abs=0.02)
    assert temperature_checks(run.tree(traces=())) == []


def test_an_outcome_of_other_points_is_named(run):
    other = Outcome.from_prediction("test", run.predictions["rotated"])
    wrong = dataclasses.replace(other, targets=np.roll(other.targets, 1))
    results = [RunResult("a", [other]), RunResult("b", [wrong])]
    report = build_report(run.tree(), title="x", runs=results, baseline="a", method="b")
    assert "not scored on the same test points" in missing(report)["paired differences"]


def test_pixels_are_reported_from_streamed_sums_and_alike_from_maps(tmp_path):
    torch.manual_seed(0)
    net = torch.nn.Conv2d(3, 4, 3, padding=1)
    g = torch.Generator().manual_seed(1)
    frames = [
        (torch.randn(1, 3, 9, 8, generator=g), torch.randint(0, 4, (1, 9, 8), generator=g))
        for _ in range(6)
    ]
    posterior = PointPosterior.from_module(net)
    reports = {}
    for maps in (True, False):
        found = predict(net, posterior, frames, PixelCategorical(), keep_maps=maps)
        save_tree(to_datatree(train=found, test=found, shifted={"fog-2": found}), tmp_path / "a.nc")
        reports[maps] = build_report(load_tree(tmp_path / "a.nc"), title="pixels")
    small, large = (
        next(v for v in reports[m].verdicts if v.question.startswith("Can")) for m in (False, True)
    )
    assert small == large
    assert [s.title for s in reports[False].sections[:2]] == ["Results", "Calibration"]
    rows = reports[False].sections[0].items[0].rows
    assert [row["set"] for row in rows] == ["test set", "fog-2"]
    for key, value in found.metrics.items():
        assert rows[0][key] == pytest.approx(value)
    assert "predict with keep_maps=True" in missing(reports[False])["measures of single pixels"]
    assert "measures of single pixels" not in missing(reports[True])


def test_a_class_that_never_occurs_changes_nothing_else(run):
    for name in ("train", "test"):
        x, y = run.sets[name]
        run.sets[name] = (x, y.where(y != 3, 0))
    run.predict()
    report = build_report(run.tree(), title="x")
    found = tables(report)["Scores on the test set (30 points)"].rows
    assert np.isfinite([row["value"].estimate for row in found[:2]]).all()
    assert "predictions" not in missing(report)


def test_nan_probabilities_are_named_and_the_rest_is_reported(run):
    tree = run.tree()
    tree["predictions"].probs[3, 1] = np.nan
    tree["predictions_noise"].probs[:] = np.nan
    report = build_report(tree, title="x")
    assert "1 of 30 rows of probabilities hold NaN" in missing(report)["predictions"]
    assert {s.title for s in report.sections} >= {"The sampler", "The prior"}
    run.predict()  # the tree shares memory with them
    tree = run.tree()
    tree["predictions_noise"].probs[:] = np.nan
    report = build_report(tree, title="x")
    assert "20 of 20 rows" in missing(report)["set predictions_noise"]
    assert "Calibration" in {s.title for s in report.sections}


def test_one_chain_and_a_tree_without_log_likelihood(run):
    report = build_report(run.tree(chains=1, draws=30, train=None), title="x")
    assert missing(report)["log_likelihood"].endswith("no LOO, no psense")
    assert "tree lacks log_likelihood" in missing(report)["sensitivity to the prior"]
    assert report.verdicts[1].headline == "Too few draws"
