import pytest
import torch
from lightning_fabric import Fabric
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

from bayesprior.errors import ConfigError
from bayesprior.inference.wrappers import (
    modes_kept,
    plain_module,
    plain_optimizer,
    refuse_shards,
)


def test_modules_come_out_of_every_wrapper():
    module = nn.Linear(2, 1)
    fabric = Fabric(accelerator="cpu", devices=1)
    compiled = torch.compile(module, backend="eager")
    for wrapped in (module, compiled, nn.DataParallel(compiled), fabric.setup_module(module)):
        assert plain_module(wrapped) is module


def test_a_module_that_calls_a_part_of_itself_module_is_plain():
    outer = nn.Sequential(nn.Linear(2, 1))
    outer.module = nn.Linear(1, 1)
    assert plain_module(outer) is outer


def test_optimizers_come_out_of_their_wrappers():
    optimizer = torch.optim.SGD(nn.Linear(2, 1).parameters(), lr=0.1)
    wrapped = Fabric(accelerator="cpu", devices=1).setup_optimizers(optimizer)
    assert plain_optimizer(wrapped) is optimizer
    assert plain_optimizer(optimizer) is optimizer


def test_sharded_parameters_are_refused():
    refuse_shards(nn.Linear(2, 1))
    part = nn.Linear(2, 1)
    part.__class__ = type("Sharded", (FullyShardedDataParallel, nn.Linear), {})
    with pytest.raises(ConfigError, match="sharded") as caught:
        refuse_shards(nn.Sequential(part))
    assert "\n" not in str(caught.value)


def test_every_layer_gets_its_own_mode_back_also_after_an_error():
    module, other = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2)), nn.Dropout()
    module[1].eval()

    def fail():
        with modes_kept(module, other):
            module.eval()
            other.eval()
            raise ZeroDivisionError

    pytest.raises(ZeroDivisionError, fail)
    assert [part.training for part in (module, module[0], module[1])] == [True, True, False]
    assert other.training
