import dataclasses
import json

import numpy as np
import pytest
import torch

from bayesprior.diagnostics.compare import MethodResult, comparison_table, paired_differences
from bayesprior.diagnostics.predictions import Outcome
from bayesprior.inference.posteriors import PointPosterior
from bayesprior.prediction.metrics import METRICS, MetricRow
from bayesprior.prediction.predict import predict
from bayesprior.report import build
from bayesprior.report.build import SECTIONS, build_report
from bayesprior.report.context import Heading
from bayesprior.report.document import Picture, Table, Text
from bayesprior.report.verdicts import Verdict
from bayesprior.tasks.likelihoods import Categorical, Normal, PixelCategorical
from bayesprior.tree.build import to_datatree
from bayesprior.tree.files import load_tree, save_tree

QUESTIONS = [
    "Did the prior help?",
    "Can the probabilities be trusted?",
    "Did the sampler work?",
    "Does the prior fit the data?",
]


GROUPS = {"backbone": 1.0, "head": 1e-4}


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
    outcome = Outcome.from_prediction("test", run.predictions["test"])
    methods = [MethodResult(n, [outcome, outcome], seconds=1.0) for n in ("sgld", "scratch")]
    attrs = {"title": "Run", "num_data": 30, "method": "sgld", "baseline": "scratch"}
    attrs |= {"only_prior": 1, "configuration": {"lr": 0.1}}
    tree = run.tree(
        draws=30,
        shifted=blurred,
        validation=run.predictions["test"],
        images={i: np.zeros((4, 4), np.uint8) for i in range(30)},
        methods=methods,
        attrs=attrs,
    )
    save_tree(tree, tmp_path / "report.nc")
    return build_report(load_tree(tmp_path / "report.nc"))


@pytest.mark.filterwarnings("ignore:The inplace keyword")
def test_a_complete_run_reports_everything(full):
    changed = "Do the probabilities stay honest when the data change?"
    assert [v.question for v in full.verdicts] == [*QUESTIONS[:2], changed, *QUESTIONS[2:]]
    assert full.verdicts[0].headline == "No difference that matters"
    assert all(v.advice and any(c.isdigit() for c in v.reason) for v in full.verdicts)
    assert [s.title for s in full.sections] == [
        "Results",
        "Comparison",
        "Calibration",
        "Uncertainty",
        "Changed data",
        "The sampler",
        "The prior",
        "Not reported",
        "How the answers are decided",
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
        "Metrics against severity",
        "Trace",
        "Where the posterior ended in the prior",
        "Distance by layer",
    }
    assert set(missing(full)) == {"temperature of the sampler"}
    assert full.data["configuration"]["lr"] == 0.1
    json.loads(full.to_json())
    rows = {row["score"]: row for row in tables(full)["Metrics of the test set (30 points)"].rows}
    found = tables(full)["Metrics of each set"].rows
    assert [row["severity"] for row in found] == [0, 1, 3]
    assert rows["accuracy"]["value"].estimate == found[0]["accuracy"]


def test_a_point_estimate_alone_reports_what_it_can(run):
    tree = run.tree(chains=1, draws=1, train=None, shifted={}, ood={}, traces=())
    report = build_report(tree)
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
    report = build_report(to_datatree(test=run.predictions["test"]))
    assert {s.title for s in report.sections} >= {"Results", "Calibration", "Uncertainty"}
    assert {"posterior", "distance from the prior"} <= set(missing(report))


def test_no_predictions_at_all(run):
    report = build_report(run.tree(test=None, shifted={}, ood={}))
    trust = report.verdicts[1]
    assert (trust.level, trust.headline) == ("unknown", "No points")
    assert missing(report)["predictions"]


def test_failed_chains_keep_other_verdicts_from_being_believed(run):
    run.draw(2, 30, width=0.05)
    run.posterior.weights[1] += 0.3
    run.predict()
    report = build_report(run.tree(draws=30))
    assert report.verdicts[3].level == "fail"
    assert report.verdicts[4].level != "ok"
    assert "mislead" in missing(report)["sensitivity to the prior"]


def test_a_head_of_another_temperature_stands_on_the_first_line(run):
    rows = [
        {"step": float(i), "temperature.backbone": 1.0, "temperature.head": 1e-4}
        | {f"kinetic_temperature.{g}": t * (1 + 0.001 * i) for g, t in GROUPS.items()}
        for i in range(6)
    ]
    run.draw(2, 30, width=0.05)
    report = build_report(run.tree(draws=30, traces=[rows] * 2))
    first = report.verdicts[0]
    assert first.question == "Are these draws of the posterior?"
    assert first.headline == "Not the posterior: head at T = 1e-4"
    assert "not those of the posterior" in missing(report)["sensitivity to the prior"]
    line = next(t for t in report.to_markdown().splitlines() if t.startswith("- "))
    assert "**Are these draws of the posterior? Not the posterior: head at T = 1e-4.**" in line
    assert "*Next:* Set temperature" in line
    options = {"temperature": 0.5, "configuration": {"head_temperature": 0.1}}
    report = build_report(run.tree(draws=30, traces=(), attrs=options))
    assert report.verdicts[0].headline.endswith("backbone at T = 0.5, head at T = 0.1")


def test_dropped_draws_are_named(run):
    tree = to_datatree(prior=run.prior, draws=list(run.posterior.draws())[:-1])
    assert "1 draw(s)" in missing(build_report(tree))


def test_independent_draws_need_not_converge_but_be_wide_enough(run):
    report = build_report(run.tree(attrs={"independent_draws": 1}))
    assert report.verdicts[3].headline == "Nothing to converge"
    run.draw(2, 4, width=0.05)
    few = run.tree(
        train=predict(run.model, run.posterior, [[t[:1] for t in run.loader[0]]], Categorical()),
        attrs={"independent_draws": 1},
    )
    report = build_report(few)
    assert report.verdicts[3].headline == "The draws are narrower than the posterior"


def test_an_outcome_of_other_points_is_named(run):
    other = Outcome.from_prediction("test", run.predictions["rotated"])
    wrong = dataclasses.replace(other, targets=np.roll(other.targets, 1))
    methods = [MethodResult("a", [other]), MethodResult("b", [wrong])]
    report = build_report(run.tree(methods=methods, attrs={"method": "a", "baseline": "b"}))
    assert "not scored on the same test points" in missing(report)["paired differences"]
    first = report.verdicts[0]
    assert (first.question, first.headline) == ("Is a better than b?", "Not compared")
    assert "not scored on the same test points" in first.reason


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
        reports[maps] = build_report(load_tree(tmp_path / "a.nc"))
    small, large = (
        next(v for v in reports[m].verdicts if v.question.startswith("Can")) for m in (False, True)
    )
    assert (small.level, small.headline) == (large.level, large.headline)
    assert [s.title for s in reports[False].sections[:2]] == ["Results", "Calibration"]
    rows = reports[False].sections[0].items[0].rows
    assert [row["set"] for row in rows] == ["test set", "fog-2"]
    for key, value in found.metrics.items():
        assert rows[0][key] == pytest.approx(value)
    assert "keep_maps=True" in missing(reports[False])["measures of single pixels"]
    assert "measures of single pixels" not in missing(reports[True])


def test_a_class_that_never_occurs_changes_nothing_else(run):
    for name in ("train", "test"):
        x, y = run.sets[name]
        run.sets[name] = (x, y.where(y != 3, 0))
    run.predict()
    report = build_report(run.tree())
    found = tables(report)["Metrics of the test set (30 points)"].rows
    assert np.isfinite([row["value"].estimate for row in found[:2]]).all()
    assert "predictions" not in missing(report)


def test_nan_probabilities_are_named_and_the_rest_is_reported(run):
    tree = run.tree()
    tree["predictions"].probs[3, 1] = np.nan
    tree["predictions_noise"].probs[:] = np.nan
    report = build_report(tree)
    assert "1 of 30 rows of probabilities hold NaN" in missing(report)["predictions"]
    assert {s.title for s in report.sections} >= {"The sampler", "The prior"}
    run.predict()  # the tree shares memory with them
    tree = run.tree()
    tree["predictions_noise"].probs[:] = np.nan
    report = build_report(tree)
    assert "20 of 20 rows" in missing(report)["set predictions_noise"]
    assert "Calibration" in {s.title for s in report.sections}


def test_one_chain_and_a_tree_without_log_likelihood(run):
    report = build_report(run.tree(chains=1, draws=30, train=None))
    assert missing(report)["log_likelihood"].endswith("no LOO, no psense")
    assert "tree lacks log_likelihood" in missing(report)["sensitivity to the prior"]
    assert report.verdicts[3].headline == "Too few draws"


def test_what_is_added_at_run_time_stands_on_the_page(run, monkeypatch):
    """A metric's row, a heading and a verdict, each written in one place."""
    row = MetricRow("hesitation", "entropy of right answers", lambda p: p.entropy, False, 0.01)
    monkeypatch.setitem(METRICS, "hesitation", row)
    verdict = Verdict("Is it raining?", "ok", "No", "The sky is blue.")
    heading = Heading("Weather", lambda context: [Text("Sunny.")], lambda context: verdict)
    monkeypatch.setattr(build, "SECTIONS", [*SECTIONS, heading])
    run.predict()
    entropy = float(run.predictions["test"].predictive_entropy.mean())
    assert run.predictions["test"].metrics["hesitation"] == pytest.approx(entropy, rel=1e-5)
    outcome = Outcome.from_prediction("test", run.predictions["test"])
    methods = [MethodResult(n, [outcome] * 2) for n in "ab"]
    assert comparison_table(methods)[0]["hesitation"] == pytest.approx(entropy, rel=1e-5)
    assert "hesitation" in {d.metric for d in paired_differences(methods, "b")}
    tree = run.tree(methods=methods, attrs={"method": "a", "baseline": "b"})
    report = build_report(tree)
    rows = {
        r["score"]: r["value"] for r in tables(report)["Metrics of the test set (30 points)"].rows
    }
    assert rows["hesitation"].estimate == pytest.approx(entropy, rel=1e-5)
    assert "hesitation" in tables(report)["All methods"].rows[0]
    assert "hesitation" in {r["metric"] for r in tables(report)["Paired differences to b"].rows}
    assert report.verdicts[-1] == verdict
    assert "Sunny." in report.to_html()


def test_numbers_are_reported_with_their_intervals():
    line = torch.nn.Linear(3, 1)
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    batch = (
        x,
        (line(x) + torch.randn(200, 1, generator=torch.Generator().manual_seed(1))).detach(),
    )
    found = predict(line, PointPosterior.from_module(line), [batch], Normal(std=1.0))
    report = build_report(to_datatree(train=found, test=found))
    answers = {v.question: v.headline for v in report.verdicts}
    assert answers["Can the probabilities be trusted?"] == "Yes"
    assert [s.title for s in report.sections[:2]] == ["Results", "Calibration"]
    rows = {row["score"]: row["value"] for row in report.sections[0].items[0].rows}
    assert rows["NLL"].estimate == pytest.approx(found.metrics["nll"])
    assert rows["RMSE"].estimate == pytest.approx(found.metrics["rmse"])
    assert rows["predicted std"] == pytest.approx(1.0)
    assert len(report.sections[1].items[1].rows) == 4
    text = report.to_markdown()
    assert "the targets are numbers" in text
    assert "no class probabilities" not in text
