import math
import re

import pytest

from bayesprior.errors import DataError
from bayesprior.inference.progress import TraceWriter, progress_bar, progressed, read_trace


def test_rows_are_read_back_exactly(tmp_path):
    trace = TraceWriter(tmp_path / "trace.csv")
    trace.write(10, {"loss": 0.1 + 0.2, "lr": 1e-300})
    trace.write(20, {"loss": math.pi, "lr": 1.0, "late": 3.0})  # columns are the first row's
    trace.write(30, {"loss": 5.0})
    rows = read_trace(tmp_path / "trace.csv")
    assert rows[0] == {"step": 10, "loss": 0.1 + 0.2, "lr": 1e-300}
    assert rows[1] == {"step": 20, "loss": math.pi, "lr": 1.0}
    assert math.isnan(rows[2]["lr"])


def test_resumed_trace_drops_what_will_be_written_again(tmp_path):
    path = tmp_path / "trace.csv"
    first = TraceWriter(path)
    for step in (10, 20, 30):
        first.write(step, {"loss": step / 7})
    whole = path.read_text()
    second = TraceWriter(path, keep_until=20)
    assert [row["step"] for row in read_trace(path)] == [10, 20]
    second.write(30, {"loss": 30 / 7})
    assert path.read_text() == whole
    TraceWriter(path, keep_until=0)
    assert not path.exists()


def test_no_path_writes_nothing(tmp_path):
    TraceWriter(None).write(1, {"loss": 1.0})
    assert not list(tmp_path.iterdir())


def test_the_last_ten_rows_are_averaged_over_a_resumption(tmp_path):
    path = tmp_path / "trace.csv"
    first, alone = TraceWriter(path), TraceWriter(None)
    assert first.recent == {}
    for step in range(1, 13):
        first.write(step, {"loss": step**2})
        alone.write(step, {"loss": step**2})
    second = TraceWriter(path, keep_until=8)
    for step in range(9, 13):
        second.write(step, {"loss": step**2})
    mean = sum(step**2 for step in range(3, 13)) / 10
    assert first.recent == second.recent == alone.recent == {"loss": mean}


STATS = {"loss": 1.5, "log_prior": -49051.2, "lr": 0.1, "other": 9.0}


def test_a_pipe_gets_a_line_for_each_tenth(capsys):
    with progress_bar("fit", start=0, total=5, show=False) as bar:
        bar(5, {"loss": 1.5})
    assert capsys.readouterr() == ("", "")
    with progress_bar("SGLD chain 1/2", start=0, total=2000, show=True) as bar:
        for step in range(10, 2001, 10):
            bar(step, STATS)
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 10
    assert lines[0].startswith(
        "SGLD chain 1/2: 200/2,000 (10%), loss 1.5, log prior -4.905e+04, lr 0.1, "
    )
    assert lines[-1].startswith("SGLD chain 1/2: 2,000/2,000 (100%), ")
    assert lines[-1].endswith(" s, 0 s left")
    assert "other" not in err


def test_a_resumed_run_tells_of_what_is_left_and_a_short_one_of_each_step(capsys):
    with progress_bar("fit", start=95, total=100, show=True) as bar:
        bar(96, {})
        bar(100, {})
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("fit: 100/100 (100%), ")
    with progress_bar("fit", start=0, total=3, show=True) as bar:
        for step in (1, 2, 3):
            bar(step, {})
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_items_are_counted_where_their_number_is_known(capsys):
    assert list(progressed("abc", "read", show=True)) == ["a", "b", "c"]
    assert capsys.readouterr().err.splitlines()[-1].startswith("read: 3/3 (100%), ")
    assert list(progressed(iter("abc"), "read", show=True)) == ["a", "b", "c"]
    assert list(progressed("abc", "read", show=False)) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("columns", "shown"), [("80", ["loss 1.5"]), ("140", ["loss 1.5", "lr"])])
def test_a_terminal_never_cuts_steps_or_times(monkeypatch, capsys, columns, shown):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", columns)
    with progress_bar("SGLD chain 1/2", start=0, total=20000, show=True) as bar:
        bar(20000, STATS)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    line = text.replace("\r", "\n").strip().splitlines()[-1]
    assert "…" not in line
    assert re.search(r"20000/20000 .*0:00:0\d 0:00:00$", line)
    for part in ("SGLD chain 1/2", *shown):
        assert part in line
    assert len(line) <= int(columns)
    assert "other" not in line


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-3],  # a kill in the middle of a number
        lambda text: text + "40,0.1",
        lambda text: text + "40",
        lambda text: text + "\0\0\0\0",
        lambda text: text + "\0\0\n",
        lambda text: text + "<html>\n",
        lambda text: text + "20,9.0\n30,9.0\n",  # of a second process
        lambda text: text.replace("\n30,", "\n\xff\n30,"),
    ],
)
def test_a_damaged_trace_is_repaired_from_the_checkpoint(tmp_path, damage):
    path = tmp_path / "trace.csv"
    first = TraceWriter(path)
    for step in (10, 20, 30):
        first.write(step, {"loss": step / 7})
    whole = path.read_text()
    path.write_text(damage(whole), encoding="utf-8")
    TraceWriter(path, keep_until=20).write(30, {"loss": 30 / 7})
    assert path.read_text() == whole


def test_a_trace_without_its_header_begins_anew(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("10,0.5\n20,0.4\n")
    with pytest.raises(DataError, match="damaged in line 1"):
        read_trace(path)
    TraceWriter(path, keep_until=20)
    assert not path.exists()


def test_readers_pass_over_a_row_that_is_being_written(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("step,loss\n10,0.5\n20,0.")
    assert read_trace(path) == [{"step": 10, "loss": 0.5}]
    path.write_text("step,loss\n10\n20,0.5\n")
    with pytest.raises(DataError, match="damaged in line 2"):
        read_trace(path)
