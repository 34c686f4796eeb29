"""Sections of a report on the predictions: scores, calibration, uncertainty, changed data."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Shaped

from bayesprior.diagnostics.calibration import brier
from bayesprior.diagnostics.predictions import LABELS, Outcome, score_intervals, scores
from bayesprior.diagnostics.reliability import CalibrationBins
from bayesprior.diagnostics.shift import ShiftRow, ood_table
from bayesprior.diagnostics.temperature_scaling import apply_temperature, fit_temperature
from bayesprior.diagnostics.uncertainty import entropy, risk_coverage
from bayesprior.report.document import Column, Item, Picture, Section, Table
from bayesprior.report.notes import Notes
from bayesprior.report.plots import (
    image_grid,
    reliability_diagram,
    risk_coverage_plot,
    shift_curves,
    uncertainty_histograms,
)

__all__ = [
    "calibration_section",
    "results_section",
    "shift_section",
    "streamed_sections",
    "uncertainty_section",
]

RELIABILITY = (
    "Points on the dashed line mean that of the answers given with 80 % confidence, 80 % are "
    "right. Below it the model is too sure. Inside the gray band the gap can be chance."
)

MEANING = {
    "accuracy": "share of right answers",
    "nll": "loss per point in nats; smaller is better, being sure and wrong costs most",
    "brier": "squared error of the probabilities; 0 is perfect",
    "ece": "average gap between confidence and accuracy; 0 is honest",
    "aurc": "error left when the least certain points are rejected, averaged; smaller is better",
    "sharpness": "1 is always certain, 0 knows nothing; worth having only when honest",
    "aleatoric": "uncertainty that more data cannot remove (nats)",
    "epistemic": "uncertainty about the weights (nats): what the draws disagree about",
}


def results_section(test: Outcome, validation: Outcome | None, notes: Notes) -> Section:
    """Make the section of the test set's scores, temperature scaling beside them."""
    found = scores(test)
    intervals = notes.attempt("intervals of the scores", lambda: score_intervals(test)) or {}
    columns = [Column("score", "score"), Column("value", "value", ".3f")]
    scaled: dict[str, float] = {}
    note = "In brackets: 95 % intervals over the test points."
    if validation is None:
        notes["temperature scaling"] = "no validation set was given to fit it on"
    else:
        temperature = fit_temperature(_logs(validation), np.asarray(validation.targets))
        probs = apply_temperature(_logs(test), temperature)
        targets = np.asarray(test.targets)
        log_score = np.log(np.maximum(probs[np.arange(len(targets)), targets], 1e-300))
        other = Outcome(test.name, probs, targets, log_score, test.aleatoric, test.epistemic)
        scaled = scores(other)
        columns.append(Column("scaled", "after temperature scaling", ".3f"))
        note += (
            f" Temperature scaling (T = {temperature:.2f}, fitted on validation data) is shown "
            "beside, for comparison; everything else in this report is without it."
        )
    columns.append(Column("meaning", "what it says"))
    rows = [
        {
            "score": LABELS.get(name, name),
            "value": intervals.get(name, found[name]),
            "scaled": scaled.get(name) if name not in ("aleatoric", "epistemic") else None,
            "meaning": meaning,
        }
        for name, meaning in MEANING.items()
    ]
    title = f"Scores on the test set ({found['num_points']:.0f} points)"
    return Section("Results", [Table(title, columns, rows, note)])


def streamed_sections(
    predictions: Mapping[str, xr.Dataset], bins: CalibrationBins
) -> list[Section]:
    """Make the sections of sets of which only the streamed sums are kept, such as pixels.

    Parameters
    ----------
    predictions
        Groups of predictions by the name of the set, the test set first.
    bins
        Of the test set.
    """
    rows = [
        {"set": name, **json.loads(data.attrs["metrics"])} for name, data in predictions.items()
    ]
    keys = {"accuracy": "accuracy", "mean_iou": "mean IoU"} | LABELS
    columns = [Column("set", "set"), *(Column(k, label, ".3f") for k, label in keys.items())]
    note = "Over all pixels, which depend on their neighbors: no intervals."
    picture = Picture("Reliability diagram", RELIABILITY, reliability_diagram(bins))
    return [
        Section("Results", [Table("Scores of each set", columns, rows, note)]),
        Section("Calibration", [picture]),
    ]


def calibration_section(test: Outcome) -> Section:
    """Make the section on whether the probabilities mean what they say."""
    bins, found = test.bins(), scores(test)
    parts = brier(test.probs, np.asarray(test.targets))
    rows = [
        ("top-label ECE", found["ece"], "confidence of the predicted class, 15 equal bins"),
        ("class-wise ECE", found["ece_class_wise"], "every class's probability"),
        ("adaptive ECE", found["ece_adaptive"], "bins of equally many points"),
        ("largest gap (MCE)", found["mce"], "of one bin; noisy where bins are nearly empty"),
        ("Brier: reliability", parts.reliability, "0 is perfectly calibrated"),
        ("Brier: resolution", parts.resolution, "larger is better"),
        ("Brier: uncertainty", parts.uncertainty, "of the labels themselves"),
        ("mean confidence", found["confidence"], f"accuracy is {found['accuracy']:.3f}"),
    ]
    columns = [Column("name", "measure"), Column("value", "value", ".4f"), Column("note", "note")]
    return Section(
        "Calibration",
        [
            Picture("Reliability diagram", RELIABILITY, reliability_diagram(bins)),
            Table(
                "Calibration measures",
                columns,
                [dict(zip(("name", "value", "note"), row, strict=True)) for row in rows],
            ),
        ],
    )


def uncertainty_section(
    test: Outcome,
    foreign: Sequence[Outcome],
    images: Shaped[np.ndarray, "N H W *channels"] | None,
    class_names: Sequence[str],
    notes: Notes,
) -> Section:
    """Make the section on whether the uncertainty points at mistakes and foreign data."""
    wrong = 1 - test.is_right
    orders = {"confidence": 1 - test.confidence, "entropy": entropy(test.probs)}
    if test.epistemic.max() > 1e-9:
        orders["disagreement of draws"] = test.epistemic
    curves = {name: risk_coverage(order, wrong) for name, order in orders.items()}
    items: list[Item] = [
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
    best = curves["confidence"]
    rows: list[dict[str, Any]] = [
        {"target": f"error of at most {risk:.0%}", "kept": best.coverage_at(risk)}
        for risk in (0.01, 0.05, 0.1)
    ]
    columns = [Column("target", "to reach an"), Column("kept", "keep this share", ".1%")]
    items.append(Table("Selective prediction by confidence", columns, rows))
    if foreign:
        detections = [
            {"set": r.name, "score": r.score.replace("_", " "), **r.detection._asdict()}
            for r in ood_table(test, foreign)
        ]
        keys = [("set", ""), ("score", ""), ("auroc", ".3f"), ("aupr", ".3f"), ("fpr95", ".3f")]
        labels = ["set", "score", "AUROC", "AUPR", "FPR95"]
        what = [Column(k, label, f) for (k, f), label in zip(keys, labels, strict=True)]
        note = "AUROC 0.5 is chance, 1 perfect. FPR95: the task's own points that are flagged too."
        items.append(Table("Telling foreign data from the task's", what, detections, note))
        if without := [o.name for o in (test, *foreign) if o.energy is None]:
            notes["energy score of foreign data"] = (
                f"no energies were stored with {', '.join(without)}; predict again to have them"
            )
    if images is None:
        notes["pictures of mistakes"] = "no images of the test set were given"
    elif not test.is_dense:
        items += _mistakes(test, images, class_names)
    return Section("Uncertainty", items)


def _mistakes(test: Outcome, images: np.ndarray, class_names: Sequence[str]) -> list[Item]:
    targets, guess = np.asarray(test.targets), test.probs.argmax(axis=1)
    wrong = np.flatnonzero(guess != targets)
    confident = wrong[np.argsort(-test.confidence[wrong], kind="stable")][:8]
    unsure = np.argsort(-entropy(test.probs), kind="stable")[:8]
    items: list[Item] = []
    for title, caption, picks in (
        (
            "Most confident mistakes",
            "What the model was surest of and got wrong: look for wrong labels and for patterns.",
            confident,
        ),
        (
            "Most uncertain points",
            "Where the model hesitates most: these should look hard to you, too.",
            unsure,
        ),
    ):
        words = [
            f"said {class_names[guess[i]]} {test.confidence[i]:.0%}\nis {class_names[targets[i]]}"
            for i in picks
        ]
        if len(picks):
            items.append(Picture(title, caption, image_grid(np.asarray(images)[picks], words)))
    return items


def shift_section(rows: Sequence[ShiftRow], notes: Notes) -> Section:
    """Make the section on changed data."""
    metrics = [("accuracy", ".3f"), ("confidence", ".3f"), ("nll", ".3f"), ("ece", ".3f")]
    columns = [Column("set", "set"), Column("severity", "severity")]
    columns += [Column(name, LABELS.get(name, name), spec) for name, spec in metrics]
    lines = [
        {"set": row.shift.replace("_", " "), "severity": row.severity, **row.scores} for row in rows
    ]
    caption = (
        "Accuracy falls as the data get worse; the calibration error should not rise with it, "
        "for an honest model becomes less sure."
    )
    pictures = notes.picture("Scores against severity", caption, lambda: shift_curves(rows))
    return Section("Changed data", [*pictures, Table("Scores of each set", columns, lines)])


def _logs(outcome: Outcome) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(outcome.probs)
