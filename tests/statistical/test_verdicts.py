"""The answers of a report in worlds whose truth is known: `benchmarks/verdicts.py`, in short."""

import importlib.util
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.statistical

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
WORLDS = 40
SLOW = ("10,000 points", "1,000 draws", "20 values", "power scaling")
"""In the names of sizes whose worlds take long; the benchmark tries them."""


def load():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("verdict_worlds", BENCHMARKS / "verdicts.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
        sys.modules.pop("_bench", None)
    return module


CELLS = {
    f"{cell.question} {cell.truth}, {cell.size}": cell
    for cell in load().cells()
    if cell.yes != "free" and not any(word in cell.size for word in SLOW)
}


@pytest.mark.parametrize("name", CELLS)
def test_false_yes_is_rare_and_a_right_one_is_given(name):
    """At most 5 % of the worlds at the edge or beyond, at least 80 % of those well inside."""
    cell = CELLS[name]
    levels = cell.count(WORLDS)
    assert cell.p_value(levels["ok"], WORLDS) > 1e-4, dict(levels)
