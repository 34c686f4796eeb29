import dataclasses

import pyro
import pytest
import scipy.stats
import torch
from torch.nn import functional as F

from bayesprior.errors import ConfigError, DataError
from bayesprior.tasks.pixels import PixelCategorical
from bayesprior.testing import check_likelihood


def masks(num_classes):
    targets = torch.randint(0, num_classes, (4, 2, 3), dtype=torch.uint8)
    targets[0, 0, 0] = 255
    targets[1] = 255  # an image without any label
    return targets


def mean():
    return PixelCategorical(), torch.randn(4, 3, 2, 3).double(), masks(3)


def summed():
    return PixelCategorical(reduction="sum"), torch.randn(4, 3, 2, 3).double(), masks(3)


def binary():
    return PixelCategorical(), torch.randn(4, 1, 2, 3).double(), masks(2)


CASES = [mean, summed, binary]


@pytest.mark.parametrize("case", CASES)
def test_contract(case):
    check_likelihood(*case())


@pytest.mark.parametrize("case", CASES)
def test_further_axes_before_the_examples(case):
    likelihood, outputs, targets = case()
    stacked = torch.stack([outputs, outputs + 1, -outputs])
    alone = torch.stack([likelihood.log_prob(o, targets) for o in stacked])
    every = targets.expand(3, *targets.shape)
    torch.testing.assert_close(likelihood.log_prob(stacked, every), alone)
    entropies = [likelihood.entropy(likelihood.predictive(o)) for o in stacked]
    found = likelihood.entropy(likelihood.predictive(stacked))
    torch.testing.assert_close(found, torch.stack(entropies))


def test_ignored_pixels_do_not_count():
    likelihood, outputs, targets = summed()
    log_prob = likelihood.log_prob(outputs, targets)
    assert log_prob[1] == 0.0
    table = outputs.log_softmax(1)
    by_hand = sum(
        table[0, int(targets[0, i, j]), i, j]
        for i in range(2)
        for j in range(3)
        if targets[0, i, j] != 255
    )
    torch.testing.assert_close(log_prob[0], by_hand)
    torch.testing.assert_close(PixelCategorical().log_prob(outputs, targets)[0], by_hand / 5)
    outputs.requires_grad_()
    likelihood.log_prob(outputs, targets).sum().backward()
    assert not outputs.grad[1].any()
    assert not outputs.grad[0, :, 0, 0].any()


def test_the_mean_of_one_image_is_the_loss_that_segmentation_is_trained_with():
    likelihood, outputs, targets = mean()
    loss = F.cross_entropy(outputs[:1], targets[:1].long(), ignore_index=255)
    torch.testing.assert_close(-likelihood.log_prob(outputs, targets)[0], loss)


def test_one_channel_is_a_bernoulli_law():
    likelihood, outputs, targets = binary()
    labels = targets[2:].double()
    expected = -F.binary_cross_entropy_with_logits(outputs[2:, 0], labels, reduction="none")
    found = likelihood.log_prob(outputs, targets)[2:]
    torch.testing.assert_close(found, expected.mean((1, 2)))
    probs = likelihood.predictive(outputs)
    torch.testing.assert_close(probs[:, 1], outputs[:, 0].sigmoid())
    expected = scipy.stats.bernoulli(outputs[:, 0].sigmoid().numpy()).entropy()
    torch.testing.assert_close(likelihood.entropy(probs), torch.from_numpy(expected))
    two = torch.cat([torch.zeros_like(outputs), outputs], 1)
    assert likelihood.monitor(outputs, targets) == likelihood.monitor(two, targets)


def test_ignored_pixels_in_a_pyro_model():
    for case in CASES:
        likelihood, outputs, targets = case()

        def model(likelihood=likelihood, outputs=outputs, targets=targets):
            with pyro.plate("data", 8, subsample=torch.arange(4)):
                pyro.sample("y", likelihood.distribution(outputs), obs=targets)

        trace = pyro.poutine.trace(model).get_trace()
        expected = 2 * likelihood.log_prob(outputs, targets).sum()
        torch.testing.assert_close(trace.log_prob_sum(), expected)


def test_drawn_masks_follow_the_probabilities():
    outputs = torch.tensor([0.0, 1.5]).view(1, 2, 1, 1).expand(1, 2, 50, 200)
    drawn = PixelCategorical().distribution(outputs).sample((3,))
    assert drawn.shape == (3, 1, 50, 200)
    share = torch.tensor(1.5).sigmoid().item()
    test = scipy.stats.binomtest(int(drawn.sum()), drawn.numel(), share)
    assert test.pvalue > 1e-6


@pytest.mark.parametrize(
    ("outputs", "targets", "message"),
    [
        ((1, 2, 1, 1), torch.tensor([[[7]]]), "got 7"),
        ((1, 1, 1, 1), torch.tensor([[[2]]]), r"2 classes\), got 2"),
        ((1, 2, 1, 2), torch.tensor([[[0]]]), r"\(1, 2, 1, 2\)"),
        ((1, 2), torch.tensor([[[0]]]), r"outputs \(1, 2\)"),
        ((1, 2, 1, 1), torch.tensor([[[0.0]]]), "must be integers"),
    ],
)
def test_bad_masks_get_one_line(outputs, targets, message):
    with pytest.raises(DataError, match=message) as caught:
        PixelCategorical().validate(torch.zeros(outputs), targets)
    assert "\n" not in str(caught.value)


def test_log_prob_refuses_masks_that_only_broadcast():
    with pytest.raises(DataError, match=r"expected .*, got outputs .* and targets"):
        PixelCategorical().log_prob(torch.zeros(1, 2, 3, 3), torch.zeros(1, 1, 3).long())


def test_values_are_frozen_and_checked():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PixelCategorical().ignore_index = 0
    assert PixelCategorical(0) == PixelCategorical(0) != PixelCategorical()
    with pytest.raises(ConfigError, match="'mean' or 'sum', got 'median'"):
        PixelCategorical(reduction="median")
