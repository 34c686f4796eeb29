import dataclasses

import numpy as np
import pytest
from report_items import column, line, pictures, tables

from bayesprior.diagnostics.compare import MethodResult, comparison_table, paired_differences
from bayesprior.diagnostics.predictions import Outcome
from bayesprior.report.context import Context
from bayesprior.report.sections.comparison import items, verdict
from bayesprior.report.verdicts import comparison_verdict


@pytest.fixture
def methods(make_prediction):
    """Two methods of two seeds on the same 60 points: one that knows, one that knows less."""

    def outcome(sharpness, seed):
        found = Outcome.from_prediction("test", make_prediction(seed=0))
        noise = np.random.default_rng(seed).normal(0, 0.5, found.probs.shape)
        logits = sharpness * np.log(found.probs) + noise
        probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        score = np.log(probs[np.arange(60), found.targets])
        return dataclasses.replace(found, probs=probs, log_score=score)

    return [
        MethodResult("sgld", [outcome(1.0, seed) for seed in (0, 1)], seconds=2.0),
        MethodResult("scratch", [outcome(-1.0, seed) for seed in (2, 3)], seconds=1.0),
    ]


def context_of(run, methods, **attrs):
    attrs = {"method": "sgld", "baseline": "scratch"} | attrs
    return Context(run.tree(methods=methods, attrs=attrs))


def test_all_methods_and_their_paired_differences_are_shown(run, methods):
    context = context_of(run, methods)
    out = items(context)
    table = tables(out)["All methods"]
    assert table.rows == comparison_table(methods)
    assert column(table, "seeds") == [2, 2]
    assert {c.error for c in table.columns} >= {"accuracy_se", "nll_se"}
    differences = paired_differences(methods, "scratch")
    shown = tables(out)["Paired differences to scratch"]
    assert column(shown, "interval") == [d.interval for d in differences]
    assert column(shown, "metric") == ["accuracy", "NLL", "Brier score", "ECE", "AURC"]
    ties = sum(d.verdict == "tie" for d in differences)
    assert shown.note.startswith(f"{ties} of 5 comparisons are ties.")
    assert "accuracy 0.005, NLL 0.005" in shown.note
    assert "only as far as their seed (data_seed) varied, too. Not corrected for the" in shown.note
    assert "Means ± standard errors over seeds; all other numbers are those of one" in table.note
    for label, name in (("NLL", "nll"), ("accuracy", "accuracy")):
        picture = pictures(out)[f"Difference in {label}"]
        assert "Difference to scratch in pairs of equal seeds" in picture.caption
        [axes] = picture.figure.axes
        [expected] = [d.interval.estimate for d in differences if d.metric == name]
        np.testing.assert_array_equal(line(axes, "95%"), [[expected, 0]])


@pytest.mark.parametrize("only_prior", [0, 1])
def test_the_prior_is_asked_for_only_where_nothing_else_differs(run, methods, only_prior):
    found = verdict(context_of(run, methods, only_prior=only_prior))
    differences = paired_differences(methods, "scratch")
    assert found == comparison_verdict(differences, "sgld", "scratch", only_prior=bool(only_prior))
    assert found.question == ["Is sgld better than scratch?", "Did the prior help?"][only_prior]
    assert (found.level, found.headline) == ("ok", "Yes")


def test_a_run_alone_is_not_compared(run):
    context = Context(run.tree())
    assert items(context) == []
    found = verdict(context)
    assert (found.question, found.level) == ("Did the prior help?", "unknown")
    assert "shape zero" in found.advice


def test_one_seed_cannot_tell(run, methods):
    single = [dataclasses.replace(m, outcomes=m.outcomes[:1]) for m in methods]
    context = context_of(run, single)
    table = tables(items(context))["Paired differences to scratch"]
    assert set(column(table, "verdict")) == {"unknown"}
    assert set(column(table, "over")) == {"points"}
    assert verdict(context).headline == "Cannot tell yet"


def test_an_outcome_of_other_points_is_named(run):
    other = Outcome.from_prediction("test", run.predictions["rotated"])
    wrong = dataclasses.replace(other, targets=np.roll(other.targets, 1))
    methods = [MethodResult("sgld", [other]), MethodResult("scratch", [wrong])]
    context = context_of(run, methods)
    assert set(tables(items(context))) == {"All methods"}
    assert "not scored on the same test points" in context.notes["paired differences"]
    found = verdict(context)
    assert (found.question, found.headline) == ("Is sgld better than scratch?", "Not compared")
    assert found.reason == context.notes["paired differences"]
