import dataclasses

import pytest

from bayesprior.cli.commands import COMMANDS
from bayesprior.cli.parsing import parse
from bayesprior.recipes import options as groups
from bayesprior.recipes.calls import field_docs


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_restates_an_option_of_a_recipe(name):
    """Its own class adds files, names and places; the rest is inherited."""
    known = {
        spec.name
        for kind in vars(groups).values()
        if isinstance(kind, type) and dataclasses.is_dataclass(kind)
        for spec in dataclasses.fields(kind)
    }
    for kind in COMMANDS[name].options.__mro__:
        if kind.__module__ == "bayesprior.cli.commands":
            own = set(vars(kind).get("__annotations__", {})) - {"method", "listed"}
            # a baseline is a run to report and compare, and a method to a study
            own -= {"data"} if name == "collect" else set()  # which does without
            files = {"source", "weights", "rename"}  # transfer records how it renames weights
            assert own & known <= {"out", "prior", "rms_std", "baseline", *files}
    assert set(field_docs(COMMANDS[name].options)) >= {
        spec.name for spec in dataclasses.fields(COMMANDS[name].options)
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_finds_its_function(name):
    assert callable(COMMANDS[name].function)


@pytest.mark.parametrize(
    ("name", "said", "unsaid"),
    [
        ("demo", ["`transfer`", "two short chains of SGHMC"], ["SGLD", "validation"]),
        ("make-prior", ["as the features of the data bear"], ["needs rms_std", "only give"]),
    ],
)
def test_help_says_what_a_command_does_now(name, said, unsaid, capsys):
    parse(name, ["--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert all(words in out for words in said)
    assert not any(words in out for words in unsaid)
