"""The site's pages: every public name has one, every link leads somewhere, every example runs."""

import importlib.util
import re
from pathlib import Path

import pytest
from docs_blocks import blocks, commands

import bayesprior as bp

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
GENERATED = re.compile(
    r"reference/(names|modules)/|reference/cli\.md|concepts/idea\.svg|docs/(_build|tutorials)/"
)
PAGES = sorted(p for p in DOCS.rglob("*.md") if not GENERATED.search(p.as_posix()))


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_name_has_a_page(generate):
    made = generate.pages()
    for name in bp.__all__:
        page = made[f"reference/names/{name}.md"]
        assert f"from bayesprior import {name}" in page
    listed = re.findall(r"^(\w+)$", made["reference/names/index.md"], re.MULTILINE)
    assert sorted(listed) == sorted(bp.__all__)


def test_a_name_of_an_unknown_folder_has_no_page(generate, monkeypatch):
    monkeypatch.setattr(generate, "home", lambda name: "bayesprior.elsewhere")
    with pytest.raises(KeyError):
        generate.names_page()


def test_every_public_name_has_an_example(generate):
    assert [name for name in bp.__all__ if not generate.has_example(name)] == []


def test_every_command_has_its_options_on_the_page(generate):
    page = generate.commands_page()
    shown = ("fit-source", "collect", "make-prior", "fit swag", "predict", "report", "study")
    for command in shown:
        assert f"## bayesprior {command}\n" in page
    assert "--rms_std FLOAT" in page


def test_modules_do_not_describe_a_name_twice(generate):
    page = generate.module_page("bayesprior.recipes.target")
    assert ":exclude-members: fit_map, fit_swag, sample" in page
    assert "[fit_map](../names/fit_map.md)" in page


EXAMPLES = sorted(path for path in (DOCS / "examples").glob("*.py") if hasattr(bp, path.stem))


def _cost(path: Path) -> object:
    """`make check` runs the one that trains several networks."""
    marks = pytest.mark.slow if path.stem == "transfer" else ()
    return pytest.param(path, id=path.stem, marks=marks)


@pytest.mark.parametrize("path", [_cost(path) for path in EXAMPLES])
def test_example_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(path.read_text(), path.name, "exec"), {"__name__": path.stem})


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and MyST make them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


@pytest.mark.parametrize(
    "page",
    [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_links_lead_somewhere(page):
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link) or GENERATED.search(
            (page.parent / path).resolve().as_posix()
        ):
            continue
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link


@pytest.mark.parametrize("page", ["checkpoint", "folders", "libraries"])
def test_a_prior_from_a_checkpoint_leaves_the_width_to_the_data(page):
    found = [
        words
        for language, code, _ in blocks(DOCS / "howto" / f"{page}.md")
        for words in (commands(code) if language == "bash" else ())
        if words[0] == "make-prior" and "--weights" in words
    ]
    assert found
    assert not [words for words in found if {"--rms_std", "--head_std"} & set(words)]
