"""Methods that predict masks: paired over seeds and images."""

import numpy as np
import pytest
import torch

from bayesprior.diagnostics.compare import (
    MethodResult,
    compared_metrics,
    comparison_table,
    paired_differences,
)
from bayesprior.diagnostics.outcomes import ImageOutcome
from bayesprior.diagnostics.predictions import Outcome, outcome_of
from bayesprior.errors import DataError
from bayesprior.inference.posteriors import PointPosterior
from bayesprior.prediction.images import IMAGE_METRICS, ImageSums
from bayesprior.prediction.predict import predict
from bayesprior.tasks.pixels import PixelCategorical
from bayesprior.tree.beside import method_group, methods_of
from bayesprior.tree.build import to_datatree

MASKS = torch.randint(0, 3, (8, 5, 6), generator=torch.Generator().manual_seed(0))


def outcome(skill, seed):
    noise = torch.randn(8, 3, 5, 6, generator=torch.Generator().manual_seed(seed))
    hot = torch.nn.functional.one_hot(MASKS, 3).movedim(-1, 1)
    return ImageOutcome("test", ImageSums.of((noise + skill * hot).softmax(1), MASKS, 255))


def methods():
    return [
        MethodResult(name, [outcome(skill, seed) for seed in range(3)], (0, 1, 2))
        for name, skill in (("good", 4.0), ("poor", 1.0))
    ]


def test_a_better_method_is_called_so_over_seeds_and_images():
    assert set(compared_metrics(methods())) == set(IMAGE_METRICS)
    found = {d.metric: d for d in paired_differences(methods(), "poor")}
    assert {d.over for d in found.values()} == {"seeds and images"}
    assert found["mean_iou"].verdict == found["nll"].verdict == "better"
    good, poor = comparison_table(methods())
    assert found["mean_iou"].interval.estimate == pytest.approx(good["mean_iou"] - poor["mean_iou"])


def test_other_images_are_not_compared():
    ours, theirs = methods()
    few = [ImageOutcome("test", ImageSums(*(part[:4] for part in o.images))) for o in ours.outcomes]
    with pytest.raises(DataError, match=r"not scored on the same test points: \(4, 3\) against"):
        paired_differences([MethodResult("good", few, (0, 1, 2)), theirs], "poor")


def test_methods_lie_in_the_tree():
    tree = to_datatree(methods=methods())
    assert "confusion" in tree["methods_0"]
    for made, read in zip(methods(), methods_of(tree), strict=True):
        assert made.name == read.name
        for metric in IMAGE_METRICS:
            np.testing.assert_array_equal(made.metric(metric), read.metric(metric))
    assert set(method_group(methods()[0]).data_vars) == set(ImageSums._fields)


def test_which_kind_a_prediction_is():
    net = torch.nn.Conv2d(2, 3, 1)
    batch = (torch.randn(8, 2, 5, 6), MASKS)
    for keep_maps, kind in ((False, ImageOutcome), (True, Outcome)):
        point = PointPosterior.from_module(net)
        found = predict(net, point, [batch], PixelCategorical(), keep_maps=keep_maps)
        made = outcome_of("test", found)
        assert type(made) is kind
        assert made.metric("mean_iou") == pytest.approx(found.metrics["mean_iou"], rel=1e-5)
