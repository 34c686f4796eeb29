"""What a user installs: metadata, extras, the files in the wheel."""

import ast
import configparser
import fnmatch
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import bayesprior.version

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "bayesprior"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
PROJECT_VERSION = bayesprior.version.__version__
SETUP_CFG = configparser.ConfigParser()
SETUP_CFG.read(ROOT / "setup.cfg")


def requirement_name(requirement: str) -> str:
    name = re.match(r"[\w.-]+", requirement)
    assert name, requirement
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def tracked_files() -> list[Path]:
    """Files under version control, and new ones that will be."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_setup_cfg_repeats_nothing_of_pyproject():
    assert set(SETUP_CFG["metadata"]) <= set(PROJECT["dynamic"])
    mechanics = {"packages", "include_package_data", "zip_safe"}
    assert set(SETUP_CFG["options"]) <= mechanics
    assert "setuptools" not in PYPROJECT["tool"]
    tools = {section.split(":")[0] for section in SETUP_CFG.sections()}
    assert not tools & {name for tool in PYPROJECT["tool"] for name in (tool, f"tool {tool}")}


def test_version_is_written_once():
    version = bayesprior.version.__version__
    assert importlib.metadata.version("bayesprior") == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"[{version}]" in (ROOT / "CHANGELOG.md").read_text()


def test_python_versions_agree():
    floor = re.fullmatch(r">=3\.(\d+)", PROJECT["requires-python"])
    assert floor
    classifiers = [c for c in PROJECT["classifiers"] if "Python :: 3." in c]
    assert f"Programming Language :: Python :: 3.{floor[1]}" == min(classifiers)
    assert PYPROJECT["tool"]["mypy"]["python_version"] == f"3.{floor[1]}"
    assert PYPROJECT["tool"]["ruff"]["target-version"] == f"py3{floor[1]}"
    assert f"(3, {floor[1]})" in (ROOT / "Makefile").read_text()


def test_dev_extra_holds_every_other_extra():
    extras = dict(PROJECT["optional-dependencies"])
    held = re.fullmatch(r"bayesprior\[(.+)\]", extras.pop("dev")[0])
    assert held
    assert set(held[1].split(",")) == set(extras)


def test_imported_distributions_are_declared():
    """No import leans on what another dependency happens to bring along."""
    declared = {requirement_name(r) for r in PROJECT["dependencies"]}
    for extra in PROJECT["optional-dependencies"].values():
        declared |= {requirement_name(r) for r in extra}
    providers = importlib.metadata.packages_distributions()
    missing = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            else:
                continue
            for top in {name.split(".")[0] for name in names} - set(sys.stdlib_module_names):
                found = {requirement_name(d) for d in providers.get(top, [top])}
                if not found & declared:
                    missing[top] = str(path.relative_to(ROOT))
    assert not missing


def test_every_source_folder_is_a_package():
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert [f.name for f in folders if not (f / "__init__.py").exists()] == []


def test_data_files_are_in_the_wheel():
    patterns = SETUP_CFG["options.package_data"]
    for path in tracked_files():
        if path.is_relative_to(PACKAGE) and path.suffix != ".py":
            folder = next(p for p in path.parents if (p / "__init__.py").exists())
            package, name = ".".join(folder.relative_to(ROOT).parts), path.relative_to(folder)
            declared = patterns.get(package, "").replace(",", " ").split()
            assert any(fnmatch.fnmatch(str(name), p) for p in declared), (
                f"setup.cfg [options.package_data] lacks {package} = {name}"
            )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of a copy of the files under version control, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    for path in tracked_files():
        name = path.relative_to(ROOT)
        if name.parts[0] in ("bayesprior", "README.md", "LICENSE", "pyproject.toml", "setup.cfg"):
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / "source" / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    built = subprocess.run(
        [*command, "--disable-pip-version-check", "-w", folder, folder / "source"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    [archive] = folder.glob("*.whl")
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder / "installed")
    return folder / "installed"


def test_the_wheel_holds_every_file_of_the_package(wheel):
    source = {p.relative_to(ROOT) for p in tracked_files() if p.is_relative_to(PACKAGE)}
    held = {p.relative_to(wheel) for p in wheel.rglob("*") if p.is_file()}
    assert not source - held
    assert {p.parts[0] for p in held - source} == {f"bayesprior-{PROJECT_VERSION}.dist-info"}


def test_the_command_line_runs_from_the_wheel(wheel, tmp_path):
    code = "import bayesprior, sys; from bayesprior.cli import main; print(bayesprior.__file__)\n"
    code += "sys.exit(main(['demo', '--help']))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(wheel)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(str(wheel))
    assert "usage: bayesprior demo" in done.stdout


def test_entry_point():
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="bayesprior")
    assert script.value == PROJECT["scripts"]["bayesprior"]
    assert callable(script.load())


def test_license_is_apache():
    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()[:200]


MACHINE_PATH = re.compile(r"(?<![\w.~$}-])/(?:home|root|Users|work|tmp|opt|mnt)/\w")


def test_no_file_names_a_folder_of_one_machine():
    found = []
    for path in tracked_files():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        found += [
            f"{path.relative_to(ROOT)}:{number}"
            for number, line in enumerate(lines, 1)
            if MACHINE_PATH.search(line)
        ]
    assert not found
