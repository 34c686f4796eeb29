import numpy as np
import pytest
import torch
import xarray as xr
from bayesprior.report.sections.regression import coverage_plot, regression_sections
from scipy.stats import kstest
from torch import nn

from bayesprior.diagnostics.regression import coverage, coverage_verdict, pit_values
from bayesprior.errors import DataError
from bayesprior.inference.posteriors import PointPosterior
from bayesprior.prediction.predict import predict
from bayesprior.report.build import build_report
from bayesprior.tasks.likelihoods import Normal
from bayesprior.tree.build import to_datatree


def predicted(true_std, num_points=4000, outputs=2, bias=0.0):
    """Targets of a known noise around a line, predicted with a standard deviation of 1."""
    g = torch.Generator().manual_seed(0)
    line = nn.Linear(3, outputs)
    x = torch.randn(num_points, 3, generator=g)
    noise = true_std * torch.randn(num_points, outputs, generator=g)
    loader = [(x, line(x).detach() + noise + bias)]
    return predict(line, PointPosterior.from_module(line), loader, Normal(std=1.0))


@pytest.mark.parametrize(
    ("std", "bias", "level", "headline"),
    [
        (1.0, 0.0, "ok", "Yes"),
        (1.5, 0.0, "warn", "Roughly, the intervals are too narrow"),
        (6.0, 0.0, "fail", "No, the intervals are too narrow"),
        (0.2, 0.0, "fail", "No, the intervals are too wide"),
        (1.0, 1.0, "fail", "No, the predictions are biased"),
    ],
)
def test_honest_intervals_are_told_from_others(std, bias, level, headline):
    tree = to_datatree(test=predicted(std, bias=bias))
    verdict = coverage_verdict(pit_values(tree["predictions"].dataset))
    assert (verdict.level, verdict.headline) == (level, headline)


def test_ranks_of_an_honest_model_are_uniform_and_covered():
    pit = pit_values(to_datatree(test=predicted(1.0))["predictions"].dataset)
    assert len(pit) == 8000
    assert kstest(pit, "uniform").pvalue > 1e-6
    assert f"{kstest(pit, 'uniform').statistic:.2f}" in coverage_verdict(pit).reason
    for level in (0.5, 0.9):
        z = (coverage(pit, level) - level) / np.sqrt(level * (1 - level) / 8000)
        assert abs(z) < 5
    [axes] = coverage_plot(pit).axes
    found = axes.lines[1].get_ydata()
    assert found[0] <= found[25] <= found[-1] == 1


def test_sections_hold_the_metrics_of_predict():
    found = predicted(1.5)
    results, calibration = regression_sections(to_datatree(test=found)["predictions"].dataset)
    rows = {row["score"]: row["value"] for row in results.items[0].rows}
    assert rows["NLL"].estimate == pytest.approx(found.metrics["nll"])
    assert rows["RMSE"].estimate == pytest.approx(found.metrics["rmse"])
    assert rows["predicted std"] == pytest.approx(1.0)
    assert calibration.items[1].rows[2]["inside"] < 0.9


def test_the_report_says_what_it_can_and_what_it_cannot():
    found = predicted(1.0, num_points=50)
    report = build_report(to_datatree(train=found, test=found), title="line")
    by_question = {v.question: v for v in report.verdicts}
    assert by_question["Can the probabilities be trusted?"].headline == "Yes"
    assert [s.title for s in report.sections[:2]] == ["Results", "Calibration"]
    text = report.to_markdown()
    assert "the targets are numbers" in text
    assert "no class probabilities" not in text


@pytest.mark.parametrize("name", ["mean", "variance", "target"])
def test_missing_parts_and_nan_are_named(name):
    data = to_datatree(test=predicted(1.0, num_points=5))["predictions"].dataset
    with pytest.raises(DataError, match=f"hold no {name}"):
        pit_values(data.drop_vars(name))
    broken = xr.where(data[name] == data[name][0, 0], np.nan, data[name])
    with pytest.raises(DataError, match="predictions or targets are NaN"):
        pit_values(data.assign({name: broken}))
