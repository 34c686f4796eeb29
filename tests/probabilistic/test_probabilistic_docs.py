"""The two pages on Pyro are scripts that run as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import arviz_stats
import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn

from bayesprior.probabilistic import samples_to_datatree
from bayesprior.weights.layout import ParameterLayout

pytestmark = pytest.mark.slow  # `make check` runs them

ROOT = Path(__file__).parents[2]
FALSE_ALARM = 1e-6


def run(text, folder):
    """Execute the Python blocks of a text in a folder, as one script; return what it printed."""
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) > 5
    (folder / "page.py").write_text("\n".join(blocks))
    done = subprocess.run(
        [sys.executable, "page.py"],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_page_runs(tmp_path):
    assert "SGHMC, all data" in run((ROOT / "docs" / "pyro.md").read_text(), tmp_path)
    assert (tmp_path / "source.safetensors").exists()


@pytest.fixture(scope="module")
def agreed(tmp_path_factory):
    """From a prior file to SVI, NUTS and SGLD; what the draws of each say, computed without Pyro.

    Values of the network at five points by name of the method, (chain, draw, point).
    """
    folder = tmp_path_factory.mktemp("agreed")
    section = (ROOT / "docs" / "howto" / "pyro-agree.md").read_text()
    keep = '```python\ntorch.save(draws, "draws.pt")\n```\n'
    printed = run(f"{section}\n{keep}", folder)
    assert (folder / "prior.safetensors").exists()
    net = nn.Sequential(nn.Linear(1, 3), nn.Tanh(), nn.Linear(3, 1))
    layout, grid, found = ParameterLayout.from_module(net), torch.linspace(-2, 2, 5)[:, None], {}
    for name, draws in torch.load(folder / "draws.pt").items():
        assert name in printed
        assert f"| {name} |" in section
        curves = torch.empty(len(draws), 5, dtype=torch.float64)
        for draw, curve in zip(draws, curves, strict=True):
            layout.load_(net, draw)
            curve[:] = net(grid).detach()[:, 0]
        found[name] = curves.unflatten(0, (200 if "SGLD" in name else 1, -1))
    return found


def z_scores(one, other):
    """Of the differences of means and of standard deviations, (2, point); errors from ESS."""
    moments, errors = [], []
    for curves in (one, other):
        tree = samples_to_datatree({"curve": curves})
        errors.append([arviz_stats.mcse(tree, method=m)["curve"].values for m in ("mean", "sd")])
        flat = curves.flatten(0, 1).numpy()
        moments.append(np.array([flat.mean(0), flat.std(0)]))
    return (moments[0] - moments[1]) / np.hypot(*np.array(errors))


LIMIT = scipy.stats.norm.isf(FALSE_ALARM / 40)


@pytest.mark.parametrize("name", ["SVI, Laplace", "SGLD, lr 0.002"])
def test_the_methods_agree_where_they_should(agreed, name):
    assert np.abs(z_scores(agreed[name], agreed["NUTS"])).max() < LIMIT


@pytest.mark.parametrize(
    ("wide", "right"),
    [("SGLD, lr 0.01", "SGLD, lr 0.002"), ("SVI, mean field", "SVI, Laplace")],
)
def test_and_not_where_they_need_not(agreed, wide, right):
    deviations = z_scores(agreed[wide], agreed[right])[1]
    assert deviations[:3].min() > LIMIT  # at the points that have data
