import numpy as np
import pytest
import xarray as xr
from report_items import column
from scipy.stats import binomtest

from bayesprior.diagnostics.regression import pit_values
from bayesprior.report.build import build_report
from bayesprior.report.context import Context
from bayesprior.report.sections.opening import numbers as three
from bayesprior.report.sections.opening import opened, sentence
from bayesprior.tree.build import to_datatree


def test_the_sentence_says_what_was_done(run):
    attrs = {"num_data": 1030, "data": "pets"}
    assert sentence(Context(run.tree(attrs=attrs))) == (
        "8 draws of the weights, from 2 chain(s), were fitted to 1,030 training examples of pets "
        "with a prior of rank 3 and their mean predictions scored on 30 test points of 4 classes."
    )
    committee = {"independent_draws": 1, "committee": 1}
    said = sentence(Context(run.tree(attrs=committee, test=None)))
    assert said.startswith("A committee of 8 networks was fitted")
    drawn = sentence(Context(run.tree(attrs={"independent_draws": 1}, test=None)))
    assert drawn == "8 independent draws of the weights were fitted with a prior of rank 3."
    run.prior = run.prior.diagonal()
    assert sentence(Context(run.tree(chains=1, draws=1))) == (
        "One vector of weights was fitted with a prior of independent weights and its predictions "
        "scored on 30 test points of 4 classes."
    )
    assert sentence(Context(xr.DataTree())) == ""


def test_three_numbers_stand_with_their_intervals(run, numbers, maps):
    context = Context(run.tree())
    [table] = three(context)
    assert column(table, "score") == ["accuracy", "NLL", "ECE"]
    found = column(table, "value")
    assert found == [context.estimates[name] for name in ("accuracy", "nll", "ece")]
    assert all(value.low <= value.estimate <= value.high for value in found)
    tree = to_datatree(test=numbers)
    [table] = three(Context(tree))
    assert column(table, "score") == ["NLL", "RMSE", "coverage"]
    inside = np.abs(pit_values(tree["predictions"].dataset) - 0.5) <= 0.45
    low, high = binomtest(int(inside.sum()), 200).proportion_ci(method="wilson")
    assert column(table, "value")[2] == pytest.approx((inside.mean(), low, high))
    prediction = maps(keep_maps=False)
    [table] = three(Context(to_datatree(test=prediction)))
    assert column(table, "value") == [prediction.metrics[n] for n in ("accuracy", "nll", "ece")]
    assert three(Context(xr.DataTree())) == []


def test_the_figure_moves_to_the_first_screen(run, maps):
    lead = build_report(run.tree()).opening[-1]
    assert lead.title == "Reliability diagram"
    alone = build_report(run.tree(test=None, shifted={}, ood={}))
    assert alone.opening[-1].title == "Trace"
    assert "Trace" not in [i.title for s in alone.sections for i in s.items]
    small = build_report(to_datatree(test=maps(keep_maps=False)))
    assert "Calibration" not in [s.title for s in small.sections]  # it was all there was
    assert opened(Context(xr.DataTree()), []) == ([], [])
