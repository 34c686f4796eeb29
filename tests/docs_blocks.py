"""The code blocks of the documentation's pages, and how a test runs them quickly."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"
NOT_RUN = "<!-- not run: "
"""Before a block: why no test executes it."""

_BLOCK = re.compile(
    r"(?P<mark><!-- not run: [^\n]+ -->\n+)?^```(?P<language>bash|python|yaml)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_QUICK = {
    "fit-source": "--num_steps 12 --num_snapshots 4 --collect_every 2 --rank 3",
    "fit map": "--num_steps 12",
    "fit swag": "--num_steps 6 --num_snapshots 4 --rank 2 --collect_every 1",
    "fit sgld": "--num_draws 4 --burn_in 5 --thin 1",
    "fit sghmc": "--num_draws 4 --burn_in 5 --thin 1",
    "make-prior": "",
    "study": "--seeds 2 --jobs 1",
    "transfer": "--num_data 20",
    "predict": "",
    "report": "",
    "compare": "",
}
"""Appended to a page's commands: the same command, fewer steps."""
_SMALL_PICTURES = "--data_options.size 32"


def blocks(page: Path) -> Iterator[tuple[str, str, bool]]:
    """Yield language, code, and whether it is run, of every marked or unmarked block."""
    for found in _BLOCK.finditer(page.read_text(encoding="utf-8")):
        yield found["language"], found["code"], not found["mark"]


def commands(code: str) -> list[list[str]]:
    """Return the words of every `bayesprior` line of a shell block, without `bayesprior`."""
    lines = (shlex.split(line, comments=True) for line in code.replace("\\\n", " ").splitlines())
    return [words[1:] for words in lines if words and words[0] == "bayesprior"]


def quick(words: list[str]) -> list[str]:
    """Return a command with few steps, on the CPU, without a bar."""
    name = " ".join(words[:2]) if words[0] == "fit" else words[0]
    more = _QUICK.get(name, "").split()
    if name in _QUICK:
        more += ["--progress", "false", "--device", "cpu"]
    if "photos" in words and "--model" in words:
        more += _SMALL_PICTURES.split()
    return [*words, *more]
