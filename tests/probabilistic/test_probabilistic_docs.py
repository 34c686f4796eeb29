"""The documentation's page on Pyro runs as it stands, in the order of the page."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "pyro.md"


def test_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) > 5
    names: dict = {"__name__": "__main__"}
    for block in blocks:
        line = PAGE.read_text().split(block)[0].count("\n")
        exec(compile("\n" * line + block, str(PAGE), "exec"), names)
