import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bayesprior.errors import ConfigError, DataError
from bayesprior.tasks.likelihoods import Bernoulli, Categorical, HeteroscedasticNormal, Normal
from bayesprior.tasks.objectives import supervised
from bayesprior.tasks.pixels import PixelCategorical
from bayesprior.tasks.protocols import dictionary_forward, inputs_forward


def test_supervised_is_the_mean_cross_entropy():
    module = nn.Linear(3, 4)
    inputs, targets = torch.randn(6, 3), torch.tensor([0, 1, 2, 3, 0, 1])
    loss, extras = supervised(Categorical())(module, (inputs, targets))
    torch.testing.assert_close(loss, F.cross_entropy(module(inputs), targets))
    right = (module(inputs).argmax(1) == targets).sum().item()
    assert extras["accuracy"].item() == pytest.approx(right / 6)
    assert not extras["accuracy"].requires_grad
    loss.backward()
    assert module.weight.grad.any()


def test_supervised_loss_does_not_grow_with_the_batch():
    module = nn.Linear(3, 4)
    inputs, targets = torch.randn(6, 3), torch.tensor([0, 1, 2, 3, 0, 1])
    loss_fn = supervised(Categorical())
    once, _ = loss_fn(module, (inputs, targets))
    twice, _ = loss_fn(module, (inputs.repeat(2, 1), targets.repeat(2)))
    torch.testing.assert_close(once, twice)


def test_supervised_on_pixels_counts_labeled_pixels():
    logits = torch.randn(2, 3, 4, 4)
    targets = logits.argmax(1)
    targets[0, 0, 0] = (targets[0, 0, 0] + 1) % 3
    targets[1, 2:] = 255
    likelihood = PixelCategorical(reduction="sum")
    loss, extras = supervised(likelihood)(nn.Identity(), (logits, targets))
    total = F.cross_entropy(logits, targets, ignore_index=255, reduction="sum")
    torch.testing.assert_close(loss, total / 2)
    loss, _ = supervised(PixelCategorical())(nn.Identity(), (logits, targets))
    each = F.cross_entropy(logits, targets, ignore_index=255, reduction="none").sum((1, 2))
    torch.testing.assert_close(loss, (each / torch.tensor([16, 8])).mean())
    torch.testing.assert_close(extras["accuracy"], torch.tensor(23 / 24))


def test_supervised_regression_reports_the_rmse():
    outputs, targets = torch.randn(5, 1), torch.randn(5, 1)
    rmse = float(np.sqrt(((outputs - targets).numpy() ** 2).mean()))
    loss, extras = supervised(Normal(std=1.0))(nn.Identity(), (outputs, targets))
    assert extras["rmse"].item() == pytest.approx(rmse)
    assert loss.item() == pytest.approx(rmse**2 / 2 + math.log(2 * math.pi) / 2)
    both = torch.cat([outputs, torch.zeros(5, 1)], 1)
    with_noise, extras = supervised(HeteroscedasticNormal())(nn.Identity(), (both, targets))
    torch.testing.assert_close(with_noise, loss)
    assert extras["rmse"].item() == pytest.approx(rmse)


def test_supervised_refuses_a_label_out_of_range():
    with pytest.raises(DataError, match=r"labels must be in 0 \.\.\. 2"):
        supervised(Categorical())(nn.Linear(2, 3), (torch.zeros(1, 2), torch.tensor([3])))


# --- other batches and outputs -------------------------------------------------------------


class Segmenter(nn.Module):
    """Two heads, as torchvision's segmentation networks have them while they train."""

    def __init__(self):
        super().__init__()
        self.main, self.extra, self.calls = nn.Conv2d(2, 3, 1), nn.Conv2d(2, 3, 1), 0

    def forward(self, inputs):
        self.calls += 1
        return {"out": self.main(inputs), "aux": self.extra(inputs)}


def test_auxiliary_losses_are_weighted_and_the_module_is_called_once():
    module, likelihood = Segmenter(), PixelCategorical()
    inputs, targets = torch.randn(2, 2, 4, 4), torch.randint(0, 3, (2, 4, 4))
    main, extra = (
        -likelihood.log_prob(part(inputs), targets).mean() for part in (module.main, module.extra)
    )
    plain = supervised(likelihood, forward=dictionary_forward())
    torch.testing.assert_close(plain(module, (inputs, targets))[0], main)
    both = supervised(likelihood, forward=dictionary_forward(), auxiliary={"aux": 0.5})
    module.calls = 0
    loss, _ = both(module, (inputs, targets))
    torch.testing.assert_close(loss, main + 0.5 * extra)
    assert module.calls == 1
    assert not module._forward_hooks
    loss.backward()
    assert module.extra.weight.grad.any()
    wrong = supervised(likelihood, forward=dictionary_forward(), auxiliary={"auxx": 0.5})
    with pytest.raises(DataError, match="returned dict with out, aux, without 'auxx'"):
        wrong(module, (inputs, targets))


def test_a_forward_of_ones_own():
    module, batch = nn.Linear(3, 2), {"x": torch.randn(4, 3), "y": torch.tensor([0, 1, 1, 0])}
    loss_fn = supervised(Categorical(), forward=lambda m, b: (m(b["x"]), b["y"]))
    expected = F.cross_entropy(module(batch["x"]), batch["y"])
    torch.testing.assert_close(loss_fn(module, batch)[0], expected)


def test_a_batch_without_targets_is_named():
    with pytest.raises(DataError, match="the batch has no targets"):
        supervised(Categorical(), forward=inputs_forward)(nn.Linear(3, 2), torch.zeros(1, 3))


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_smoothed_labels_are_a_mixture_with_all_classes(share):
    """Of what is fitted; the accuracy that is watched is that of the labels themselves."""
    module = nn.Linear(3, 4)
    inputs, targets = torch.randn(6, 3), torch.tensor([0, 1, 2, 3, 0, 1])
    batch = (inputs, targets)
    loss, extras = supervised(Categorical(), label_smoothing=share)(module, batch)
    logs = module(inputs).log_softmax(1)
    expected = (1 - share) * logs[range(6), targets] + share / 4 * logs.sum(1)
    torch.testing.assert_close(loss, -expected.mean())
    assert extras["accuracy"] == supervised(Categorical())(module, batch)[1]["accuracy"]
    with pytest.raises(DataError, match="got 4"):
        supervised(Categorical(), label_smoothing=share)(module, (inputs, targets + 1))


def test_what_cannot_be_smoothed_is_one_line():
    for likelihood in (Normal(1.0), Bernoulli(), PixelCategorical()):
        with pytest.raises(ConfigError, match="one class an example, not for"):
            supervised(likelihood, label_smoothing=0.1)
    with pytest.raises(ConfigError, match=r"in \[0, 1\), got 1"):
        supervised(Categorical(), label_smoothing=1.0)
