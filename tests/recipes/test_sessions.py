import csv
import importlib.util
import json
import os
import time

import pytest
import torch
from forked import start_code
from lightning_fabric import Fabric

from bayesprior.errors import ConfigError, MissingDependencyError
from bayesprior.recipes.sessions import Session, locked, logged
from bayesprior.storage import CHECKPOINT, LOCK, SESSION

HOLD = (
    "import sys, time; from bayesprior.recipes.sessions import locked\n"
    "with locked(sys.argv[1]):\n"
    "    print('held', flush=True); time.sleep(600)"
)


def hold(folder, said):
    process = start_code(HOLD, str(folder), files=said)
    while process.is_alive() and not (said / "out").exists():
        time.sleep(0.01)
    while process.is_alive() and (said / "out").read_text() != "held\n":
        time.sleep(0.01)
    assert process.is_alive(), (said / "err").read_text()
    return process


def test_another_process_is_named_and_a_killed_one_lets_go(tmp_path):
    folder = tmp_path / "run"
    process = hold(folder, tmp_path)
    try:
        with pytest.raises(ConfigError, match=f"in use by process {process.pid}"), locked(folder):
            pass
        assert (folder / LOCK).exists()
    finally:
        process.kill()
        process.join()
    (folder / ".config.yaml.abc_1234").write_text("half")
    with locked(folder):
        assert (folder / LOCK).read_text() == str(os.getpid())
        with pytest.raises(ConfigError, match=f"process {os.getpid()}"), locked(folder):
            pass
    assert not list(folder.iterdir())


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file; out needs a folder"):
        with locked(tmp_path / "file"):
            pass


def test_the_time_of_all_sessions_is_added_up(tmp_path, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    first = Session(tmp_path)
    clock[0] += 10
    assert first.seconds == 10
    first.pause()
    second = Session(tmp_path)  # killed 7 s in, 5 s after its last checkpoint
    assert second.seconds == 10
    (tmp_path / "chain-00").mkdir()
    checkpoint = tmp_path / "chain-00" / CHECKPOINT
    checkpoint.touch()
    os.utime(checkpoint, (1012.0, 1012.0))
    clock[0] = 5000.0
    third = Session(tmp_path)
    clock[0] += 3
    assert third.seconds == 15
    third.finish()
    assert not (tmp_path / SESSION).exists()


@pytest.mark.parametrize("text", ["", "[]", '{"seconds": "x"}', json.dumps({"seconds": 1})])
def test_a_damaged_record_starts_at_nothing(tmp_path, text):
    (tmp_path / SESSION).write_text(text)
    assert Session(tmp_path).seconds < 60


CPU = torch.device("cpu")


def test_each_session_logs_into_a_version_of_its_own(tmp_path):
    for version in (0, 1):
        fabric = logged(None, "csv", tmp_path, CPU)
        for step in (10, 20):
            fabric.log_dict({"loss": step / 7}, step=step)
        with (tmp_path / "logs" / f"version_{version}" / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [(int(r["step"]), float(r["loss"])) for r in rows] == [(10, 10 / 7), (20, 20 / 7)]


def test_a_fabric_of_ones_own_takes_loggers_itself(tmp_path):
    fabric = Fabric(accelerator="cpu", devices=1)
    assert logged(fabric, None, tmp_path, CPU) is fabric
    with pytest.raises(ConfigError, match=r"Fabric\(loggers=...\)"):
        logged(fabric, "csv", tmp_path, CPU)


@pytest.mark.skipif(
    any(map(importlib.util.find_spec, ("tensorboard", "tensorboardX"))),
    reason="tensorboard is installed",
)
def test_tensorboard_that_is_not_there_is_named(tmp_path):
    with pytest.raises(MissingDependencyError, match="pip install tensorboard"):
        logged(None, "tensorboard", tmp_path, CPU)
