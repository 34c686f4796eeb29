"""The page in a real browser: width, height, both themes, without scripts, in print."""

import html
import itertools
import json
import os
import re
import shutil
import subprocess

import numpy as np
import pytest

from bayesprior.diagnostics.compare import MethodResult
from bayesprior.diagnostics.predictions import Outcome
from bayesprior.report.build import build_report

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
pytestmark = pytest.mark.skipif(not BROWSER, reason="needs chromium or google-chrome")

HEIGHT = 3000
PLAIN = 'sandbox="allow-same-origin"'  # runs no script of its own
SIZES = {"desktop": 1200, "phone": 390}

# Opens the page in frames of a width, one with and one without scripts, and measures them.
PROBE = """
const luminance = (c) => {
  const [r, g, b] = c.map((v) => v / 255).map(
    (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const channels = (text) => text.match(/[\\d.]+/g).map(Number);
const behind = (node) => {
  for (; node; node = node.parentElement) {
    const color = channels(node.ownerDocument.defaultView.getComputedStyle(node).backgroundColor);
    if (color.length === 3 || color[3] > 0) return color;
  }
  return [255, 255, 255];
};
const contrast = (node) => {
  const color = channels(node.ownerDocument.defaultView.getComputedStyle(node).color);
  const [a, b] = [color, behind(node)].map((c) => luminance(c.slice(0, 3)));
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
};
const measure = (frame) => {
  const page = frame.contentDocument, root = page.documentElement;
  const found = {folded: root.scrollHeight, width: root.clientWidth};
  for (const part of page.querySelectorAll('details')) part.open = true;
  found.wide = root.scrollWidth;
  found.cut = [...page.querySelectorAll('.scroll')].filter((e) => e.scrollWidth > e.clientWidth)
    .map((e) => e.firstChild.getAttribute('aria-label'));
  const texts = 'h1, h2, h3, p, dt, dd, th, td, figcaption, summary, .headline, .question, .mark';
  found.contrast = Math.min(...[...page.querySelectorAll(texts)].map(contrast));
  found.paper = behind(page.body);
  const [head] = page.querySelectorAll('th button');
  const rows = head.closest('table').tBodies[0].rows;
  const column = () => [...rows].map((r) => r.cells[0].textContent);
  found.before = column();
  head.click();
  found.after = column();
  return found;
};
addEventListener('load', () => {
  const found = Object.fromEntries([...document.querySelectorAll('iframe')].map(
    (frame) => [frame.name, measure(frame)]));
  document.body.textContent = JSON.stringify(found);
});
"""


def chromium(page, *options):
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    environment = {**os.environ, "HOME": str(page.parent)}
    done = subprocess.run(
        [*command, f"--user-data-dir={page.parent / 'profile'}", *options, page.as_uri()],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env=environment,
    )
    errors = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, errors


@pytest.fixture(scope="module")
def text(run_factory_module):
    """A plain run's page, a comparison and images included."""
    run = run_factory_module()
    outcome = Outcome.from_prediction("test", run.predictions["test"])
    methods = [MethodResult(name, [outcome]) for name in ("sgld", "scratch")]
    attrs = {"title": "SGLD on letters", "num_data": 30, "method": "sgld", "baseline": "scratch"}
    images = {i: np.zeros((4, 4), np.uint8) for i in range(30)}
    tree = run.tree(draws=12, images=images, methods=methods, attrs=attrs)
    return build_report(tree).to_html()


@pytest.mark.filterwarnings("ignore:The inplace keyword")
def test_the_page_fits_a_desk_and_a_phone_in_both_themes_with_and_without_scripts(text, tmp_path):
    cases = list(itertools.product(SIZES, ("light", "dark"), ("scripts", "plain")))
    frames = "".join(
        f'<iframe name="{size} {theme} {scripts}" {"" if scripts == "scripts" else PLAIN} '
        f'style="width:{SIZES[size]}px; height:800px; border:0; color-scheme:{theme}" '
        f'srcdoc="{html.escape(text, quote=True)}"></iframe>'
        for size, theme, scripts in cases
    )
    page = tmp_path / "probe.html"
    page.write_text(f"<!DOCTYPE html><body>{frames}<script>{PROBE}</script></body>")
    shown, errors = chromium(page, "--dump-dom")
    assert not [e for e in errors if "the 'allow-scripts' permission is not set" not in e]
    [found] = re.findall(r"<body>(\{.*\})</body>", shown)
    measured = json.loads(found)
    assert len(measured) == 8
    for (size, theme, scripts), (name, found) in zip(cases, measured.items(), strict=True):
        assert abs(found["width"] - SIZES[size]) <= 20, name  # but for a scroll bar
        assert found["folded"] < HEIGHT, name
        assert found["wide"] <= found["width"], name
        assert found["contrast"] >= 4.5, name
        assert (sum(found["paper"]) > 700) == (theme == "light"), name
        is_sorted = found["after"] == sorted(found["before"], key=str.casefold)
        assert is_sorted if scripts == "scripts" else found["after"] == found["before"], name
        assert size == "desktop" or not found["cut"], name


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The inplace keyword")
def test_what_is_folded_is_printed(text, tmp_path):
    rule = "details::details-content { content-visibility: visible; }"
    assert rule in text
    pages = []
    for name, content in (("open", text), ("folded", text.replace(rule, ""))):
        page = tmp_path / f"{name}.html"
        page.write_text(content)
        chromium(page, f"--print-to-pdf={tmp_path / 'out.pdf'}", "--no-pdf-header-footer")
        pages.append(len(re.findall(rb"/Type\s*/Page\b", (tmp_path / "out.pdf").read_bytes())))
    assert pages[0] > pages[1] >= 1
