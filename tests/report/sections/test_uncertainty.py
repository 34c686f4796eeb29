import dataclasses

import numpy as np
import pytest
import torch
from report_items import column, line, pictures, tables

from bayesprior.diagnostics.shift import ood_table
from bayesprior.diagnostics.uncertainty import entropy, guaranteed_limit, risk_coverage
from bayesprior.report.context import Context
from bayesprior.report.sections.uncertainty import items, shown_points
from bayesprior.tree.build import to_datatree


@pytest.fixture
def images(rng):
    return {i: rng.integers(0, 256, (4, 4)).astype(np.uint8) for i in range(30)}


def test_the_points_to_look_at_are_the_surest_mistakes_and_the_least_sure(run):
    test = Context(run.tree()).test
    picks = shown_points(test)
    mistakes, unsure = picks.values()
    assert len(mistakes) == len(unsure) == 8
    assert not test.is_right[mistakes].any()
    others = np.setdiff1d(np.flatnonzero(test.is_right == 0), mistakes)
    assert test.confidence[mistakes].min() >= test.confidence[others].max(initial=0)
    assert (np.diff(entropy(test.probs)[unsure]) <= 0).all()


def test_rejection_is_drawn_and_told(run):
    context = Context(run.tree())
    out, test = items(context), context.test
    [axes] = pictures(out)["Error after rejecting the least certain"].figure.axes
    orders = {"confidence": 1 - test.confidence, "entropy": entropy(test.probs)}
    orders["disagreement of draws"] = test.epistemic
    assert len(axes.lines) == 3
    for name, order in orders.items():
        curve = risk_coverage(order, 1 - test.is_right)
        np.testing.assert_allclose(line(axes, name), np.stack([curve.coverage, curve.risk], 1))
    table = tables(out)["Selective prediction by confidence"]
    best = risk_coverage(orders["confidence"], 1 - test.is_right)
    assert column(table, "target")[0] == "error of at most 1%"
    assert column(table, "kept") == [best.coverage_at(risk) for risk in (0.01, 0.05, 0.1)]


def test_validation_points_choose_what_is_kept_of_the_test_set(run, make_prediction):
    found = make_prediction(600)
    sure, guess = found.mean_probs.max(1)
    guess = torch.where(sure > sure.median(), guess, (guess + 1) % 4)
    context = Context(run.tree(validation=dataclasses.replace(found, targets=guess)))
    table, known = tables(items(context))["Selective prediction by confidence"], context.validation
    test = context.test
    for row, risk in zip(table.rows, (0.01, 0.05, 0.1), strict=True):
        limit = guaranteed_limit(1 - known.confidence, 1 - known.is_right, risk)
        kept = 1 - test.confidence < limit
        assert row["kept"] == kept.mean()
        assert row["error"] == (1 - test.is_right[kept].mean() if kept.any() else None)
    assert row["kept"] > 0
    assert "chosen on 600 validation points" in table.note


def test_one_draw_has_nothing_to_disagree_about(run):
    out = items(Context(run.tree(chains=1, draws=1)))
    [axes] = pictures(out)["Error after rejecting the least certain"].figure.axes
    assert len(axes.lines) == 2


def test_foreign_data_are_drawn_and_detected(run):
    context = Context(run.tree())
    out, [noise] = items(context), context.further["ood"]
    [axes] = pictures(out)["Uncertainty of right and wrong answers"].figure.axes
    right = int(context.test.is_right.sum())
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == [f"right ({right})", f"wrong ({30 - right})", "foreign: noise (20)"]
    table = tables(out)["Telling foreign data from the task's"]
    assert column(table, "score") == [
        "max probability",
        "entropy",
        "mutual information",
        "energy",
    ]
    expected = ood_table(context.test, [noise])
    for key in ("set", "auroc", "aupr", "fpr95"):
        assert column(table, key) == [row[key] for row in expected]
    assert "energy score of foreign data" not in context.notes


def test_energies_that_were_not_kept_are_named(run):
    tree = run.tree()
    tree["predictions_noise"] = tree["predictions_noise"].dataset.drop_vars("energy")
    context = Context(tree)
    table = tables(items(context))["Telling foreign data from the task's"]
    assert "energy" not in column(table, "score")
    assert "no energies were stored with noise" in context.notes["energy score of foreign data"]


def test_images_are_shown_with_what_was_said_of_them(run, images):
    context = Context(run.tree(images=images, ood={}))
    out, test = items(context), context.test
    assert "Telling foreign data from the task's" not in tables(out)
    for title, picks in shown_points(test).items():
        shown = [axes for axes in pictures(out)[title].figure.axes if axes.images]
        for axes, i in zip(shown, picks, strict=True):
            np.testing.assert_array_equal(axes.images[0].get_array(), images[int(i)])
            guess, truth = (run.class_names[k] for k in (test.probs[i].argmax(), test.targets[i]))
            said = f"said {guess} {test.confidence[i]:.0%}\nis {truth}"
            assert axes.get_xlabel() == said


def test_images_that_are_not_there_are_named(run):
    context = Context(run.tree())
    out, test = items(context), context.test
    assert "Most uncertain points" not in pictures(out)
    rows, picks = tables(out)["Most confident mistakes"].rows, list(shown_points(test).values())[0]
    for row, i in zip(rows, picks, strict=True):
        guess, truth = (run.class_names[k] for k in (test.probs[i].argmax(), test.targets[i]))
        expected = {"point": str(i), "said": guess, "is": truth, "confidence": test.confidence[i]}
        assert row == expected
    assert "no images" in context.notes["pictures of mistakes"]


def test_nothing_stands_here_without_classes(run, numbers):
    assert items(Context(to_datatree(test=numbers))) == []
    assert items(Context(run.tree(test=None, shifted={}, ood={}))) == []
