import pytest
from bayesprior.report.notes import Notes
from bayesprior.report.sections.inference import (
    comparison_section,
    prior_section,
    sampler_section,
)

from bayesprior.diagnostics.compare import RunResult, paired_differences
from bayesprior.diagnostics.convergence import check_temperature, summarize_chains
from bayesprior.diagnostics.predictions import Outcome
from bayesprior.diagnostics.prior import Sensitivity, mahalanobis_checks, prior_summary
from bayesprior.report.document import Table


def table(section, start):
    return next(i for i in section.items if isinstance(i, Table) and i.title.startswith(start))


def test_comparison_counts_its_ties_and_names_what_loo_leaves_out(make_prediction, run):
    outcomes = [Outcome.from_prediction("test", make_prediction(seed=3))] * 2
    runs = [RunResult(n, outcomes, extra={"ood_auroc": [0.5, 0.7]}) for n in ("a", "b")]
    differences = paired_differences(runs, "a", num_resamples=10)
    point = run.tree(chains=1, draws=1)
    notes = Notes()
    section = comparison_section(runs, differences, "a", {"x": point, "y": point}, notes)
    found = table(section, "All runs")
    assert found.rows[0]["ood_auroc"] == pytest.approx(0.6)
    assert "seconds" not in [c.key for c in found.columns]
    assert table(section, "Paired").note == "8 of 8 comparisons are ties."
    assert set(notes) == {"LOO of x", "LOO of y"}


def test_prior_tables_join_distance_and_sensitivity(run):
    tree = run.tree()
    checks = mahalanobis_checks(tree)
    sensitivity = [Sensitivity("prior_coordinate[1]", 0.2, 0.3, "conflict")]
    summary = prior_summary(run.prior, 30)
    section = prior_section(tree, summary, checks, sensitivity, Notes())
    layers = {r["name"]: r for r in table(section, "The prior by layer").rows}
    assert layers["bias"]["ratio"] == checks[2].ratio
    along = table(section, "Along").rows
    assert along[1]["index"] == 1
    assert along[1]["diagnosis"] == "conflict"
    assert along[0].get("diagnosis") is None


def test_sampler_tables(run, rng):
    chains = summarize_chains({"x": rng.normal(size=(2, 40))})
    check = check_temperature("kinetic", 1 + 0.1 * rng.normal(size=(2, 40)), 1.0)
    section = sampler_section(run.tree(), chains, [check], Notes())
    assert table(section, "Convergence").rows[0]["ess_bulk"] == chains[0].ess_bulk
    assert table(section, "Temperature").rows[0]["measured"] == check.measured


@pytest.mark.parametrize("converged", [True, False])
def test_spreads_of_a_failed_sampler_are_doubted(run, converged):
    section = prior_section(run.tree(), None, [], [], Notes(), converged=converged)
    note = table(section, "Along").note
    assert ("The sampler failed" in note) is not converged
