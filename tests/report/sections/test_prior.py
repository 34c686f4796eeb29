import numpy as np
import pytest
from report_items import column, line, pictures, tables

from bayesprior.diagnostics.prior import directions, mahalanobis_checks, prior_summary
from bayesprior.report.context import Context
from bayesprior.report.document import Text
from bayesprior.report.sections.prior import items, verdict
from bayesprior.tree.build import to_datatree
from bayesprior.weights.gaussian import GaussianWeights


@pytest.fixture
def context(run):
    run.draw(2, 30, width=0.05)
    return Context(run.tree(draws=30, attrs={"num_data": 30}))


def test_where_the_posterior_ended_is_drawn(context):
    drawn = pictures(items(context))
    found = directions(context.tree)
    picture = drawn["Where the posterior ended in the prior"]
    assert "sampler failed" not in picture.caption
    [axes] = picture.figure.axes
    [bars] = axes.containers
    np.testing.assert_allclose(bars.lines[0].get_ydata(), [d.mean for d in found])
    checks = mahalanobis_checks(context.tree)
    [axes] = drawn["Distance by layer"].figure.axes
    np.testing.assert_allclose(line(axes, "this run")[:, 0], np.sqrt([c.ratio for c in checks]))


def test_how_much_the_prior_says_is_told_by_layer(context, run):
    out = items(context)
    [text] = [item.text for item in out if isinstance(item, Text)]
    assert text.startswith(f"Rank 3, of which {float(run.prior.effective_rank):.1f} directions")
    assert f"{float(run.prior.drift_share):.0%} of the factor's variance" in text
    assert text.endswith("added constant variance: 10%.")
    table = tables(out)["The prior by layer"]
    assert column(table, "name") == ["weight", "bias"]
    for row, expected in zip(table.rows, prior_summary(context.tree), strict=True):
        assert row.items() >= expected.items()
        assert row["weight_decay"] == pytest.approx(1 / 30 / row["rms_std"] ** 2)
    ratios = {c.name: c.ratio for c in context.checks}
    assert column(table, "ratio") == [ratios["weight"], ratios["bias"]]


def test_every_direction_has_a_row_with_its_sensitivities(context):
    table = tables(items(context))["Along the prior's directions"]
    assert column(table, "index") == [0, 1, 2]
    for row, along, said in zip(table.rows, context.directions, context.sensitivities, strict=True):
        assert (row["mean"], row["std"], row["surprise"]) == (along.mean, along.std, along.surprise)
        assert (row["prior"], row["likelihood_floor"]) == (said.prior, said.likelihood_floor)
        assert row["diagnosis"] in ("ok", "conflict", "prior-driven")
    assert verdict(context).question == "Does the prior fit the data?"


def test_draws_of_swag_are_doubted(run):
    out = items(Context(run.tree(attrs={"independent_draws": 1})))
    assert "The draws are SWAG's" in pictures(out)["Where the posterior ended in the prior"].caption
    assert "The draws are SWAG's" in tables(out)["Along the prior's directions"].note


def test_failed_chains_keep_the_answer_from_being_believed(run):
    run.draw(2, 30, width=0.05)
    run.posterior.weights[1] += 0.3
    run.predict()
    context = Context(run.tree(draws=30))
    note = tables(items(context))["Along the prior's directions"].note
    assert note.endswith("The sampler failed: these spreads may be far too small.")
    assert "mislead" in context.notes["sensitivity to the prior"]
    assert verdict(context).level != "ok"


def test_a_prior_without_directions_is_told_by_layer_alone(run):
    flat = GaussianWeights.point(run.prior.layout, run.prior.loc, 1.0)
    tree = to_datatree(prior=flat, draws=flat.draws(5), attrs={"num_data": 30})
    out = items(context := Context(tree))
    assert set(pictures(out)) == {"Distance by layer"}
    assert set(tables(out)) == {"The prior by layer"}
    assert "prior_coordinate" in context.notes["posterior along the prior's directions"]


def test_without_a_prior_nothing_stands_here(run):
    context = Context(to_datatree(test=run.predictions["test"]))
    assert items(context) == []
    assert verdict(context).headline == "Not measured"
    assert {"distance from the prior", "how informative the prior is"} <= set(context.notes)
