import copy
import io

import pytest
import torch
from devices.accelerator import Generator, waits
from torch import nn


def test_backward_is_the_cpus(both):
    def work(device):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
        module.to(device)
        inputs, labels = torch.randn(5, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1])
        loss = nn.functional.cross_entropy(module(inputs.to(device)), labels.to(device))
        loss.backward()
        return loss, [p.grad for p in module.parameters()], dict(module.named_buffers())

    both(work)


@pytest.mark.parametrize(
    "mix",
    [
        lambda x, y: x + y,
        lambda x, y: torch.cat([x, y]),
        lambda x, y: x @ y,
        lambda x, y: torch.stack([x.sum(), y.sum()]),
        lambda x, y: x.normal_(generator=Generator()),
    ],
)
def test_two_devices_do_not_mix(device, mix):
    with pytest.raises(RuntimeError, match="CPU|cpu"):
        mix(torch.ones(3, device=device), torch.ones(3))


def test_numbers_of_the_host_are_arguments(device):
    x = torch.ones(3, device=device)
    with waits() as found:
        y = x * torch.tensor(2.0) + 1
        y[1] = 0.0
        y[y > 2] = 5.0
        x.add_(y).sum()
    assert not found
    assert (x + 0).tolist() == [6.0, 1.0, 6.0]


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.any()),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x[torch.tensor([0])],
        lambda x: torch.ones(3).to(x.device),
        lambda x: torch.tensor(1.0, device=x.device),
        lambda x: torch.equal(x, x),
        lambda x: torch.save(x, io.BytesIO()),
    ],
)
def test_what_the_host_waits_for_is_counted(device, wait):
    x = torch.ones(3, device=device)
    with waits() as found:
        wait(x)
    assert found.total() == 1


def test_a_copy_to_the_device_need_not_wait(device):
    x = torch.arange(3.0)
    with waits() as found:
        there = x.to(device, non_blocking=True)
    assert not found
    assert there.tolist() == x.tolist()


def test_numbers_come_from_the_devices_own_generators(device):
    torch.manual_seed(3)
    host, there = torch.rand(2), torch.rand(2, device=device)
    assert torch.equal(there.cpu(), host)
    drawn = torch.rand(4, device=device, generator=torch.Generator(device).manual_seed(3))
    assert torch.equal(drawn[:2].cpu(), host)
    assert torch.equal(torch.rand(2), drawn[2:].cpu())  # the host's went on from its own


def test_modules_are_copied_and_saved(device):
    module = nn.Linear(2, 1).to(device)
    copied = copy.deepcopy(module)
    assert isinstance(copied.weight, nn.Parameter)
    assert copied.weight.device == module.weight.device == device
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert torch.equal(loaded["weight"], module.weight.cpu())
