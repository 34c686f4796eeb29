"""The command line itself: parsing, one-line errors, exit status. Commands have their own tests."""

import importlib
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
import yaml

from bayesprior.cli.main import COMMANDS, main
from bayesprior.errors import ConfigError

cli = importlib.import_module("bayesprior.cli.main")  # the package shows the function
ROOT = Path(__file__).parents[2]
FIT = ["fit", "--data", "digits", "--model", "small_conv", "--prior", "p", "--out", "o"]


def said(capsys) -> str:
    """The one line on stderr."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("bayesprior: error: ")
    return lines[0].removeprefix("bayesprior: error: ")


@pytest.fixture
def called(monkeypatch):
    """Commands record their arguments instead of running."""
    calls = []

    def spy(name):
        import functools

        from bayesprior.registry import resolve

        real = resolve("command", name, COMMANDS)

        @functools.wraps(real)
        def command(**arguments):
            calls.append((name, arguments))

        return command

    monkeypatch.setattr(cli, "resolve", lambda kind, name, table: spy(name))
    return calls


def test_the_overview_names_every_command(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_for_every_option(name, capsys):
    assert main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: bayesprior {name}")
    for line in out.split("\n  --")[1:]:
        option = line.split()[0]
        text = line.split("(")[0].split(None, 2)[-1]
        assert option == "config" or text.strip(), f"--{option} is not documented"


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("bayesprior 0.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a command: demo, fit-source"),
        (["fti"], "no command 'fti'; did you mean 'fit'?"),
        ([*FIT, "--num_step", "3"], "no option --num_step; did you mean 'num_steps'?"),
        ([*FIT, "--lr", "fast"], "--lr must be float, not 'fast'"),
        ([*FIT, "--num_steps", "1.5"], "--num_steps must be int, not '1.5'"),
        ([*FIT, "--seed"], "expected one argument"),
        ([*FIT, "--method", "magic"], "magic"),
        (["report", "r", "--shift", "bad"], "--shift takes NAME=VALUE, not 'bad'"),
        (FIT[:-2], "missing: out"),
        ([*FIT, "stray"], "stray"),
        (["predict"], "missing: run"),
        (["inspect", "--file", "x"], "no option --file"),
        ([*FIT, "--config", "no.yaml"], "cannot read the configuration 'no.yaml': No such file"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments, message, capsys, called):
    assert main(arguments) == 2
    captured = said(capsys)
    assert message in captured
    assert not called


def test_options_reach_the_command_with_their_types(called):
    more = ["--data_options.num_test", "100", "--model_options", "norm=batch", "--lr", "1e-2"]
    assert main([*FIT, *more, "--method=sgld", "--progress", "false"]) == 0
    [(name, arguments)] = called
    assert name == "fit"
    assert arguments["data"].data_options == {"num_test": 100}
    assert arguments["model"].model_options == {"norm": "batch"}
    assert (arguments["lr"], arguments["method"], arguments["num_steps"]) == (0.01, "sgld", None)
    assert arguments["run"].progress is False


def test_a_flag_needs_no_value(called):
    argv = ["fit-source", "--data", "glyphs", "--model", "mlp", "--out", "o", "--diagonal_only"]
    assert main(argv) == 0
    assert main([*argv, "--seed", "3"]) == 0
    assert [arguments["diagonal_only"] for _, arguments in called] == [True, True]
    assert called[1][1]["run"].seed == 3


def test_a_configuration_file_is_overridden_by_options(tmp_path, called):
    path = tmp_path / "fit.yaml"
    path.write_text(yaml.safe_dump({"lr": 0.5, "chains": 3, "data": "mnist", "seed": 4}))
    assert main([*FIT, "--config", str(path), "--seed", "9"]) == 0
    [(_, arguments)] = called
    assert (arguments["lr"], arguments["chains"], arguments["run"].seed) == (0.5, 3, 9)
    assert main(["fit", f"--config={path}", "--model", "mlp", "--prior", "p", "--out", "o"]) == 0
    assert called[1][1]["data"].data == "mnist"


def test_a_runs_own_configuration_repeats_it(tmp_path, called):
    path = tmp_path / "config.yaml"
    options = {"data": "digits", "model": "mlp", "prior": "p", "out": "o", "lr": 0.25}
    path.write_text(yaml.safe_dump({"command": "fit", "options": options, "versions": {}}))
    assert main(["fit", "--config", str(path)]) == 0
    assert called[0][1]["lr"] == 0.25


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate: 1\nlrr: 2", "no option 'learning_rate'"),
        ("num_step: 2", "no option 'num_step'; did you mean 'num_steps'?"),
        ("num_steps: many", "--num_steps must be int, not 'many'"),
        ("- a\n- b", "holds no options"),
        ("{:", "is no YAML"),
        ("command: demo\noptions: {}", "is a configuration of bayesprior demo"),
    ],
)
def test_a_wrong_configuration_is_one_line(text, message, tmp_path, capsys, called):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    assert main([*FIT, "--config", str(path)]) == 2
    assert message in said(capsys)
    assert not called


def test_print_config_prints_yaml_that_is_accepted(tmp_path, capsys, called):
    assert main([*FIT, "--lr", "0.125", "--print_config"]) == 0
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["lr"] == 0.125
    path = tmp_path / "fit.yaml"
    path.write_text(printed)
    assert main(["fit", "--config", str(path)]) == 0
    assert called[0][1]["lr"] == 0.125


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ConfigError("two\nlines"), 2, "bayesprior: error: two lines\n"),
        (FileNotFoundError(2, "No such file", "x.npz"), 2, "No such file: 'x.npz'\n"),
        (KeyboardInterrupt("stopped after step 3 of 9"), 130, "bayesprior: stopped after step 3"),
        (KeyboardInterrupt(), 130, "bayesprior: stopped; the same command continues"),
    ],
)
def test_what_a_command_raises_becomes_a_line(error, status, line, capsys, monkeypatch):
    def fail(*, out: str = "x") -> None:
        """Fail."""
        raise error

    monkeypatch.setattr(cli, "resolve", lambda *_: fail)
    assert main(["demo"]) == status
    captured = capsys.readouterr()
    assert line in captured.err
    assert captured.err.count("\n") == 1


def test_a_bug_keeps_its_traceback(monkeypatch):
    def fail(*, out: str = "x") -> None:
        """Fail."""
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "resolve", lambda *_: fail)
    with pytest.raises(ZeroDivisionError):
        main(["demo"])


@pytest.mark.filterwarnings("default")
def test_a_warning_is_one_line(capsys, monkeypatch):
    def warn(*, out: str = "x") -> None:
        """Warn."""
        warnings.warn("classes are\nmissing", UserWarning, stacklevel=1)

    monkeypatch.setattr(cli, "resolve", lambda *_: warn)
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


def test_help_is_fast_and_a_pipe_may_close():
    start = time.process_time()
    done = run("fit", "--help")
    assert done.returncode == 0
    assert "usage: bayesprior fit" in done.stdout
    assert time.process_time() - start < 1  # of this process; the child's is below
    code = "import sys, time; sys.argv = ['bayesprior', 'fit', '--help']; import bayesprior.cli\n"
    code += "bayesprior.cli.main(); print('CPU', time.process_time())\n"
    code += "print('HEAVY', [m for m in ('torch', 'numpy', 'rich', 'yaml') if m in sys.modules])"
    timed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    cpu, heavy = timed.stdout.splitlines()[-2:]
    assert float(cpu.split()[1]) < 1
    assert "torch" not in heavy
    assert "numpy" not in heavy
    piped = f"{sys.executable} -m bayesprior fit --help | head -1"
    done = subprocess.run(["bash", "-c", piped], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_a_mistake_in_a_real_process(tmp_path):
    done = run("inspect", "no.safetensors", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "bayesprior: error: no such file: no.safetensors\n"


def test_ctrl_c_keeps_a_checkpoint_and_the_same_command_resumes(tmp_path):
    argv = ["fit-source", "--data", "glyphs", "--data_options.num_data", "124"]
    argv += ["--data_options.num_test", "62", "--model", "mlp", "--model_options.widths", "[8]"]
    argv += ["--num_steps", "100000", "--num_snapshots", "2", "--rank", "1", "--out", "run"]
    argv += ["--device", "cpu", "--progress", "false"]
    command = [sys.executable, "-m", "bayesprior", *argv]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
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
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while trace.read_text().count("\n") <= rows and process.poll() is None:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    assert "stopped after step" in process.communicate(timeout=300)[1]
    assert process.returncode == 130
    assert json.loads(json.dumps(trace.read_text().splitlines()[1].split(",")[0])) == "10"


def readme_commands() -> list[list[str]]:
    """Every ``bayesprior`` line of the README's shell blocks, split into words."""
    text = (ROOT / "README.md").read_text().replace("\\\n", " ")
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    found = [shlex.split(line, comments=True) for line in lines]
    return [words[1:] for words in found if words and words[0].endswith("bayesprior")]


def test_the_readme_shows_every_command_but_compare():
    assert {words[0] for words in readme_commands()} == set(COMMANDS) - {"compare"}


@pytest.mark.parametrize("words", readme_commands(), ids=lambda words: words[0])
def test_the_readmes_commands_are_accepted(words, called):
    assert main(words) == 0
    assert [name for name, _ in called] == [words[0]]
