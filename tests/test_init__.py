import ast
import importlib
import inspect
import sys
from pathlib import Path

import pytest

import bayesprior


def typed_imports() -> dict[str, str]:
    """Public name -> module, as type checkers read them."""
    tree = ast.parse(Path(bayesprior.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    return {alias.name: node.module for node in block.body for alias in node.names}


HOMES = typed_imports()


def test_type_checkers_and_the_interpreter_find_the_same_names():
    assert set(bayesprior.__all__) == {*HOMES, "__version__"}


def test_names_are_the_homes_own_and_show_in_dir():
    for name, home in HOMES.items():
        where = importlib.import_module(home)
        assert getattr(bayesprior, name) is getattr(where, name)
    assert set(bayesprior.__all__) <= set(dir(bayesprior))


def test_an_unknown_name_is_an_attribute_error_with_the_nearest_one():
    with pytest.raises(AttributeError, match=r"'fit_mapp'; did you mean 'fit_map'"):
        _ = bayesprior.fit_mapp
    assert not hasattr(bayesprior, "Zebra")


def test_a_folder_does_not_hide_the_recipe_of_its_name():
    from bayesprior.report.document import Report

    assert Report.__module__ == "bayesprior.report.document"
    assert bayesprior.report is sys.modules["bayesprior.recipes"].report


def test_rooms_are_reached_by_their_short_names():
    for name in ("huggingface", "lightning", "plots"):
        room = f"{HOMES[name]}.{name}"
        assert getattr(bayesprior, name) is importlib.import_module(room)
        assert name in dir(bayesprior)


def test_version_is_a_string():
    assert bayesprior.__version__.count(".") == 2
    assert inspect.getdoc(bayesprior)
