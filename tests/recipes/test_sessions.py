import json
import os
import subprocess
import sys
import time

import pytest

from bayesprior.errors import ConfigError
from bayesprior.recipes.sessions import Session, locked
from bayesprior.storage import CHECKPOINT, LOCK, SESSION

HOLD = (
    "import sys, time; from bayesprior.recipes.sessions import locked\n"
    "with locked(sys.argv[1]):\n"
    "    print('held', flush=True); time.sleep(600)"
)


def hold(folder):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_another_process_is_named_and_a_killed_one_lets_go(tmp_path):
    folder = tmp_path / "run"
    process = hold(folder)
    try:
        with pytest.raises(ConfigError, match=f"in use by process {process.pid}"), locked(folder):
            pass
        assert (folder / LOCK).exists()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
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
