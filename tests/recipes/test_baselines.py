"""Fine-tunings beside a transfer: their starts, and WiSE-FT between two of them."""

import pytest
import torch
from recipes_cases import Net, source_and_target

from bayesprior.inference.strength.head import HeadPrior
from bayesprior.inference.strength.probe import fit_probe
from bayesprior.recipes import make_prior
from bayesprior.recipes.baselines import fine_tunings
from bayesprior.recipes.members import MemberTask


@pytest.fixture(scope="module")
def task():
    source, _, data = source_and_target()
    prior = make_prior(source, Net(2), head="head", shape="isotropic", rms_ratio=0.25, data=data)
    units = {"step_std": 0.02, "tensor_std": 0.1}
    return MemberTask(Net(2), data, prior, head="head", head_prior=HeadPrior(0.5), **units)


def test_every_baseline_is_fitted_from_its_own_start(task):
    probe = fit_probe(task.features, task.labels, 2)
    found = fine_tunings(task, probe, num_steps=5)
    assert found.keys() == {
        "AdamW 0.0001",
        "AdamW 0.0003",
        "AdamW 0.001",
        "LP-FT",
        "L2-SP",
        "WiSE-FT",
    }
    body = slice(0, task.prior.shared_dim)
    moves = {n: float((d.weights - task.prior.loc)[body].abs().max()) for n, d in found.items()}
    assert 0 < moves["AdamW 0.0001"] < moves["AdamW 0.0003"] < moves["AdamW 0.001"]
    linear = task.with_head(probe.weight, probe.bias)
    torch.testing.assert_close(found["WiSE-FT"].weights, (found["LP-FT"].weights + linear) / 2)
    head = task.prior.layout.slice("head.weight")
    near = (found["LP-FT"].weights - linear)[head].abs().max()
    assert float(near) <= 5 * 1e-4 * 1.1 + 1e-4 * float(linear[head].abs().max())
