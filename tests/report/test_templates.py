import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bayesprior.report import document
from bayesprior.report.style import VARIABLES

TEMPLATES = Path(document.__file__).parent / "templates"
STYLE_SHEET = (TEMPLATES / "page.css").read_text()
SCRIPT = (TEMPLATES / "sort.js").read_text()
PAGE = (TEMPLATES / "page.html.j2").read_text()


def test_both_themes_define_every_variable():
    light, dark = re.findall(r":root \{(.*?)\}", STYLE_SHEET, flags=re.DOTALL)
    used = set(re.findall(r"var\((--\w+)\)", STYLE_SHEET)) | set(VARIABLES.values())
    for theme in (light, dark):
        assert used - {"--level"} <= set(re.findall(r"(--\w+):", theme))


def test_the_page_asks_nothing_of_the_network():
    assert not re.search(r"https?:|//|@import|url\(", PAGE + STYLE_SHEET + SCRIPT)


def test_what_is_folded_is_printed():
    [rules] = re.findall(r"@media print \{(.*?)\n\}", STYLE_SHEET, flags=re.DOTALL)
    assert "details::details-content { content-visibility: visible; }" in rules


@pytest.mark.skipif(not shutil.which("node"), reason="needs node to run the page's script")
def test_the_script_sorts_numbers_text_and_missing_values(tmp_path):
    """Runs the page's own script on a stub of the few DOM calls it makes."""
    stub = """
    const line = (v) => ({cells: [{dataset: {value: v}}]});
    const body = {rows: ['2', '', '-1', '10'].map(line), append(...r) { this.rows = r; }};
    const head = {a: null, getAttribute() { return this.a; }, setAttribute(_, v) { this.a = v; },
                  removeAttribute() { this.a = null; }};
    const row = {cells: [head], closest: () => ({tBodies: [body]})};
    head.parentElement = row;
    let click; const button = {parentElement: head, addEventListener: (_, f) => { click = f; }};
    head.removeAttribute = function () {};
    const document = {querySelectorAll: () => [button]};
    """
    check = """
    const shown = () => body.rows.map((r) => r.cells[0].dataset.value).join();
    click(); const up = shown(); click(); console.log(up + ' ' + shown());
    """
    script = tmp_path / "sort.js"
    script.write_text(stub + SCRIPT + check)
    done = subprocess.run(["node", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["-1,2,10,", "10,2,-1,"]
