"""Members of a committee: one trainer, its units, and going on after a kill."""

import math
import re

import pytest
import torch
from recipes_cases import Net, source_and_target

from bayesprior.inference import engine
from bayesprior.inference.strength.head import HeadPrior, map_head
from bayesprior.recipes import make_prior, members
from bayesprior.recipes.members import MemberTask, Recipe


@pytest.fixture(scope="module")
def fitted():
    source, _, data = source_and_target()
    prior = make_prior(source, Net(2), head="head", shape="isotropic", rms_ratio=0.25, data=data)
    return prior, data


def task_of(fitted, **options):
    prior, data = fitted
    torch.manual_seed(0)
    head = HeadPrior(std=0.5)
    task = MemberTask(Net(2), data, prior, head="head", head_prior=head, **UNITS, **options)
    return task


UNITS = {"step_std": 0.02, "tensor_std": 0.1}
RECIPE = Recipe(lr=0.1, head_lr=0.02, num_steps=12, warm_up=2, head_start=0.3)


def test_a_fold_member_starts_from_the_shrunk_head_of_its_own_examples(fitted):
    task = task_of(fitted)
    rows = torch.arange(20)
    weights = task.start(rows, 0.3)
    weight, bias = map_head(task.features[rows], task.labels[rows], 2, task.head_prior)
    views = task.prior.layout.unflatten(weights)
    torch.testing.assert_close(views["head.weight"].double(), 0.3 * weight)
    torch.testing.assert_close(views["head.bias"].double(), 0.3 * bias)
    body = task.prior.layout.slice("backbone.1.weight")
    assert torch.equal(weights[body], task.prior.loc[body])
    assert torch.equal(task.start(None, 0.0), task.prior.loc)


def test_weights_stay_within_the_budget(fitted):
    task = task_of(fitted)
    member = task.fit("fold-0", RECIPE, rows=torch.arange(20))
    moved = (member.point.weights - task.start(torch.arange(20), 0.3))[: task.prior.shared_dim]
    # lr S / 2 standard deviations, and what Adam's averages may lend
    assert 0 < float(moved.abs().max()) < 2 * 0.1 * 12 / 2 * 0.02
    assert member.loss < math.log(2)
    assert torch.equal(
        member.point.buffers["backbone.2.running_mean"],
        task.prior.buffers["backbone.2.running_mean"],
    )


def test_a_killed_member_goes_on_bit_for_bit(fitted, tmp_path, monkeypatch):
    whole = task_of(fitted, folder=tmp_path / "whole").fit("map", RECIPE, prior=fitted[0])
    steps = []

    def killed(event):
        steps.append(event.step)
        if len(steps) == 5:
            raise KeyboardInterrupt

    def watched(*args, **kwargs):
        return engine.train(*args, hooks=[killed], **kwargs)

    monkeypatch.setattr(members, "train", watched)
    options = {"folder": tmp_path / "part", "checkpoint_every": 2}
    with pytest.raises(KeyboardInterrupt):
        task_of(fitted, **options).fit("map", RECIPE, prior=fitted[0])
    torch.manual_seed(99)
    again = task_of(fitted, **options).fit("map", RECIPE, prior=fitted[0])
    assert steps == [*range(1, 6), *range(5, 13)]  # from the last checkpoint on
    assert torch.equal(again.point.weights, whole.point.weights)
    assert [path.name for path in (tmp_path / "part").iterdir()] == ["map.safetensors"]
    read = task_of(fitted, folder=tmp_path / "part").fit("map", RECIPE, prior=fitted[0])
    assert torch.equal(read.point.weights, whole.point.weights)
    assert read.loss == whole.loss


def test_members_of_other_seeds_differ_and_of_one_seed_agree(fitted):
    one, same, other = (
        task_of(fitted, seed=seed).fit("fold-0", RECIPE).point.weights for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_the_progress_says_what_is_still_to_come(fitted, tmp_path):
    task = task_of(fitted, folder=tmp_path)
    task.num_expected = 3
    assert task._told("map") == "map (1 of 3)"
    task.fit("map", RECIPE)
    assert re.fullmatch(r"fold-0 \(2 of 3, then \d+ s\)", task._told("fold-0"))
    again = task_of(fitted, folder=tmp_path)
    again.num_expected = 3
    again.fit("map", RECIPE)  # it is read, and so is what it took
    assert again.seconds == task.seconds
    assert again._told("fold-0") == task._told("fold-0")
    again.num_fits = 3
    assert again._told("LP-FT") == "LP-FT"
