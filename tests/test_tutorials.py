"""Every notebook runs from top to bottom in its tiny mode, in this process."""

import json
from pathlib import Path

import pytest

TUTORIALS = sorted((Path(__file__).parent.parent / "tutorials").glob("*.ipynb"))


@pytest.mark.tutorial
@pytest.mark.filterwarnings("default")  # a reader sees warnings, and goes on
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_notebook_runs(path, monkeypatch, capsys):
    monkeypatch.setenv("BAYESPRIOR_TINY", "1")
    cells = json.loads(path.read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert sources
    namespace: dict = {"__name__": path.stem}
    for number, source in enumerate(sources):
        exec(compile(source, f"{path.name}[{number}]", "exec"), namespace)
    assert "accuracy" in capsys.readouterr().out


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_notebook_is_committed_without_outputs(path):
    for cell in json.loads(path.read_text())["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
