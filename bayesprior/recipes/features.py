"""What the features of a source without labels are worth, and how they vary."""

import copy
import dataclasses
import itertools
import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from bayesprior.inference.strength.features import feature_statistics
from bayesprior.recipes.runs import add_results, read_results
from bayesprior.recipes.training import Run
from bayesprior.tasks.objectives.methods import head_features
from bayesprior.tasks.objectives.probes import knn_accuracy, linear_accuracy
from bayesprior.tasks.protocols import to_device
from bayesprior.weights.gaussian import GaussianWeights

__all__ = ["FeatureQuality", "features_of_views"]

_MOST = 10_000  # training images that the classifiers learn from
_MOST_VIEWED = 4096  # images whose views the statistics are estimated from
_START = "start"  # stage in results.json: accuracies of the network that the fit started from


class FeatureQuality:
    """Accuracies of simple classifiers on features, before and after a fit.

    Parameters
    ----------
    run
        Before it trains. A resumed one is told by its folder what it started from.
    head
        Name of the head's layer; None takes the outputs for features.
    """

    def __init__(self, run: Run, head: str | None) -> None:
        self.run, self.head = run, head
        known = {} if run.out is None else read_results(run.out)
        self.before: dict[str, float] = known.get(_START) or self._measured(run.module)
        if run.out is not None and _START not in known:
            add_results(run.out, _START, self.before)

    def compared_with(self, law: GaussianWeights) -> dict[str, Any]:
        """Return the accuracies at a law's mean, beside those of the start; warn if no better.

        The standard errors are those of independent test sets, on the safe side.
        """
        after, test = self._measured(_at_mean(self.run, law)), len(self.run.data.test)
        errors = {
            name: math.sqrt(sum(p * (1 - p) for p in (after[name], self.before[name])) / test)
            for name in after
        }
        found = {
            name: {"source": after[name], "start": self.before[name], "std_error": errors[name]}
            for name in after
        }
        if all(after[name] - self.before[name] <= 2 * errors[name] for name in after):
            told = ", ".join(
                f"{name} {after[name]:.3f} against {self.before[name]:.3f} +- {errors[name]:.3f}"
                for name in after
            )
            warnings.warn(
                "the source has learned nothing that shows: its features classify no better than "
                f"those of the network it started from ({told}); take more steps, another "
                "learning rate or other augmentations",
                stacklevel=4,
            )
        return found

    def _measured(self, module: nn.Module) -> dict[str, float]:
        data = self.run.data
        train = data.train.without_augmentation()
        if len(train) > _MOST:
            order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
            train = train.subset(order[:_MOST])
        plain = dataclasses.replace(data, train=train)
        sets: list[Tensor] = []
        for split in ("train", "test"):
            batches = list(plain.loader(split, 256))
            sets.append(_features(self.run, module, self.head, [images for images, _ in batches]))
            sets.append(torch.cat([labels for _, labels in batches]))
        return {"knn": knn_accuracy(*sets), "linear": linear_accuracy(*sets)}


def features_of_views(run: Run, law: GaussianWeights, head: str | None) -> dict[str, Tensor]:
    """Return the statistics of a head's inputs at a law's mean, within and between images."""
    size = run.call.batch_size
    batches = itertools.islice(
        run.data.loader("train", size, shuffle=True, seed=run.call.seed),
        math.ceil(_MOST_VIEWED / size),
    )
    views = [batch[0] if isinstance(batch[0], tuple | list) else batch for batch in batches]
    module = _at_mean(run, law)
    features = [_features(run, module, head, [pair[i] for pair in views]) for i in (0, 1)]
    images = torch.arange(len(features[0])).repeat(2)  # each a class of two views
    found = feature_statistics(torch.cat(features), images)
    return {name: tensor.to(law.loc) for name, tensor in found.items()}


def _at_mean(run: Run, law: GaussianWeights) -> nn.Module:
    module = copy.deepcopy(run.module)
    with torch.no_grad():
        law.layout.load_(module, law.loc.to(run.device))
        for name, buffer in module.named_buffers():
            if name in law.buffers:
                buffer.copy_(law.buffers[name])
    return module


@torch.no_grad()
def _features(run: Run, module: nn.Module, head: str | None, batches: list[Tensor]) -> Tensor:
    """Return the features of images in evaluation mode, on the CPU; the mode stays as it was."""
    was = module.training
    module.eval()
    found = [head_features(module, head, to_device(b, run.device)).cpu() for b in batches]
    module.train(was)
    return torch.cat(found).float()
