"""The sampler: whether the draws can be relied on."""

from bayesprior.report.context import Context
from bayesprior.report.document import Column, Item, Table
from bayesprior.report.plots import trace_plot
from bayesprior.report.verdicts import Verdict

__all__ = ["items", "verdict"]


def items(context: Context) -> list[Item]:
    """Show the trace, convergence and temperatures."""
    caption = "Chains should look alike and level off; a slope or a gap between them is trouble."
    out: list[Item] = [*context.picture("Trace", caption, trace_plot, context.tree)]
    if context.chains:
        columns = [
            Column("name", "quantity"),
            Column("num_values", "values"),
            Column("rhat", "R-hat", ".3f"),
            Column("rhat_chance", "by chance up to", ".2f"),
            Column("ess_bulk", "ESS", ".0f"),
            Column("ess_tail", "ESS tails", ".0f"),
            Column("mcse", "MCSE / std", ".3f"),
        ]
        note = (
            "Of many values, that of the worst twentieth. R-hat should be near 1.0; ESS is how "
            "many independent draws these are worth, MCSE the error of the mean that is left."
        )
        out.append(Table("Convergence", columns, [vars(c) for c in context.chains], note))
    if context.temperatures:
        columns = [
            Column("name", "temperature"),
            Column("claimed", "claimed", ".3g"),
            Column("measured", "measured [95 %]", ".3g"),
        ]
        note = "Over the later half of the steps at the last temperature."
        rows = [vars(t) for t in context.temperatures]
        out.append(Table("Temperature of the sampler", columns, rows, note))
    return out


def verdict(context: Context) -> Verdict:
    """Say whether the draws can be relied on."""
    return context.sampler
