"""Fixtures of every test: seeds, data, and a watch on global state.

Each test gets its own fixed seed, derived from its name. ``BAYESPRIOR_SEED=random`` frees them
(the value is printed, and repeats the run when given instead of ``random``).
"""

import os

os.environ.setdefault("MPLBACKEND", "Agg")

import logging
import random
import secrets
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import runtime_types
import torch

ROOT = Path(__file__).parent.parent
DEVICES = ROOT / "tests" / "devices"

if "PYTEST_XDIST_WORKER" in os.environ or "-n" not in sys.argv:  # not where tests are handed out
    runtime_types.import_libraries()


def pytest_configure(config: pytest.Config) -> None:
    hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None)
    hypothesis.settings.register_profile("free", deadline=None)
    if os.environ.get("BAYESPRIOR_SEED") == "random":
        # Through the environment, so that xdist's workers inherit the value.
        os.environ["BAYESPRIOR_SEED"] = str(secrets.randbelow(2**31) + 1)
    hypothesis.settings.load_profile("free" if _base_seed() else "fixed")
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave tests/devices, which changes its process for good, to runs of nothing else."""
    asked = [config.invocation_params.dir / arg.split("::")[0] for arg in config.args]
    alone = all(DEVICES in (path.resolve(), *path.resolve().parents) for path in asked)
    return True if collection_path == DEVICES and not alone else None


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if _base_seed():
        terminalreporter.write_line(f"repeat this run with BAYESPRIOR_SEED={_base_seed()}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def _base_seed() -> int:
    return int(os.environ.get("BAYESPRIOR_SEED", "0"))


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The test's own seed; for generators that the test makes itself."""
    return zlib.crc32(f"{_base_seed()}:{request.node.nodeid}".encode()) & 0x7FFFFFFF


@pytest.fixture(autouse=True)
def _seed_generators(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - libraries under test may draw from it
    torch.manual_seed(seed)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data sets; tests that need it are skipped without it."""
    folder = Path(os.environ.get("BAYESPRIOR_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no data folder: set BAYESPRIOR_DATA to one that holds the .npz files")
    return folder


# What a library has no business to change for its caller: how to read it, how to put it back.
GLOBAL_STATE: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "torch default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch default device": (torch.get_default_device, torch.set_default_device),
    "torch gradient mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "torch deterministic algorithms": (
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
    "torch threads": (torch.get_num_threads, torch.set_num_threads),
    "numpy floating-point errors": (np.geterr, lambda old: np.seterr(**old)),
    "level of the root logger": (lambda: logging.root.level, logging.root.setLevel),
    "working directory": (os.getcwd, os.chdir),
}


@pytest.fixture(autouse=True)
def _global_state_unchanged() -> Iterator[None]:
    before = {name: get() for name, (get, _) in GLOBAL_STATE.items()}
    yield
    changed = []
    for name, (get, put_back) in GLOBAL_STATE.items():
        if (after := get()) != before[name]:
            changed.append(f"{name}: {before[name]} -> {after}")
            put_back(before[name])
    if "pyro" in sys.modules:
        sys.modules["pyro"].clear_param_store()
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
    assert not changed, "the test changed global state"
