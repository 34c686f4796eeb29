"""Every notebook runs from top to bottom in its tiny mode, and is committed with what it showed."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

TUTORIALS = sorted((Path(__file__).parent.parent / "tutorials").glob("*.ipynb"))


def sources(path):
    cells = json.loads(path.read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def _cost(path: Path) -> object:
    """`make check` runs those that train several networks."""
    costs = [] if path.stem.startswith("03") else [pytest.mark.slow]
    return pytest.param(path, id=path.stem, marks=[pytest.mark.tutorial, *costs])


@pytest.mark.filterwarnings("default")  # a reader sees warnings, and goes on
@pytest.mark.parametrize("path", [_cost(path) for path in TUTORIALS])
def test_notebook_runs(path, monkeypatch, capsys):
    monkeypatch.setenv("BAYESPRIOR_TINY", "1")
    namespace: dict = {"__name__": path.stem}
    for number, cell in enumerate(sources(path)):
        exec(compile("".join(cell["source"]), f"{path.name}[{number}]", "exec"), namespace)
    plt.close("all")
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_notebook_is_committed_with_its_outputs(path):
    shown = set()
    for number, cell in enumerate(sources(path), 1):
        assert cell["execution_count"] == number  # in order, in a fresh kernel
        for output in cell["outputs"]:
            assert output["output_type"] != "error"
            assert output.get("name") != "stderr", output["text"]
            shown |= {output["output_type"], *output.get("data", {})}
    assert {"stream", "image/png"} <= shown
