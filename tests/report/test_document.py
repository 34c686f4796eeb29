import dataclasses
import html.parser
import json
import re

import numpy as np
import pytest
from matplotlib.figure import Figure

from bayesprior.diagnostics.intervals import Interval
from bayesprior.errors import StorageError
from bayesprior.report.document import Column, Picture, Report, Section, Table, Text
from bayesprior.report.style import styled
from bayesprior.report.verdicts import Verdict


@styled
def figure():
    drawing = Figure()
    drawing.subplots().plot([0, 1], label="<b>")
    return drawing


@pytest.fixture
def report():
    table = Table(
        "Scores <1>",
        [
            Column("name", "name"),
            Column("value", "value", ".2f", "se"),
            Column("gap", "gap", "+.1f"),
            Column("empty", "nothing here"),
        ],
        [
            {"name": "a|b", "value": 0.126, "se": 0.011, "gap": Interval(1.0, -2.0, np.inf)},
            {"name": "<script>", "value": float("nan"), "se": None, "gap": None},
        ],
        "a note",
    )
    items = [Picture("Curve & co", "Look <here>.", figure()), table, Text("x < y", is_code=True)]
    verdicts = [Verdict("Works?", "warn", "Half", "1 < 2.")]
    sections = [Section("Results", items), Section("More", [Picture("Curve", "", figure())])]
    return Report("Run <1>", "sub", verdicts, sections, {"seed": np.int64(3), "x": np.nan})


class Tags(html.parser.HTMLParser):
    """Balanced tags and every address that the page would load."""

    def __init__(self, page):
        super().__init__()
        self.stack, self.loads, self.ids = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.loads += [attrs[k] for k in ("src", "href", "xlink:href", "data") if k in attrs]
        self.ids += [attrs["id"]] if attrs.get("class") == "body" else []
        if tag not in ("meta", "br", "link", "img", "hr"):
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if self.stack and self.stack[-1] == tag:
            self.stack.pop()

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag


def test_the_page_is_whole_and_loads_nothing(report):
    page = report.to_html()
    tags = Tags(page)
    assert tags.stack == []
    assert all(address.startswith(("#", "data:")) for address in tags.loads)
    assert not re.search(r"@import|url\((?!#)", page)
    assert tags.ids == ["results", "more"]
    assert 'name="viewport"' in page
    assert "prefers-color-scheme: dark" in page


def test_what_users_wrote_is_escaped(report):
    page = report.to_html()
    assert "Run &lt;1&gt;" in page
    assert "<script>" in page  # our own
    assert page.count("<script>") == 1
    assert "Look &lt;here&gt;." in page
    assert "1 &lt; 2." in page


def test_figures_follow_the_theme_and_stand_alone(report, tmp_path):
    page = report.to_html()
    assert page.count("<svg") == 2
    assert "var(--ink)" in page
    report.write(tmp_path)
    alone = (tmp_path / "figures" / "results-curve-co.svg").read_text()
    assert "var(" not in alone
    assert "#1d2126" in alone


def test_cells(report):
    text = report.to_markdown()
    assert "| a\\|b | 0.13 ± 0.01 | +1.0 [-2.0, +inf] |" in text
    assert "| &lt;script> | – | – |" in text
    assert "nothing here" not in text
    assert "![Curve & co](figures/results-curve-co.svg)" in text
    assert "- ! **Works? Half.** 1 &lt; 2." in text


def test_json_holds_everything_unrounded(report):
    content = json.loads(report.to_json())
    [picture, table, text] = content["sections"][0]["items"]
    assert picture["figure"] == "results-curve-co"
    assert table["rows"][0]["value"] == 0.126
    assert table["rows"][0]["se"] == 0.011
    assert table["rows"][0]["gap"] == {"estimate": 1.0, "low": -2.0, "high": None}
    assert table["rows"][1]["value"] is None
    assert text == {"text": "x < y"}
    assert content["data"] == {"seed": 3, "x": None}
    assert content["verdicts"][0]["level"] == "warn"


def test_the_page_is_the_same_every_time(report):
    again = dataclasses.replace(report)  # draws its figures anew
    assert report.to_html() == again.to_html()


def test_long_tables_are_folded():
    rows = [{"i": i} for i in range(17)]
    page = Report("r", "", [], [Section("s", [Table("t", [Column("i", "i")], rows)])]).to_html()
    assert "<details><summary>t (17 rows)" in page


def test_an_unwritable_folder_is_one_clear_line(report, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="could not write"):
        report.write(tmp_path / "file" / "run")


def test_figures_of_one_title_get_different_names():
    twins = Section("s", [Picture("t", "", figure()), Picture("t", "", figure())])
    report = Report("r", "", [], [twins])
    assert [name for name, _ in report.pictures()] == ["s-t", "s-t-2"]
    assert report.to_html().count("<svg") == 2


def test_what_markdown_would_read_as_its_own_is_escaped():
    text = "*bold* [link](javascript:x) a_b _c_ `d` ```"
    items = [Text(text), Text("```\nraw *text*\n```", is_code=True)]
    shown = Report(text, "", [], [Section("s", items)]).to_markdown()
    assert shown.startswith("# \\*bold\\* [link]\\(javascript:x) a_b \\_c\\_ \\`d\\`")
    assert "raw *text*" in shown
    assert shown.splitlines().count("```") == 2  # none of its own ends the block


def test_a_row_has_its_own_number_format():
    rows = [{"v": 0.12345, "format": ".1f"}, {"v": 0.12345}]
    text = Report("r", "", [], [Section("s", [Table("t", [Column("v", "v", ".3f")], rows)])])
    assert "| 0.1 |\n| 0.123 |" in text.to_markdown()


def test_the_opening_is_on_the_page_and_the_sections_are_folded(report):
    table = Table("Three", [Column("s", "metric"), Column("v", "v", ".2f")], [{"s": "NLL", "v": 1}])
    opening = [Text("Did this."), table, Picture("Lead", "", figure())]
    opened = dataclasses.replace(report, opening=opening)
    page = opened.to_html()
    first = page.index('<details class="part"><summary><h2>Results')
    assert "<p>Did this.</p>" in page[:first]
    assert re.search('<dt class="s">NLL</dt><dd class="v">1.00</dd>', page[:first])
    assert 'role="img" aria-label="Lead"' in page[:first]
    assert "## In short\n\nDid this." in opened.to_markdown()
    assert json.loads(opened.to_json())["sections"][0]["items"][2]["figure"] == "in-short-lead"
    assert '<details class="part" open>' in report.to_html()


def test_who_does_not_see_hears_the_same(report):
    page = report.to_html()
    assert '<span class="spoken">Caution:</span> Half' in page
    assert '<table aria-label="Scores &lt;1&gt;">' in page
    assert page.count('<th scope="col"') == 3
    assert page.count("<th scope=row") == 2
    assert page.count("<svg") == page.count('<svg role="img" aria-label="Curve')
