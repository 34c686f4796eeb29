"""Comparison: methods side by side, ties called ties."""

from collections.abc import Callable, Sequence

from bayesprior.diagnostics.compare import (
    Difference,
    MethodResult,
    compared_metrics,
    comparison_table,
)
from bayesprior.prediction.metrics import METRICS
from bayesprior.report.context import Context
from bayesprior.report.document import Column, Item, Picture, Table
from bayesprior.report.plots import comparison_forest
from bayesprior.report.verdicts import HELP, Verdict, comparison_verdict

__all__ = ["compared", "items", "verdict"]


def items(context: Context) -> list[Item]:
    """Show every method's metrics, and the paired differences to the baseline."""
    if len(context.methods) < 2:
        return []
    baseline = context.attrs.get("baseline", "")
    return compared(context.methods, context.differences, baseline, context.picture)


def compared(
    methods: Sequence[MethodResult],
    differences: Sequence[Difference],
    baseline: str,
    picture: Callable[..., list[Picture]],
) -> list[Item]:
    """Return the table of all methods, and figures and table of the paired differences."""
    columns = [Column("method", "method"), Column("seeds", "seeds", "d")]
    rows_compared = compared_metrics(methods)
    for name, row in rows_compared.items():
        columns.append(Column(name, row.label, row.format, f"{name}_se"))
    columns.append(Column("seconds", "seconds", ".1f"))
    note = "Means ± standard errors over seeds; all other numbers are those of one run."
    out: list[Item] = [Table("All methods", columns, comparison_table(methods), note)]
    shown_first = {"nll", "accuracy", "crps", "label_nll", "label_accuracy"}
    figures = shown_first.intersection(d.metric for d in differences)
    for metric in sorted(figures, reverse=True):
        caption = (
            f"Difference to {baseline} in pairs of equal seeds. An interval that touches the gray "
            "margin is a tie: for other seeds or other test points it could be too small to "
            "matter, or turn around."
        )
        title = f"Difference in {METRICS[metric].label}"
        out += picture(title, caption, comparison_forest, differences, metric)
    if differences:
        ties = sum(d.verdict == "tie" for d in differences)
        margins = ", ".join(f"{r.label} {r.margin or 0:g}" for r in rows_compared.values())
        note = (
            f"{ties} of {len(differences)} comparisons are ties. Intervals: 95 %, Student's t, "
            "over seeds and test points crossed (half-widths add as squares); over other training "
            "examples only as far as their seed (data_seed) varied, too. Not corrected for "
            f"the number of comparisons: about {0.05 * len(differences):.1f} would leave out 0 by "
            f"chance. A tie unless the whole interval lies beyond the margin: {margins}. One "
            "seed is called unknown."
        )
        shown = [
            Column("method", "method"),
            Column("metric", "metric"),
            Column("interval", "difference [95 %]", "+.4f"),
            Column("verdict", "verdict"),
            Column("num_pairs", "pairs"),
            Column("over", "over"),
        ]
        rows = [{**vars(d), "metric": METRICS[d.metric].label} for d in differences]
        out.append(Table(f"Paired differences to {baseline}", shown, rows, note))
    return out


def verdict(context: Context) -> Verdict:
    """Say whether the run's method is better than the baseline; what the prior did, if it alone."""
    if len(context.methods) < 2:
        reason = "0 other runs were given to hold this one against."
        advice = "Fit the same with a prior of shape zero and name both."
        return Verdict(HELP, "unknown", "Not compared", reason, advice)
    only_prior = bool(context.attrs.get("only_prior", 0))
    names = [str(context.attrs.get(k, "")) for k in ("method", "baseline")]
    if not context.differences:
        question = HELP if only_prior else f"Is {names[0]} better than {names[1]}?"
        reason = context.notes["paired differences"]
        return Verdict(question, "unknown", "Not compared", reason, "Compare runs that can be.")
    return comparison_verdict(context.differences, *names, only_prior=only_prior)
