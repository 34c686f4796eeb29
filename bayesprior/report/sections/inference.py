"""Sections of a report on the inference: comparison of runs, the prior, the sampler."""

import functools
from collections.abc import Mapping, Sequence

import xarray as xr

from bayesprior.diagnostics.compare import (
    METRICS,
    Difference,
    RunResult,
    compare_by_loo,
    comparison_table,
)
from bayesprior.diagnostics.convergence import ChainSummary, TemperatureCheck
from bayesprior.diagnostics.predictions import LABELS
from bayesprior.diagnostics.prior import (
    ChiSquareCheck,
    PriorSummary,
    Sensitivity,
    directions,
)
from bayesprior.report.document import Column, Item, Picture, Section, Table, Text
from bayesprior.report.notes import Notes
from bayesprior.report.plots import (
    comparison_forest,
    mahalanobis_plot,
    prior_coordinate_plot,
    trace_plot,
)

__all__ = ["comparison_section", "prior_section", "sampler_section"]


def comparison_section(
    runs: Sequence[RunResult],
    differences: Sequence[Difference],
    reference: str,
    trees: Mapping[str, xr.DataTree],
    notes: Notes,
) -> Section:
    """Make the section that sets several runs side by side."""
    rows = comparison_table(runs)
    extra = list(dict.fromkeys(name for run in runs for name in run.extra))
    columns = [Column("method", "method"), Column("seeds", "seeds", "d")]
    for name in (*METRICS, *extra):
        columns.append(Column(name, LABELS.get(name, name.replace("_", " ")), ".3f", f"{name}_se"))
    for key, label in (("seconds", "seconds"), ("megabytes", "MB")):
        if any(row[key] is not None for row in rows):
            columns.append(Column(key, label, ".1f"))
    items: list[Item] = [Table("All runs", columns, rows, "Means ± standard errors over seeds.")]
    ties = sum(d.verdict == "tie" for d in differences)
    for metric in ("nll", "accuracy"):
        caption = (
            f"Difference to {reference} in pairs. An interval that touches the line is a tie: "
            "another seed, or other test points, could turn it around."
        )
        draw = functools.partial(comparison_forest, differences, metric)
        items += notes.picture(f"Difference in {LABELS[metric]}", caption, draw)
    items.append(
        Table(
            f"Paired differences to {reference}",
            [
                Column("method", "method"),
                Column("metric", "metric"),
                Column("over", "over"),
                Column("interval", "difference [95 %]", "+.4f"),
                Column("verdict", "verdict"),
            ],
            [{**vars(d), "metric": LABELS.get(d.metric, d.metric)} for d in differences],
            f"{ties} of {len(differences)} comparisons are ties.",
        )
    )
    if len(trees) > 1:
        loo = notes.attempt("comparison by LOO", lambda: compare_by_loo(trees))
        if loo:
            notes |= {f"LOO of {name}": why for name, why in loo.omitted.items()}
            labels = ["run", "elpd", "s.e.", "behind the best", "s.e.", "stacking weight", "bad k"]
            keys = ["name", "elpd", "se", "elpd_diff", "dse", "weight", "num_bad_k"]
            formats = ["", ".1f", ".1f", ".1f", ".1f", ".2f", "d"]
            what = [Column(*c) for c in zip(keys, labels, formats, strict=True)]
            note = (
                "ArviZ's PSIS-LOO on the training points; where many k are bad, do not rely on it."
            )
            items.append(Table("Leave-one-out comparison", what, loo.rows, note))
    return Section("Comparison", items)


def prior_section(
    tree: xr.DataTree,
    summary: PriorSummary | None,
    checks: Sequence[ChiSquareCheck],
    sensitivity: Sequence[Sensitivity],
    notes: Notes,
    *,
    converged: bool = True,
) -> Section:
    """Make the section on what the prior said and where the posterior ended in it."""
    items: list[Item] = []
    doubt = "" if converged else " The sampler failed: these spreads may be far too small."
    found = notes.attempt("posterior along the prior's directions", lambda: directions(tree))
    if found:
        caption = (
            "Dots: mean of the draws along each direction the prior knows; bars: 95 % of them. "
            "Gray: where the prior expects them (1 and 2 standard deviations). Far outside, data "
            "and prior disagree; as wide as the gray, the data say nothing." + doubt
        )
        drawn = prior_coordinate_plot(tree)
        items.append(Picture("Where the posterior ended in the prior", caption, drawn))
    if checks:
        caption = (
            "Each layer's distance from the prior mean; 1 is that of a draw of the prior. Near 0 "
            "nothing moved; beyond the gray range the prior was too narrow or wrong there."
        )
        items.append(Picture("Distance by layer", caption, mahalanobis_plot(checks)))
    if summary is not None:
        share = "not recorded" if summary.jitter_share is None else f"{summary.jitter_share:.0%}"
        text = (
            f"Rank {summary.rank}, of which {summary.effective_rank:.1f} directions are really "
            f"used; {summary.drift_share:.0%} of the factor's variance is one direction (near "
            f"100 % the source run was still travelling); added constant variance: {share}."
        )
        columns = [
            Column("name", "parameter"),
            Column("size", "weights", ","),
            Column("rms_std", "prior std", ".3g"),
            Column("weight_decay", "equivalent weight decay", ".2g"),
            Column("ratio", "squared distance / expected", ".2g"),
        ]
        ratios = {c.name: c.ratio for c in checks}
        rows = [{**vars(b), "ratio": ratios.get(b.name)} for b in summary.blocks]
        items += [Text(text), Table("The prior by layer", columns, rows)]
    if found:
        said = {s.name: s for s in sensitivity}
        rows = [
            {**vars(d), **vars(said.get(f"prior_coordinate[{i}]", d)), "index": d.index}
            for i, d in enumerate(found)
        ]
        columns = [
            Column("index", "direction"),
            Column("mean", "mean", ".2f"),
            Column("std", "std", ".2f"),
            Column("contraction", "contraction", ".2f"),
            Column("prior", "sensitivity to prior", ".3f"),
            Column("likelihood", "to likelihood", ".3f"),
            Column("diagnosis", "diagnosis"),
        ]
        note = (
            "Widest direction of the prior first; in prior standard deviations. Contraction: 0 the "
            "data say nothing, 1 they decide." + doubt
        )
        items.append(Table("Along the prior's directions", columns, rows, note))
    return Section("The prior", items)


def sampler_section(
    tree: xr.DataTree,
    chains: Sequence[ChainSummary],
    temperatures: Sequence[TemperatureCheck],
    notes: Notes,
) -> Section:
    """Make the section on whether the draws can be relied on."""
    caption = "Chains should look alike and level off; a slope or a gap between them is trouble."
    items: list[Item] = [*notes.picture("Trace", caption, lambda: trace_plot(tree))]
    if chains:
        columns = [
            Column("name", "quantity"),
            Column("num_values", "values"),
            Column("rhat", "R-hat", ".3f"),
            Column("rhat_limit", "alarm at", ".2f"),
            Column("ess_bulk", "ESS", ".0f"),
            Column("ess_tail", "ESS tails", ".0f"),
            Column("mcse", "MCSE / std", ".3f"),
        ]
        note = (
            "The worst of each. R-hat should be near 1.0; ESS is how many independent draws these "
            "are worth, MCSE the error of the mean that is left."
        )
        items.append(Table("Convergence", columns, [vars(c) for c in chains], note))
    if temperatures:
        columns = [
            Column("name", "temperature"),
            Column("claimed", "claimed", ".3g"),
            Column("measured", "measured [95 %]", ".3f"),
        ]
        items.append(Table("Temperature of the sampler", columns, [vars(t) for t in temperatures]))
    return Section("The sampler", items)
