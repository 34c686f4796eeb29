import json

import numpy as np
import pytest
from report_items import column, pictures, tables

from bayesprior.diagnostics.compare import MethodResult
from bayesprior.diagnostics.outcomes import metric_rows
from bayesprior.diagnostics.predictions import Outcome
from bayesprior.report.build import SECTIONS, build_report
from bayesprior.report.context import Context
from bayesprior.report.verdicts import TRUST
from bayesprior.tree.build import to_datatree
from bayesprior.tree.files import load_tree, save_tree

QUESTIONS = [
    "Did the prior help?",
    "Can the probabilities be trusted?",
    "Did the sampler work?",
    "Does the prior fit the data?",
]


def every(report):
    return [item for section in report.sections for item in section.items]


GROUPS = {"backbone": 1.0, "head": 1e-4}


def missing(report):
    table = tables(every(report)).get("What is missing")
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
        "Classes",
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
    assert set(pictures(every(full))) == {
        "Confusion matrix",
        "Difference in NLL",
        "Difference in accuracy",
        "Uncertainty of right and wrong answers",
        "Error after rejecting the least certain",
        "Most confident mistakes",
        "Most uncertain points",
        "Metrics against severity",
        "Trace",
        "Where the posterior ended in the prior",
        "Distance by layer",
    }
    [text, numbers, lead] = full.opening
    assert text.text.startswith("60 draws of the weights, from 2 chain(s), were fitted to 30")
    assert [row["score"] for row in numbers.rows] == ["accuracy", "NLL", "ECE"]
    assert lead.title == "Reliability diagram"
    assert set(missing(full)) == {"temperature of the sampler"}
    assert full.data["configuration"]["lr"] == 0.1
    json.loads(full.to_json())
    rows = {
        row["score"]: row for row in tables(every(full))["Metrics of the test set (30 points)"].rows
    }
    found = tables(every(full))["Metrics of each set"].rows
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


def drifting(run):
    run.draw(2, 30, width=0.05)
    run.posterior.weights[1] += 0.3
    run.predict()
    return run.tree(draws=30)


def beside(run, other):
    named = (("a", run.predictions["test"]), ("b", other))
    methods = [MethodResult(n, [Outcome.from_prediction("test", p)]) for n, p in named]
    return run.tree(methods=methods, attrs={"method": "a", "baseline": "b"})


TREES = {
    "a point": lambda run, numbers: run.tree(chains=1, draws=1, train=None, traces=()),
    "predictions alone": lambda run, numbers: to_datatree(test=run.predictions["test"]),
    "no predictions": lambda run, numbers: run.tree(test=None, shifted={}, ood={}),
    "nothing but draws": lambda run, numbers: to_datatree(draws=list(run.posterior.draws())),
    "few draws": lambda run, numbers: run.tree(),
    "one chain": lambda run, numbers: run.tree(chains=1, draws=30),
    "a Gaussian": lambda run, numbers: run.tree(draws=30, attrs={"independent_draws": 1}),
    "cold": lambda run, numbers: run.tree(draws=30, traces=(), attrs={"temperature": 0.25}),
    "drifting": lambda run, numbers: drifting(run),
    "one seed": lambda run, numbers: beside(run, run.predictions["test"]),
    "other points": lambda run, numbers: beside(run, run.predictions["noise"]),
    "numbers": lambda run, numbers: to_datatree(train=numbers, test=numbers),
}


@pytest.mark.parametrize("name", TREES)
def test_every_card_says_what_was_measured_and_what_to_do_next(name, run, numbers):
    context = Context(TREES[name](run, numbers))
    found = [heading.verdict(context) for heading in SECTIONS if heading.verdict]
    cards = [card for card in found if card is not None]
    assert len(cards) >= len(QUESTIONS)
    for card in cards:
        assert card.advice.endswith("."), card
        assert any(c.isdigit() for c in card.headline + card.reason), card


def test_dropped_draws_are_named(run):
    tree = to_datatree(prior=run.prior, draws=list(run.posterior.draws())[:-1])
    assert "1 draw(s)" in missing(build_report(tree))


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


def test_several_labels_are_reported_under_headings_of_their_own(labels):
    names = ("red", "round", "shiny")
    tree = to_datatree(train=labels, test=labels, shifted={"noisy": labels}, class_names=names)
    report = build_report(tree)
    sections = {section.title: tables(section.items) for section in report.sections}
    first, each, sets = sections["Results"].values()
    assert column(first, "score") == [row.label for row in metric_rows("labels").values()]
    assert all(value.low <= value.estimate <= value.high for value in column(first, "value"))
    assert column(each, "name") == list(names)
    counts = labels.targets.sum(0).tolist()
    assert (column(each, "train"), column(each, "test")) == (counts, counts)
    assert column(sets, "set") == ["test set", "noisy"]
    assert column(sets, "label_ece") == [labels.metrics["label_ece"]] * 2
    assert not {"Classes", "Uncertainty", "Changed data"} & set(sections)
    shown = column(first, "score")
    assert column(report.opening[1], "score") == [*shown[:2], shown[-1]]
    assert "with 3 labels each" in report.opening[0].text
    [trust] = [v for v in report.verdicts if v.question == TRUST]
    assert "on 200 points by chance, were their labels always alike" in trust.reason
    assert "confidence" not in trust.reason
    assert trust.advice.endswith(".")
    assert "an example may have several labels" in report.to_markdown()


def test_numbers_are_reported_with_their_intervals(numbers):
    report = build_report(to_datatree(train=numbers, test=numbers))
    answers = {v.question: v.headline for v in report.verdicts}
    assert answers["Can the probabilities be trusted?"] == "Yes"
    assert [s.title for s in report.sections[:2]] == ["Results", "Calibration"]
    text = report.to_markdown()
    assert "the targets are numbers" in text
    assert "no class probabilities" not in text
