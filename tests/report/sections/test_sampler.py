import numpy as np
import pytest
from report_items import column, pictures, tables

from bayesprior.prediction.predict import predict
from bayesprior.report.context import Context
from bayesprior.report.sections.sampler import items, verdict
from bayesprior.report.verdicts import convergence_verdict
from bayesprior.tasks.likelihoods import Categorical


def traces(mean):
    """Two chains' rows, with a kinetic temperature that fluctuates around its mean."""
    rng = np.random.default_rng(0)
    return [
        [
            {
                "step": float(i),
                "loss": 1 / (i + 1),
                "temperature": 1.0,
                "kinetic_temperature": mean + 0.1 * rng.normal(),
            }
            for i in range(12)
        ]
        for _ in range(2)
    ]


def test_trace_convergence_and_temperature_are_shown(run):
    run.draw(2, 30)
    context = Context(run.tree(draws=30, traces=traces(1.0)))
    out = items(context)
    picture = pictures(out)["Trace"]
    assert "level off" in picture.caption
    loss, held_out = picture.figure.axes
    np.testing.assert_allclose(loss.lines[0].get_ydata(), 1 / np.arange(1, 13))
    expected = context.tree["predictions"].log_likelihood.mean("point")
    np.testing.assert_allclose(held_out.lines[1].get_ydata(), expected[1])
    table = tables(out)["Convergence"]
    assert table.rows == [vars(chain) for chain in context.chains]
    assert set(column(table, "name")) == {
        "held-out log likelihood",
        "probability of the true class",
        "log posterior",
        "position along the prior's directions",
    }
    [row] = tables(out)["Temperature of the sampler"].rows
    assert (row["name"], row["claimed"]) == ("kinetic temperature", 1.0)
    later = context.tree["trace"].kinetic_temperature[:, 6:]
    assert row["measured"].estimate == pytest.approx(float(later.mean()))
    assert "temperature of the sampler" not in context.notes


def test_the_worst_of_all_checks_answers(run):
    run.draw(2, 30)
    right = Context(run.tree(draws=30, traces=traces(1.0)))
    hot = Context(run.tree(draws=30, traces=traces(3.0)))
    chains = convergence_verdict(right.chains, num_chains=2, num_draws=30)
    assert verdict(right).headline == chains.headline
    found = verdict(hot)
    assert (found.level, found.headline) == ("fail", "Too hot, lower the learning rate")
    assert chains.reason in found.reason
    assert not hot.converged


def test_a_point_estimate_had_no_sampler(run):
    context = Context(run.tree(chains=1, draws=1, traces=()))
    assert items(context) == []
    assert "no trace" in context.notes["figure: Trace"]
    assert (verdict(context).level, verdict(context).headline) == (
        "unknown",
        "There was no sampler",
    )


def test_a_trace_without_temperatures_is_named(run):
    context = Context(run.tree())
    assert verdict(context).question == "Did the sampler work?"
    assert context.notes["temperature of the sampler"] == "the trace records none"


def test_the_members_of_a_committee_are_no_sample(run):
    run.draw(2, 4, width=0.05)
    found = verdict(Context(run.tree(attrs={"independent_draws": 1, "committee": 1})))
    assert (found.level, found.headline) == ("unknown", "There was no sampler")
    assert "8 draws are the members of a committee" in found.reason


def test_independent_draws_need_not_converge_but_be_wide_enough(run):
    assert verdict(Context(run.tree(attrs={"independent_draws": 1}))).level == "ok"
    run.draw(2, 4, width=0.05)
    one = predict(run.model, run.posterior, [[t[:1] for t in run.loader[0]]], Categorical())
    found = verdict(Context(run.tree(train=one, attrs={"independent_draws": 1})))
    assert found.headline == "The draws are narrower than the posterior"
    assert "draws come straight from a fitted Gaussian" in found.reason
