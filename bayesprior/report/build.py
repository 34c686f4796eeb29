"""From a run's DataTree to the report that answers a reader's questions; from nothing else."""

import xarray as xr

from bayesprior.report.context import Context, Heading
from bayesprior.report.document import Report, Section
from bayesprior.report.sections import (
    calibration,
    changed_data,
    classes,
    closing,
    comparison,
    opening,
    prior,
    results,
    sampler,
    surface,
    uncertainty,
)
from bayesprior.report.verdicts import CHANGED, FIT, HELP, LAW, SAMPLER, TRUST

__all__ = ["SECTIONS", "build_report"]

SECTIONS: list[Heading] = [
    Heading("Results", results.items, results.verdict, LAW),
    Heading("Classes", classes.items),
    Heading("Comparison", comparison.items, comparison.verdict, HELP),
    Heading("Calibration", calibration.items, calibration.verdict, TRUST),
    Heading("Uncertainty", uncertainty.items),
    Heading("Changed data", changed_data.items, changed_data.verdict, CHANGED),
    Heading("The sampler", sampler.items, sampler.verdict, SAMPLER),
    Heading("The prior", prior.items, prior.verdict, FIT),
    Heading("The loss surface", surface.items),
    Heading("Not reported", closing.missing),
    Heading("How the answers are decided", closing.decisions),
    Heading("Configuration", closing.configuration),
]
"""Headings in the order of the page; one added at run time is on it, and in the command's help."""


def build_report(tree: xr.DataTree) -> Report:
    """Make the report of a run; whatever the run lacks is named instead of shown.

    Parameters
    ----------
    tree
        From `bayesprior.tree.build.to_datatree`, or read back from ``report.nc``. What a page
        says of the run beside its groups stands in the attributes that
        `bayesprior.report.context.Context` names.

    Returns
    -------
    Report
        Call ``write(folder)`` on it.

    Examples
    --------
    >>> import torch
    >>> from bayesprior.tree.build import to_datatree
    >>> from bayesprior.weights.gaussian import GaussianWeights
    >>> from bayesprior.weights.layout import ParameterLayout
    >>> prior = GaussianWeights.point(ParameterLayout(("w",), ((3,),)), torch.zeros(3), 1.0)
    >>> attrs = {"title": "MAP", "num_data": 10}
    >>> tree = to_datatree(prior=prior, draws=prior.draws(1), num_prior_draws=4, attrs=attrs)
    >>> for verdict in build_report(tree).verdicts:
    ...     print(verdict.question, verdict.headline)
    Did the prior help? Not compared
    Can the probabilities be trusted? No points
    Did the sampler work? There was no sampler
    Does the prior fit the data? No conflict seen
    """
    context = Context(tree)
    context.notes.update(context.attrs.get("missing", {}))
    if dropped := int(context.attrs.get("dropped_draws", 0)):
        context.notes[f"{dropped} draw(s)"] = "left out so that all chains are equally long"
    verdicts, sections = [], []
    for heading in SECTIONS:
        verdict = heading.verdict(context) if heading.verdict else None
        verdicts += [verdict] if verdict else []
        if items := heading.items(context):
            sections.append(Section(heading.title, items, verdict.question if verdict else ""))
    title, subtitle = (str(context.attrs.get(k, "")) for k in ("title", "subtitle"))
    data = {"configuration": closing.configured(context)}
    first, folded = opening.opened(context, sections)
    return Report(title or "bayesprior report", subtitle, verdicts, folded, data, first)
