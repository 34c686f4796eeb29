"""The prior: what it said, and where the posterior ended in it."""

from bayesprior.diagnostics.prior import MIN_DRAWS, diagnose, prior_summary
from bayesprior.report.context import Context
from bayesprior.report.document import Column, Item, Picture, Table, Text
from bayesprior.report.plots import mahalanobis_plot, prior_coordinate_plot
from bayesprior.report.thresholds import limit
from bayesprior.report.verdicts import Verdict, conflict_verdict

__all__ = ["items", "verdict"]


def _diagnoses(context: Context) -> dict[int, str]:
    values = {"threshold": limit("sensitivity"), "surprise": limit("surprise")}
    return diagnose(context.directions, context.sensitivities, **values)


def items(context: Context) -> list[Item]:
    """Show the posterior along the prior's directions and by layer, and the prior's own width."""
    out: list[Item] = []
    doubt = "" if context.converged else " The sampler failed: these spreads may be far too small."
    if context.attrs.get("committee", 0):
        doubt = " The draws are the members of a committee: their spread is no posterior's."
    elif context.attrs.get("independent_draws", 0):
        doubt = " The draws are SWAG's: their width is that of an optimizer's noise."
    if context.directions:
        caption = (
            "Dots: mean of the draws along each direction the prior knows; bars: two standard "
            "deviations. "
            "Gray: where the prior expects them (1 and 2 standard deviations). Far outside, data "
            "and prior disagree; as wide as the gray, the data say nothing." + doubt
        )
        drawn = prior_coordinate_plot(context.directions)
        out.append(Picture("Where the posterior ended in the prior", caption, drawn))
    if context.checks:
        caption = (
            "Each layer's distance from the prior mean; 1 is that of a draw of the prior. Near 0 "
            "nothing moved (or the layer ran at a low temperature); beyond the gray range the "
            "prior was too narrow or wrong there."
        )
        out.append(Picture("Distance by layer", caption, mahalanobis_plot(context.checks)))
    blocks = context.attempt("how informative the prior is", prior_summary, context.tree)
    if blocks:
        shape = context.tree["constant_data"].attrs
        share = f"{shape['jitter_share']:.0%}" if "jitter_share" in shape else "not recorded"
        text = (
            f"Rank {shape['rank']}, of which {shape['effective_rank']:.1f} directions are really "
            f"used; {shape['drift_share']:.0%} of the factor's variance is one direction (near "
            f"100 % the source run was still travelling); added constant variance: {share}."
        )
        columns = [
            Column("name", "parameter"),
            Column("size", "weights", ","),
            Column("rms_std", "prior std", ".3g"),
            Column("weight_decay", "weight decay of its mean variance", ".2g"),
            Column("ratio", "squared distance / expected", ".2g"),
        ]
        ratios = {c.name: c.ratio for c in context.checks}
        rows = [b | {"ratio": ratios.get(b["name"])} for b in blocks]
        out += [Text(text), Table("The prior by layer", columns, rows)]
    if context.directions:
        out.append(_along(context, doubt))
    return out


def _along(context: Context, doubt: str) -> Table:
    said = {s.index: vars(s) for s in context.sensitivities}
    words = _diagnoses(context)
    rows = [
        {**vars(d), **said.get(d.index, {}), "diagnosis": words.get(d.index)}
        for d in context.directions
    ]
    columns = [
        Column("index", "direction"),
        Column("mean", "mean", ".2f"),
        Column("std", "std", ".2f"),
        Column("contraction", "contraction", ".2f"),
        Column("surprise", "surprise", ".1f"),
        Column("prior", "sensitivity to prior", ".3f"),
        Column("prior_floor", "by chance up to", ".3f"),
        Column("likelihood", "to likelihood", ".3f"),
        Column("likelihood_floor", "by chance up to", ".3f"),
        Column("diagnosis", "diagnosis"),
    ]
    note = (
        "Widest direction of the prior first; in prior standard deviations. Contraction: 0 the "
        "draws are as wide as the prior, 1 far narrower. Surprise: how many standard deviations "
        "the mean lies from where data that the prior expects would put it." + doubt
    )
    return Table("Along the prior's directions", columns, rows, note)


def verdict(context: Context) -> Verdict:
    """Say whether prior and data clash."""
    chains, draws = context.num_draws
    sampled = chains * draws >= MIN_DRAWS and not context.attrs.get("independent_draws", 0)
    spreads = context.directions if sampled else []
    diagnoses = _diagnoses(context)
    found = conflict_verdict(context.checks, context.own_directions, diagnoses, spreads)
    if found.level == "ok" and not context.converged:
        reason = f"{found.reason} But the sampler failed."
        advice = "First see to the sampler."
        return Verdict(found.question, "unknown", "Cannot tell yet", reason, advice)
    return found
