"""The command line itself: help, errors, exit status. Parsing and commands have their own tests."""

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
from forked import start_code

from bayesprior.cli.commands import COMMANDS, Command
from bayesprior.cli.main import main
from bayesprior.errors import ConfigError
from bayesprior.inference.progress import read_trace
from bayesprior.signals import Terminated

ROOT = Path(__file__).parents[2]


@pytest.fixture
def command(monkeypatch):
    """Let every command be a function that a test gives."""

    def give(function):
        monkeypatch.setattr(Command, "function", property(lambda _: function))

    return give


def test_the_overview_names_every_command(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in COMMANDS)
    assert main(["fit", "--help"]) == 0
    out = capsys.readouterr().out
    assert all((f"  {name} " in out) == name.startswith("fit ") for name in COMMANDS)


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("bayesprior 0.")


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ConfigError("two\nlines"), 2, "bayesprior: error: two lines\n"),
        (ConfigError("lr must be positive"), 2, "bayesprior: error: lr must be positive\n"),
        (ConfigError("num_data must be odd"), 2, "bayesprior: error: --num_data must be odd\n"),
        (FileNotFoundError(2, "No such file", "x.npz"), 2, "No such file: 'x.npz'\n"),
        (ConfigError("\x1b[2J\x07"), 2, "bayesprior: error: \\x1b[2J\\x07\n"),
        (KeyboardInterrupt("stopped after step 3 of 9"), 130, "bayesprior: stopped after step 3"),
        (KeyboardInterrupt(), 130, "bayesprior: stopped; the same command continues"),
        (Terminated("stopped after step 3"), 143, "after step 3; the same command continues"),
        (MemoryError(), 2, "error: not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 2, "not enough memory"),
    ],
)
def test_what_a_command_raises_becomes_a_line(error, status, line, capsys, command):
    def fail(options):
        raise error

    command(fail)
    assert main(["demo"]) == status
    captured = capsys.readouterr()
    assert line in captured.err
    assert captured.err.count("\n") == 1


def test_a_bug_is_one_line_and_its_traceback_lies_in_the_folder(
    capsys, command, tmp_path, monkeypatch
):
    def fail(options):
        raise ZeroDivisionError("by [/red] zero")

    command(fail)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out[red]x").mkdir()
    for out, folder in (("out[red]x", tmp_path / "out[red]x"), ("nowhere", tmp_path)):
        assert main(["demo", "--out", out]) == 1
        error = capsys.readouterr().err
        assert "this is a bug of bayesprior" in error
        assert "ZeroDivisionError: by [/red] zero" in error
        assert error.count("\n") == 1
        text = (folder / "error.log").read_text()
        assert text.startswith("Traceback")
        assert "raise ZeroDivisionError" in text


@pytest.mark.filterwarnings("default")
def test_a_warning_is_one_line(capsys, command):
    command(lambda options: warnings.warn("classes are\nmissing", UserWarning, stacklevel=1))
    assert main(["demo"]) == 0
    assert capsys.readouterr().err == "bayesprior: warning: classes are missing\n"


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "bayesprior", *arguments],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


HEAVY = ("torch", "numpy", "pyro", "arviz", "arviz_base", "xarray", "matplotlib", "safetensors")


def test_help_of_every_command_imports_nothing_heavy():
    code = f"""
import sys
from bayesprior.cli.commands import COMMANDS
from bayesprior.cli.main import main
for words in ["--help", "fit --help", "--version", *(f"{{name}} --help" for name in COMMANDS)]:
    assert main(words.split()) == 0, words
    assert not set({HEAVY}) & set(sys.modules), words
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "null" not in done.stdout
    assert "None" not in done.stdout


def test_a_pipe_may_close():
    piped = f"{sys.executable} -m bayesprior fit map --help | head -1"
    done = subprocess.run(["bash", "-c", piped], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout == "usage: bayesprior fit map [options]\n"


def test_a_mistake_in_a_real_process(tmp_path):
    done = run("inspect", "no.safetensors", "--crad", cwd=tmp_path)  # before torch is imported
    assert done.returncode == 2
    assert done.stderr == (
        "bayesprior: error: bayesprior inspect has no option --crad; did you mean 'card'? "
        "(see bayesprior inspect --help)\n"
    )


def test_a_signal_leaves_a_checkpoint_and_the_same_command_resumes(tmp_path):
    argv = ["fit-source", "--data", "glyphs", "--data_options.num_data", "124"]
    argv += ["--data_options.num_test", "62", "--model", "mlp", "--model_options.widths", "[8]"]
    argv += ["--num_steps", "100000", "--num_snapshots", "2", "--rank", "1", "--out", "run"]
    argv += ["--device", "cpu", "--progress", "false"]
    command = [sys.executable, "-m", "bayesprior", *argv]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # not as under nohup
    )
    trace = tmp_path / "run" / "trace.csv"
    deadline = time.monotonic() + 300
    while not trace.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    error = process.communicate(timeout=300)[1]
    assert process.returncode == 130, error
    assert "stopped after step" in error
    assert "resume from" in error
    assert error.count("\n") == 1
    assert (tmp_path / "run" / "checkpoint.pt").exists()
    rows = trace.read_text().count("\n")
    code = "import sys; from bayesprior.cli.main import main; sys.exit(main(sys.argv[1:]))"
    process = start_code(code, *argv, cwd=tmp_path, files=tmp_path)
    while trace.read_text().count("\n") <= rows and process.is_alive():
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    process.join(timeout=300)
    assert "stopped after step" in (tmp_path / "err").read_text()
    assert process.exitcode == 143
    assert json.loads(json.dumps(trace.read_text().splitlines()[1].split(",")[0])) == "10"


def readme_commands() -> list[list[str]]:
    """Every ``bayesprior`` line of the README's shell blocks, split into words."""
    text = (ROOT / "README.md").read_text().replace("\\\n", " ")
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    found = [shlex.split(line, comments=True) for line in lines]
    return [words[1:] for words in found if words and words[0].endswith("bayesprior")]


def test_the_readme_shows_every_command():
    shown = {" ".join(words[:2]) if words[0] == "fit" else words[0] for words in readme_commands()}
    assert shown >= {"demo", "fit-source", "make-prior", "predict", "report", "compare", "inspect"}
    assert any(name.startswith("fit ") for name in shown)


@pytest.mark.parametrize("words", readme_commands(), ids=" ".join)
def test_the_readmes_commands_are_accepted(words, command):
    called = []
    command(called.append)
    assert main(words) == 0
    [options] = called
    assert type(options) in {known.options for known in COMMANDS.values()}


def test_quiet_leaves_warnings_errors_and_what_was_asked_for(fit, tmp_path, capsys):
    short = [*fit[: fit.index("--progress")], "--device", "cpu", "--num_steps", "10"]
    assert main(["fit", "map", *short, "--out", str(tmp_path / "map"), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert main(["fit", "map", *short, "--out", str(tmp_path / "loud")]) == 0
    told = capsys.readouterr()
    assert "method" in told.out
    assert "MAP: 10/10 (100%), loss" in told.err
    assert main(["predict", str(tmp_path / "loud"), "--quiet", "--device", "cpu"]) == 0
    asked = capsys.readouterr()
    assert "accuracy" in asked.out
    assert asked.err == ""
    assert main(["fit", "map", *short, "--out", str(tmp_path / "x"), "--quiet", "--lr", "-1"]) == 2
    assert capsys.readouterr().err == "bayesprior: error: --lr must be above 0, got -1.0\n"


def test_scalars_are_logged_in_the_form_asked_for(fit, tmp_path, refused):
    arguments = ["fit", "map", *fit, "--num_steps", "20", "--out", str(tmp_path), "--logger", "csv"]
    assert main(arguments) == 0
    with (tmp_path / "logs" / "version_0" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    kept = read_trace(tmp_path / "trace.csv")
    assert [int(row["step"]) for row in rows] == [10, 20]
    assert [float(row["loss"]) for row in rows] == [row["loss"] for row in kept]
