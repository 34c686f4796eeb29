import math

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from bayesprior.errors import CheckpointError, ConfigError, DataError, DivergenceError
from bayesprior.inference.checkpoint import BatchStream, read_checkpoint, save_checkpoint
from bayesprior.inference.optimizers import SGLD
from bayesprior.inference.protocols import Phase
from bayesprior.inference.run_state import RunState

BATCHES = [torch.tensor([float(i)]) for i in range(5)]


def make_run(folder=None, module=None, objective=None, params=None, **expected):
    module = nn.Linear(2, 1) if module is None else module
    params = [*(params or [{"params": module.parameters()}])]
    return RunState(
        module,
        nn.Identity() if objective is None else objective,
        SGLD(params, lr=0.5, num_data=10),
        BatchStream(BATCHES),
        (),
        Fabric(accelerator="cpu", devices=1),
        folder,
        expected,
    )


def rates(run):
    return [(group["lr"], group["temperature"]) for group in run.optimizer.param_groups]


def test_a_phase_multiplies_every_groups_own_values_and_the_end_gives_them_back():
    module = nn.Linear(2, 1)
    head = {"params": [module.bias], "lr": 0.25, "temperature": 0.5}
    run = make_run(module=module, params=[{"params": [module.weight]}, head])
    run.begin()
    with run:
        for factor in (0.5, 0.25):
            run.set_phase(Phase(factor, 2.0, False))
            assert rates(run) == [(0.5 * factor, 2.0), (0.25 * factor, 1.0)]
    assert rates(run) == [(0.5, 1.0), (0.25, 0.5)]


def test_what_was_saved_is_restored(tmp_path):
    run = make_run(tmp_path, num_data=10)
    run.begin()
    run.set_phase(Phase(0.5, 1.0, False))
    next(run.stream)
    with torch.no_grad():
        run.model.weight.fill_(7.0)
    run.save(3)
    drawn = torch.rand(2)

    with make_run(tmp_path, num_data=10) as other:
        assert other.restore() == other.saved_step == 3
        assert torch.equal(other.model.weight, run.model.weight)
        assert torch.equal(next(other.stream), BATCHES[1])
    assert rates(other) == [(0.5, 1.0)]  # not where the schedule was
    make_run(tmp_path, num_data=10).restore()
    assert torch.equal(torch.rand(2), drawn)
    with pytest.raises(CheckpointError, match="its num_data is 10, this run's is 11"):
        make_run(tmp_path, num_data=11).restore()


def test_entries_that_are_missing_or_mistyped_are_one_line(tmp_path):
    make_run(tmp_path).begin()
    path = tmp_path / "checkpoint.pt"
    whole = read_checkpoint(path)
    for name in whole.keys() - {"version"}:
        rest = {key: value for key, value in whole.items() if key != name}
        for wrong in (rest, rest | {name: "text"}):
            save_checkpoint(path, wrong)
            with pytest.raises(CheckpointError, match=r"checkpoint\.pt (does not fit|is no )"):
                make_run(tmp_path).restore()


def test_a_folder_with_a_run_is_not_begun_again(tmp_path):
    make_run(tmp_path).begin()
    with pytest.raises(ConfigError, match="pass resume=True"):
        make_run(tmp_path).begin()
    with pytest.raises(ConfigError, match="needs run_dir"):
        make_run().restore()


def test_the_objectives_parameters_must_be_in_the_optimizer():
    with pytest.raises(ConfigError, match="parameter 'weight' is in no group"):
        make_run(objective=nn.Linear(1, 1))


def test_what_is_not_finite_is_blamed_on_the_data_or_on_the_rate(tmp_path):
    run = make_run(tmp_path)
    next(run.stream)
    with pytest.raises(DataError, match="batch 0 of epoch 0 of the inputs holds NaN"):
        run.check_loss(torch.tensor(math.nan), 1, [torch.tensor([math.nan])])
    with pytest.raises(DivergenceError, match="loss is nan at step 1.*no checkpoint was written"):
        run.check_loss(torch.tensor(math.nan), 1, BATCHES)
    run.begin()
    with torch.no_grad():
        run.model.weight.fill_(math.inf)
    with pytest.raises(ConfigError, match="NaN .* before the first step.* network anew"):
        make_run(module=run.model).begin()
    with pytest.raises(DivergenceError, match=r"at step 2 .*last good checkpoint .*\(step 0\)"):
        run.save(2)


def test_a_row_of_the_trace():
    module = nn.Linear(2, 1)
    head = {"params": [module.bias], "temperature": 0.25, "name": "head"}
    run = make_run(module=module, params=[{"params": [module.weight]}, head])
    row = run.scalars(torch.tensor(2.0), {"accuracy": torch.tensor(0.5)}, {"log_prior": -1.0})
    assert row == {
        "loss": 2.0,
        "log_prior": -1.0,
        "lr": 0.5,
        "temperature": 0.75,
        "temperature.0": 1.0,
        "temperature.head": 0.25,
        "accuracy": 0.5,
    }
