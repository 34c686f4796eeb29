import numpy as np
import pytest
from report_items import column, pictures, tables
from scipy.stats import binomtest

from bayesprior.report.context import Context
from bayesprior.report.sections.classes import items
from bayesprior.tree.build import to_datatree


@pytest.fixture
def context(run):
    return Context(run.tree())


def test_each_class_is_counted(run, context):
    table = tables(items(context))["Each class"]
    targets, guess = run.sets["test"][1].numpy(), context.test.probs.argmax(1)
    assert column(table, "name") == list(run.class_names)
    assert column(table, "train") == np.bincount(run.sets["train"][1], minlength=4).tolist()
    assert column(table, "test") == np.bincount(targets, minlength=4).tolist()
    for k, row in enumerate(table.rows):
        mine, said = targets == k, guess == k
        test = binomtest(int((mine & said).sum()), int(mine.sum()))
        low, high = test.proportion_ci(method="wilson")
        assert row["right"] == pytest.approx(((mine & said).sum() / mine.sum(), low, high))
        assert row["precision"] == (pytest.approx(mine[said].mean()) if said.any() else None)
        wrong = np.bincount(guess[mine & ~said], minlength=4)
        assert row["taken"] == (run.class_names[wrong.argmax()] if wrong.any() else None)
    counts = np.bincount(run.sets["train"][1])
    assert f"from {counts.min()} ({run.class_names[counts.argmin()]})" in table.note


def test_mistakes_are_listed_by_their_number(run, context):
    table = tables(items(context))["Most frequent mistakes"]
    counts = column(table, "count")
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) == (context.test.is_right == 0).sum()  # of 12 pairs two never occur here
    names, targets = np.array(run.class_names), run.sets["test"][1].numpy()
    for row in table.rows:
        own = names[targets] == row["is"]
        mistaken = own & (names[context.test.probs.argmax(1)] == row["said"])
        assert (mistaken.sum(), mistaken.sum() / own.sum()) == (row["count"], row["share"])


def test_classes_without_points_or_mistakes_have_dashes(run):
    for name in ("train", "test"):
        x, _ = run.sets[name]
        run.sets[name] = (x, run.predictions[name].mean_probs.argmax(1))
    run.sets["test"] = (run.sets["test"][0], run.sets["test"][1].clamp(min=1))
    run.predict()
    found = tables(items(Context(run.tree())))
    first = found["Each class"].rows[0]
    assert (first["test"], first["right"]) == (0, None)
    run.sets["test"] = (run.sets["test"][0], run.predictions["test"].mean_probs.argmax(1))
    run.predict()
    assert "Most frequent mistakes" not in tables(items(Context(run.tree())))


def test_labels_that_are_not_kept_are_left_out(run):
    table = tables(items(Context(run.tree(train=None))))["Each class"]
    assert set(column(table, "train")) == {None}
    assert table.note == ""


def test_pixels_have_no_intervals_and_many_classes_no_matrix(maps, run):
    dense = tables(items(Context(to_datatree(test=maps(keep_maps=True)))))["Each class"]
    assert all(isinstance(value, float) for value in column(dense, "right"))
    many = run.predictions["test"]
    wide = np.zeros((30, 26))
    wide[:, :4] = many.mean_probs
    tree = to_datatree(test=many)
    group = tree["predictions"].dataset.drop_dims("class_name")
    names = [f"c{i}" for i in range(26)]
    tree["predictions"] = group.assign(probs=(("point", "class_name"), wide)).assign_coords(
        class_name=names
    )
    context = Context(tree)
    assert "Confusion matrix" not in pictures(items(context))
    assert "26 classes are too many" in context.notes["figure: Confusion matrix"]


def test_numbers_have_no_classes(numbers):
    assert items(Context(to_datatree(test=numbers))) == []
