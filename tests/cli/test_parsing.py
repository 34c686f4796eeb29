import json
import os
import subprocess
import sys

import pytest
import yaml

from bayesprior.cli.commands import COMMANDS
from bayesprior.cli.main import main
from bayesprior.cli.parsing import find_command, in_flags, parse
from bayesprior.errors import ConfigError

NEEDED = ["--data", "digits", "--model", "small_conv", "--prior", "p", "--out", "o"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_help_and_a_real_default(name, capsys):
    assert parse(name, ["--help"]) is None
    out = capsys.readouterr().out
    assert out.startswith(f"usage: bayesprior {name}")
    for entry in out.split("\n  --")[1:]:
        option, *text = entry.split()
        if option not in ("config", "print_config"):
            assert len(text) > 3, f"--{option} is not documented"
            assert "(default: " in " ".join(text) or "(required)" in text
    assert "None" not in out
    assert "null" not in out


def test_a_default_of_none_is_said_in_words(capsys):
    parse("fit map", ["--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert "Learning rate of the new weights. (default: lr)" in out
    assert "(default: the last linear layer)" in out
    assert "--progress true|false Show progress bars. (default: true)" in out


def test_the_word_behind_fit_is_the_method():
    assert find_command(["fit", "swag", "--lr", "1"]) == ("fit swag", ["--lr", "1"])
    assert find_command(["fit", "--lr", "1", "--method", "sgld"]) == ("fit sgld", ["--lr", "1"])
    assert find_command(["fit", "--method=map", "--x"]) == ("fit map", ["--x"])
    assert find_command(["predict", "r"]) == ("predict", ["r"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a command: demo, fit-source"),
        (["fti"], "no command 'fti'; did you mean 'fit'?"),
        (["fit"], "name the method: bayesprior fit map|swag|sgld|sghmc"),
        (["fit", "swga"], "not 'swga'; did you mean 'swag'?"),
        (["fit", "--method", "magic"], "name the method: bayesprior fit map|swag|sgld|sghmc"),
        (["fit", "map", *NEEDED, "--num_step", "3"], "no option --num_step; did you mean 'num_st"),
        (["fit", "map", *NEEDED, "--chains", "3"], "--chains; that is one of bayesprior fit sgld"),
        (["fit", "map", *NEEDED, "--target", "y"], "did you mean --data_options.target? (see"),
        (["fit", "map", *NEEDED, "--lr", "fast"], "--lr must be a number, got 'fast'"),
        (["fit", "map", *NEEDED, "--lr", "-1"], "--lr must be above 0, got -1"),
        (["fit", "map", *NEEDED, "--lr.x", "1"], "--lr takes one value, not one named 'x'"),
        (["fit", "map", *NEEDED, "--num_steps", "1.5"], "--num_steps must be a whole number, got"),
        (["fit", "map", *NEEDED, "--num-steps", "1e30"], "--num_steps must be a whole number"),
        (["fit", "map", *NEEDED, "--start", "no"], "--start must be one of 'prior', 'module', got"),
        (["fit", "map", *NEEDED, "--progress", "x"], "unrecognized arguments: x"),
        (["fit", "map", *NEEDED, "--seed"], "--seed needs a value"),
        (["fit", "map", *NEEDED[:-2]], "missing: --out"),
        (["fit", "map", *NEEDED, "stray"], "stray"),
        (["fit", "map", *NEEDED, "--config", "no.yaml"], "cannot read the configuration 'no.yaml'"),
        (["report", "r", "--shift", "bad"], "--shift takes NAME=VALUE, not 'bad'"),
        (["report"], "missing: runs"),
        (["predict"], "missing: run"),
        (["inspect", "--file", "x"], "no option --file"),
        (["transfer", *NEEDED[:4], "--noise", "1"], "transfer has no option --noise; that is"),
        (["transfer", *NEEDED[:4], "--weights.x", "1"], "--weights takes one value, not one"),
        (["demo", "--num_data", "0"], "--num_data must be at least 10, got 0"),
    ],
)
def test_mistakes(arguments, message, capsys, wrong):
    status, line = wrong[json.dumps(arguments)]
    assert status == 2
    assert message in line


@pytest.fixture(scope="module")
def wrong():
    """Status and message of every wrong command, in a process that does not check annotations."""
    cases = test_mistakes.pytestmark[0].args[1]
    code = """
import contextlib, io, json, sys
from bayesprior.cli.main import main
for case in json.load(sys.stdin):
    with contextlib.redirect_stderr(io.StringIO()) as said:
        status = main(case)
    assert said.getvalue().count(chr(10)) == 1, (case, said.getvalue())
    print(json.dumps([json.dumps(case), [status, said.getvalue()]]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps([arguments for arguments, _ in cases]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(line) for line in done.stdout.splitlines())


def test_options_come_with_their_types():
    more = ["--data_options.num_test", "100", "--model_options", "norm=batch", "--lr", "1e-2"]
    more += ["--model-options.widths=[8,16]", "--head-lr=0.5", "--progress", "false"]
    found = parse("fit sgld", [*NEEDED, *more])
    assert found.data_options == {"num_test": 100}
    assert found.model_options == {"norm": "batch", "widths": [8, 16]}
    assert (found.lr, found.head_lr, found.num_draws, found.progress) == (0.01, 0.5, 50, False)
    assert type(found) is COMMANDS["fit sgld"].options


def test_text_stays_what_was_typed():
    found = parse("fit map", ["--data", "010", "--model", "m", "--prior", "~/p", "--out", "2024"])
    assert (found.data, found.out) == ("010", "2024")
    assert not found.prior.startswith("~")
    assert parse("fit map", [*NEEDED, "--classes", "0,1"]).classes == "0,1"


def test_files_given_several_times_are_a_list_whatever_their_names(tmp_path, capsys):
    argv = ["--data", "digits", "--model", "mlp", "--out", "o"]
    found = parse("transfer", [*argv, "--weights", "a,b.pth", "--weights=~/[c]", "--source", "7"])
    assert found.weights == ("a,b.pth", os.path.expanduser("~/[c]"))
    assert found.source == ("7",)
    assert parse("transfer", argv).weights == ()
    path = tmp_path / "transfer.yaml"
    path.write_text("weights: [x, 'y,z']\nsource: ~/only\n")
    found = parse("transfer", [f"--config={path}", *argv])
    assert found.weights == ("x", "y,z")
    assert found.source == (os.path.expanduser("~/only"),)
    assert parse("transfer", [f"--config={path}", *argv, "--weights", "q"]).weights == ("q",)
    assert parse("transfer", [*argv, "--weights", "a,b", "--print_config"]) is None
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["weights"], printed["source"]) == (["a,b"], [])
    parse("transfer", ["--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert "--weights PATH Or a checkpoint, likewise. (default: none)" in out
    assert "--noise" not in out


def test_a_flag_needs_no_value():
    argv = ["--data", "glyphs", "--model", "mlp", "--out", "o", "--diagonal_only"]
    assert parse("fit-source", argv).diagonal_only is True
    assert parse("fit-source", [*argv, "--seed", "3"]).seed == 3
    assert parse("fit-source", [*argv, "False"]).diagonal_only is False


def test_arguments_without_a_flag_may_stand_anywhere():
    found = parse("predict", ["run", "--out", "x.csv", "a.png", "--trust", "b.png"])
    assert (found.run, found.new, found.out, found.trust) == (
        "run",
        ("a.png", "b.png"),
        "x.csv",
        True,
    )
    assert parse("report", ["a", "--shift", "x=f.npz", "b"]).shift == {"x": "f.npz"}


def test_a_configuration_file_is_overridden_by_options(tmp_path):
    path = tmp_path / "fit.yaml"
    path.write_text(yaml.safe_dump({"lr": 0.5, "chains": 3, "data": "mnist", "seed": 4}))
    found = parse("fit sgld", [*NEEDED, "--config", str(path), "--seed", "9"])
    assert (found.lr, found.chains, found.seed, found.data) == (0.5, 3, 9, "digits")
    needed = ["--model", "mlp", "--prior", "p", "--out", "o"]
    assert parse("fit sgld", [f"--config={path}", *needed]).data == "mnist"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate: 1\nlrr: 2", "no option --learning_rate"),
        ("num_step: 2", "no option --num_step; did you mean 'num_steps'?"),
        ("- a\n- b", "holds no options"),
        ("{:", "is no YAML"),
        ("command: demo\noptions: {}", "give the config.yaml in its folder"),
    ],
)
def test_a_wrong_configuration(text, message, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        parse("fit map", [*NEEDED, "--config", str(path)])


def test_print_config_prints_yaml_that_is_accepted(tmp_path, capsys):
    assert main(["fit", "map", *NEEDED, "--lr", "0.125", "--print_config"]) == 0
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["lr"] == 0.125
    path = tmp_path / "fit.yaml"
    path.write_text(printed)
    found = parse("fit map", ["--config", str(path)])
    assert (found.lr, found.head_lr, found.data) == (0.125, None, "digits")


def test_a_runs_own_configuration_repeats_it(work):
    path = work / "sgld" / "config.yaml"
    found = parse("fit sgld", ["--config", str(path)])
    assert found.out == str(work / "sgld")
    assert (found.num_draws, found.num_data, found.model) == (6, 12, "small_conv")
    assert found.prior == str(work / "prior" / "prior.safetensors")
    for name in ("fit map", "fit sghmc", "fit-source"):
        with pytest.raises(ConfigError, match="is a configuration of bayesprior fit sgld"):
            parse(name, ["--config", str(path)])


@pytest.mark.parametrize("group", ["data", "model"])
def test_an_import_path_in_a_runs_configuration_is_the_users_to_give(group, tmp_path, work):
    found = yaml.safe_load((work / "sgld" / "config.yaml").read_text())
    found["made_from"][group] |= {group: "os:system"}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(found))
    message = f"names the {group} 'os:system', .* give --{group} os:system yourself"
    with pytest.raises(ConfigError, match=message):
        parse("fit sgld", ["--config", str(path)])
    for words in ([f"--{group}", "os:system"], [f"--{group}=digits"]):
        options = parse("fit sgld", ["--config", str(path), *words])
        assert getattr(options, group) == words[-1].rpartition("=")[2]


def test_a_list_of_numbers_stays_numbers():
    task = ["--data", "digits", "--model", "small_conv", "--source", "source.safetensors"]
    options = parse("study", [*task, "--num_data", "[20, 50]"])
    assert options.num_data == (20, 50)


@pytest.mark.parametrize(
    ("python", "shell"),
    [
        ("num_steps must be at least 1", "--num_steps must be at least 1"),
        (
            "stop must be at most num_steps = 10, got 12",
            "--stop must be at most --num_steps 10, got 12",
        ),
        ("unstable: give lr=0.02, or lower the lr", "unstable: give --lr 0.02, or lower the --lr"),
        ("it needs logger='csv'", "it needs --logger csv"),
        ("choose rms_std and head_lr nearer to 1", "choose --rms_std and --head_lr nearer to 1"),
        ("the prior or the data stop here", "the prior or the data stop here"),
        ("--head_lr in runs/num_steps/head_lr.txt", "--head_lr in runs/num_steps/head_lr.txt"),
        ("sampler='sghmc' is no option here", "sampler='sghmc' is no option here"),
    ],
)
def test_messages_speak_in_flags(python, shell):
    assert in_flags(ConfigError(python), COMMANDS["fit map"].options) == shell
