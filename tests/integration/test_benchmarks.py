"""Every benchmark script runs, in its quick mode, and prints a table."""

import importlib
import re
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = sorted(path.stem for path in BENCHMARKS.glob("[a-z]*.py"))


def _cost(name):
    """`make check` runs those that fit several networks."""
    several = ("mixing", "segmentation", "self_supervised", "transfer")
    return pytest.param(name, id=name, marks=[pytest.mark.slow] if name in several else [])


@pytest.mark.parametrize("name", [_cost(s) for s in SCRIPTS if s != "real_transfer"])
def test_script_runs(name, monkeypatch, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    script = importlib.import_module(name)
    try:
        script.main(["--quick"])
    finally:
        for own in (name, "_bench"):
            sys.modules.pop(own, None)
    shown = capsys.readouterr().out
    rows = [line for line in shown.splitlines() if line.startswith("| ")]
    assert len(rows) >= 3
    assert len({row.count(" | ") for row in rows[:3]}) == 1
    assert re.search(r"torch threads \d+", shown)
    assert "nan" not in shown


def test_every_script_is_in_the_index():
    index = (BENCHMARKS / "README.md").read_text()
    assert not [name for name in SCRIPTS if f"{name}.py" not in index]
