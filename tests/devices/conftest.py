"""The package on a device in pure Python: ``pytest tests/devices`` (see `devices.accelerator`)."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from devices.accelerator import CPU, assert_same, register, waits
from torch.utils import backend_registration

CAN = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")
DEVICE = register() if CAN else CPU


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items if not CAN else ():
        item.add_marker(pytest.mark.skip(reason="this torch registers no device in Python"))


@pytest.fixture
def device() -> torch.device:
    return DEVICE


@pytest.fixture
def both() -> Callable[[Callable[[torch.device], Any]], Any]:
    """Do work on the CPU and on the device; what they return must be equal, bit for bit."""

    def compare(work: Callable[[torch.device], Any]) -> Any:
        here = work(CPU)
        with waits() as found:
            there = work(DEVICE)
        assert_same(there, here)
        return found

    return compare
