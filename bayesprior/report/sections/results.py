"""Results: every metric of the test set, with intervals."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from bayesprior.diagnostics.calibration import apply_temperature, fit_temperature
from bayesprior.diagnostics.intervals import metric_interval
from bayesprior.diagnostics.outcomes import LabelOutcome, metric_rows, ranking_scores
from bayesprior.diagnostics.predictions import Outcome, scores
from bayesprior.prediction.images import IMAGE_METRICS, overlap_values
from bayesprior.prediction.metrics import MetricRow
from bayesprior.report.context import Context
from bayesprior.report.document import Column, Item, Table
from bayesprior.report.verdicts import Verdict, posterior_verdict
from bayesprior.tree.maps import sums_of

__all__ = ["items", "verdict"]

NOTE = "In brackets: 95 % intervals over the test points."


def items(context: Context) -> list[Item]:
    """Show the metrics of the test set, temperature scaling beside them."""
    if context.kind == "numbers":
        return _numbers(context)
    if context.kind == "pixels":
        return [*_pixels(context), *_every_set(context, "pixels")]
    if context.labels is not None:
        return [*_labels(context, context.labels), *_every_set(context, "labels")]
    test = context.test
    if test is None:
        return []
    scaled, note = _scaled(context, test)
    rows = [
        _line(row, context.estimates[name]) | {"scaled": scaled.get(name)}
        for name, row in metric_rows("pixels" if test.is_dense else "classes").items()
    ]
    return [_table(len(test.probs), rows, note)]


def _line(row: MetricRow, value: Any) -> dict[str, Any]:
    return {"score": row.label, "value": value, "meaning": row.meaning, "format": row.format}


def _table(num_points: int, rows: list[dict[str, Any]], note: str) -> Table:
    columns = [Column("score", "metric"), Column("value", "value", ".3f")]
    columns += [Column("scaled", "after temperature scaling", ".3f")]
    columns += [Column("meaning", "what it says")]
    return Table(f"Metrics of the test set ({num_points} points)", columns, rows, note)


def _scaled(context: Context, test: Outcome) -> tuple[Mapping[str, float], str]:
    """Metrics after temperature scaling, and what to say of them."""
    validation = context.validation
    if validation is None:
        return {}, NOTE
    temperature = fit_temperature(_logs(validation), np.asarray(validation.targets))
    probs = apply_temperature(_logs(test), temperature)
    targets = np.asarray(test.targets)
    log_score = np.log(np.maximum(probs[np.arange(len(targets)), targets], 1e-300))
    other = dataclasses.replace(test, probs=probs, log_score=log_score)
    parts = ("aleatoric", "epistemic")  # of the draws, which are not scaled
    note = (
        f"{NOTE} Temperature scaling (T = {temperature:.2f}, fitted on validation data) is shown "
        "beside, for comparison; everything else in this report is without it."
    )
    return {name: value for name, value in scores(other).items() if name not in parts}, note


def _numbers(context: Context) -> list[Item]:
    if not (found := context.estimates):
        return []
    data = context.tree["predictions"].dataset
    rows = [_line(row, found[name]) for name, row in metric_rows("numbers").items()]
    std = float(np.sqrt(data.variance.values).mean())
    meaning = "the error that the model expects"
    rows.append({"score": "predicted std", "value": std, "meaning": meaning})
    return [_table(data.sizes["point"], rows, NOTE)]


def _labels(context: Context, test: LabelOutcome) -> list[Item]:
    """Show the metrics of several labels an example, and those of every label."""
    rows = [_line(row, context.estimates[name]) for name, row in test.rows.items()]
    known = context.tree["observed_data"].y if "observed_data" in context.tree.children else None
    each = []
    for k, name in enumerate(context.tree["predictions"].label.values):
        probs, truth = test.probs[:, k], test.targets[:, k]
        said, hits = probs > 0.5, truth == 1
        line: dict[str, Any] = {"name": str(name), "test": int(hits.sum())}
        line["train"] = None if known is None else int(known.values[:, k].sum())
        line |= {"frequency": float(hits.mean()), "mean": float(probs.mean())}
        line["ap"], line["auroc"] = ranking_scores(probs, truth)
        line["precision"] = float(hits[said].mean()) if said.any() else None
        line["recall"] = float(said[hits].mean()) if hits.any() else None
        each.append(line)
    columns = [Column("name", "label"), Column("train", "training examples with it", ",")]
    columns += [Column("test", "test points with it", ",")]
    columns += [
        Column("frequency", "their share", ".1%"),
        Column("mean", "mean probability", ".1%"),
    ]
    columns += [Column("ap", "average precision", ".3f"), Column("auroc", "AUROC", ".3f")]
    columns += [Column("precision", "right when said", ".3f")]
    columns += [Column("recall", "found of those with it", ".3f")]
    note = (
        "A label is said from probability 1/2 on. Chance: a precision of its share, an AUROC of .5."
    )
    return [_table(len(test.probs), rows, NOTE), Table("Each label", columns, each, note)]


def _pixels(context: Context) -> list[Item]:
    """Show the metrics of pixels, with intervals over images, and the overlap of every class."""
    data = context.tree["predictions"].dataset
    sums = sums_of(data)
    if sums is None or not sums.confusion.sum():
        return []
    rows = [
        _line(row, metric_interval(row, np.asarray(row.points(sums))))
        for row in IMAGE_METRICS.values()
    ]
    note = (
        "In brackets: 95 % intervals over images, by resampling them. Pixels depend on their "
        "neighbors and are no independent points."
    )
    if context.attrs.get("likelihood", {}).get("reduction") == "mean":
        note += (
            " For the same reason the fit's likelihood is tempered: an image counts as one pixel, "
            "by the mean over its pixels, and not as many independent ones."
        )
    whole = sums.confusion.sum(0)
    num_images, num_pixels = len(sums.confusion), int(whole.sum())
    table = _table(num_pixels, rows, note)
    title = f"Metrics of the test set ({num_pixels:,} pixels of {num_images} images)"
    each = []
    names = context.attrs.get("class_names") or range(len(whole))
    for label, name in enumerate(names):
        row, values = overlap_values(sums, label)
        share = float(whole[label].sum()) / num_pixels
        overlap = metric_interval(row, values.numpy()) if len(values) else None
        each.append({"name": str(name), "iou": overlap, "share": share, "images": len(values)})
    columns = [Column("name", "class"), Column("iou", "IoU", ".3f")]
    columns += [Column("share", "share of the pixels", ".1%"), Column("images", "images", "d")]
    note = "Overlap over union, 95 % intervals over the images that hold the class or are said to."
    return [dataclasses.replace(table, title=title), Table("Every class", columns, each, note)]


def _every_set(context: Context, task: str) -> list[Item]:
    """Show sets of which only the metrics are kept, side by side; one that is alone stands above.

    That of pixels whose sums by image are not kept stands here.
    """
    groups = {g: node for g, node in context.tree.children.items() if g.startswith("predictions")}
    is_shown = task == "labels" or sums_of(context.tree["predictions"].dataset) is not None
    if len(groups) == 1 and is_shown:
        return []
    rows = [
        {"set": g.removeprefix("predictions_").replace("predictions", "test set")}
        | Context(node).attrs["metrics"]
        for g, node in groups.items()
        if node.attrs.get("kind") != "ood"
    ]
    shown = metric_rows(task).items()
    columns = [Column("set", "set"), *(Column(name, row.label, row.format) for name, row in shown)]
    pixels = "Over all pixels, which depend on their neighbors: no intervals."
    return [Table("Metrics of each set", columns, rows, pixels if task == "pixels" else "")]


def _logs(outcome: Outcome) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(outcome.probs)


def verdict(context: Context) -> Verdict | None:
    """Say first of all where the draws are not the posterior's."""
    chains, draws = context.num_draws
    if chains * draws == 1 or context.attrs.get("independent_draws", 0):
        return None
    return posterior_verdict(context.claims)
