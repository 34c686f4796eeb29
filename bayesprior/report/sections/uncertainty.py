"""Uncertainty: whether it points at mistakes and at foreign data."""

from typing import Any

import numpy as np

from bayesprior.diagnostics.predictions import Outcome
from bayesprior.diagnostics.shift import ood_table
from bayesprior.diagnostics.uncertainty import (
    RiskCoverage,
    entropy,
    guaranteed_limit,
    risk_coverage,
)
from bayesprior.report.context import Context
from bayesprior.report.document import Column, Item, Picture, Table
from bayesprior.report.map_plots import mask_grid
from bayesprior.report.plots import image_grid, risk_coverage_plot, uncertainty_histograms
from bayesprior.tree.beside import images_of

__all__ = ["items", "shown_points"]

NUM_SHOWN = 8


def shown_points(test: Outcome) -> dict[str, np.ndarray]:
    """Return which points a report shows: the most confident mistakes, and the least sure."""
    wrong = np.flatnonzero(test.is_right == 0)
    confident = wrong[np.argsort(-test.confidence[wrong], kind="stable")]
    unsure = np.argsort(-entropy(test.probs), kind="stable")
    return {
        "Most confident mistakes": confident[:NUM_SHOWN],
        "Most uncertain points": unsure[:NUM_SHOWN],
    }


def items(context: Context) -> list[Item]:
    """Show rejection, detection of foreign data, and the points to look at."""
    test = context.test
    if test is None:
        return _maps(context)
    foreign = context.further["ood"]
    wrong = 1 - test.is_right
    orders = {"confidence": 1 - test.confidence, "entropy": entropy(test.probs)}
    if test.epistemic.max() > 1e-9:
        orders["disagreement of draws"] = test.epistemic
    curves = {name: risk_coverage(order, wrong) for name, order in orders.items()}
    out: list[Item] = [
        Picture(
            "Uncertainty of right and wrong answers",
            "The more the wrong answers (and foreign data) lie to the right of the right ones, "
            "the better the model knows what it does not know.",
            uncertainty_histograms(test, foreign),
        ),
        Picture(
            "Error after rejecting the least certain",
            "Reading from right to left: how the error falls as uncertain points are left to "
            "someone else. The lowest curve orders the points best.",
            risk_coverage_plot(curves),
        ),
    ]
    chosen_on = None if test.is_dense else context.validation
    out.append(_selective(test, chosen_on, curves["confidence"]))
    if foreign:
        out.append(_detection(context, test, foreign))
    images = images_of(context.tree)
    if not images and not test.is_dense:
        context.notes["pictures of mistakes"] = "no images of the test set lie in the tree"
        out.append(_mistakes(context, test))
    return out + (_pictures(context, test, images) if images else [])


def _selective(test: Outcome, validation: Outcome | None, curve: RiskCoverage) -> Table:
    """Say how much may be kept; with a guarantee where validation points choose the limit."""
    columns = [Column("target", "to reach an"), Column("kept", "keep this share", ".1%")]
    rows: list[dict[str, Any]] = []
    for risk in (0.01, 0.05, 0.1):
        rows.append({"target": f"error of at most {risk:.0%}", "kept": curve.coverage_at(risk)})
        if validation is not None:
            known = 1 - validation.confidence, 1 - validation.is_right
            kept = 1 - test.confidence < guaranteed_limit(*known, risk)
            errors = float(1 - test.is_right[kept].mean()) if kept.any() else None
            rows[-1] |= {"kept": float(kept.mean()), "error": errors}
    note = "On these points: the share was chosen on them, so that others may err a little more."
    if validation is not None:
        columns.append(Column("error", "error among them", ".1%"))
        note = (
            f"The limit of each row was chosen on {len(validation.probs)} validation points; with "
            "95 % confidence other points like them keep to it, if nothing else was chosen on "
            "them. Shares and errors are the test set's; 0 % where more points are needed."
        )
    return Table("Selective prediction by confidence", columns, rows, note)


def _mistakes(context: Context, test: Outcome) -> Table:
    """Name the most confident mistakes by their place in the test set."""
    names, targets = context.tree["predictions"].class_name.values, np.asarray(test.targets)
    rows = [
        {"point": str(i), "said": str(names[test.probs[i].argmax()]), "is": str(names[targets[i]])}
        | {"confidence": test.confidence[i]}
        for i in shown_points(test)["Most confident mistakes"]
    ]
    columns = [Column("point", "test point"), Column("said", "said"), Column("is", "is")]
    columns.append(Column("confidence", "confidence", ".1%"))
    return Table("Most confident mistakes", columns, rows, "Look for wrong labels and patterns.")


def _maps(context: Context) -> list[Item]:
    """Show the images of which the model is least sure, pixel by pixel."""
    if "maps" not in context.tree.children:
        return []
    caption = (
        "The largest mean entropy over an image's pixels comes first. Bright pixels are those that "
        "the model doubts: they should lie where the answer is wrong, and along edges. Gray labels "
        "do not count."
    )
    figure = mask_grid(context.tree["maps"].dataset)
    return [Picture("Most uncertain images", caption, figure)]


def _detection(context: Context, test: Outcome, foreign: list[Outcome]) -> Table:
    rows = [r | {"score": r["score"].replace("_", " ")} for r in ood_table(test, foreign)]
    columns = [Column("set", "set"), Column("score", "score")]
    columns += [Column(key, key.upper(), ".3f") for key in ("auroc", "aupr", "fpr95")]
    if without := [o.name for o in (test, *foreign) if o.energy is None]:
        context.notes["energy score of foreign data"] = (
            f"no energies were stored with {', '.join(without)}; predict again to have them"
        )
    note = "AUROC 0.5 is chance, 1 perfect. FPR95: the task's own points that are flagged too."
    return Table("Telling foreign data from the task's", columns, rows, note)


def _pictures(context: Context, test: Outcome, images: dict[int, np.ndarray]) -> list[Item]:
    names = [str(name) for name in context.tree["predictions"].class_name.values]
    targets, guess = np.asarray(test.targets), test.probs.argmax(axis=1)
    captions = {
        "Most confident mistakes": "What the model was surest of and got wrong: look for wrong "
        "labels and for patterns.",
        "Most uncertain points": "Where the model hesitates most: these should look hard to you, "
        "too.",
    }
    out: list[Item] = []
    for title, picks in shown_points(test).items():
        kept = [int(i) for i in picks if int(i) in images]
        words = [
            f"said {names[guess[i]]} {test.confidence[i]:.0%}\nis {names[targets[i]]}" for i in kept
        ]
        if kept:
            figure = image_grid(np.stack([images[i] for i in kept]), words)
            out.append(Picture(title, captions[title], figure))
    return out
