"""From a run's DataTree to the report that answers a reader's questions."""

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Shaped

from bayesprior.diagnostics.compare import RunResult, paired_differences, prior_verdict
from bayesprior.diagnostics.convergence import (
    ChainSummary,
    TemperatureCheck,
    check_temperature,
    convergence_verdict,
    summarize_chains,
    temperature_verdict,
)
from bayesprior.diagnostics.predictions import Outcome
from bayesprior.diagnostics.prior import (
    ChiSquareCheck,
    Sensitivity,
    conflict_verdict,
    mahalanobis_checks,
    prior_summary,
    sensitivities,
    width_verdict,
)
from bayesprior.diagnostics.regression import coverage_verdict, pit_values
from bayesprior.diagnostics.reliability import CalibrationBins, calibration_verdict
from bayesprior.diagnostics.shift import shift_table, shift_verdict
from bayesprior.diagnostics.verdicts import Verdict, worst
from bayesprior.report.document import Column, Report, Section, Table, Text
from bayesprior.report.notes import Notes
from bayesprior.report.sections.inference import (
    comparison_section,
    prior_section,
    sampler_section,
)
from bayesprior.report.sections.predictions import (
    calibration_section,
    results_section,
    shift_section,
    streamed_sections,
    uncertainty_section,
)
from bayesprior.report.sections.regression import regression_sections
from bayesprior.weights.gaussian import GaussianWeights

__all__ = ["build_report", "chain_summaries", "temperature_checks"]


def build_report(
    tree: xr.DataTree,
    *,
    title: str,
    subtitle: str = "",
    prior: GaussianWeights | None = None,
    num_data: int | None = None,
    temperature: float = 1.0,
    independent_draws: bool = False,
    validation: Outcome | None = None,
    images: Shaped[np.ndarray, "N H W *channels"] | None = None,
    runs: Sequence[RunResult] = (),
    method: str | None = None,
    baseline: str | None = None,
    trees: Mapping[str, xr.DataTree] | None = None,
    configuration: Mapping[str, Any] | None = None,
) -> Report:
    """Make the report of a run; whatever the run lacks is named instead of shown.

    Parameters
    ----------
    tree
        From `bayesprior.tree.build.to_datatree`.
    title, subtitle
        Heading, and one line on method, data and network.
    prior, num_data
        The prior and the number of training points, for the section on the prior.
    temperature
        That the posterior was sampled at.
    independent_draws
        Whether the draws come straight from a fitted distribution (SWAG), not from a chain.
    validation
        Predictions of validation points; temperature scaling is fitted on them.
    images
        Raw test images, uint8 or in [0, 1], shown where the model errs or hesitates.
    runs, method, baseline
        Results to set side by side, all on the same test points; this run's name among them, and
        the one without the prior that it is held against.
    trees
        Trees of several runs, for the leave-one-out comparison.
    configuration
        Shown at the end.

    Returns
    -------
    Report
        Call ``write(folder)`` on it.

    Examples
    --------
    >>> import torch
    >>> from bayesprior.tree.build import to_datatree
    >>> from bayesprior.weights.layout import ParameterLayout
    >>> prior = GaussianWeights.point(ParameterLayout(("w",), ((3,),)), torch.zeros(3), 1.0)
    >>> tree = to_datatree(prior=prior, draws=prior.draws(1), num_prior_draws=4)
    >>> report = build_report(tree, title="MAP", prior=prior, num_data=10)
    >>> for verdict in report.verdicts:
    ...     print(verdict.question, verdict.headline)
    Did the prior help? Not compared
    Did the sampler work? There was no sampler
    Can the probabilities be trusted? No points
    Does the prior fit the data? Yes, no sign of conflict
    """
    notes = Notes(_missing(tree))
    sections: list[Section] = []
    verdicts = [_compare(runs, method, baseline, trees or {}, sections, notes)]
    checks = notes.attempt(
        "distance from the prior", lambda: mahalanobis_checks(tree, temperature=temperature)
    )
    verdicts.append(_sampler(tree, independent_draws, checks or [], temperature, sections, notes))
    converged = verdicts[-1].level != "fail"
    test = None
    if (streamed := _without_classes(tree, sections, notes)) is None:
        test = notes.attempt("predictions", lambda: Outcome.from_group(tree, "predictions"))
        streamed = calibration_verdict(CalibrationBins() if test is None else test.bins())
    verdicts.append(streamed)
    verdicts.append(_prior(tree, prior, num_data, checks or [], converged, sections, notes))
    if test is not None:
        verdicts += _predictions(tree, test, validation, images, sections, notes)
    order = ["Results", "Comparison", "Calibration", "Uncertainty", "Changed data"]
    sections.sort(key=lambda s: order.index(s.title) if s.title in order else len(order))
    if notes:
        columns = [Column("what", "not reported"), Column("why", "why")]
        rows = [{"what": what, "why": why} for what, why in notes.items()]
        sections.append(Section("Not reported", [Table("What is missing", columns, rows)]))
    attrs = {k: json.loads(v) if str(v)[:1] == "{" else v for k, v in tree.attrs.items()}
    configured = dict(configuration or {}) | {"tree": attrs}
    text = json.dumps(configured, indent=1, default=str)
    sections.append(Section("Configuration", [Text(text, is_code=True)]))
    return Report(title, subtitle, verdicts, sections, {"configuration": configured})


def chain_summaries(tree: xr.DataTree) -> list[ChainSummary]:
    """Summarize the chains in function space and along the prior's directions."""
    quantities: dict[str, np.ndarray] = {}
    if "predictions" in tree.children and "log_likelihood" in tree["predictions"]:
        held_out = tree["predictions"].log_likelihood.transpose("chain", "draw", ...)
        quantities["held-out log likelihood"] = held_out.mean("point").values
        if "probs" in tree["predictions"] and "row" not in tree["predictions"].dims:
            quantities["probability of the true class"] = np.exp(held_out.values)
    if "sample_stats" in tree.children and "lp" in tree["sample_stats"]:
        quantities["log posterior"] = tree["sample_stats"].lp.values
    if "posterior" in tree.children and "prior_coordinate" in tree["posterior"]:
        quantities["position along the prior's directions"] = tree[
            "posterior"
        ].prior_coordinate.values
    return summarize_chains({name: np.asarray(v, float) for name, v in quantities.items()})


def temperature_checks(tree: xr.DataTree) -> list[TemperatureCheck]:
    """Compare the recorded temperatures with the claimed one.

    Over the later half of the steps that ran at the last step's temperature, which leaves out
    burn-in and the exploring phases of a cyclical schedule.
    """
    if "trace" not in tree.children or "temperature" not in tree["trace"]:
        return []
    trace = tree["trace"].dataset
    claimed = float(trace.temperature[0, -1])
    at_claim = np.flatnonzero((trace.temperature == claimed).all("chain").values)
    later = at_claim[len(at_claim) // 2 :]
    out = []
    for name in ("kinetic", "configurational"):
        if f"{name}_temperature" in trace and later.size:
            values = trace[f"{name}_temperature"].values[:, later]
            check = check_temperature(name, values, claimed)
            out += [check] if check is not None else []
    return out


def _missing(tree: xr.DataTree) -> dict[str, str]:
    missing = tree.attrs.get("missing", "{}")
    found: dict[str, str] = json.loads(missing)
    if dropped := int(tree.attrs.get("dropped_draws", 0)):
        found[f"{dropped} draw(s)"] = "left out so that all chains are equally long"
    return found


def _compare(
    runs: Sequence[RunResult],
    method: str | None,
    baseline: str | None,
    trees: Mapping[str, xr.DataTree],
    sections: list[Section],
    notes: Notes,
) -> Verdict:
    differences = []
    if len(runs) > 1:
        reference = baseline or runs[0].name
        differences = (
            notes.attempt("paired differences", lambda: paired_differences(runs, reference)) or []
        )
        sections.append(comparison_section(runs, differences, reference, trees, notes))
    return prior_verdict(differences, method or "", baseline or "")


def _sampler(
    tree: xr.DataTree,
    independent_draws: bool,
    checks: list[ChiSquareCheck],
    temperature: float,
    sections: list[Section],
    notes: Notes,
) -> Verdict:
    sizes = next(
        (
            tree[g].sizes
            for g in ("posterior", "predictions")
            if g in tree.children and "draw" in tree[g].sizes
        ),
        {"chain": 1, "draw": 1},
    )
    chains = chain_summaries(tree)
    temperatures = temperature_checks(tree)
    verdict = convergence_verdict(
        chains,
        num_chains=sizes["chain"],
        num_draws=sizes["draw"],
        independent=independent_draws,
    )
    is_chain = sizes["chain"] * sizes["draw"] > 1 and not independent_draws
    if is_chain and temperatures:
        verdict = worst(verdict.question, [verdict, temperature_verdict(temperatures)])
    elif is_chain:
        notes["temperature of the sampler"] = "the trace records none"
    outputs = _num_outputs(tree)
    if checks and outputs and sizes["chain"] * sizes["draw"] > 1:
        width = width_verdict(checks[0], outputs, temperature=temperature)
        verdict = worst(verdict.question, [verdict, width])
    section = sampler_section(tree, chains, temperatures, notes)
    if section.items:
        sections.append(section)
    return verdict


def _num_outputs(tree: xr.DataTree) -> int:
    """Count the outputs that the training set constrains: points times classes."""
    if "log_likelihood" not in tree.children or "predictions" not in tree.children:
        return 0
    sizes = tree["predictions"].sizes
    pixels = sizes.get("row", 1) * sizes.get("column", 1)
    outputs = sizes.get("class_name", sizes.get("output", 0))
    return int(tree["log_likelihood"].sizes["train_point"] * outputs * pixels)


def _prior(
    tree: xr.DataTree,
    prior: GaussianWeights | None,
    num_data: int | None,
    checks: list[ChiSquareCheck],
    converged: bool,
    sections: list[Section],
    notes: Notes,
) -> Verdict:
    summary = None
    if prior is None or num_data is None:
        notes["how informative the prior is"] = "the prior or the number of points was not given"
    else:
        summary = prior_summary(prior, num_data)
    sensitivity: list[Sensitivity] = []
    if converged:
        sensitivity = notes.attempt("sensitivity to the prior", lambda: sensitivities(tree)) or []
    else:
        notes["sensitivity to the prior"] = "the sampler failed; its weights would mislead"
    section = prior_section(tree, summary, checks, sensitivity, notes, converged=converged)
    if section.items:
        sections.append(section)
    num_draws = tree["posterior"].sizes.get("draw", 1) if "posterior" in tree.children else 1
    verdict = conflict_verdict(checks, sensitivity, num_draws=num_draws)
    if verdict.level == "ok" and not converged:
        reason = f"{verdict.reason} But the sampler failed."
        return Verdict(verdict.question, "unknown", "Cannot tell yet", reason)
    return verdict


def _without_classes(tree: xr.DataTree, sections: list[Section], notes: Notes) -> Verdict | None:
    """Report numbers, and pixels whose maps were not kept; None if there are probabilities."""
    if "predictions" not in tree.children or "probs" in tree["predictions"]:
        return None
    data = tree["predictions"].dataset
    if "mean" in data:
        pit = notes.attempt("coverage of the intervals", lambda: pit_values(data))
        if pit is None:
            return None
        notes["scores of classes"] = (
            "the targets are numbers: NLL, RMSE and the coverage of intervals are reported, but "
            "no ECE, rejection, foreign data or comparison"
        )
        sections += regression_sections(data)
        return coverage_verdict(pit)
    if "calibration" not in data:
        return None
    notes["measures of single pixels"] = (
        "their maps were not kept: no Brier score by parts, class-wise ECE, rejection or foreign "
        "data; predict with keep_maps=True to have them"
    )
    groups = {g: tree[g].dataset for g in tree.children if g.startswith("predictions")}
    names = {g: g.removeprefix("predictions_").replace("predictions", "test set") for g in groups}
    shown = {names[g]: d for g, d in groups.items() if d.attrs.get("kind") != "ood"}
    bins = CalibrationBins.from_sums(data.calibration.values)
    sections += streamed_sections(shown, bins)
    return calibration_verdict(bins)


def _predictions(
    tree: xr.DataTree,
    test: Outcome,
    validation: Outcome | None,
    images: np.ndarray | None,
    sections: list[Section],
    notes: Notes,
) -> list[Verdict]:
    """Add the sections on the predictions; return the verdict on changed data, if there are."""
    class_names = [str(name) for name in tree["predictions"].class_name.values]
    others: dict[str, list[Outcome]] = {"shift": [], "ood": []}
    for group in tree.children:
        if group.startswith("predictions_") and "kind" in tree[group].attrs:
            take = functools.partial(Outcome.from_group, tree, group)
            found = notes.attempt(f"set {group}", take)
            if found is not None:
                others[tree[group].attrs["kind"]].append(found)
    sections.append(results_section(test, validation, notes))
    sections.append(calibration_section(test))
    sections.append(uncertainty_section(test, others["ood"], images, class_names, notes))
    if not others["shift"]:
        return []
    rows = notes.attempt("scores on changed data", lambda: shift_table(test, others["shift"]))
    if rows is None:
        return []
    sections.append(shift_section(rows, notes))
    return [shift_verdict(rows)]
