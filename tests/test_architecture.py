"""The package's shape: floors, who may import what, size, and a word on every public name.

The tables below are the one place where they are written. A new module needs a row in `FLOORS`,
a new third-party import one in `THIRD_PARTY`.
"""

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "bayesprior"
MAX_LINES = 400

# A module imports only from lower floors; within one entry (a folder) it may import its siblings.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "version"),
    ("layout", "lowrank", "registry"),
    ("inference.protocols", "storage", "covariance"),
    ("inference.schedules", "gaussian_file", "functional", "runs"),
    ("gaussian", "likelihoods"),
    ("inference.optimizers", "inference.posteriors", "objectives"),
    (
        "inference.collectors",
        "inference.prior_term",
        "inference.checkpoint",
        "inference.progress",
        "metrics",
        "averaging",
    ),
    ("inference.engine", "prediction"),
    ("diagnostics", "probabilistic", "importers", "testing", "models", "data"),
    ("report",),
    ("recipes",),
    ("commands",),
    ("demo",),
    ("cli",),
    ("__main__",),
)

ANYWHERE = {"torch", "numpy", "jaxtyping"}
# Who may import the rest; "*" after a name allows it inside functions only.
THIRD_PARTY: dict[str, tuple[str, ...]] = {
    "pyro": ("gaussian", "likelihoods", "probabilistic"),
    "safetensors": ("storage", "importers", "models"),
    "lightning_fabric": ("inference.engine", "prediction", "recipes"),
    "torchmetrics": ("metrics", "prediction"),
    "arviz_base": ("diagnostics", "report", "probabilistic*"),
    "arviz_stats": ("diagnostics", "report", "probabilistic*"),
    "arviz_plots": ("diagnostics", "report"),
    "xarray": ("diagnostics", "recipes.reporting", "probabilistic*"),
    "matplotlib": ("diagnostics", "report", "data*"),
    "torchvision": ("data*", "models*", "diagnostics*"),
    "timm": ("data*", "models*"),
    "lightly": ("data*", "models*"),
    "sklearn": ("data*", "models*", "diagnostics*"),
    "PIL": ("data*", "diagnostics*"),
    "scipy": ("diagnostics", "testing"),
    "rich": ("inference.progress", "prediction", "recipes", "commands", "demo", "cli"),
    "jsonargparse": ("commands", "cli", "recipes"),
    "yaml": ("cli", "recipes", "runs"),
}

# Never loaded by `import bayesprior`, nor by the command line's --help.
LAZY = (
    "torch pyro torchvision timm lightly lightning lightning_fabric torchmetrics sklearn scipy "
    "matplotlib arviz_base arviz_stats arviz_plots xarray"
).split()


class Import(NamedTuple):
    target: str
    line: int
    in_function: bool


def module_name(path: Path) -> str:
    """``bayesprior/inference/engine.py`` -> ``inference.engine``; a package is its folder."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text()) for name, path in SOURCES.items()}
MODULES = [name for name, path in SOURCES.items() if path.name != "__init__.py"]


def imports(tree: ast.AST, in_function: bool = False) -> Iterator[Import]:
    """Every import, absolute names; ``from package import module`` yields the module."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, in_function)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            for alias in node.names:
                full = f"{base}.{alias.name}"
                is_module = full.removeprefix("bayesprior.") in SOURCES
                yield Import(full if is_module else base, node.lineno, in_function)
        else:
            inside = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from imports(node, inside)


def within(name: str, entry: str) -> bool:
    return name == entry or name.startswith(entry + ".")


def place(name: str) -> tuple[int, str] | None:
    """Floor and table entry of a module."""
    for floor, entries in enumerate(FLOORS):
        for entry in entries:
            if within(name, entry):
                return floor, entry
    return None


def public_names(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return None


@pytest.mark.parametrize("name", MODULES)
def test_imports_come_from_lower_floors(name):
    here = place(name)
    assert here, f"bayesprior.{name} stands on no floor; add it to FLOORS"
    upward = []
    for target, line, _ in imports(TREES[name]):
        if not within(target, "bayesprior"):
            continue
        there = place(target.removeprefix("bayesprior").lstrip("."))
        if there is None or (there[0] >= here[0] and there != here):
            upward.append(f"line {line}: {target}")
    upward = list(dict.fromkeys(upward))
    assert not upward, f"bayesprior.{name} (floor {here[0]}) imports from its own floor or above"


@pytest.mark.parametrize("name", SOURCES)
def test_third_party_imports_stay_in_their_places(name):
    misplaced = []
    for target, line, in_function in imports(TREES[name]):
        top = target.split(".")[0]
        if top in sys.stdlib_module_names or top in ANYWHERE or top == "bayesprior":
            continue
        allowed = THIRD_PARTY.get(top, ())
        if not any(
            within(name, entry.rstrip("*")) and (in_function or not entry.endswith("*"))
            for entry in allowed
        ):
            where = ", ".join(allowed) or "nowhere"
            misplaced.append(f"line {line}: {target} (allowed: {where}; * inside functions)")
    assert not misplaced


@pytest.mark.parametrize("name", SOURCES)
def test_public_names_are_listed_and_documented(name):
    tree = TREES[name]
    assert ast.get_docstring(tree), "the module has no docstring"
    names = public_names(tree)
    if names is None:
        assert SOURCES[name].name == "__init__.py", "no __all__"
        assert len(tree.body) == 1, "no __all__"
        return
    assert len(set(names)) == len(names)
    if SOURCES[name].name == "__init__.py":
        return
    documented = {}
    for node, after in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            documented[node.name] = bool(ast.get_docstring(node))
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            documented[ast.unparse(target)] = is_text
    # A constant in capitals may speak through its name and value.
    assert not [n for n in names if not (documented.get(n) or n.isupper() or n.startswith("__"))]


@pytest.mark.parametrize("name", SOURCES)
def test_annotations_are_objects(name):
    """jaxtyping reads the annotations at run time, so they must not be turned into strings."""
    assert "__future__" not in [target for target, _, _ in imports(TREES[name])]


def test_no_file_is_long():
    paths = [
        p
        for folder in ("bayesprior", "tests", "benchmarks")
        for p in ROOT.glob(f"{folder}/**/*.py")
    ]
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in paths}
    assert not {path: n for path, n in lengths.items() if n > MAX_LINES}


def test_tests_mirror_the_package():
    """``tests/a/test_b.py`` (or ``test_b_aspect.py``) tests ``bayesprior/a/b.py``."""
    tests = ROOT / "tests"
    paths = sorted(tests.rglob("test_*.py"))
    twice = [name for name, count in Counter(p.name for p in paths).items() if count > 1]
    assert not twice, "pytest imports test files by name, so names must differ"
    of_no_module = []
    for path in paths:
        folder = path.relative_to(tests).parent
        if folder.parts[:1] in {("integration",), ("statistical",)}:
            continue
        stem = path.stem.removeprefix("test_")
        beside = [p.stem.lstrip("_") for p in (PACKAGE / folder).glob("*.py")]
        beside += [p.name for p in (PACKAGE / folder).glob("*/")]
        whole = ["architecture", "packaging", "tutorials"] if folder == Path() else []
        whole += [folder.name] * (folder != Path())
        if not any(stem == m or stem.startswith(m + "_") for m in beside + whole):
            of_no_module.append(str(path.relative_to(ROOT)))
    assert not of_no_module


def loaded_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after running the code."""
    code += "\nimport sys; print('loaded:', *{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.rsplit("loaded:", 1)[1].split())


def test_importing_the_package_is_cheap():
    assert not loaded_after("import bayesprior") & set(LAZY)


@pytest.mark.skipif("cli" not in SOURCES, reason="there is no command line yet")
@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_command_line_answers_before_torch_is_imported(arguments):
    code = f"import sys; sys.argv = ['bayesprior', *{arguments}]\n"
    code += "from bayesprior.cli import main\ntry:\n    main()\nexcept SystemExit:\n    pass"
    assert not loaded_after(code) & set(LAZY)


def test_every_public_name_resolves():
    import bayesprior

    for name in getattr(bayesprior, "__all__", []):
        assert getattr(bayesprior, name) is not None
