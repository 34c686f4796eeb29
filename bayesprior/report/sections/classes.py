"""Classes: how many examples each has, how often it is right, and what it is taken for."""

import numpy as np

from bayesprior.diagnostics.intervals import metric_interval
from bayesprior.prediction.metrics import METRICS
from bayesprior.report.confusion import confusion_matrix
from bayesprior.report.context import Context
from bayesprior.report.document import Column, Item, Table

__all__ = ["items"]

NUM_PAIRS = 10


def items(context: Context) -> list[Item]:
    """Show the confusion matrix, each class, and the pairs that are mistaken most."""
    if (test := context.test) is None:
        return []
    names = [str(name) for name in context.tree["predictions"].class_name.values]
    targets, guess = np.asarray(test.targets), test.probs.argmax(1)
    counts = np.zeros((len(names), len(names)), dtype=int)
    np.add.at(counts, (targets, guess), 1)
    caption = (
        "A row is a true class, a column what was said; the darker, the larger the share of the "
        "row. All on the diagonal would be right."
    )
    drawn = context.picture("Confusion matrix", caption, confusion_matrix, counts, names)
    return [*drawn, _each(context, counts, names), *_mistaken(counts, names)]


def _each(context: Context, counts: np.ndarray, names: list[str]) -> Table:
    """Return a row for each class."""
    totals, said = counts.sum(1), counts.sum(0)
    wrong = counts - np.diag(np.diag(counts))
    train = _trained_on(context, len(names))
    rows = []
    for k, name in enumerate(names):
        hits = np.repeat([1.0, 0.0], [counts[k, k], totals[k] - counts[k, k]])
        right = None
        if len(hits) and context.test is not None:
            right = hits.mean() if context.test.is_dense else metric_interval(ACCURACY, hits)
        rows.append(
            {
                "name": name,
                "train": None if train is None else int(train[k]),
                "test": int(totals[k]),
                "right": right,
                "precision": counts[k, k] / said[k] if said[k] else None,
                "taken": names[wrong[k].argmax()] if wrong[k].any() else None,
            }
        )
    columns = [
        Column("name", "class"),
        Column("train", "training examples", ","),
        Column("test", "test points", ","),
        Column("right", "accuracy [95 %]", ".3f"),
        Column("precision", "right when said", ".3f"),
        Column("taken", "most often taken for"),
    ]
    note = ""
    if train is not None and train.sum():
        most, least = train.argmax(), train.argmin()
        note = (
            f"Class balance of the training set: from {train[least]:,} ({names[least]}) to "
            f"{train[most]:,} ({names[most]}) examples a class."
        )
    return Table("Each class", columns, rows, note)


ACCURACY = METRICS["accuracy"]


def _trained_on(context: Context, num_classes: int) -> np.ndarray | None:
    """Return each class's number of training points; None where their labels are not kept."""
    if "observed_data" not in context.tree.children:
        return None
    labels = context.tree["observed_data"].y.values.astype(int).ravel()
    return np.bincount(labels[(labels >= 0) & (labels < num_classes)], minlength=num_classes)


def _mistaken(counts: np.ndarray, names: list[str]) -> list[Table]:
    """Return the pairs of classes that are mistaken most; nothing where all is right."""
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:NUM_PAIRS]
    rows = [
        {"is": names[i], "said": names[j], "count": int(wrong[i, j]), "share": share}
        for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True)
        if wrong[i, j]
        for share in [wrong[i, j] / counts[i].sum()]
    ]
    columns = [
        Column("is", "true class"),
        Column("said", "what was said"),
        Column("count", "test points", ","),
        Column("share", "share of the class", ".1%"),
    ]
    return [Table("Most frequent mistakes", columns, rows)] if rows else []
