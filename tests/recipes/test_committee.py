"""The committee: shares, confidence out of fold, the budget's search, and its fall-backs."""

import dataclasses
import math

import pytest
import torch
from recipes_cases import Net, blobs
from torch.nn import functional as F

from bayesprior.data import few_shot
from bayesprior.inference.collectors import DrawsInMemory
from bayesprior.inference.strength.confidence import fit_confidence
from bayesprior.inference.strength.features import head_inputs, stratified_folds
from bayesprior.inference.strength.head import HeadPrior, held_out_logits
from bayesprior.prediction.predict import predict
from bayesprior.recipes import make_prior
from bayesprior.recipes.committee import _Fit, fit_committee, worse_by
from bayesprior.recipes.head_priors import rms_by_tensor
from bayesprior.recipes.members import BATCH_SIZE, MemberTask
from bayesprior.recipes.rule import RULE
from bayesprior.tasks.likelihoods import Categorical

UNITS = {"step_std": 0.02, "tensor_std": 0.1}
QUICK = dataclasses.replace(RULE, num_steps=(12, 24))


def task_of(source, per_class, num_classes=3, **options):
    data = few_shot(blobs(num_classes, 240, noise=1.5), per_class=per_class, seed=1)
    net = Net(num_classes)
    prior = make_prior(source, net, head="head", shape="isotropic", rms_ratio=0.25, data=data)
    source.layout.load_(net, source.loc)
    features, _ = head_inputs(net, "head", data.loader("train", 99))
    head = HeadPrior.of_features(features)
    return MemberTask(net, data, prior, head="head", head_prior=head, **UNITS, **options)


def test_five_images_a_class(source):
    task = task_of(source, 5)
    found = fit_committee(task, QUICK)
    assert found.names[0] == "map-budget-2"
    assert len(found.draws) == 5
    assert [d.weight for d in found.draws] == [0.25, *[0.75 / 4] * 4]
    assert [d.confidence / found.confidence for d in found.draws] == pytest.approx([2.4, *[1] * 4])
    assert found.budget == 2
    assert found.held_out["committee"].shape == (15, 3)
    assert found.num_gradients == 5 * 12 * 15
    # predicted as any posterior, in logits
    loader = task.data.loader("test", 50)
    posterior = DrawsInMemory(found.draws, average="logits")
    probs = predict(task.module, posterior, loader, Categorical()).mean_probs
    pooled = 0
    for draw in found.draws:
        point = dataclasses.replace(task_point(task), weights=draw.weights, buffers=draw.buffers)
        logits = task.logits(point, loader)
        pooled = pooled + draw.weight * draw.confidence * logits
    torch.testing.assert_close(probs, pooled.softmax(1), rtol=1e-4, atol=1e-6)
    # better than guessing
    labels = torch.cat([y for _, y in loader])
    assert float(F.nll_loss(probs.log(), labels)) < math.log(3)


def test_the_map_can_be_looked_at_out_of_fold(source):
    task = task_of(source, 5)
    found = fit_committee(task, QUICK, held_out_map=True)
    assert found.num_gradients == 9 * 12 * 15
    plain = fit_committee(task_of(source, 5), QUICK)
    assert "map" not in plain.held_out
    for one, other in zip(found.draws, plain.draws, strict=True):  # nothing else changes
        assert torch.equal(one.weights, other.weights)
        assert one.confidence == other.confidence
    logits = found.held_out["map"]
    assert F.cross_entropy(logits, task.labels) < math.log(3)
    # those of a fit that has not seen the examples
    folds = stratified_folds(task.labels, 4, task.seed)
    inside = task.logits(dataclasses.replace(task_point(task), weights=found.draws[0].weights))
    assert not torch.allclose(logits[folds == 0], inside[folds == 0] * found.draws[0].confidence)


def task_point(task):
    from bayesprior.inference.posteriors import PointPosterior

    return PointPosterior(task.prior.layout, task.prior.loc, task.prior.buffers)


def test_the_confidence_is_of_the_out_of_fold_mixture(source):
    task = task_of(source, 5)
    found = fit_committee(task, QUICK)
    again = fit_confidence(found.held_out["committee"] / found.confidence, task.labels)
    assert again == pytest.approx(found.confidence, rel=1e-4)


def test_a_fold_whose_member_is_dropped_says_nothing_of_confidence(source, monkeypatch):
    """Its examples have no out-of-fold logits: zeros would call the committee too sure."""
    task = task_of(source, 5)
    fit = task.fit
    monkeypatch.setattr(
        task, "fit", lambda name, *a, **k: None if name.endswith("fold-1") else fit(name, *a, **k)
    )
    found = fit_committee(task, QUICK)
    assert len(found.draws) == 4
    folds = stratified_folds(task.labels, 4, task.seed)
    assert torch.equal(found.rows, (folds != 1).nonzero()[:, 0])
    assert {len(logits) for logits in found.held_out.values()} == {len(found.rows)}
    assert all(logits.isfinite().all() for logits in found.held_out.values())
    logits, labels = found.held_out["committee"] / found.confidence, task.labels[found.rows]
    assert fit_confidence(logits, labels) == pytest.approx(found.confidence, rel=1e-4)


def test_one_image_a_class_has_no_folds(source):
    found = fit_committee(task_of(source, 1), QUICK)
    assert found.names == ["map-budget-2", "fine-tuning"]
    assert [d.weight for d in found.draws] == [0.5, 0.5]
    assert [d.confidence for d in found.draws] == pytest.approx([2.4 * 0.8, 0.8])
    assert not found.held_out


def test_two_images_a_class_are_halved_for_the_confidence_alone(source):
    task = task_of(source, 2)
    found = fit_committee(task, QUICK)
    assert found.names == ["map-budget-2", "fine-tuning"]
    assert [d.weight for d in found.draws] == [0.5, 0.5]
    assert found.num_fits == task.num_expected == 4
    assert found.num_gradients == 4 * 12 * 6
    logits = found.held_out["committee"] / found.confidence
    assert fit_confidence(logits, task.labels) == pytest.approx(found.confidence, rel=1e-4)
    # of members, and heads, that saw the other half
    folds = stratified_folds(task.labels, 2, task.seed)
    heads = held_out_logits(task.features, task.labels, 3, task.head_prior, folds)
    held_out = (logits - 0.5 * 2.4 * heads) / 0.5
    assert torch.allclose(held_out.logsumexp(1), torch.zeros(6).double(), atol=1e-6)
    assert torch.equal(found.held_out["fine-tuning"].argmax(1), held_out.argmax(1))


def test_two_images_a_class_without_a_half_that_learned(source, monkeypatch):
    """Nothing tells the confidence of a fine-tuning then: it stays out."""
    task = task_of(source, 2)
    fit = task.fit
    monkeypatch.setattr(
        task, "fit", lambda name, *a, **k: None if "fold" in name else fit(name, *a, **k)
    )
    found = fit_committee(task, QUICK)
    assert (found.names, [d.weight for d in found.draws]) == (["map-budget-2"], [1.0])
    monkeypatch.setattr(
        task, "fit", lambda name, *a, **k: fit(name, *a, **k) if name == "fine-tuning" else None
    )
    assert fit_committee(task, QUICK).names == ["probe"]


@pytest.mark.parametrize(
    ("budgets", "low", "high", "chosen"),
    [((2.0, 12.0), -math.inf, -1, 0), ((0.5, 2.0), -1, 0, 1)],
    ids=["clearly better", "a tie"],
)
def test_the_wide_budget_stands_unless_the_narrow_one_is_clearly_better(
    source, budgets, low, high, chosen
):
    lines = []
    rule = dataclasses.replace(QUICK, budgets=budgets)
    found = fit_committee(task_of(source, 20), rule, tell=lines.append)
    (told,) = [line for line in lines if line.startswith("budget")]
    assert told.startswith("budget {1:g} against {0:g}: ".format(*budgets))
    assert low < float(told.split(", ")[-1].split()[0]) < high
    assert found.budget == budgets[chosen]
    assert found.names[0] == f"map-budget-{found.budget:g}"
    ratio = found.prior.block_rms_std()["backbone.1.weight"] / 0.25
    own = rms_by_tensor(source)["backbone.1.weight"]
    assert ratio == pytest.approx(own * found.budget / budgets[0], rel=1e-4)


def test_few_images_keep_the_narrow_budget(source):
    lines = []
    assert fit_committee(task_of(source, 5), QUICK, tell=lines.append).budget == 2
    assert not [line for line in lines if line.startswith("budget")]


def test_a_budget_whose_members_are_all_dropped_leaves_the_other(source, monkeypatch):
    task = task_of(source, 20)
    fit = task.fit
    monkeypatch.setattr(
        task, "fit", lambda name, *a, **k: None if "12-fold" in name else fit(name, *a, **k)
    )
    found = fit_committee(task, QUICK)
    assert found.budget == 2
    assert len(found.draws) == 5


def test_members_that_do_not_learn_are_dropped_and_the_probe_stands_in(source):
    still = dataclasses.replace(QUICK, budgets=(1e-6, 1e-6), map_lr=1e-6, head_start=1e-6)
    task = task_of(source, 5)
    found = fit_committee(task, still)
    assert found.names == ["probe"]
    assert found.budget == 0
    assert "taken instead" in found.notes[-1]
    assert found.draws[0].confidence == found.probe.confidence
    logits = task.logits(dataclasses.replace(task_point(task), weights=found.draws[0].weights))
    expected = task.features.double() @ found.probe.weight.T + found.probe.bias
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)


def logits_of_loss(losses, labels):
    """Logits of three classes whose negative log likelihoods these are."""
    logits = torch.log(torch.expm1(losses) / 2)[:, None].repeat(1, 3)
    logits[range(len(labels)), labels] = 0
    return logits


@pytest.mark.parametrize(
    ("loss", "errors", "nats", "is_taken"),
    [
        (0.5, 3.5, 0.1, False),
        (0.5, 4.5, 0.1, True),
        (0.5, 4.5, 0.009, False),
        (1.2, 1.9, 0.1, False),
        (1.2, 2.1, 0.1, True),  # and no better than guessing
    ],
)
def test_the_probe_is_taken_where_it_is_far_better_only(source, loss, errors, nats, is_taken):
    """Two standard errors took it in three fits of 27, and the committee was better in each."""
    task, lines = task_of(source, 20), []
    noise = torch.randn(60, dtype=torch.float64)
    gaps = nats * (1 + (noise - noise.mean()) / noise.std() * math.sqrt(60) / errors)
    base = torch.full((60,), loss + max(0.0, -float(gaps.min()))).double()
    found = {"committee": logits_of_loss(base + gaps, task.labels)}
    found["probe"] = logits_of_loss(base, task.labels)
    assert _Fit(task, RULE, False, lines.append)._is_beaten(found, task.labels) is is_taken
    assert bool(lines) is is_taken


def test_every_gradient_and_fit_is_counted(source):
    task = task_of(source, 22)  # 66 images
    found = fit_committee(task, QUICK, held_out_map=True)
    narrow, wide = QUICK.num_steps
    assert found.num_gradients == BATCH_SIZE * (4 * (narrow + wide) + wide + 4 * wide)
    assert found.num_fits == task.num_fits == task.num_expected == 13


def test_paired_standard_errors():
    one, other = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 1.0, 2.0])
    assert worse_by(one, other) == pytest.approx(1 / (1 / math.sqrt(3)))
    assert worse_by(other, one) == -worse_by(one, other)
    assert worse_by(one, one) == 0
