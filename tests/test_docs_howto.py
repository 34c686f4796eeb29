"""The commands and scripts of the pages are executed, as they stand but for the number of steps."""

import contextlib

import numpy as np
import pytest
import torch
from docs_blocks import DOCS, NOT_RUN, blocks, commands, quick

from bayesprior.cli.main import main
from bayesprior.models import get_model

pytestmark = pytest.mark.slow  # `make check` runs them

TEN_MINUTES = DOCS / "start" / "ten-minutes.md"
ELSEWHERE = ("index", "pyro-agree")  # the second one is run, and judged, by the tests of Pyro
PAGES = sorted(p for p in (DOCS / "howto").glob("*.md") if p.stem not in ELSEWHERE)


def pictures(folder, classes, count, rng):
    """Write pictures of noise around one color a class."""
    from PIL import Image

    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = rng.integers(60 * label, 60 * label + 100, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i:02}.png")


def run(page, namespace):
    """Execute the blocks of a page from top to bottom."""
    for number, (language, code, is_run) in enumerate(blocks(page)):
        if not is_run:
            continue
        if language == "python":
            exec(compile(code, f"{page.name}[{number}]", "exec"), namespace)
        elif language == "yaml":
            name = code.splitlines()[0].removeprefix("# ").strip()
            (namespace["folder"] / name).write_text(code)
        for words in commands(code) if language == "bash" else ():
            assert main(quick(words)) == 0, " ".join(words)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What a reader has: pictures, checkpoints, and the runs of the page Ten minutes."""
    folder = tmp_path_factory.mktemp("reader")
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        pictures(folder / "photos" / split, ("daisy", "rose", "tulip"), count, rng)
    pictures(folder / "new", (".",), 3, rng)
    network = get_model("resnet18", num_classes=10, weights=None)
    torch.save(network.state_dict(), folder / "resnet18.pth")
    state = {
        f"encoder.{n}": t
        for n, t in get_model("small_conv", in_channels=1, num_classes=5).state_dict().items()
    }
    torch.save({"state_dict": state}, folder / "checkpoint.pt")
    with contextlib.chdir(folder):
        run(TEN_MINUTES, {"__name__": "page", "folder": folder})
    return folder


@pytest.mark.filterwarnings("default")  # a reader sees warnings, and goes on
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_runs(page, folder, monkeypatch):
    monkeypatch.chdir(folder)
    run(page, {"__name__": "page", "folder": folder})


def test_a_block_that_is_not_run_says_why():
    for page in (TEN_MINUTES, *PAGES):
        text = page.read_text()
        assert text.count(NOT_RUN) == sum(not is_run for *_, is_run in blocks(page)), page
