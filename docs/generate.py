"""Writes the pages that are made of the package itself: its names, its modules, its commands.

`python docs/generate.py` writes them without Sphinx; `conf.py` does before each build.
"""

import contextlib
import importlib
import inspect
import io
import os
import pkgutil
from pathlib import Path
from types import ModuleType

import bayesprior as bp
from bayesprior.cli.commands import COMMANDS
from bayesprior.cli.parsing import parse

GROUPS = {
    "bayesprior.recipes": "Fit, predict, report",
    "bayesprior.prediction": "Fit, predict, report",
    "bayesprior.report": "Fit, predict, report",
    "bayesprior.data": "Data",
    "bayesprior.models": "Networks",
    "bayesprior.weights": "Priors and named weights",
    "bayesprior.tasks": "Likelihoods, losses, batches",
    "bayesprior.inference": "Samplers, collectors, the training loop",
    "bayesprior.integrations": "Lightning and Hugging Face",
    "bayesprior.probabilistic": "Pyro",
    "bayesprior.errors": "Errors",
    "bayesprior.version": "Version",
}
"""Where a name lives -> under which heading its page is listed."""
ELSEWHERE = {"Forward": "bayesprior.tasks.protocols", "__version__": "bayesprior.version"}
"""Names that do not know where they live."""
FOLDER = Path(__file__).parent
NOTEBOOKS = sorted((FOLDER.parent / "tutorials").glob("*.ipynb"))


def home(name: str) -> str:
    """Return the module where a public name lives."""
    found = getattr(bp, name)
    if isinstance(found, ModuleType):
        return found.__name__
    return ELSEWHERE.get(name) or found.__module__


def group(name: str) -> str:
    """Return the heading of a public name; a KeyError says that its folder has none."""
    return GROUPS[".".join(home(name).split(".")[:2])]


def example(name: str) -> str:
    """Return the script of a name whose docstring has no example of its own, or nothing."""
    path = FOLDER / "examples" / f"{name}.py"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def has_example(name: str) -> bool:
    """Tell whether a name's page has an example."""
    return bool(example(name)) or ">>>" in (inspect.getdoc(getattr(bp, name)) or "")


def directive(name: str) -> str:
    """Return the lines that have autodoc describe a name."""
    found = getattr(bp, name)
    if isinstance(found, ModuleType):
        return f".. automodule:: {found.__name__}\n   :members:"
    if name in ELSEWHERE:
        return f".. autodata:: bayesprior.{name}\n   :no-value:"
    if inspect.isclass(found):
        return f".. autoclass:: bayesprior.{name}\n   :members:\n   :show-inheritance:"
    return f".. autofunction:: bayesprior.{name}"


def name_page(name: str) -> str:
    """Return the page of a public name: how it is imported, what it is, an example."""
    parts = [
        f"# {name}".replace("__", r"\_\_"),
        f"```python\nfrom bayesprior import {name}  # bp.{name} after import bayesprior as bp\n```",
        f"```{{eval-rst}}\n{directive(name)}\n```",
    ]
    if script := example(name):
        parts.append(f"## Example\n\n```python\n{script.strip()}\n```")
    return "\n\n".join(parts) + "\n"


def names_page() -> str:
    """Return the list of all public names, under headings."""
    lines = ["# Names", "", "Every public name, each on a page of its own.", ""]
    for heading in dict.fromkeys(GROUPS.values()):
        names = [name for name in bp.__all__ if group(name) == heading]
        lines += [f"## {heading}", "", "```{toctree}", ":maxdepth: 1", "", *names, "```", ""]
    return "\n".join(lines)


def module_names() -> list[str]:
    """Return the modules that are not themselves a public name or the command line."""
    shown = {home(name) for name in bp.__all__ if isinstance(getattr(bp, name), ModuleType)}
    shown |= {f"bayesprior.{name}" for name in bp.__all__}  # a folder that shares a name
    return sorted(
        found.name
        for found in pkgutil.walk_packages(bp.__path__, "bayesprior.")
        if found.name not in shown
        and not any(part.startswith("_") for part in found.name.split("."))
        and not found.name.startswith(("bayesprior.cli", "bayesprior.demo.command"))
    )


def module_page(name: str) -> str:
    """Return the page of a module, without the names that have a page of their own."""
    public = set(getattr(importlib.import_module(name), "__all__", ()))
    own = ", ".join(sorted(public & set(bp.__all__)))
    lines = ["```{eval-rst}", f".. automodule:: {name}", "   :members:"]
    lines += [f"   :exclude-members: {own}"] if own else []
    links = [f"[{n}](../names/{n}.md)" for n in own.split(", ") if n]
    more = ["", "Also here, on their own pages: " + ", ".join(links) + "."] if links else []
    return "\n".join([f"# {name}", "", *lines, "```", *more, ""])


def modules_page(names: list[str]) -> str:
    """Return the list of modules."""
    said = (
        "What is not one of the [names](../names/index.md) but may be used: import it from here. "
        "A name that a module's `__all__` lacks is private."
    )
    return "\n".join(
        ["# Modules", "", said, "", "```{toctree}", ":maxdepth: 1", "", *names, "```", ""]
    )


def commands_page() -> str:
    """Return every command with what `--help` prints."""
    lines = [
        "# The command line",
        "",
        "What `bayesprior COMMAND --help` prints. Hyphens are as good as underscores; "
        "`--config FILE.yaml` reads options from a file, such as a run's own `config.yaml`.",
        "",
    ]
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "96"
    try:
        for command in COMMANDS:
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                parse(command, ["--help"])
            lines += [f"## bayesprior {command}", "", "```text", printed.getvalue().rstrip()]
            lines += ["```", ""]
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before
    return "\n".join(lines)


def picture() -> str:
    """Draw the package's idea: a loss with many minima, a prior, and what they are together."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    w = np.linspace(-4, 4, 801)
    loss = 0.03 * w**2 + 0.55 * np.cos(3.1 * w) + 0.75
    prior = (w - 0.9) ** 2 / (2 * 0.9**2)
    style = {"svg.hashsalt": "idea", "svg.fonttype": "none", "font.size": 9}
    with plt.rc_context(style):
        figure, axes = plt.subplots(1, 3, figsize=(8.4, 2.3), sharey=True, layout="constrained")
        rows = ((loss, "the target's few labels"), (prior, "the source: minus log prior"))
        for axis, (values, title) in zip(
            axes, (*rows, (loss + prior, "together: the posterior")), strict=True
        ):
            axis.plot(w, values, color="tab:blue")
            axis.set(title=title, ylim=(0, 3.2), xlabel="one direction of the weights", xticks=[])
            inside = values[1:-1]
            is_low = (inside < values[:-2]) & (inside < values[2:])
            low = np.flatnonzero(is_low) + 1
            axis.plot(w[low], values[low], "o", color="tab:gray")
            best = low[np.argmin(values[low])]
            axis.plot(w[best], values[best], "o", color="tab:orange")
        axes[0].set(ylabel="loss", yticks=[])
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None})
        plt.close(figure)
    return written.getvalue()


def tutorials_page() -> str:
    """Return the list of the notebooks, whose titles are their first lines."""
    names = [path.stem for path in NOTEBOOKS]
    return "\n".join(
        [
            "# Tutorials",
            "",
            "Notebooks that run from top to bottom, offline, in less than five minutes each on two",
            "cores. They are in the folder `tutorials/`, with what they printed and drew.",
            "",
            "```{toctree}",
            *names,
            "```",
            "",
        ]
    )


def pages() -> dict[str, str]:
    """Return every generated page by its path under the documentation's folder."""
    modules = module_names()
    return {
        "tutorials/index.md": tutorials_page(),
        **{f"tutorials/{path.name}": path.read_text(encoding="utf-8") for path in NOTEBOOKS},
        "concepts/idea.svg": picture(),
        "reference/cli.md": commands_page(),
        "reference/names/index.md": names_page(),
        **{f"reference/names/{name}.md": name_page(name) for name in bp.__all__},
        "reference/modules/index.md": modules_page(modules),
        **{f"reference/modules/{name}.md": module_page(name) for name in modules},
    }


def write(folder: Path) -> None:
    """Write the pages; those that did not change keep their time, those that went are removed."""
    made = pages()
    for path, text in made.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
    for old in (*folder.glob("reference/*/*.md"), *folder.glob("tutorials/*")):
        if old.relative_to(folder).as_posix() not in made:
            old.unlink()


if __name__ == "__main__":
    write(FOLDER)
